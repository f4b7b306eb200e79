"""A commit is acknowledged when it is on the disk, and many share one sync (F-25)."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from signaling.store import durability
from signaling.store.database import Database


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

        monkeypatch.setattr(durability.os, "fdatasync", fdatasync)

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


async def test_a_write_returns_only_after_its_log_is_synced(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


async def test_a_grown_log_is_folded_once_and_then_written_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds: list[int] = []
    real = durability._fold

    def fold(file: str) -> None:
        folds.append(durability._pages_to_fold(file))
        real(file)

    monkeypatch.setattr(durability, "_fold", fold)
    monkeypatch.setattr(durability, "LOG_MAX_PAGES", 50)
    for number in range(200):
        await _write(database, number)
    # One page and more a write: folded each fifty pages, though the file stays as large as it once was.
    assert 1 <= len(folds) <= 8
    assert all(50 < pages < 60 for pages in folds)
    assert (tmp_path / "calls.db-wal").stat().st_size < 200 * 4_096
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM thing")).scalar() == 200
    await database.close()
