"""Servers reached over LiveKit's protocol: LiveKit itself, and Callyard with its signaling process.

Signaling is part of such a server, so its CPU counts; the scenarios are long after their joins when they are measured.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jwt

from bench import machine
from bench.peers.base import Clients, Peer, PeerError, UnsupportedError, generator
from bench.scenarios import Cipher, Scenario
from sfu.border import Fingerprint
from signaling.load.participant import Media, Participant, ParticipantError
from signaling.load.plan import Join

_KEY, _SECRET = "devkey", "a-secret-of-thirty-two-characters-or-more"
_START_TIMEOUT_SECONDS = 60.0
_JOIN_TIMEOUT_SECONDS = 30.0
_JOINS_AT_ONCE = 10
_LIVEKIT_PACKAGE = "github.com/livekit/livekit-server/cmd/server"
_LIVEKIT_MODULE = Path(__file__).parent / "livekit"


class OverLiveKit(Peer):
    """Starts `command`, waits for its port, and lets people take part in its rooms."""

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._fingerprint = fingerprint
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: Clients | None = None
        self._media: Media | None = None
        self._participants: list[Participant] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._joining = asyncio.Semaphore(_JOINS_AT_ONCE)
        self._port = free_port()
        self._udp_port = free_port()

    def command(self) -> tuple[list[str], dict[str, str]]:
        """Arguments, and what is added to the environment."""
        raise NotImplementedError

    @property
    def pids(self) -> tuple[int, ...]:
        if self._process is None or self._process.poll() is not None:
            raise PeerError(f"{self.name} has ended")
        return tuple(machine.family(self._process.pid))

    async def start(self, cpu: int) -> None:
        arguments, environment = self.command()
        # Go counts its cores at the start, so it must be pinned before.
        self._process = subprocess.Popen(  # noqa: ASYNC220 — it returns at once
            ["taskset", "-c", str(cpu), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise PeerError(f"{self.name} ended at its start with status {self._process.returncode}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return
        raise PeerError(f"{self.name} did not listen within {_START_TIMEOUT_SECONDS:g} s")

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(self._process.wait, 5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        if scenario.cipher is not Cipher.GCM:
            raise UnsupportedError("clients offer only GCM over this protocol so far")
        self._clients = clients
        self._media = Media(generator(clients), self._fingerprint, "127.0.0.1")
        people = [
            self._take_part(scenario, Join(f"room-{room}", f"publisher-{index}", True, index < scenario.members, 0))
            for room in range(rooms)
            for index in range(scenario.publishers)
        ]
        await clients.connected({person.publisher.transport for person in people})

    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        people = [person for person in self._participants if person.join.receives]
        people += [
            self._take_part(scenario, Join(f"room-{room}", f"viewer-{index}", False, True, 0))
            for room in range(rooms)
            for index in range(scenario.viewers)
        ]
        transports = {person.subscriber.transport for person in people}
        await clients.connected(transports)
        await clients.media(transports, scenario)

    def _take_part(self, scenario: Scenario, join: Join) -> Participant:
        assert self._media is not None, "publish comes first"
        person = Participant(self._media, join, scenario.tracks, _JOIN_TIMEOUT_SECONDS)
        self._participants.append(person)
        self._tasks.append(asyncio.create_task(self._run(person)))
        return person

    async def _run(self, person: Participant) -> None:
        joined = asyncio.Event()
        async with self._joining:
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
        pids = machine.family(self._process.pid) if self._process is not None else []
        await super().stop()
        for pid in pids:
            # Workers outlive signaling by design.
            machine.kill(pid)
        self._state.cleanup()


def token(join: Join) -> str:
    """An access token for one participant."""
    now = int(time.time())
    video = {"room": join.room, "roomJoin": True, "canPublish": join.sends, "canSubscribe": join.receives}
    claims = {"iss": _KEY, "sub": join.identity, "nbf": now - 10, "exp": now + 3_600, "video": video}
    return jwt.encode(claims, _SECRET, algorithm="HS256")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
