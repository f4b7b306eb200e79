"""What the migrations make is what the queries expect, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from signaling.errors import SettingsError
from signaling.store.database import Database, _migrations
from signaling.store.schema import metadata
from tests.signaling.api.world import World


def _differences(connection: Connection) -> list[Any]:
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


async def test_the_migrations_make_the_tables_of_the_schema(database_url: str) -> None:
    database = Database(database_url)
    async with database.read(long=True) as connection:
        assert await connection.run_sync(_differences) == []
    await database.close()


async def test_migrating_again_changes_nothing(database_url: str) -> None:
    """F-26"""
    database = Database(database_url)
    async with database.read() as connection:
        before = (await connection.exec_driver_sql("SELECT version_num FROM alembic_version")).scalar_one()
    await database.migrate()
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT version_num FROM alembic_version")).scalar_one() == before
    await database.close()


async def test_a_database_of_a_newer_version_is_told_in_a_sentence(database_url: str) -> None:
    database = Database(database_url)
    async with database.write() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match=r"of a newer version \(its schema is 9999\)"):
        await database.migrate()
    await database.close()


def _from_before_0008(connection: Connection) -> None:
    config = _migrations()
    config.attributes["connection"] = connection
    command.downgrade(config, "0007")
    command.upgrade(config, "head")


async def test_calls_from_before_custom_fields_stood_alone_are_found_by_them(world: World) -> None:
    await world.call("default/a", by="alice", custom={"floor": 7, "name": "seven"})
    await world.call("default/b", by="alice", custom={"floor": 8})
    await world.call("default/c", by="alice")
    async with world.service.database.write(long=True) as connection:
        await connection.run_sync(_from_before_0008)
    for wanted, found in (({"custom.floor": 7}, ["a"]), ({"custom.floor": {"$exists": True}}, ["b", "a"])):
        reply = await world.as_("alice").post("/calls/query", {"filter": wanted})
        assert [item["call"]["id"] for item in reply.json()["items"]] == found
