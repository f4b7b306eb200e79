"""A server under test as a process of its own, pinned to a core from its first instruction."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from bench import machine
from bench.peers.base import Peer, PeerError

_START_TIMEOUT_SECONDS = 60.0
_STOP_TIMEOUT_SECONDS = 5.0


class Program:
    """Starts `arguments`; it is up once it listens on TCP `port` of 127.0.0.1. What it says goes to the run's log."""

    def __init__(
        self, name: str, arguments: Sequence[str], port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._arguments = arguments
        self._port = port
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pids(self) -> tuple[int, ...]:
        """Itself and all its descendants. `PeerError` once it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise PeerError(f"{self._name} has ended")
        return tuple(machine.family(self._process.pid))

    async def start(self, cpu: int) -> None:
        # Go counts its cores at the start, so it must be pinned before.
        self._process = subprocess.Popen(  # noqa: ASYNC220 — it returns at once
            ["taskset", "-c", str(cpu), *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise PeerError(f"{self._name} ended at its start with status {self._process.returncode}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            writer.close()
            return
        await self.stop()
        raise PeerError(f"{self._name} did not listen within {_START_TIMEOUT_SECONDS:g} s")

    async def stop(self) -> None:
        """Asks it to end, and kills it and what it has left behind."""
        if self._process is None:
            return
        pids = machine.family(self._process.pid)
        self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in pids[1:]:
            machine.kill(pid)


class ProgramPeer(Peer):
    """A peer that is one program, known when the peer is made."""

    _program: Program

    @property
    def pids(self) -> tuple[int, ...]:
        return self._program.pids

    async def start(self, cpu: int) -> None:
        await self._program.start(cpu)

    async def stop(self) -> None:
        await self._program.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
