"""Servers reached over LiveKit's protocol: LiveKit itself, and Callyard with its signaling process.

Signaling is part of such a server, so its CPU counts; the scenarios are long after their joins when they are measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from abc import abstractmethod
from collections import deque
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import jwt

from bench.peers.base import Clients, Peer, PeerError, due_times, generator
from bench.peers.program import Program, free_port
from bench.scenarios import Scenario
from sfu.border import Fingerprint
from signaling.load.connection import Media
from signaling.load.participant import Most, Participant, ParticipantError
from signaling.load.plan import Join

_KEY, _SECRET = "devkey", "a-secret-of-thirty-two-characters-or-more"
_JOIN_TIMEOUT_SECONDS = 30.0
_JOINS_AT_ONCE = 10
_LIVEKIT_PACKAGE = "github.com/livekit/livekit-server/cmd/server"
_LIVEKIT_MODULE = Path(__file__).parent / "livekit"


class OverLiveKit(Peer):
    """Starts `command`, waits for its port, and lets people take part in its rooms."""

    can_choose = can_pace = can_churn = True

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._fingerprint = fingerprint
        self._program: Program | None = None
        self._clients: Clients | None = None
        self._media: Media | None = None
        self._participants: list[Participant] = []
        self._tasks: dict[Participant, asyncio.Task[None]] = {}
        self._viewers: deque[Participant] = deque()
        """Those who came first at the front."""
        self._joining = asyncio.Semaphore(_JOINS_AT_ONCE)
        self._port = free_port()
        self._udp_port = free_port()

    @abstractmethod
    def command(self) -> tuple[list[str], dict[str, str]]:
        """Arguments, and what is added to the environment."""

    @property
    def pids(self) -> tuple[int, ...]:
        if self._program is None:
            raise PeerError(f"{self.name} was not started")
        return self._program.pids

    async def start(self, cpu: int) -> None:
        arguments, environment = self.command()
        self._program = Program(self.name, arguments, self._port, environment)
        await self._program.start(cpu)

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._program is not None:
            await self._program.stop()

    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        self._clients = clients
        self._media = Media(
            generator(clients), self._fingerprint, "127.0.0.1", external_dtls=clients.external is not None
        )
        people = [
            self._take_part(scenario, Join(f"room-{room}", f"publisher-{index}", True, index < scenario.members, 0))
            for room in range(rooms)
            for index in range(scenario.publishers)
        ]
        await clients.connected({person.publisher.transport for person in people})

    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        people = [person for person in self._participants if person.join.receives]
        number = 0
        async for due in due_times(scenario.joins_per_second, scenario.viewers * rooms):
            join = Join(f"room-{number % rooms}", f"viewer-{number // rooms}", False, True, 0)
            people.append(self._view(clients, scenario, join, due))
            number += 1
        transports = {person.subscriber.transport for person in people}
        await clients.connected(transports)
        await clients.media(transports, scenario)

    async def churn(self, clients: Clients, scenario: Scenario, seconds: float) -> None:
        async for due in due_times(scenario.churn_per_second, round(scenario.churn_per_second * seconds)):
            person = self._viewers.popleft()
            clients.leaves(person.subscriber.transport)
            self._tasks.pop(person).cancel()
            await person.leave()
            # A new name: the server may still be taking leave of the old one.
            join = dataclasses.replace(person.join, identity=f"{person.join.identity}+")
            self._view(clients, scenario, join, due)

    def _view(self, clients: Clients, scenario: Scenario, join: Join, due: float) -> Participant:
        person = self._take_part(scenario, join)
        clients.sets_out(person.subscriber.transport, due)
        self._viewers.append(person)
        return person

    def _take_part(self, scenario: Scenario, join: Join) -> Participant:
        assert self._media is not None, "publish comes first"
        most = Most(video=scenario.tiles, audio=scenario.voices)
        person = Participant(self._media, join, scenario.tracks, _JOIN_TIMEOUT_SECONDS, most)
        self._participants.append(person)
        # Who comes at a rate comes, whatever became of those before.
        limit = self._joining if scenario.joins_per_second is None else contextlib.nullcontext()
        self._tasks[person] = asyncio.create_task(self._run(person, limit))
        return person

    async def _run(self, person: Participant, limit: AbstractAsyncContextManager[None]) -> None:
        joined = asyncio.Event()
        async with limit:
            running = asyncio.create_task(person.run(f"ws://127.0.0.1:{self._port}", token(person.join), joined.set))
            waiting = asyncio.create_task(joined.wait())
            await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        try:
            await running
        except ParticipantError as error:
            if self._clients is not None:
                self._clients.fail(str(error))
        finally:
            running.cancel()


class LiveKit(OverLiveKit):
    """LiveKit's own server, built from a small module of ours (`bench/peers/livekit`)."""

    name = "LiveKit 1.13.5"

    @staticmethod
    def build(into: Path) -> Path:
        """The binary, built if it is not there. `PeerError` without Go or its module."""
        binary = into / "livekit-server"
        if not binary.exists():
            if shutil.which("go") is None:
                raise PeerError("Go is not installed")
            built = subprocess.run(["go", "build", "-o", binary, _LIVEKIT_PACKAGE], cwd=_LIVEKIT_MODULE, check=False)
            if built.returncode != 0:
                raise PeerError("its module does not build; see the log")
        return binary

    def __init__(self, fingerprint: Fingerprint, binary: Path) -> None:
        super().__init__(fingerprint)
        self._binary = binary

    def command(self) -> tuple[list[str], dict[str, str]]:
        config = "\n".join(
            (
                f"port: {self._port}",
                "bind_addresses: [127.0.0.1]",
                f"keys: {{{_KEY}: {_SECRET}}}",
                "logging: {level: warn, pion_level: error}",
                "rtc:",
                f"  udp_port: {self._udp_port}",
                "  tcp_port: 0",
                "  use_external_ip: false",
                "  node_ip: 127.0.0.1",
                "  enable_loopback_candidate: true",
                # Other interfaces' addresses become `node_ip` too, and of equal candidates it keeps the first it finds:
                # in one run of three it then listened where nobody spoke to it.
                "  interfaces: {includes: [lo]}",
            )
        )
        return [str(self._binary), "--config-body", config], {}


class CallyardServer(OverLiveKit):
    """Callyard as it is deployed: signaling and one worker, both on the pinned core."""

    name = "Callyard, whole server"

    def __init__(self, fingerprint: Fingerprint) -> None:
        super().__init__(fingerprint)
        self._state = tempfile.TemporaryDirectory(prefix="callyard-bench-")

    def command(self) -> tuple[list[str], dict[str, str]]:
        arguments = [sys.executable, "-m", "signaling.cli", "serve", "--bind", "127.0.0.1", "--port", str(self._port)]
        arguments += [
            "--udp-port",
            str(self._udp_port),
            "--workers",
            "1",
            "--node-ip",
            "127.0.0.1",
            "--key",
            _KEY,
            "--secret",
            _SECRET,
        ]
        environment = {
            "CALLYARD_STATE_DIR": self._state.name,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        return arguments, environment

    async def stop(self) -> None:
        await super().stop()
        self._state.cleanup()


def token(join: Join) -> str:
    """An access token for one participant."""
    now = int(time.time())
    video = {"room": join.room, "roomJoin": True, "canPublish": join.sends, "canSubscribe": join.receives}
    claims = {"iss": _KEY, "sub": join.identity, "nbf": now - 10, "exp": now + 3_600, "video": video}
    return jwt.encode(claims, _SECRET, algorithm="HS256")
