"""A calls system as a process of its own, to be killed and to be many on one database; and how tests run it.

`python -m tests.signaling.api.served '{"database_url": …, "port": …}'`. The media side is the tests' one in memory.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.applications import Starlette

from signaling.calls.principal import mint
from signaling.calls.settings import CallsSettings
from signaling.calls_system import create_calls_system
from tests.signaling.api.world import KEY, SECRET, FakeMedia

ROOT = Path(__file__).parents[3]


async def serve(database_url: str, port: int, later_seconds: float = 0, senders: bool = True, **settings: Any) -> None:
    """Run until killed. `later_seconds`: how far its clock is ahead; `senders`: whether background work runs."""

    def clock() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=later_seconds)

    system = create_calls_system(
        CallsSettings(**settings), database_url, FakeMedia(), {KEY: SECRET}, dev=True, clock=clock
    )
    if senders:
        await system.start()
    else:
        await system.service.prepare()
    app = Starlette(routes=list(system.routes))
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off", ws="websockets-sansio")
    await uvicorn.Server(config).serve()


class Served:
    """One server process; `as_` and `server` are clients with connections of their own."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.process, self.url = process, url

    def client(self, **claims: Any) -> httpx2.AsyncClient:
        expires = int(datetime.now(UTC).timestamp()) + 86_400
        headers = {"authorization": f"Bearer {mint({'exp': expires, **claims}, KEY, SECRET)}"}
        return httpx2.AsyncClient(base_url=f"{self.url}/v1", headers=headers, timeout=60, trust_env=False)

    def as_(self, user_id: str) -> httpx2.AsyncClient:
        return self.client(sub=user_id)

    def server(self) -> httpx2.AsyncClient:
        return self.client(scope="server")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@asynccontextmanager
async def served(database_url: str, **more: Any) -> AsyncIterator[Served]:
    """Start a process and wait until it answers; it is killed at the end if it is still there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argument = json.dumps({"database_url": database_url, "port": port, **more})
    command = [sys.executable, "-m", "tests.signaling.api.served", argument]
    process = subprocess.Popen(command, cwd=ROOT)  # noqa: ASYNC220 - starting takes a millisecond
    made = Served(process, f"http://127.0.0.1:{port}")
    try:
        async with httpx2.AsyncClient(trust_env=False) as client:
            for _ in range(600):
                assert process.poll() is None, "the server process ended"
                try:
                    await client.get(f"{made.url}/openapi.json")
                    break
                except httpx2.TransportError:
                    await asyncio.sleep(0.1)
            else:
                raise AssertionError("the server process does not answer")
        yield made
    finally:
        if process.poll() is None:
            made.kill()


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))
