"""How long is waited for a database, and by whom (F-24)."""

from __future__ import annotations

import asyncio

import pytest

from signaling.store import database as store
from signaling.store.database import Database, DatabaseAway


async def test_who_waits_for_his_turn_to_write_is_told_to_come_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "CONNECTION_TIMEOUT_SECONDS", 1.0)
    database = Database(database_url, pool_size=1)
    async with database.write():
        with pytest.raises(DatabaseAway):
            async with database.write():
                pass
    async with database.write():
        pass
    await database.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_statement_has_so_long_and_what_scans_has_longer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "STATEMENT_TIMEOUT_SECONDS", 1.0)
    database = Database(database_url, pool_size=1)
    async with asyncio.timeout(20):
        with pytest.raises(DatabaseAway):
            async with database.read() as connection:
                await connection.exec_driver_sql("SELECT pg_sleep(30)")
        with pytest.raises(DatabaseAway):
            async with database.write() as connection:
                await connection.exec_driver_sql("SELECT pg_sleep(30)")
        async with database.read() as connection:
            # The server was told to leave off, too.
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND state = 'active'"
            own = "AND pid != pg_backend_pid()"
            assert (await connection.exec_driver_sql(f"{sleeping} {own}")).scalar_one() == 0
        for transaction in (database.read(long=True), database.write(long=True)):
            async with transaction as connection:
                await connection.exec_driver_sql("SELECT pg_sleep(1.5)")
    await database.close()
