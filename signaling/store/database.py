"""The database: reads and writes as transactions, migrations at start.

SQLite: write-ahead mode, and a writer takes the lock when it begins (`BEGIN IMMEDIATE`), so that no transaction fails
half-way for having read first. What is short runs on the loop's own thread (`direct.py`), what may scan a table beside
it. Not here: any query.
"""

from __future__ import annotations

import asyncio
import random
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
from sqlalchemy import Connection, Delete, Table, bindparam, delete, event, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncTransaction, create_async_engine

from signaling.errors import Unavailable
from signaling.store.direct import direct
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
        common: dict[str, Any] = {
            "max_overflow": 0,
            "pool_timeout": CONNECTION_TIMEOUT_SECONDS,
            "json_serializer": _encode,
            "json_deserializer": msgspec.json.decode,
        }
        # SQLite has one writer; queueing for it here is fair, its own busy handler is not.
        self._writer = asyncio.Semaphore(1 if self.is_sqlite else pool_size)
        self._sync: WalSync | None = None
        self._engine = self._aside = create_async_engine(self.url, pool_size=pool_size, **common)
        file = self.url.database if self.is_sqlite else None
        if file:
            self._sync = WalSync(file)
            self._engine = create_async_engine(
                self.url, pool_size=pool_size, async_creator=lambda: direct(file), **common
            )
            event.listen(self._engine.sync_engine, "connect", _prepare_direct)
            event.listen(self._aside.sync_engine, "connect", _prepare_sqlite)
            for engine in (self._engine, self._aside):
                event.listen(engine.sync_engine, "begin", _begin_sqlite)

    async def migrate(self) -> None:
        """Bring the tables up to date; safe to run by several processes at once."""
        if self.is_sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        async with self.write(long=True) as connection:
            if not self.is_sqlite:
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7261)")
            await connection.run_sync(_upgrade)

    async def close(self) -> None:
        await self._engine.dispose()
        await self._aside.dispose()

    @asynccontextmanager
    async def read(self, *, long: bool = False) -> AsyncIterator[AsyncConnection]:
        """long: it may scan a table, so SQLite does it on another thread."""
        async with self._connected(self._aside if long else self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def write(self, *, long: bool = False) -> AsyncIterator[AsyncConnection]:
        """Commit at the end, roll back if anything was raised. Returns once the commit is on the disk."""
        async with self._writer, self._connected(self._aside if long else self._engine) as raw:
            connection = await raw.execution_options(begin="BEGIN IMMEDIATE")
            transaction = await self._begun(connection)
            try:
                yield connection
            except BaseException:
                await transaction.rollback()
                raise
            await transaction.commit()
        if self._sync is not None:
            await self._sync.wait()

    async def _begun(self, connection: AsyncConnection) -> AsyncTransaction:
        """Begin; while another process writes to the SQLite file, wait without holding up the loop."""
        deadline = asyncio.get_running_loop().time() + BUSY_TIMEOUT_MS / 1_000
        while True:
            try:
                return await connection.begin()
            except OperationalError:
                if not self.is_sqlite or asyncio.get_running_loop().time() > deadline:
                    raise
            # At random, so that two processes do not meet again.
            await asyncio.sleep(random.uniform(0.0005, 0.005))  # noqa: S311 - no secret

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Raises `DatabaseAway` if there is no connection, or if it breaks."""
        try:
            async with AsyncExitStack() as stack:
                try:
                    connection = await stack.enter_async_context(engine.connect())
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
    _set_pragmas(connection, f"busy_timeout = {BUSY_TIMEOUT_MS}")


def _prepare_direct(connection: Any, _record: Any) -> None:
    # Whoever waits for a lock, or folds the log into the database, does not do it on the loop's thread.
    _set_pragmas(connection, "wal_autocheckpoint = 0", "busy_timeout = 0")


def _set_pragmas(connection: Any, *more: str) -> None:
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        # `WalSync` brings commits to the disk, many at once.
        "synchronous = NORMAL",
        "foreign_keys = ON",
        *more,
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # Reads begin nothing: each statement sees a whole state, and what spans several is checked by revision.
    begin = connection.get_execution_options().get("begin")
    if begin is not None:
        connection.exec_driver_sql(begin)


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
    await connection.execute(_upsertion(table, connection.dialect.name, tuple(rows[0]), tuple(key)), rows)


@cache
def _upsertion(table: Table, dialect: str, names: tuple[str, ...], key: tuple[str, ...]) -> Any:
    # Made once: SQLAlchemy takes longer to put such a statement together than SQLite to run it.
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    insert = insert.values({name: bindparam(name) for name in names})
    changes = {name: insert.excluded[name] for name in names if name not in key and name != "call_key"}
    return insert.on_conflict_do_update(index_elements=list(key), set_=changes)


@cache
def _documents(table: Table) -> Any:
    return select(table.c.doc)


async def fetch(connection: AsyncConnection, kind: Kind[Any], *conditions: Any) -> list[Any]:
    """Return all entities that meet the conditions."""
    query = _documents(kind.table)
    rows = await connection.execute(query.where(*conditions) if conditions else query)
    return [kind.read(doc) for (doc,) in rows]


async def fetch_one(connection: AsyncConnection, kind: Kind[Any], **key: Any) -> Any:
    """Return the entity of this key, or None."""
    rows = await fetch(connection, kind, *(kind.table.c[name] == value for name, value in key.items()))
    return rows[0] if rows else None


def deletion(kind: Kind[Any], **key: Any) -> Delete:
    return delete(kind.table).where(*(kind.table.c[name] == value for name, value in key.items()))
