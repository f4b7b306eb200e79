"""mediasoup, driven through a small Node program (`mediasoup/server.mjs`): its parameters there, the generator's here.

The npm package brings its worker, a native program, by a download of its own; where that cannot be, mediasoup's own
variable `MEDIASOUP_WORKER_BIN` names one. Package and worker must be of one version.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers.base import Clients, PeerError, generator
from bench.peers.program import Program, ProgramPeer, free_port
from bench.scenarios import Scenario
from sfu import load
from sfu.border import DtlsRole, Fingerprint, IceCredentials
from signaling.load import description
from signaling.load.connection import Media
from signaling.load.description import Sent
from signaling.load.plan import Track

VERSION = "3.27.1"
_SERVER = Path(__file__).parent / "mediasoup" / "server.mjs"
_MAX_LINE_BYTES = 4 << 20
_VIDEO_PT, _RTX_PT, _AUDIO_PT = 96, 97, 111
_EXTENSION_IDS = {
    "urn:ietf:params:rtp-hdrext:sdes:mid": 1,
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time": 2,
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01": 3,
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level": 4,
    "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id": 6,
    "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id": 7,
}
"""Of publishers; subscribers get them as mediasoup says."""


class Mediasoup(ProgramPeer):
    @staticmethod
    def install(into: Path, version: str) -> Path:
        """The directory with the npm package. `PeerError` where it or its worker cannot be had."""
        if shutil.which("npm") is None:
            raise PeerError("Node.js with npm is not installed")
        directory = into / f"mediasoup-{version}"
        directory.mkdir(exist_ok=True)
        # After a failed download it would build the worker, in many minutes and with more downloads, if it had Python.
        environment = {**os.environ, "PYTHON": "false"}
        command = ["npm", "install", "--no-save", "--no-audit", "--prefix", str(directory), f"mediasoup@{version}"]
        done = subprocess.run(command, stdout=sys.stderr, env=environment, check=False)
        if done.returncode != 0:
            raise PeerError("its worker cannot be downloaded here, and MEDIASOUP_WORKER_BIN names none; see the log")
        return directory

    def __init__(self, fingerprint: Fingerprint, version: str, directory: Path) -> None:
        self.name = f"mediasoup {version}"
        self._fingerprint = fingerprint
        self._port = free_port()
        arguments = ("node", str(_SERVER), str(directory), str(self._port), str(free_port()))
        self._program = Program(self.name, arguments, self._port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._media: Media | None = None
        # By room and publisher: of each track the producer's id.
        self._producers: dict[tuple[int, int], list[str]] = {}

    async def start(self, cpu: int) -> None:
        await super().start(cpu)
        self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=_MAX_LINE_BYTES)

    async def stop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        await super().stop()

    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        self._media = Media(generator(clients), self._fingerprint, "127.0.0.1")
        transports = set()
        for room in range(rooms):
            for publisher in range(scenario.publishers):
                transport, server_id = await self._open(clients, room)
                transports.add(transport)
                sent = [self._media.sent(track) for track in scenario.tracks]
                self._producers[room, publisher] = [
                    await self._produce(server_id, str(index), item) for index, item in enumerate(sent)
                ]
                for index, item in enumerate(sent):
                    generator(clients).send(publication(transport, self._media.stream(), str(index), item))
        await clients.connected(transports)

    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        transports = set()
        for room in range(rooms):
            for subscriber in range(scenario.subscribers):
                transport, server_id = await self._open(clients, room)
                transports.add(transport)
                consumers = [
                    await self._ask("consume", transport=server_id, producer=producer, spatialLayer=layer)
                    for producer, layer in self._wanted(scenario, room, subscriber)
                ]
                parameters = [consumer["rtpParameters"] for consumer in consumers]
                generator(clients).send(reception(transport, parameters))
        await clients.connected(transports)
        await clients.media(transports, scenario)

    def _wanted(self, scenario: Scenario, room: int, subscriber: int) -> list[tuple[str, int | None]]:
        """Producers of all others, each with its layer; members are publishers of the same number."""
        others = [p for p in range(scenario.publishers) if p != subscriber or subscriber >= scenario.members]
        return [
            (producer, track.layer_for(position) if len(track.layers) > 1 else None)
            for position, publisher in enumerate(others)
            for track, producer in zip(scenario.tracks, self._producers[room, publisher], strict=True)
        ]

    async def _open(self, clients: Clients, room: int) -> tuple[int, str]:
        assert self._media is not None, "publish comes first"
        fingerprints = [{"algorithm": self._fingerprint.algorithm, "value": self._fingerprint.value}]
        answer = await self._ask("transport", room=room, fingerprints=fingerprints)
        transport = self._media.transport()
        own = IceCredentials(ufrag=secrets.token_hex(4), pwd=secrets.token_hex(16))
        generator(clients).send(opening(transport, own, answer, external_dtls=clients.external is not None))
        return transport, answer["id"]

    async def _produce(self, server_id: str, mid: str, sent: Sent) -> str:
        kind = "video" if sent.track.is_video else "audio"
        answer = await self._ask("produce", transport=server_id, kind=kind, rtpParameters=rtp_parameters(mid, sent))
        return str(answer["id"])

    async def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        if self._streams is None:
            raise PeerError(f"{self.name} was not started")
        reader, writer = self._streams
        writer.write(json.dumps({"method": method, **parameters}).encode() + b"\n")
        line = await reader.readline()
        if not line:
            raise PeerError(f"{self.name} has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(f"{self.name} refused {method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result


def opening(transport: int, own: IceCredentials, answer: dict[str, Any], *, external_dtls: bool) -> load.Open:
    """From a transport's parameters. mediasoup is ICE-lite, and was told that we are the DTLS client."""
    ice, candidate = answer["iceParameters"], answer["iceCandidates"][0]
    fingerprints = answer["dtlsParameters"]["fingerprints"]
    return load.Open(
        transport=transport,
        local=own,
        remote=IceCredentials(ufrag=ice["usernameFragment"], pwd=ice["password"]),
        fingerprints=tuple(
            Fingerprint(algorithm=f["algorithm"], value=f["value"]) for f in fingerprints if f["algorithm"] == "sha-256"
        ),
        role=DtlsRole.CLIENT,
        address=f"{candidate.get('address', candidate.get('ip'))}:{candidate['port']}",
        external_dtls=external_dtls,
    )


def rtp_parameters(mid: str, sent: Sent) -> dict[str, Any]:
    """What a publisher sends, as a producer's `rtpParameters`."""
    is_video = sent.track.is_video
    feedback = [("nack", ""), ("nack", "pli"), ("ccm", "fir"), ("transport-cc", "")] if is_video else []
    codec: dict[str, Any] = {
        "mimeType": sent.track.codec.mime,
        "payloadType": _VIDEO_PT if is_video else _AUDIO_PT,
        "clockRate": 90_000 if is_video else 48_000,
        "rtcpFeedback": [{"type": kind, "parameter": parameter} for kind, parameter in feedback],
    }
    codecs = [codec if is_video else {**codec, "channels": 2}]
    if is_video:
        rtx = {"mimeType": "video/rtx", "payloadType": _RTX_PT, "clockRate": 90_000, "rtcpFeedback": []}
        codecs.append({**rtx, "parameters": {"apt": _VIDEO_PT}})
    unused = "ssrc-audio-level" if is_video else "stream-id"
    return {
        "mid": mid,
        "codecs": codecs,
        "headerExtensions": [{"uri": uri, "id": n} for uri, n in _EXTENSION_IDS.items() if not uri.endswith(unused)],
        "encodings": [
            {"ssrc": e.ssrc, **({"rtx": {"ssrc": e.rtx_ssrc}} if e.rtx_ssrc is not None else {})}
            for e in sent.encodings
        ],
        "rtcp": {"cname": sent.cid},
    }


def publication(transport: int, stream: int, mid: str, sent: Sent) -> load.Publish:
    """The same for the generator."""
    track: Track = sent.track
    return load.Publish(
        transport=transport,
        stream=stream,
        codec=track.codec,
        pt=_VIDEO_PT if track.is_video else _AUDIO_PT,
        rtx_pt=_RTX_PT if track.is_video else None,
        mid=mid,
        extensions=description.extension_ids_of(_EXTENSION_IDS),
        frames_per_second=track.frames_per_second,
        encodings=sent.encodings,
        phase_us=track.phase_us(transport),
    )


def reception(transport: int, consumers: Sequence[dict[str, Any]]) -> load.Receive:
    """From the `rtpParameters` of all consumers of one transport: codecs and extensions are the router's."""
    known = {codec.mime.lower(): codec for codec in load.Codec}
    lines = [line for parameters in consumers for line in parameters["codecs"]]
    rtx = {line["parameters"]["apt"]: line["payloadType"] for line in lines if line["mimeType"].endswith("/rtx")}
    codecs = {
        line["payloadType"]: load.ReceiveCodec(
            pt=line["payloadType"], codec=known[line["mimeType"].lower()], rtx_pt=rtx.get(line["payloadType"])
        )
        for line in lines
        if line["mimeType"].lower() in known
    }
    encodings = [encoding for parameters in consumers for encoding in parameters["encodings"]]
    uris = {line["uri"]: line["id"] for parameters in consumers for line in parameters["headerExtensions"]}
    return load.Receive(
        transport=transport,
        codecs=tuple(codecs.values()),
        extensions=description.extension_ids_of(uris),
        repairs=tuple(load.Repair(rtx_ssrc=e["rtx"]["ssrc"], ssrc=e["ssrc"]) for e in encodings if "rtx" in e),
    )
