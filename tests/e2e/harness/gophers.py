"""People who use the official Go SDK: processes of `go_client`."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

from bench.links.lab import Side
from tests.e2e.harness.sdk_process import SdkProcess, SdkProcesses
from tests.e2e.harness.server import REPOSITORY, Endpoint


def build(target: Path) -> Path:
    """The client, built; the first build takes minutes."""
    go = shutil.which("go") or str(REPOSITORY / ".venv/bin/go")
    subprocess.run([go, "build", "-o", str(target), "."], cwd=REPOSITORY / "tests/e2e/go_client", check=True)
    return target


class Gophers(SdkProcesses):
    """What they receive is written to `directory`."""

    def __init__(self, program: Path, server: Endpoint, room: str, directory: Path) -> None:
        super().__init__(server, room)
        self._program = program
        self._directory = directory

    async def __call__(
        self, identity: str, *, single: bool, url: str | None = None, token: str | None = None, side: Side | None = None
    ) -> SdkProcess:
        """Starts one, which joins. `side`: the namespace that it runs in."""
        command = [str(self._program), "-url", url or self._server.ws_url, "-token", token or self._token(identity)]
        command += ["-directory", str(self._directory), *(["-single"] if single else [])]
        process = await asyncio.create_subprocess_exec(
            *(side.command(*command) if side is not None else command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        client = SdkProcess(process)
        self._started.append(client)
        return client
