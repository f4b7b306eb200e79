"""The floor: what forwarding costs in Python with libsrtp and uvloop and nothing else (`floor_server.py`).

Keys are handed to both sides instead of being negotiated, so it is no server that anybody could use.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from itertools import count

import msgspec

from bench.peers.base import Clients, PeerError, generator
from bench.peers.floor_server import ClientSpec, Plan, Route
from bench.peers.program import Program, ProgramPeer, free_port
from bench.scenarios import Cipher, Scenario
from sfu import load
from sfu.border import DtlsRole, Fingerprint, IceCredentials
from signaling.load.plan import Track

_VIDEO_PT, _AUDIO_PT = 96, 111
# Number of the profile, and the lengths of its key and salt (RFC 5764 §4.1.2, RFC 7714 §14.2).
_PROFILES = {Cipher.CM: (1, 16, 14), Cipher.GCM: (8, 32, 12)}


class HandedKeys:
    """Instead of handshakes: each transport's keys, once its address is checked."""

    def __init__(self) -> None:
        self._keys: dict[int, load.SetKeys] = {}

    def make(self, transport: int, cipher: Cipher, ufrag: str, pwd: str) -> ClientSpec:
        """Fresh keys of one client; what the server must know of them."""
        profile, key_bytes, salt_bytes = _PROFILES[cipher]
        local, remote = ((secrets.token_bytes(key_bytes), secrets.token_bytes(salt_bytes)) for _ in range(2))
        self._keys[transport] = load.SetKeys(
            transport=transport,
            profile=profile,
            local_key=local[0],
            local_salt=local[1],
            remote_key=remote[0],
            remote_salt=remote[1],
        )
        return ClientSpec(ufrag, pwd, profile, inbound=b"".join(local), outbound=b"".join(remote))

    def step(self, transport: int, datagram: bytes) -> list[load.Command]:
        return [] if datagram else [self._keys[transport]]

    def expire(self) -> list[load.Command]:
        return []


class Floor(ProgramPeer):
    name = "Python floor"

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._fingerprint = fingerprint
        self._port, self._media_port = free_port(), free_port()
        arguments = (
            *(sys.executable, "-m", "bench.peers.floor_server"),
            *("--control-port", str(self._port), "--media-port", str(self._media_port)),
        )
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._program = Program(self.name, arguments, self._port, {"PYTHONPATH": path})
        self._keys = HandedKeys()
        self._transports = count(1)
        self._streams = count(1)
        self._ssrcs = count(100_000)
        # By room and publisher: of each track the ssrcs of its layers, lowest first.
        self._published: dict[tuple[int, int], list[list[int]]] = {}
        # Likewise: transports of those who also receive.
        self._members: dict[tuple[int, int], tuple[int, str]] = {}

    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        clients.external = self._keys
        people = [(room, publisher) for room in range(rooms) for publisher in range(scenario.publishers)]
        opened = [self._make(scenario.cipher) for _ in people]
        await self._tell(Plan([spec for _, spec in opened], []))
        for person, (transport, spec) in zip(people, opened, strict=True):
            self._open(clients, transport, spec)
            self._published[person] = [
                self._publish(clients, transport, index, track) for index, track in enumerate(scenario.tracks)
            ]
            if person[1] < scenario.members:
                self._members[person] = (transport, spec.ufrag)
        await clients.connected({transport for transport, _ in opened})

    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        viewers = [(room, self._make(scenario.cipher)) for room in range(rooms) for _ in range(scenario.viewers)]
        receiving = {transport for transport, _ in self._members.values()}
        receiving |= {transport for _, (transport, _) in viewers}
        routes = [
            route
            for (room, publisher), (_, ufrag) in self._members.items()
            for route in self._routes(scenario, room, ufrag, publisher)
        ]
        routes += [route for room, (_, spec) in viewers for route in self._routes(scenario, room, spec.ufrag, None)]
        # Clients first, routes when all are there: nobody is sent what he cannot open yet.
        await self._tell(Plan([spec for _, (_, spec) in viewers], []))
        for _, (transport, spec) in viewers:
            self._open(clients, transport, spec)
        for transport in receiving:
            generator(clients).send(_receive(transport))
        await clients.connected(receiving)
        await self._tell(Plan([], routes))
        await clients.media(receiving, scenario)

    def _make(self, cipher: Cipher) -> tuple[int, ClientSpec]:
        transport = next(self._transports)
        return transport, self._keys.make(transport, cipher, f"floor{transport}", secrets.token_hex(16))

    def _open(self, clients: Clients, transport: int, spec: ClientSpec) -> None:
        generator(clients).send(
            load.Open(
                transport=transport,
                local=IceCredentials(ufrag=f"client{transport}", pwd=secrets.token_hex(16)),
                remote=IceCredentials(ufrag=spec.ufrag, pwd=spec.pwd),
                fingerprints=(self._fingerprint,),
                role=DtlsRole.CLIENT,
                address=f"127.0.0.1:{self._media_port}",
                external_dtls=True,
            )
        )

    def _publish(self, clients: Clients, transport: int, index: int, track: Track) -> list[int]:
        encodings = tuple(
            load.Encoding(
                ssrc=next(self._ssrcs),
                packets_per_second=layer.packets_per_second,
                payload_bytes=layer.payload_bytes,
            )
            for layer in track.layers
        )
        generator(clients).send(
            load.Publish(
                transport=transport,
                stream=next(self._streams),
                codec=track.codec,
                pt=_VIDEO_PT if track.is_video else _AUDIO_PT,
                mid=str(index),
                extensions=load.ExtensionIds(),
                frames_per_second=track.frames_per_second,
                encodings=encodings,
                phase_us=track.phase_us(transport),
            )
        )
        return [encoding.ssrc for encoding in encodings]

    def _routes(self, scenario: Scenario, room: int, ufrag: str, own: int | None) -> list[Route]:
        """Of one subscriber: each track of all others in the layer of the scenario."""
        others = [publisher for publisher in range(scenario.publishers) if publisher != own]
        return [
            Route(ssrcs[track.layer_for(position)], ufrag, next(self._ssrcs))
            for position, publisher in enumerate(others)
            for track, ssrcs in zip(scenario.tracks, self._published[room, publisher], strict=True)
        ]

    async def _tell(self, plan: Plan) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(msgspec.json.encode(plan) + b"\n")
        if await reader.readline() != b"taken\n":
            raise PeerError(f"{self.name} did not take its plan")
        writer.close()


def _receive(transport: int) -> load.Receive:
    return load.Receive(
        transport=transport,
        codecs=(
            load.ReceiveCodec(pt=_VIDEO_PT, codec=load.Codec.VP8),
            load.ReceiveCodec(pt=_AUDIO_PT, codec=load.Codec.OPUS),
        ),
        extensions=load.ExtensionIds(),
        nack=False,
    )
