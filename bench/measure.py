"""One run of one scenario against one server, and of the machine's limit: figures, no presentation."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import machine
from bench.machine import Usage
from bench.peers.base import Arrival, Clients, Peer
from bench.scenarios import Cipher, Scenario
from sfu import load
from sfu.worker import Certificate

_LIMIT_SINKS_BYTES = 1024 * 1024
_GCM_128, _CM = 7, 1
_LATE_US = 10_000
"""A generator that sends pictures later than this at p99 is the bottleneck itself."""


class Quantiles(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50_ms: float = 0.0
    p99_ms: float = 0.0

    @staticmethod
    def of(seconds: Iterable[float]) -> Quantiles:
        """Nearest rank; zeros of nothing."""
        ordered = sorted(seconds)
        if not ordered:
            return Quantiles()
        rank = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1_000 for share in (0.5, 0.99)]
        return Quantiles(*rank)


class Joins(msgspec.Struct, frozen=True, kw_only=True):
    """Of those who came to receive: from the moment each was due, and where that time went."""

    count: int
    total: Quantiles
    """To the end of the first picture, or the first packet of audio where there is no video."""
    signal: Quantiles
    """To the first ICE check: all that is said before, and the client's own work."""
    ice: Quantiles
    dtls: Quantiles
    media: Quantiles
    """From the keys to the first picture."""
    cpu_ms: float
    """CPU of the server while they came, divided by their number; media meanwhile included."""
    keyframes: int | None = None
    """Asked of publishers while they came; None in results of before it was counted."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one window of one server."""

    peer: str
    scenario: str
    rooms: int
    seconds: float
    cipher: str
    publishers: int
    subscribers: int
    received_tracks: int
    sent: int
    """By publishers."""
    packets: int
    """Forwarded: received by clients, retransmissions included."""
    bytes: int
    """Of those packets, without UDP and IP."""
    expected: int
    lost: int
    recovered: int
    duplicates: int
    cpu_us_per_packet: float
    user_us_per_packet: float
    system_us_per_packet: float
    core_share: float
    """Of one core."""
    switches_per_1000: float
    p50_us: float
    p99_us: float
    p999_us: float
    idle_bytes: int
    """Resident, of a server without anybody."""
    published_bytes: int
    """Grown by that when everybody who sends had come."""
    subscribed_bytes: int
    """Grown by that from then to the end."""
    joins: Joins
    generator_overflows: int
    generator_lateness_p99_us: float
    load_average: float

    @property
    def packets_per_second(self) -> float:
        return self.packets / self.seconds

    @property
    def bytes_per_subscriber(self) -> float:
        return self.subscribed_bytes / max(self.subscribers, 1)

    @property
    def lost_share(self) -> float:
        return self.lost / max(self.expected, 1)

    @property
    def is_generator_fine(self) -> bool:
        """Whether it was the server, and not the clients' core, that these figures tell of."""
        return self.generator_overflows == 0 and self.generator_lateness_p99_us < _LATE_US


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """CPU of one thread, microseconds a packet."""

    scenario: str
    bare_us: float
    fanout_us: float


class Timed(load.Generator):
    """Notes when each transport is opened."""

    def __init__(self, setup: load.Setup, clients: Clients, cpu: int) -> None:
        super().__init__(setup, clients.report, cpu=cpu)
        self._clients = clients

    def send(self, *commands: load.Command) -> None:
        for command in commands:
            if isinstance(command, load.Open):
                self._clients.arrival(command.transport).opened = time.monotonic()
        super().send(*commands)


def joins_of(arrivals: Iterable[Arrival], scenario: Scenario, used: Usage, keyframes: int) -> Joins:
    """Of those who got what there is to get; publishers, who get nothing, are left out."""
    has_video = any(track.is_video for track in scenario.tracks)
    came = [(arrival, arrival.media_us[has_video]) for arrival in arrivals if has_video in arrival.media_us]
    return Joins(
        count=len(came),
        total=Quantiles.of(arrival.signal_seconds + media / 1e6 for arrival, media in came),
        signal=Quantiles.of(arrival.signal_seconds for arrival, _ in came),
        ice=Quantiles.of(arrival.ice_us / 1e6 for arrival, _ in came),
        dtls=Quantiles.of((arrival.dtls_us - arrival.ice_us) / 1e6 for arrival, _ in came),
        media=Quantiles.of((media - arrival.dtls_us) / 1e6 for arrival, media in came),
        cpu_ms=used.cpu_ns / 1e6 / max(len(came), 1),
        keyframes=keyframes,
    )


@dataclass(frozen=True)
class Harness:
    """How runs are made; the same for all servers."""

    certificate: Certificate
    server_cpu: int
    client_cpu: int
    gro: bool = False
    settle_seconds: float = 1.5
    """After the last client has media: key frames are through, buffers have grown."""

    async def run(self, peer: Peer, scenario: Scenario, rooms: int, seconds: float) -> Run:
        """`PeerError` if the server does not do what the scenario needs."""
        peer.check(scenario)
        clients = Clients()
        setup = load.Setup(
            certificate_der=self.certificate.certificate_der,
            key_der=self.certificate.key_der,
            gro=self.gro or scenario.takes_runs,
            loss=scenario.loss,
        )
        async with Timed(setup, clients, cpu=self.client_cpu) as generator:
            clients.generator = generator
            clients.offer(scenario.cipher, self.certificate.certificate_der, self.certificate.key_der)
            await peer.start(self.server_cpu)
            try:
                idle = Usage.of(peer.pids)
                await peer.publish(clients, scenario, rooms)
                await asyncio.sleep(self.settle_seconds)
                published = Usage.of(peer.pids)
                await generator.stats(reset=True)
                await peer.subscribe(clients, scenario, rooms)
                subscribed = Usage.of(peer.pids)
                await asyncio.sleep(self.settle_seconds)
                coming = await generator.stats(reset=True)
                before = Usage.of(peer.pids)
                if scenario.churn_per_second:
                    await peer.churn(clients, scenario, seconds)
                else:
                    await asyncio.sleep(seconds)
                stats = await generator.stats()
                after = Usage.of(peer.pids)
            finally:
                await peer.stop()
        used = after.since(before)
        media = stats.video if stats.video.received_packets else stats.audio
        packets = max(stats.received_packets, 1)
        cpu_us = used.cpu_ns / 1_000 / packets
        return Run(
            peer=peer.name,
            scenario=scenario.name,
            rooms=rooms,
            seconds=stats.elapsed_us / 1e6,
            cipher=", ".join(sorted(set(clients.ciphers.values()))),
            publishers=scenario.publishers * rooms,
            subscribers=scenario.subscribers * rooms,
            received_tracks=scenario.received_tracks * rooms,
            sent=stats.audio.sent_packets + stats.video.sent_packets,
            packets=stats.received_packets,
            bytes=stats.audio.received_bytes + stats.video.received_bytes,
            expected=stats.audio.expected + stats.video.expected,
            lost=stats.audio.lost + stats.video.lost,
            recovered=stats.audio.recovered + stats.video.recovered,
            duplicates=stats.audio.duplicates + stats.video.duplicates,
            cpu_us_per_packet=cpu_us,
            user_us_per_packet=cpu_us * used.user_share,
            system_us_per_packet=cpu_us * (1 - used.user_share),
            core_share=used.cpu_ns / 1_000 / stats.elapsed_us,
            switches_per_1000=used.switches * 1_000 / packets,
            p50_us=media.latency.p50_ns / 1_000,
            p99_us=media.latency.p99_ns / 1_000,
            p999_us=media.latency.p999_ns / 1_000,
            idle_bytes=idle.resident_bytes,
            published_bytes=published.resident_bytes - idle.resident_bytes,
            subscribed_bytes=after.resident_bytes - published.resident_bytes,
            joins=joins_of(clients.arrivals.values(), scenario, subscribed.since(published), coming.keyframes_asked),
            generator_overflows=stats.socket_overflows,
            generator_lateness_p99_us=stats.send_lateness.p99_ns / 1_000,
            load_average=machine.load_average(),
        )

    async def limit(self, scenario: Scenario, seconds: float) -> Limit:
        """The fan-out without protocol and a bare `sendto`, paced as the scenario.

        On the server's core, to sockets that the generator drains on the clients'.
        """
        track = scenario.tracks[0]
        layer = track.layers[track.layer_for(0)]
        publishers = scenario.publishers
        receivers = scenario.subscribers - (1 if scenario.members else 0)
        setup = load.Setup(
            certificate_der=self.certificate.certificate_der,
            key_der=self.certificate.key_der,
            gro=self.gro or scenario.takes_runs,
            receive_buffer_bytes=_LIMIT_SINKS_BYTES,
        )
        ignore: Callable[[object], None] = lambda _: None  # noqa: E731
        async with load.Generator(setup, ignore, cpu=self.client_cpu) as generator:
            sinks = await generator.open_sinks(receivers)
            us: dict[bool, float] = {}
            for bare in (True, False):
                spec = load.LimitSpec(
                    destinations=sinks,
                    bursts_per_second=track.frames_per_second * publishers,
                    packets_per_second=layer.packets_per_second * publishers,
                    payload_bytes=layer.payload_bytes + 40 if bare else layer.payload_bytes,
                    profile=_CM if scenario.cipher is Cipher.CM else _GCM_128,
                    max_segments=50,
                    bare=bare,
                    seconds=seconds,
                )
                result = await self._measure(spec)
                us[bare] = result.cpu_ns / 1_000 / max(result.packets, 1)
        return Limit(scenario=scenario.name, bare_us=us[True], fanout_us=us[False])

    async def _measure(self, spec: load.LimitSpec) -> load.LimitResult:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            await asyncio.to_thread(Path(file.name).write_bytes, msgspec.json.encode(spec))
            command = ("taskset", "-c", str(self.server_cpu), sys.executable, "-m", "sfu.load", "--limit", file.name)
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            output, _ = await process.communicate()
        return msgspec.json.decode(output, type=load.LimitResult)
