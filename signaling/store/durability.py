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

import structlog

log = structlog.get_logger(__name__)

COMMITS_PER_FOLD = 400
"""After so many commits of this process the log is folded into the database: some 4 000 pages. SQLite's default is
1 000; but the same few pages are written again and again, and folding writes each of them once, so seldom is cheaper.
The log's own size is not asked: its index (`-shm`) may not be opened beside SQLite, for closing any descriptor of a
file drops all locks that the process has on it (sqlite.org/howtocorrupt.html §2.2), and SQLite's are there."""


class WalSync:
    """`wait` returns once everything committed before it was called is on the disk.

    It is called once for each commit. The log is folded into the database here too, beside the loop.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._begun = self._done = 0
        # What processes before this one have left is folded first.
        self._unfolded = COMMITS_PER_FOLD
        self._running: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        # One that runs already may have begun before our commit; the next one is ours.
        wanted = self._begun + 1
        self._unfolded += 1
        while self._done < wanted:
            if self._running is None:
                self._running = asyncio.create_task(self._sync())
            # Shared: who is cancelled must not cancel it for the others.
            await asyncio.shield(self._running)

    async def _sync(self) -> None:
        self._begun += 1
        number = self._begun
        fold = self._unfolded >= COMMITS_PER_FOLD
        try:
            await asyncio.to_thread(_sync_log, self._database)
            if fold:
                self._unfolded = 0
                await asyncio.to_thread(_fold, self._database)
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


def _fold(database: str) -> None:
    # PASSIVE: what readers or a writer still need stays for the next time; nobody waits. What was committed is on the
    # disk whether this succeeds or not.
    try:
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        log.warning("log_not_folded", error=str(error))
