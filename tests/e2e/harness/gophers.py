"""People who use the official Go SDK: processes of `go_client`, told what to do, remembering what they told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from bench.links.lab import Side
from tests.e2e.harness.server import REPOSITORY, Endpoint


def build(target: Path) -> Path:
    """The client, built; the first build takes minutes."""
    go = shutil.which("go") or str(REPOSITORY / ".venv/bin/go")
    subprocess.run([go, "build", "-o", str(target), "."], cwd=REPOSITORY / "tests/e2e/go_client", check=True)
    return target


class GoClient:
    """The program, running; `told` is what it said, in order."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if line.startswith(b"{"):
                self.told.append(json.loads(line))
                self._changed.set()

    async def do(self, what: str, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": what, **fields}).encode() + b"\n")
        await self.process.stdin.drain()

    async def event(self, name: str, *, seconds: float = 40, count: int = 1, **fields: Any) -> dict[str, Any]:
        """The `count`-th event with these fields."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            found = [
                event
                for event in self.told
                if event["event"] == name and all(event.get(key) == value for key, value in fields.items())
            ]
            if len(found) >= count:
                return found[count - 1]
            left = deadline - asyncio.get_running_loop().time()
            assert left > 0, f"no {name} {fields} in {seconds} s; told {self.told}"
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def more(self) -> None:
        """Until it tells something."""
        self._changed.clear()
        await self._changed.wait()

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        await self.process.wait()
        await self._reading


class Gophers:
    """Whoever a test brings in; all leave at its end. What they receive is written to `directory`."""

    def __init__(self, program: Path, server: Endpoint, room: str, directory: Path) -> None:
        self._program = program
        self._server = server
        self._room = room
        self._directory = directory
        self._started: list[GoClient] = []

    async def __call__(
        self, identity: str, *, single: bool, url: str | None = None, token: str | None = None, side: Side | None = None
    ) -> GoClient:
        """Starts one, which joins. `side`: the namespace that it runs in."""
        token = token or self._server.token(self._room, identity, can_update_own_metadata=True)
        command = [str(self._program), "-url", url or self._server.ws_url, "-token", token]
        command += ["-directory", str(self._directory), *(["-single"] if single else [])]
        process = await asyncio.create_subprocess_exec(
            *(side.command(*command) if side is not None else command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        client = GoClient(process)
        self._started.append(client)
        return client

    async def close(self) -> None:
        for client in self._started:
            await client.close()
