"""Janus with its VideoRoom plugin, as Debian packages it, driven through its WebSocket API.

Publishers offer, subscribers are offered, all of a room in one PeerConnection ("multistream", Janus 1.x). A black box:
what it sends and answers is all that is known of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.peers.base import Clients, PeerError, generator
from bench.peers.program import Program, ProgramPeer, free_port
from bench.scenarios import Scenario
from sfu import sdp
from sfu.border import Fingerprint
from signaling.load import description
from signaling.load.connection import Media
from signaling.load.description import DescriptionError
from signaling.load.plan import Track

_AT_ONCE = 10
_TIMEOUT_SECONDS = 30.0
_MAX_MESSAGE_BYTES = 4 << 20
_PLUGIN = "janus.plugin.videoroom"
# Only loopback is offered; sessions need no keep-alives; whatever no scenario uses is not loaded.
_CONFIG = """\
general: { debug_level = 3, debug_colors = false, session_timeout = 0 }
nat: { ice_enforce_list = "127.0.0.1" }
plugins: { disable = "libjanus_audiobridge.so,libjanus_duktape.so,libjanus_echotest.so,libjanus_lua.so,\
libjanus_nosip.so,libjanus_recordplay.so,libjanus_sip.so,libjanus_streaming.so,libjanus_textroom.so,\
libjanus_videocall.so,libjanus_voicemail.so" }
transports: { disable = "libjanus_http.so,libjanus_mqtt.so,libjanus_nanomsg.so,libjanus_pfunix.so,\
libjanus_rabbitmq.so" }
"""


class Janus(ProgramPeer):
    name = "Janus 1.1"

    @staticmethod
    def install() -> Path:
        """The program, from its Debian package where that may be installed. `PeerError` where it may not."""
        if (found := shutil.which("janus")) is not None:
            return Path(found)
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise PeerError("it is not installed (Debian: sudo apt install janus)")
        # In runlevel 1 the package does not start its service.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for arguments in (("update", "-qq"), ("install", "-y", "-qq", "--no-install-recommends", "janus")):
            done = subprocess.run(["apt-get", *arguments], stdout=sys.stderr, env=environment, check=False)
            if done.returncode != 0:
                raise PeerError("its package cannot be had here; see the log")
        return Path(shutil.which("janus") or "/usr/bin/janus")

    def __init__(self, fingerprint: Fingerprint, binary: Path) -> None:
        self._fingerprint = fingerprint
        self._directory = tempfile.TemporaryDirectory(prefix="janus-bench-")
        self._port = free_port()
        folder = Path(self._directory.name)
        arguments = (str(binary), "--configs-folder", str(folder), "--config", str(folder / "janus.jcfg"))
        self._program = Program(self.name, arguments, self._port)
        self._media: Media | None = None
        self._api: Api | None = None

    async def start(self, cpu: int) -> None:
        transport = f'general: {{ ws = true, ws_port = {self._port}, ws_ip = "127.0.0.1" }}\n'
        for name, text in (("janus", _CONFIG), ("janus.transport.websockets", transport), (_PLUGIN, "")):
            Path(self._directory.name, f"{name}.jcfg").write_text(text)  # noqa: ASYNC240 — three short files
        await super().start(cpu)
        self._api = await Api.connect(f"ws://127.0.0.1:{self._port}")

    async def stop(self) -> None:
        if self._api is not None:
            await self._api.close()
        await super().stop()
        self._directory.cleanup()

    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        external = clients.external is not None
        self._media = Media(generator(clients), self._fingerprint, "127.0.0.1", external_dtls=external)
        handle = await self._started().attach()
        for room in range(rooms):
            await self._started().message(handle, room_request(room, scenario))
        people = [(room, publisher) for room in range(rooms) for publisher in range(scenario.publishers)]
        transports = await _gather([self._publish(scenario, room, publisher) for room, publisher in people])
        await clients.connected(set(transports))

    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        people = [(room, subscriber) for room in range(rooms) for subscriber in range(scenario.subscribers)]
        transports = await _gather([self._subscribe(scenario, room, subscriber) for room, subscriber in people])
        await clients.connected(set(transports))
        await clients.media(set(transports), scenario)

    async def _publish(self, scenario: Scenario, room: int, publisher: int) -> int:
        assert self._media is not None, "publish comes first"
        connection = self._media.open()
        sent = [self._media.sent(track) for track in scenario.tracks]
        offer = description.offer(connection.own, sent, self._media.setup)
        api = self._started()
        handle = await api.attach()
        request = {"request": "joinandconfigure", "ptype": "publisher", "room": room + 1, "id": feed(room, publisher)}
        # Layers are described lowest first.
        answered = await api.message(handle, request, {"type": "offer", "sdp": sdp.write(offer), "rid_order": "lmh"})
        try:
            connection.publish(sent, _described(answered))
        except DescriptionError as error:
            raise PeerError(f"{self.name}: {error}") from error
        return connection.transport

    async def _subscribe(self, scenario: Scenario, room: int, subscriber: int) -> int:
        assert self._media is not None, "publish comes first"
        connection = self._media.open()
        api = self._started()
        handle = await api.attach()
        offered = _described(await api.message(handle, join_request(scenario, room, subscriber)))
        session, agreed = description.answer(connection.own, offered)
        # Clients tell no candidates: the server learns their addresses from their checks.
        connection.described(offered, is_offer=True)
        connection.receive(agreed)
        await api.message(handle, {"request": "start"}, {"type": "answer", "sdp": sdp.write(session)})
        return connection.transport

    def _started(self) -> Api:
        if self._api is None:
            raise PeerError(f"{self.name} was not started")
        return self._api


class Api:
    """Janus' WebSocket API: one connection, a session for each handle, answers found by their transaction."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._sessions: dict[int, int] = {}
        self._pending: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read_forever())

    @classmethod
    async def connect(cls, url: str) -> Api:
        options: dict[str, Any] = {"max_size": _MAX_MESSAGE_BYTES, "proxy": None}
        return cls(await connect(url, subprotocols=["janus-protocol"], **options))  # type: ignore[list-item]

    async def close(self) -> None:
        await self._socket.close()
        await self._reading

    async def attach(self) -> int:
        """A handle of the plugin, in a session of its own."""
        session = int((await self._ask({"janus": "create"}))["data"]["id"])
        handle = int((await self._ask({"janus": "attach", "plugin": _PLUGIN, "session_id": session}))["data"]["id"])
        self._sessions[handle] = session
        return handle

    async def message(self, handle: int, body: dict[str, Any], jsep: dict[str, str] | None = None) -> dict[str, Any]:
        """The plugin's answer. `PeerError` with its words if it is an error."""
        whole = {"janus": "message", "session_id": self._sessions[handle], "handle_id": handle, "body": body}
        answer = await self._ask(whole if jsep is None else {**whole, "jsep": jsep})
        data = answer["plugindata"]["data"]
        if "error" in data:
            raise PeerError(f"Janus refused {body['request']}: {data['error']}")
        return answer

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        transaction = secrets.token_hex(8)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[transaction] = future
        try:
            await self._socket.send(json.dumps({**message, "transaction": transaction}))
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                answer = await future
        except TimeoutError:
            raise PeerError(f"Janus did not answer to {message['janus']} in {_TIMEOUT_SECONDS:g} s") from None
        except ConnectionClosed:
            raise PeerError("Janus closed the connection") from None
        finally:
            self._pending.pop(transaction, None)
        if answer["janus"] == "error":
            raise PeerError(f"Janus refused {message['janus']}: {answer['error']['reason']}")
        return answer

    async def _read_forever(self) -> None:
        try:
            async for text in self._socket:
                message = json.loads(text)
                # An acknowledgement says only that the answer will come.
                future = self._pending.get(message.get("transaction", ""))
                if message["janus"] != "ack" and future is not None and not future.done():
                    future.set_result(message)
        except ConnectionClosed:
            pass
        for future in self._pending.values():
            if not future.done():
                future.set_exception(PeerError("Janus closed the connection"))


def feed(room: int, publisher: int) -> int:
    """A publisher's id."""
    return (room + 1) * 10_000 + publisher + 1


def room_request(room: int, scenario: Scenario) -> dict[str, Any]:
    """A room for all the scenario's publishers, without a limit on their bitrate."""
    return {
        "request": "create",
        "room": room + 1,
        "publishers": scenario.publishers,
        "bitrate": 0,
        "audiocodec": "opus",
        "videocodec": ",".join({track.codec.value for track in scenario.tracks if track.is_video} or {"vp8"}),
    }


def join_request(scenario: Scenario, room: int, subscriber: int) -> dict[str, Any]:
    """All tracks of all others, each video in the layer of the scenario; members are publishers of the same number."""
    others = [p for p in range(scenario.publishers) if p != subscriber or subscriber >= scenario.members]
    streams = [
        {"feed": feed(room, publisher), "mid": str(index), **_substream(track, position)}
        for position, publisher in enumerate(others)
        for index, track in enumerate(scenario.tracks)
    ]
    return {"request": "join", "ptype": "subscriber", "room": room + 1, "streams": streams}


def _substream(track: Track, position: int) -> dict[str, int]:
    return {"substream": track.layer_for(position)} if len(track.layers) > 1 else {}


def _described(answer: dict[str, Any]) -> sdp.Session:
    try:
        return sdp.parse(answer["jsep"]["sdp"])
    except KeyError:
        raise PeerError("Janus answered without a description") from None
    except sdp.SdpError as error:
        raise PeerError(f"Janus' description cannot be read: {error}") from error


async def _gather(parts: Sequence[Coroutine[Any, Any, int]]) -> list[int]:
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(part: Coroutine[Any, Any, int]) -> int:
        async with limit:
            return await part

    return await asyncio.gather(*map(one, parts))
