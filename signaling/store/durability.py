"""Commits of SQLite that are on the disk before they are acknowledged, many with one sync.

SQLite's own way (`synchronous = FULL`) syncs the write-ahead log at each commit, one after the other: 4 ms each on the
project's machines, so 250 a second at most. Here a commit is followed by a sync that it shares with everything
committed meanwhile. SQLite itself syncs the log before it folds it into the database (`synchronous = NORMAL`), and on
recovery takes the log up to the last whole commit, so nothing else is needed (https://sqlite.org/wal.html). Two syncs
at a time, so that no commit waits for one that began before it, were no sooner.

A sync that fails is answered for by nobody who asks again: Linux forgets which pages it could not write
(https://wiki.postgresql.org/wiki/Fsync_Errors). From then on a commit counts once all of the log was written into the
database, and that was synced.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

COMMITS_PER_FOLD = 2_000
"""After so many commits of this process the log is folded into the database: some 20 000 pages, 80 MB. SQLite's default
is 1 000 pages; but the same few are written again and again, and folding writes each of them once, so seldom is
cheaper. And while it is folded the disk has no time for syncs: once a second, at 200 joins a second, that is every
hundredth join (the bench's p99 of them).
The log's own size is not asked: its index (`-shm`) may not be opened beside SQLite, for closing any descriptor of a
file drops all locks that the process has on it (sqlite.org/howtocorrupt.html §2.2), and SQLite's are there."""


class NotSynced(Exception):
    """What was committed may not be on the disk: it holds for all who read, as long as the machine runs."""


class WalSync:
    """`wait` returns once everything committed before it was called is on the disk, or raises `NotSynced`.

    It is called once for each commit. The log is folded into the database here too, beside the loop.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._begun = self._done = 0
        # What processes before this one have left is folded first.
        self._unfolded = COMMITS_PER_FOLD
        self._doubtful = False
        self._log: int | None = None
        self._disk: ThreadPoolExecutor | None = None
        self._syncing = False
        self._waiting: list[asyncio.Future[int]] = []
        self._folding: asyncio.Task[None] | None = None
        self._checkpoint = threading.Lock()
        """Of two that write the log into the database SQLite sends one away, and does not let it wait."""

    async def wait(self) -> None:
        # One that runs already may have begun before our commit; the next one is ours.
        wanted = self._begun + 1
        self._unfolded += 1
        while self._done < wanted:
            if not self._syncing:
                self._syncing = True
                # Not at once: who commits in this turn of the loop has it in common.
                asyncio.get_running_loop().call_soon(self._begin)
            if await self._ended() >= wanted > self._done:
                raise NotSynced
        if self._unfolded >= COMMITS_PER_FOLD and self._folding is None:
            # Nobody waits for it: what was committed is on the disk.
            self._unfolded = 0
            self._folding = asyncio.create_task(self._fold())

    async def close(self) -> None:
        while self._syncing:
            await self._ended()
        if self._folding is not None:
            await self._folding
        if self._disk is not None:
            self._disk.shutdown()
            self._disk = None
        if self._log is not None:
            os.close(self._log)
            self._log = None

    def _ended(self) -> asyncio.Future[int]:
        """Return what gets the number of the sync that runs, once it has ended."""
        ended = asyncio.get_running_loop().create_future()
        self._waiting.append(ended)
        return ended

    def _begin(self) -> None:
        self._begun += 1
        if self._disk is None:
            self._disk = ThreadPoolExecutor(1, "sync")
        # Past asyncio's own way to a thread, which costs as much again as the sync.
        self._disk.submit(self._sync, asyncio.get_running_loop())

    def _sync(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the thread."""
        error: Exception | None = None
        try:
            (self._rewrite if self._doubtful else self._sync_log)()
        except Exception as failed:  # whatever it is: the commits are in doubt, and nobody may wait for ever
            error = failed
        loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: Exception | None) -> None:
        self._syncing, self._doubtful = False, error is not None
        if error is None:
            self._done = self._begun
        else:
            log.error("commits_not_on_disk", error=str(error))
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            if not ended.done():
                ended.set_result(self._begun)

    def _sync_log(self) -> None:
        # Kept open: a descriptor that is opened later is not told of what could not be written before.
        try:
            there = Path(f"{self._database}-wal").stat()
        except FileNotFoundError:
            return  # folded into the database, which is synced then
        if self._log is not None and os.fstat(self._log).st_ino != there.st_ino:
            os.close(self._log)
            self._log = None
        if self._log is None:
            self._log = os.open(f"{self._database}-wal", os.O_RDONLY | os.O_CLOEXEC)
        os.fdatasync(self._log)

    def _rewrite(self) -> None:
        """Write all of the log into the database and sync that; raises if anything of it could not be."""
        with self._checkpoint, contextlib.closing(sqlite3.connect(self._database, isolation_level=None)) as connection:
            busy, frames, written = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if busy or frames != written:
            raise OSError("others hold the log")

    async def _fold(self) -> None:
        try:
            await asyncio.to_thread(self._fold_alone)
        finally:
            self._folding = None

    def _fold_alone(self) -> None:
        with self._checkpoint:
            _fold(self._database)


def _fold(database: str) -> None:
    # PASSIVE: what readers or a writer still need stays for the next time; nobody waits. What was committed is on the
    # disk whether this succeeds or not.
    try:
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    except sqlite3.Error as error:
        log.warning("log_not_folded", error=str(error))
