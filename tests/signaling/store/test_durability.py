"""A commit is acknowledged when it is on the disk, and many share one sync (F-25)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from signaling.store import durability
from signaling.store.database import Database, DatabaseAway, NotOnDisk


class Disk:
    """Counts syncs of the write-ahead log, and holds them while it is busy."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs: list[str] = []
        self.free = threading.Event()
        self.free.set()
        real = os.fdatasync

        def fdatasync(file: int) -> None:
            self.syncs.append(str(Path(f"/proc/self/fd/{file}").readlink()))
            assert self.free.wait(10)
            real(file)

        monkeypatch.setattr(os, "fdatasync", fdatasync)

    async def asked(self) -> None:
        """Return once a sync was asked for, or after five seconds."""
        for _ in range(500):
            if self.syncs:
                return
            await asyncio.sleep(0.01)


async def _write(database: Database, number: int) -> None:
    async with database.write() as connection:
        await connection.exec_driver_sql("INSERT INTO thing VALUES (?)", (number,))


@pytest.fixture
async def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path}/calls.db")
    async with made.write() as connection:
        await connection.exec_driver_sql("CREATE TABLE thing (number INTEGER)")
    return made


async def _folded(database: Database) -> None:
    assert database._sync is not None
    if database._sync._folding is not None:
        await database._sync._folding


async def test_a_write_returns_only_after_its_log_is_synced(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-25"""
    disk = Disk(monkeypatch)
    disk.free.clear()
    writing = asyncio.create_task(_write(database, 1))
    await disk.asked()
    assert disk.syncs == [f"{tmp_path}/calls.db-wal"]
    assert not writing.done()
    disk.free.set()
    await writing
    await database.close()


async def test_what_is_committed_during_a_sync_waits_for_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    disk.free.clear()
    first = asyncio.create_task(_write(database, 0))
    await disk.asked()
    later = [asyncio.create_task(_write(database, number)) for number in range(1, 51)]
    while True:
        await asyncio.sleep(0)  # a read does not leave the loop to others
        async with database.read() as connection:
            if (await connection.exec_driver_sql("SELECT count(*) FROM thing")).scalar() == 51:
                break
    assert len(disk.syncs) == 1
    assert not any(task.done() for task in later)
    later[0].cancel()
    disk.free.set()
    await asyncio.gather(first, *later[1:])
    # One for the first, one for all that came during it.
    assert len(disk.syncs) == 2
    await database.close()


async def test_a_write_that_fails_waits_for_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)

    async def fail() -> None:
        async with database.write() as connection:
            await connection.exec_driver_sql("INSERT INTO thing VALUES (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert disk.syncs == []
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM thing")).scalar() == 0
    await database.close()


async def test_what_the_disk_did_not_take_is_not_acknowledged_and_written_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _folded(database)
    real, broken = os.fdatasync, [errno.EIO]

    def fdatasync(file: int) -> None:
        if broken:
            raise OSError(broken[0], os.strerror(broken[0]))
        real(file)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for reason in (errno.EIO, errno.ENOSPC):
        broken[:] = [reason]
        results = await asyncio.gather(*(_write(database, number) for number in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [NotOnDisk] * 3
        await _write(database, 3)
        # All of it is in the database itself now, and not merely in a log that cannot be trusted.
        alone = tmp_path / "copy.db"
        shutil.copy(tmp_path / "calls.db", alone)
        with contextlib.closing(sqlite3.connect(alone)) as copy:
            assert {number for (number,) in copy.execute("SELECT number FROM thing")} == {0, 1, 2, 3}
    broken.clear()
    await _write(database, 4)
    await database.close()


async def test_whatever_a_sync_fails_of_nobody_waits_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fdatasync(file: int) -> None:
        raise ValueError("nobody thought of this")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fdatasync)
        with pytest.raises(NotOnDisk):
            await asyncio.wait_for(_write(database, 1), 10)
    await asyncio.wait_for(_write(database, 2), 10)
    await database.close()


async def test_what_the_disk_did_not_take_is_written_anew_after_a_folding_that_has_begun(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _folded(database)
    begun, free = threading.Event(), threading.Event()

    def fold(_: str) -> None:
        begun.set()
        assert free.wait(10)

    monkeypatch.setattr(durability, "_fold", fold)
    with monkeypatch.context() as only_now:
        only_now.setattr(durability, "COMMITS_PER_FOLD", 1)
        await _write(database, 1)
    assert await asyncio.to_thread(begun.wait, 10)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", Mock(side_effect=OSError(errno.EIO, "broken")))
        with pytest.raises(NotOnDisk):
            await _write(database, 2)
    writing = asyncio.create_task(_write(database, 3))
    # Time enough for a write that does not wait.
    assert not (await asyncio.wait({writing}, timeout=0.2))[0]
    free.set()
    await asyncio.wait_for(writing, 10)
    await database.close()


async def test_who_comes_after_the_end_opens_the_database_anew(database: Database, tmp_path: Path) -> None:
    """A report of the media side may be late when a server stops."""
    await database.close()
    await asyncio.wait_for(_write(database, 1), 10)
    await database.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "calls.db")) as after:
        assert after.execute("SELECT number FROM thing").fetchall() == [(1,)]


async def test_a_full_disk_refuses_a_write_and_takes_the_next(database: Database) -> None:
    """F-27"""
    async with database.write() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar()
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(DatabaseAway):
        async with database.write() as connection:
            await connection.exec_driver_sql("CREATE TABLE other AS SELECT randomblob(100000) AS much")
    await _write(database, 1)
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM thing")).scalar() == 1
    await database.close()


async def test_reading_as_a_whole_sees_one_state(database: Database, tmp_path: Path) -> None:
    other = Database(f"sqlite:///{tmp_path}/calls.db")
    count = "SELECT count(*) FROM thing"
    async with database.read(whole=True) as connection:
        assert (await connection.exec_driver_sql(count)).scalar() == 0
        await _write(other, 1)
        assert (await connection.exec_driver_sql(count)).scalar() == 0
    async with database.read() as connection:
        assert (await connection.exec_driver_sql(count)).scalar() == 1
    await other.close()
    await database.close()


async def test_a_grown_log_is_folded_and_then_written_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds: list[int] = []
    real = durability._fold

    def fold(file: str) -> None:
        folds.append(number)
        real(file)

    await _folded(database)
    monkeypatch.setattr(durability, "_fold", fold)
    monkeypatch.setattr(durability, "COMMITS_PER_FOLD", 50)
    for number in range(200):
        await _write(database, number)
        await _folded(database)
    assert folds == [49, 99, 149, 199]
    # One page and more a write, and its file stays as large as it once was.
    assert (tmp_path / "calls.db-wal").stat().st_size < 100 * 4_096
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM thing")).scalar() == 200
    await database.close()


async def test_what_another_process_left_is_folded_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folds: list[str] = []
    monkeypatch.setattr(durability, "_fold", folds.append)
    database = Database(f"sqlite:///{tmp_path}/calls.db")
    async with database.write() as connection:
        await connection.exec_driver_sql("CREATE TABLE thing (number INTEGER)")
    await _folded(database)
    assert folds == [f"{tmp_path}/calls.db"]
    await _write(database, 1)
    await _folded(database)
    assert len(folds) == 1
    await database.close()


async def test_syncing_and_folding_take_no_lock_from_who_writes(database: Database, tmp_path: Path) -> None:
    """Closing a descriptor of a file drops the process's locks on it, so these may touch none that SQLite locks."""
    file = f"{tmp_path}/calls.db"
    async with database.write() as connection:
        await connection.exec_driver_sql("INSERT INTO thing VALUES (1)")
        sync = durability.WalSync(file)
        sync._sync_log()
        await sync.close()
        durability._fold(file)
        assert await asyncio.to_thread(_write_in_another_process, file) == "database is locked\n"
    assert await asyncio.to_thread(_write_in_another_process, file) == "written\n"
    await database.close()


def _write_in_another_process(file: str) -> str:
    code = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    connection.execute("INSERT INTO thing VALUES (2)")
    print("written")
except sqlite3.OperationalError as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True).stdout
