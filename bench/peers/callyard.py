"""Callyard's worker, driven over its control socket as signaling drives it. No signaling process takes part."""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from ipaddress import IPv4Address
from pathlib import Path

from bench import machine
from bench.peers.base import Clients, Peer, PeerError, due_times, generator
from bench.scenarios import Scenario
from sfu import border, load
from sfu.border import CodecSpec, DtlsRole, ExtensionSpec, IceCredentials, Kind, LayerMode, LayerSpec, SsrcSpec, Want
from sfu.node import Node, WorkerHandle
from sfu.settings import EngineSettings, NodeSettings
from signaling.load.plan import Track

_EXTENSIONS = load.ExtensionIds(mid=4, rid=10, repaired_rid=11, transport_seq=3, abs_send_time=2, audio_level=1)
_URIS = {
    1: "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    2: "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    3: "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    4: "urn:ietf:params:rtp-hdrext:sdes:mid",
    10: "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
    11: "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
}
_EXTENSION_SPECS = tuple(ExtensionSpec(id=number, uri=uri) for number, uri in _URIS.items())
_VIDEO_PT, _RTX_PT, _AUDIO_PT = 96, 97, 111
_SSRCS_PER_TRANSPORT = 1_000


class Callyard(Peer):
    name = "Callyard"
    can_choose = can_pace = can_churn = True

    engine = EngineSettings()

    def __init__(self, udp_port: int, fingerprint: border.Fingerprint) -> None:
        self._udp_port = udp_port
        self._fingerprint = fingerprint
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._node: Node | None = None
        self._lost = False
        self._rejected: str | None = None
        self._transports = 0
        self._downtracks = 0
        # By room: uptrack, who sends it, and what it is.
        self._uptracks: dict[int, list[tuple[int, int, Track]]] = {}
        self._members: dict[int, list[int]] = {}
        self._viewers: deque[tuple[int, int]] = deque()
        """Room and transport, those who came first at the front."""

    @property
    def worker(self) -> WorkerHandle:
        if self._node is None or self._lost or not self._node.workers:
            raise PeerError("the worker is not there")
        return self._node.workers[0]

    @property
    def pids(self) -> tuple[int, ...]:
        return (self.worker.info.pid,)

    async def start(self, cpu: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="callyard-bench-")
        settings = NodeSettings(
            workers=1,
            bind=IPv4Address("127.0.0.1"),
            node_ip=(IPv4Address("127.0.0.1"),),
            udp_port=self._udp_port,
            run_directory=Path(self._directory.name),
            engine=self.engine,
        )
        self._node = Node(settings, on_event=lambda _, event: self._event(event), on_lost=lambda _: self._on_lost())
        await self._node.start()
        machine.pin(self.worker.info.pid, cpu)

    async def stop(self) -> None:
        if self._node is not None:
            await self._node.stop(0)
        if self._directory is not None:
            self._directory.cleanup()

    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        transports = set()
        for room in range(1, rooms + 1):
            self._uptracks[room] = []
            self._members[room] = []
            for speaker in range(scenario.publishers):
                transport = self._open(clients, room)
                transports.add(transport)
                if speaker < scenario.members:
                    self._members[room].append(transport)
                for index, track in enumerate(scenario.tracks):
                    self._publish(clients, room, transport, index, track)
        await clients.connected(transports)
        self._check()

    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        receiving = set()
        for room, members in self._members.items():
            for transport in members:
                receiving.add(transport)
                self._receive(clients, scenario, room, transport)
        due = due_times(scenario.joins_per_second, scenario.viewers * rooms)
        number = 0
        async for at in due:
            receiving.add(self._view(clients, scenario, number % rooms + 1, at))
            number += 1
        await clients.connected(receiving)
        self._check()
        await clients.media(receiving, scenario)

    async def churn(self, clients: Clients, scenario: Scenario, seconds: float) -> None:
        async for at in due_times(scenario.churn_per_second, round(scenario.churn_per_second * seconds)):
            room, transport = self._viewers.popleft()
            clients.leaves(transport)
            self.worker.send(border.RemoveTransport(transport=transport))
            self._tell(clients, load.Close(transport=transport, abrupt=True))
            self._view(clients, scenario, room, at)
        self._check()

    def _view(self, clients: Clients, scenario: Scenario, room: int, due: float) -> int:
        transport = self._open(clients, room)
        clients.sets_out(transport, due)
        self._receive(clients, scenario, room, transport)
        self._viewers.append((room, transport))
        return transport

    def _open(self, clients: Clients, room: int) -> int:
        self._transports += 1
        transport = self._transports
        local = IceCredentials(ufrag=f"server{transport}", pwd=f"server-password-{transport:016}")
        remote = IceCredentials(ufrag=f"client{transport}", pwd=f"client-password-{transport:016}")
        described = border.Remote(ice=remote, fingerprints=(self._fingerprint,), role=DtlsRole.SERVER)
        self.worker.send(border.AddTransport(transport=transport, room=room, local=local, remote=described))
        _, ip, port = self.worker.candidates[0]
        self._tell(
            clients,
            load.Open(
                transport=transport,
                local=remote,
                remote=local,
                fingerprints=(self.worker.info.fingerprint,),
                role=DtlsRole.CLIENT,
                address=f"{ip}:{port}",
                external_dtls=clients.external is not None,
            ),
        )
        return transport

    def _publish(self, clients: Clients, room: int, transport: int, index: int, track: Track) -> None:
        uptrack = transport * 10 + index
        is_video = track.codec is not load.Codec.OPUS
        ssrc = transport * _SSRCS_PER_TRANSPORT + index * 100
        encodings = tuple(
            load.Encoding(
                ssrc=ssrc + 2 * layer,
                rtx_ssrc=ssrc + 2 * layer + 1 if is_video else None,
                rid=shape.rid,
                packets_per_second=shape.packets_per_second,
                payload_bytes=shape.payload_bytes,
            )
            for layer, shape in enumerate(track.layers)
        )
        is_simulcast = len(track.layers) > 1
        layers = [
            LayerSpec(spatial=i, width=shape.width, height=shape.height, bitrate_bps=shape.bitrate_bps)
            for i, shape in enumerate(track.layers)
        ]
        self.worker.send(
            border.AddUptrack(
                uptrack=uptrack,
                transport=transport,
                kind=Kind.VIDEO if is_video else Kind.AUDIO,
                mode=LayerMode.SIMULCAST if is_simulcast else LayerMode.SINGLE,
                mid=str(index),
                codecs=(_codec(track.codec),),
                extensions=_EXTENSION_SPECS,
                rids=tuple(shape.rid or "" for shape in track.layers) if is_simulcast else (),
                ssrcs=tuple(SsrcSpec(ssrc=e.ssrc, rtx_ssrc=e.rtx_ssrc, rid=e.rid) for e in encodings),
                layers=tuple(layers) if is_video else (),
            )
        )
        self._tell(
            clients,
            load.Publish(
                transport=transport,
                stream=uptrack,
                codec=track.codec,
                pt=_VIDEO_PT if is_video else _AUDIO_PT,
                rtx_pt=_RTX_PT if is_video else None,
                mid=str(index),
                extensions=_EXTENSIONS,
                frames_per_second=track.frames_per_second,
                encodings=encodings,
                phase_us=track.phase_us(transport),
            ),
        )
        self._uptracks[room].append((uptrack, transport, track))

    def _receive(self, clients: Clients, scenario: Scenario, room: int, transport: int) -> None:
        repairs = []
        downtracks: list[border.AddDowntrack] = []
        positions: dict[load.Codec, int] = {}
        for uptrack, source, track in self._uptracks[room]:
            if source == transport:
                continue
            position = positions.get(track.codec, 0)
            positions[track.codec] = position + 1
            if not scenario.takes(track, position):
                continue
            self._downtracks += 1
            is_video = track.codec is not load.Codec.OPUS
            ssrc = 1_000_000_000 + 2 * self._downtracks
            if is_video:
                repairs.append(load.Repair(rtx_ssrc=ssrc + 1, ssrc=ssrc))
            downtracks.append(
                border.AddDowntrack(
                    downtrack=self._downtracks,
                    uptrack=uptrack,
                    transport=transport,
                    mid=str(self._downtracks),
                    ssrc=ssrc,
                    rtx_ssrc=ssrc + 1 if is_video else None,
                    codecs=(_codec(track.codec),),
                    extensions=_EXTENSION_SPECS,
                    want=Want(quality=track.layer_for(position)) if is_video else Want(),
                )
            )
        self._tell(
            clients,
            load.Receive(
                transport=transport,
                codecs=(
                    load.ReceiveCodec(pt=_VIDEO_PT, codec=load.Codec.VP8, rtx_pt=_RTX_PT),
                    load.ReceiveCodec(pt=_AUDIO_PT, codec=load.Codec.OPUS),
                ),
                extensions=_EXTENSIONS,
                repairs=tuple(repairs),
            ),
        )
        self.worker.send(*downtracks)

    def _tell(self, clients: Clients, *commands: load.Command) -> None:
        """Behind what the worker was told, which leaves at the end of the loop's turn: a first check finds somebody."""
        asyncio.get_running_loop().call_soon(generator(clients).send, *commands)

    def _event(self, event: border.AnyEvent) -> None:
        if isinstance(event, border.Rejected):
            self._rejected = f"{event.command} was rejected: {event.message}"

    def _on_lost(self) -> None:
        self._lost = True

    def _check(self) -> None:
        if self._rejected is not None:
            raise PeerError(self._rejected)


class Unestimated(Callyard):
    """The same worker that takes every link for wide enough: nothing is estimated, paced or probed."""

    name = "Callyard, nothing estimated"
    engine = EngineSettings(congestion_control=False)


def _codec(codec: load.Codec) -> CodecSpec:
    if codec is load.Codec.OPUS:
        fmtp = "minptime=10;useinbandfec=1"
        return CodecSpec(pt=_AUDIO_PT, mime=codec.mime, clock_rate=48_000, fmtp=fmtp, feedback=("transport-cc",))
    feedback = ("nack", "nack pli", "ccm fir", "transport-cc")
    return CodecSpec(pt=_VIDEO_PT, mime=codec.mime, clock_rate=90_000, rtx_pt=_RTX_PT, feedback=feedback)
