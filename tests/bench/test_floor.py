"""The Python floor forwards: what one client seals, another opens, as his own stream."""

from __future__ import annotations

import asyncio
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec
from aioice import stun
from pylibsrtp import Policy, Session

from bench.peers.floor import HandedKeys
from bench.peers.floor_server import ClientSpec, Floor, Plan, Route
from bench.scenarios import Cipher

SENDER, RECEIVER = ("192.0.2.1", 1_000), ("192.0.2.2", 2_000)


class Wire(asyncio.DatagramTransport):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[bytes, Any]] = []

    def sendto(self, data: Any, addr: Any = None) -> None:
        self.sent.append((bytes(data), addr))


def check(spec: ClientSpec) -> bytes:
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["USERNAME"] = f"{spec.ufrag}:client"
    request.add_message_integrity(spec.pwd.encode())
    return bytes(request)


def test_every_subscriber_gets_his_own_stream_under_his_own_key() -> None:
    for cipher, profile in (
        (Cipher.CM, Policy.SRTP_PROFILE_AES128_CM_SHA1_80),
        (Cipher.GCM, Policy.SRTP_PROFILE_AEAD_AES_256_GCM),
    ):
        keys = HandedKeys()
        sender, receiver = (keys.make(n, cipher, f"floor{n}", "secret") for n in (1, 2))
        floor, wire = Floor(), Wire()
        floor.connection_made(wire)
        floor.take(Plan([sender, receiver], [Route(77, receiver.ufrag, 900)]))
        floor.datagram_received(check(sender), SENDER)
        floor.datagram_received(check(receiver), RECEIVER)
        answers = [stun.parse_message(data) for data, _ in wire.sent]
        assert [answer.attributes["XOR-MAPPED-ADDRESS"] for answer in answers] == [SENDER, RECEIVER]

        wire.sent.clear()
        seal = Session(Policy(sender.inbound, Policy.SSRC_ANY_OUTBOUND, srtp_profile=profile))
        unseal = Session(Policy(receiver.outbound, Policy.SSRC_ANY_INBOUND, srtp_profile=profile))
        for seq in (500, 501):
            floor.datagram_received(seal.protect(struct.pack("!BBHII", 128, 96, seq, 5, 77) + b"picture"), SENDER)
        opened = [unseal.unprotect(data) for data, _ in wire.sent]
        assert [struct.unpack_from("!BBHII", packet) for packet in opened] == [
            (128, 96, 1, 5, 900),
            (128, 96, 2, 5, 900),
        ]
        assert {packet[12:] for packet in opened} == {b"picture"}
        assert {address for _, address in wire.sent} == {RECEIVER}


def test_what_it_does_not_know_is_dropped() -> None:
    keys = HandedKeys()
    floor, wire = Floor(), Wire()
    floor.connection_made(wire)
    sender = keys.make(1, Cipher.CM, "floor1", "secret")
    floor.take(Plan([sender], []))
    stranger = keys.make(2, Cipher.CM, "floor2", "secret")
    garbage = (b"", bytes(20), b"\x80" * 40, b"\x80\xc8" + bytes(40), check(stranger), check(sender)[:30])
    for data in garbage:
        floor.datagram_received(data, SENDER)
    floor.datagram_received(check(sender), SENDER)
    for data in garbage:
        floor.datagram_received(data, SENDER)
    assert len(wire.sent) == 1, "one check was good"


async def test_the_process_takes_its_plan(unused_tcp_port: int, unused_udp_port: int) -> None:
    ports = ("--control-port", str(unused_tcp_port), "--media-port", str(unused_udp_port))
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.peers.floor_server", *ports, cwd=root)
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            spec = HandedKeys().make(1, Cipher.GCM, "floor1", "secret")
            writer.write(msgspec.json.encode(Plan([spec], [Route(1, spec.ufrag, 2)])) + b"\n")
            assert await reader.readline() == b"taken\n"
            writer.close()
    finally:
        process.terminate()
        await process.wait()
