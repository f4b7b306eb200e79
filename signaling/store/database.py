"""The database: one engine, reads and writes as transactions, migrations at start.

SQLite: write-ahead mode, and a writer takes the lock when it begins (`BEGIN IMMEDIATE`), so that no transaction fails
half-way for having read first. Not here: any query.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Delete, Table, delete, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from signaling.errors import Unavailable
from signaling.store.durability import WalSync
from signaling.store.kinds import OF_ENTITY, Kind

log = structlog.get_logger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 10_000
"""How long SQLite waits for another process's write; a write of ours takes single milliseconds."""

CONNECTION_TIMEOUT_SECONDS = 5.0
"""How long a request waits for one of the connections; then it is told to come back."""


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class DatabaseAway(Unavailable):
    """No connection, a broken one, or one that another process keeps locked."""


class Database:
    """All access goes through `read` and `write`."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        """url: `sqlite+aiosqlite:///path` or `postgresql+asyncpg://…`; the bare names are understood too."""
        self.url = make_url(_driver(url))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=CONNECTION_TIMEOUT_SECONDS,
            json_serializer=_encode,
            json_deserializer=msgspec.json.decode,
        )
        # SQLite has one writer; queueing for it here is fair, its own busy handler is not.
        self._writer = asyncio.Semaphore(1 if self.is_sqlite else pool_size)
        file = self.url.database if self.is_sqlite else None
        self._sync = WalSync(file) if file and file != ":memory:" else None
        if self.is_sqlite:
            event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self.engine.sync_engine, "begin", _begin_sqlite)

    async def migrate(self) -> None:
        """Bring the tables up to date; safe to run by several processes at once."""
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        async with self.write() as connection:
            if not self.is_sqlite:
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7261)")
            await connection.run_sync(_upgrade)

    async def close(self) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with self._connected() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Commit at the end, roll back if anything was raised. Returns once the commit is on the disk."""
        async with self._writer, self._connected() as raw:
            connection = await raw.execution_options(begin="BEGIN IMMEDIATE")
            async with connection.begin():
                yield connection
        if self._sync is not None:
            await self._sync.wait()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        """Raises `DatabaseAway` if there is no connection, or if it breaks."""
        try:
            async with AsyncExitStack() as stack:
                try:
                    connection = await stack.enter_async_context(self.engine.connect())
                except (OSError, SQLAlchemyError) as error:
                    raise _away(error) from error
                yield connection
        except DBAPIError as error:
            if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
                raise _away(error) from error
            raise


def _away(error: Exception) -> DatabaseAway:
    log.warning("database_away", error=type(error).__name__)
    return DatabaseAway("The database does not answer; try again.")


def _driver(url: str) -> str:
    for plain, driver in (("sqlite:", "sqlite+aiosqlite:"), ("postgresql:", "postgresql+asyncpg:")):
        if url.startswith(plain):
            return driver + url.removeprefix(plain)
    return url


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own implicit BEGIN would come too late and be deferred.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        # `WalSync` brings commits to the disk, many at once.
        "synchronous = NORMAL",
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _upgrade(connection: Connection) -> None:
    if set(MigrationContext.configure(connection).get_current_heads()) == _heads():
        return
    config = _migrations()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _migrations() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


@cache
def _heads() -> frozenset[str]:
    return frozenset(ScriptDirectory.from_config(_migrations()).get_heads())


async def save(connection: AsyncConnection, values: Iterable[Any], **more: Any) -> None:
    """Insert or replace entities; `more`: columns the entity does not know, where the table has them."""
    rows: dict[Kind[Any], list[dict[str, Any]]] = {}
    for value in values:
        kind = OF_ENTITY[type(value)]
        rows.setdefault(kind, []).append(
            kind.row(value, **{name: item for name, item in more.items() if name in kind.table.c})
        )
    for kind, of_kind in rows.items():
        await upsert(connection, kind.table, of_kind, kind.key)


async def upsert(connection: AsyncConnection, table: Table, rows: list[dict[str, Any]], key: list[str]) -> None:
    insert: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)
    changes = {name: insert.excluded[name] for name in rows[0] if name not in key and name != "call_key"}
    await connection.execute(insert.on_conflict_do_update(index_elements=key, set_=changes), rows)


async def fetch(connection: AsyncConnection, kind: Kind[Any], *conditions: Any) -> list[Any]:
    """Return all entities that meet the conditions."""
    rows = await connection.execute(select(kind.table.c.doc).where(*conditions))
    return [kind.read(doc) for (doc,) in rows]


async def fetch_one(connection: AsyncConnection, kind: Kind[Any], **key: Any) -> Any:
    """Return the entity of this key, or None."""
    rows = await fetch(connection, kind, *(kind.table.c[name] == value for name, value in key.items()))
    return rows[0] if rows else None


def deletion(kind: Kind[Any], **key: Any) -> Delete:
    return delete(kind.table).where(*(kind.table.c[name] == value for name, value in key.items()))
