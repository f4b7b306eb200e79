"""What the migrations make is what the queries expect, on both databases."""

from __future__ import annotations

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from signaling.store.database import Database
from signaling.store.schema import metadata


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
