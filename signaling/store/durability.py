"""Commits of SQLite that are on the disk before they are acknowledged, many with one sync.

SQLite's own way (`synchronous = FULL`) syncs the write-ahead log at each commit, one after the other: 4 ms each on the
project's machines, so 250 a second at most. Here a commit is followed by a sync that it shares with everything
committed meanwhile. SQLite itself syncs the log before it folds it into the database (`synchronous = NORMAL`), and on
recovery takes the log up to the last whole commit, so nothing else is needed (https://sqlite.org/wal.html).
"""

from __future__ import annotations

import asyncio
import os


class WalSync:
    """`wait` returns once everything committed before it was called is on the disk."""

    def __init__(self, database: str) -> None:
        self._log = f"{database}-wal"
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
            await asyncio.to_thread(_sync_file, self._log)
        finally:
            self._running = None
        self._done = number


def _sync_file(path: str) -> None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # folded into the database, which is synced then
    try:
        os.fdatasync(file)
    finally:
        os.close(file)
