"""A TCP relay between a client and the server that a test can cut, so that signaling breaks and media does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from urllib.parse import urlsplit


class TcpProxy:
    """Relays to `url`, reachable under its own `url`.

    `cut` drops what is open. What comes new is refused while `closed`, and waits unanswered while not `flowing`.
    `patient`: a client is not told that the far end is gone, as if its network had swallowed the news. `told_bytes` is
    what the server has said to all of them.
    """

    def __init__(self, url: str, *, patient: bool = False) -> None:
        self.patient = patient
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self.closed = False
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.accepted = 0
        self.told_bytes = 0
        self.url = ""

    async def start(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def cut(self) -> None:
        for relay in self._relays:
            relay.cancel()

    async def stop(self) -> None:
        self.closed = True
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.closed:
            writer.transport.abort()
            return
        self.accepted += 1
        self._relays.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            await self.flowing.wait()
            far_reader, far = await asyncio.open_connection(*self._target)
            copies = [asyncio.ensure_future(copy(reader, far)), asyncio.ensure_future(self._tell(far_reader, writer))]
            try:
                await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
                if self.patient and not copies[0].done():
                    await copies[0]
            finally:
                for one in copies:
                    one.cancel()
        except (OSError, asyncio.CancelledError):
            # Cancelled by `cut`: a reset, as from a network that went away, not a farewell.
            pass
        finally:
            self._relays.discard(task)
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def count(data: bytes) -> None:
            self.told_bytes += len(data)

        await copy(reader, writer, count)


async def copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Callable[[bytes], None] = lambda _: None
) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            seen(data)
            writer.write(data)
            await writer.drain()
