"""SQLite on the loop's own thread, for what takes microseconds.

aiosqlite hands every step of a statement to a thread and back, four times a statement: more work than the statement
itself by an order of magnitude, and most of a request's time. With the log not synced at commit (`durability.py`
does that), nothing a short statement does waits for a disk. Not for scans of a table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import aiosqlite

Result = TypeVar("Result")


class _DirectConnection(aiosqlite.Connection):
    """aiosqlite's connection, as SQLAlchemy's dialect wants it, without its thread."""

    def __await__(self) -> Generator[Any, None, aiosqlite.Connection]:
        return self._connect().__await__()

    async def _connect(self) -> aiosqlite.Connection:
        self._connection = self._connector()
        return self

    @property
    def direct(self) -> sqlite3.Connection:
        """The connection itself, for those who need nothing around it."""
        assert self._connection is not None
        return self._connection

    async def _execute(self, fn: Callable[..., Result], *args: Any, **more: Any) -> Result:
        return fn(*args, **more)

    async def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def direct(file: str) -> aiosqlite.Connection:
    """Return an open connection to the database in `file`, without implicit transactions."""
    return await _DirectConnection(lambda: sqlite3.connect(file, isolation_level=None), iter_chunk_size=64)
