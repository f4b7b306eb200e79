"""The server under test: a real process on free ports with its own state, ended with its workers.

`CALLYARD_E2E_URL` points the tests of the LiveKit protocol at another server (its key and secret in
`CALLYARD_E2E_KEY` and `CALLYARD_E2E_SECRET`), so that what we expect can be checked against somebody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import httpx2
from livekit import api

from bench.links.lab import Side

Kind = Literal["standard", "egress", "ingress", "sip", "agent"]
REPOSITORY = Path(__file__).resolve().parents[3]
EXTERNAL_URL = os.environ.get("CALLYARD_E2E_URL")
START_SECONDS = 60.0


class Endpoint:
    """Where a server is and what opens it."""

    def __init__(self, url: str, key: str = "devkey", secret: str = "secret") -> None:
        self.url = url.rstrip("/")
        self.key = key
        self.secret = secret

    @property
    def ws_url(self) -> str:
        return "ws" + self.url.removeprefix("http")

    def token(
        self, room: str, identity: str, *, kind: Kind = "standard", ttl_seconds: float = 600, **grants: Any
    ) -> str:
        """An access token as the official library makes it; `grants` are fields of `VideoGrants`."""
        token = (
            api.AccessToken(self.key, self.secret)
            .with_identity(identity)
            .with_name(identity.title())
            .with_kind(kind)
            .with_ttl(datetime.timedelta(seconds=ttl_seconds))
            .with_grants(api.VideoGrants(**{"room_join": True, "room": room, **grants}))
        )
        return token.to_jwt()

    def api(self) -> api.LiveKitAPI:
        return api.LiveKitAPI(self.url, self.key, self.secret)


class ServerProcess(Endpoint):
    """`callyard serve --dev` with its own ports, state and workers. `start` again after `kill` finds them."""

    def __init__(
        self,
        *arguments: str,
        workers: int = 2,
        environment: dict[str, str] | None = None,
        side: Side | None = None,
    ) -> None:
        """`side`: the namespace that it runs in and listens for."""
        self.port, self.udp_port = free_ports(workers)
        super().__init__(f"http://{side.ip if side is not None else '127.0.0.1'}:{self.port}")
        self._side = side
        self.state = Path(tempfile.mkdtemp(prefix="callyard-e2e-"))
        self.log = self.state / "log"
        self._arguments = ["--port", str(self.port), "--udp-port", str(self.udp_port), "--workers", str(workers)]
        if side is not None:
            # Development keys are refused for other addresses than loopback's unless it is said twice.
            self._arguments += ["--dev", "--bind", "0.0.0.0", "--node-ip", side.ip]
        self._arguments += arguments
        self._environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None
        self._pids: set[int] = set()

    async def start(self) -> None:
        """Returns when the server is ready for work."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 (it returns at once)
                self._command(sys.executable, "-m", "signaling.cli", "serve", "--dev", *self._arguments),
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "CALLYARD_STATE_DIR": str(self.state),
                    # A socket's path must be short.
                    "CALLYARD_NODE_RUN_DIRECTORY": str(self.state / "run"),
                    **self._environment,
                },
            )
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await self._is_ready():
            if self.process.poll() is not None or asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"the server did not start:\n{self.tail()}")
            await asyncio.sleep(0.05)
        self._pids |= set(self.worker_pids())

    def _command(self, *arguments: str) -> list[str]:
        return self._side.command(*arguments) if self._side is not None else list(arguments)

    async def _is_ready(self) -> bool:
        if self._side is not None:
            asks = f"import urllib.request; urllib.request.urlopen('{self.url}/readyz', timeout=2)"
            asking = await asyncio.create_subprocess_exec(
                *self._command(sys.executable, "-c", asks), stderr=asyncio.subprocess.DEVNULL
            )
            return await asking.wait() == 0
        with contextlib.suppress(httpx2.TransportError):
            async with httpx2.AsyncClient() as client:
                return (await client.get(f"{self.url}/readyz")).status_code == 200
        return False

    def worker_pids(self) -> list[int]:
        """Of the workers that live now, in the order of their index."""
        found = {}
        for path in (self.state / "run").glob("*.pid"):
            pid = int(path.read_text())
            if Path(f"/proc/{pid}").exists():
                found[path.name] = pid
        return [found[name] for name in sorted(found)]

    def kill(self) -> None:
        """SIGKILL to signaling alone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """SIGTERM: drain."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    async def ended(self, seconds: float) -> int:
        """The exit status of signaling, which must come within `seconds`."""
        assert self.process is not None
        async with asyncio.timeout(seconds):
            return await asyncio.to_thread(self.process.wait)

    def close(self) -> None:
        """Ends signaling and its workers, whatever state they are in."""
        self._pids |= set(self.worker_pids())
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                # The number may have passed to somebody else by now.
                if b"sfu.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.state, ignore_errors=True)

    def tail(self, characters: int = 6000) -> str:
        return self.log.read_text(errors="replace")[-characters:]


def free_ports(workers: int) -> tuple[int, int]:
    """A TCP port, and the first of `workers` successive ports free for both UDP and TCP.

    Below the range from which the kernel gives ports to clients, so that none takes them before the server does.
    """
    chosen = random.SystemRandom()
    for _ in range(200):
        base = chosen.randrange(20_000, 32_000)
        if all(map(_is_free, range(base, base + workers + 1))):
            return base, base + 1
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True


def external(arguments: Sequence[str] = ()) -> Endpoint | None:
    """The server that the environment names, if any."""
    if EXTERNAL_URL is None:
        return None
    return Endpoint(
        EXTERNAL_URL, os.environ.get("CALLYARD_E2E_KEY", "devkey"), os.environ.get("CALLYARD_E2E_SECRET", "secret")
    )
