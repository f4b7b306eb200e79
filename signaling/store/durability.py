"""Commits of SQLite that are on the disk before they are acknowledged, many with one sync.

SQLite's own way (`synchronous = FULL`) syncs the write-ahead log at each commit, one after the other: 4 ms each on the
project's machines, so 250 a second at most. Here a commit is followed by a sync that it shares with everything
committed meanwhile. SQLite itself syncs the log before it folds it into the database (`synchronous = NORMAL`), and on
recovery takes the log up to the last whole commit, so nothing else is needed (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import struct
from pathlib import Path

LOG_MAX_PAGES = 4_000
"""From so many pages on the log is folded into the database. SQLite's default is 1 000; but the same few pages are
written again and again, and folding writes each of them once, so seldom is cheaper."""
_HEADER = struct.Struct("=16xI76xI")
"""Of the log's index: how many frames the log has, and how many are folded already (sqlite.org/walformat.html §2.1)."""


class WalSync:
    """`wait` returns once everything committed before it was called is on the disk.

    The log is folded into the database here too, beside the loop, when it has grown.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._begun = self._done = 0
        self._running: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        # One that runs already may have begun before our commit; the next one is ours.
        wanted = self._begun + 1
        while self._done < wanted:
            if self._running is None:
                self._running = asyncio.create_task(self._sync())
            # Shared: who is cancelled must not cancel it for the others.
            await asyncio.shield(self._running)

    async def _sync(self) -> None:
        self._begun += 1
        number = self._begun
        try:
            await asyncio.to_thread(_sync_log, self._database)
        finally:
            self._running = None
        self._done = number


def _sync_log(database: str) -> None:
    try:
        file = os.open(f"{database}-wal", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # folded into the database, which is synced then
    try:
        os.fdatasync(file)
    finally:
        os.close(file)
    if _pages_to_fold(database) > LOG_MAX_PAGES:
        _fold(database)


def _pages_to_fold(database: str) -> int:
    # Not the log's size: the file is written anew from its beginning, and never becomes smaller.
    try:
        with Path(f"{database}-shm").open("rb", buffering=0) as index:
            header = index.read(_HEADER.size)
    except FileNotFoundError:
        return 0  # closed meanwhile, which folds it
    if len(header) < _HEADER.size:
        return 0
    frames, folded = _HEADER.unpack(header)
    return int(frames - folded)


def _fold(database: str) -> None:
    # PASSIVE: what readers or a writer still need stays for the next time; nobody waits.
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
