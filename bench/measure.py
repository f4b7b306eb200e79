"""One run of one scenario against one server, and of the machine's limit: figures, no presentation."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import machine
from bench.machine import Usage
from bench.peers.base import Clients, Peer
from bench.scenarios import Cipher, Scenario
from sfu import load
from sfu.worker import Certificate

_LIMIT_SINKS_BYTES = 1024 * 1024
_GCM_128, _CM = 7, 1


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one window of one server."""

    peer: str
    scenario: str
    rooms: int
    seconds: float
    cipher: str
    sent: int
    """By publishers."""
    packets: int
    """Forwarded: received by clients, retransmissions included."""
    expected: int
    lost: int
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
    bytes_per_subscriber: float
    first_media_p99_ms: float
    generator_overflows: int
    generator_lateness_p99_us: float
    load_average: float


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """CPU of one thread, microseconds a packet."""

    scenario: str
    bare_us: float
    fanout_us: float


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
        clients = Clients()
        setup = load.Setup(
            certificate_der=self.certificate.certificate_der, key_der=self.certificate.key_der, gro=self.gro
        )
        async with load.Generator(setup, clients.report, cpu=self.client_cpu) as generator:
            clients.generator = generator
            clients.offer(scenario.cipher, self.certificate.certificate_der, self.certificate.key_der)
            await peer.start(self.server_cpu)
            try:
                await peer.publish(clients, scenario, rooms)
                await asyncio.sleep(self.settle_seconds)
                before_join = Usage.of(peer.pids)
                await peer.subscribe(clients, scenario, rooms)
                await asyncio.sleep(self.settle_seconds)
                joined = await generator.stats(reset=True)
                before = Usage.of(peer.pids)
                await asyncio.sleep(seconds)
                stats = await generator.stats()
                used = Usage.of(peer.pids).since(before)
            finally:
                await peer.stop()
        resident = before.resident_bytes + used.resident_bytes - before_join.resident_bytes
        media = stats.video if stats.video.received_packets else stats.audio
        packets = max(stats.received_packets, 1)
        cpu_us = used.cpu_ns / 1_000 / packets
        return Run(
            peer=peer.name,
            scenario=scenario.name,
            rooms=rooms,
            seconds=stats.elapsed_us / 1e6,
            cipher=", ".join(sorted(set(clients.ciphers.values()))),
            sent=stats.audio.sent_packets + stats.video.sent_packets,
            packets=stats.received_packets,
            expected=stats.audio.expected + stats.video.expected,
            lost=stats.audio.lost + stats.video.lost,
            duplicates=stats.audio.duplicates + stats.video.duplicates,
            cpu_us_per_packet=cpu_us,
            user_us_per_packet=cpu_us * used.user_share,
            system_us_per_packet=cpu_us * (1 - used.user_share),
            core_share=used.cpu_ns / 1_000 / stats.elapsed_us,
            switches_per_1000=used.switches * 1_000 / packets,
            p50_us=media.latency.p50_ns / 1_000,
            p99_us=media.latency.p99_ns / 1_000,
            p999_us=media.latency.p999_ns / 1_000,
            bytes_per_subscriber=resident / max(scenario.subscribers * rooms, 1),
            first_media_p99_ms=joined.first_media_time.p99_ns / 1e6,
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
            gro=self.gro,
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
