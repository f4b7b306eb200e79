"""A real listener on loopback, for tests that are about what passes over a wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.types import ASGIApp

from signaling.http_server import HttpServer, http_server, listen
from signaling.settings import HttpSettings


@contextlib.asynccontextmanager
async def listening(app: ASGIApp, settings: HttpSettings | None = None) -> AsyncIterator[tuple[int, HttpServer]]:
    """Serve an application; yields the port, and the server, which ends at once with the block."""
    listener = listen("127.0.0.1", 0, 512)
    server = http_server(app, settings or HttpSettings())
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1], server
    finally:
        server.stop(at_once=True)
        await task
