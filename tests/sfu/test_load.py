"""The load generator's process: commands that make no sense, sinks, its end."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from sfu import load
from sfu.border import DtlsRole, IceCredentials
from sfu.load import Close, Codec, Encoding, ExtensionIds, Generator, LoadError, Open, Publish, Refused, Setup
from sfu.worker import Certificate


def setup() -> Setup:
    certificate = Certificate()
    return Setup(certificate_der=certificate.certificate_der, key_der=certificate.key_der)


def opening(transport: int, address: str) -> Open:
    credentials = IceCredentials(ufrag="abcd", pwd="p" * 24)
    return Open(
        transport=transport,
        local=credentials,
        remote=credentials,
        fingerprints=(),
        role=DtlsRole.CLIENT,
        address=address,
    )


def publishing(transport: int, payload_bytes: int) -> Publish:
    return Publish(
        transport=transport,
        stream=1,
        codec=Codec.VP8,
        pt=96,
        mid="0",
        extensions=ExtensionIds(),
        frames_per_second=30,
        encodings=(Encoding(ssrc=1, packets_per_second=100, payload_bytes=payload_bytes),),
    )


async def test_what_makes_no_sense_is_refused_with_a_sentence_and_costs_nothing_else() -> None:
    refused: list[Refused] = []

    def report(report: object) -> None:
        if isinstance(report, Refused):
            refused.append(report)

    async with Generator(setup(), report) as generator:
        generator.send(setup(), opening(1, "nowhere"), Close(transport=7))
        generator.send(opening(2, "127.0.0.1:9"), opening(2, "127.0.0.1:9"))
        generator.send(publishing(3, 1_000), publishing(2, 3), publishing(2, 1_000), publishing(2, 1_000))
        stats = await generator.stats()
    assert [(r.command, r.subject) for r in refused] == [
        ("setup", 0),
        ("open", 1),
        ("close", 7),
        ("open", 2),
        ("publish", 1),
        ("publish", 1),
        ("publish", 1),
    ]
    assert all(len(r.message) > 10 for r in refused)
    assert (stats.transports, stats.connected) == (1, 0)


async def test_sinks_count_what_they_get() -> None:
    async with Generator(setup(), lambda _: None) as generator:
        addresses = await generator.open_sinks(3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for address in addresses:
                ip, _, port = address.rpartition(":")
                sender.sendto(b"x", (ip, int(port)))
        async with asyncio.timeout(10):
            while (await generator.stats()).sink_datagrams < 3:
                pass


async def test_a_generator_that_has_ended_says_so() -> None:
    async with Generator(setup(), lambda _: None) as generator:
        await generator.stats()
    with pytest.raises(LoadError):
        await generator.stats()


async def test_who_sends_for_each_report_is_not_asked_to_when_the_generator_ends() -> None:
    def answer(_: object) -> None:
        generator.send(Close(transport=7))

    async with Generator(setup(), answer) as generator:
        generator.send(Close(transport=8))
        # Its answer has come, and is read once the context is being left.
        time.sleep(0.5)  # noqa: ASYNC251  # nothing may be read meanwhile


def test_a_limit_that_makes_no_sense_is_refused() -> None:
    spec = load.LimitSpec(
        destinations=("127.0.0.1:9",),
        bursts_per_second=0,
        packets_per_second=1,
        payload_bytes=100,
        profile=7,
        max_segments=8,
        bare=False,
        seconds=1,
    )
    with pytest.raises(ValueError, match="rate"):
        load.measure_limit(spec)
