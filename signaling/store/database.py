"""The database: reads and writes as transactions, migrations at start.

SQLite: write-ahead mode, and a writer takes the lock when it begins (`BEGIN IMMEDIATE`), so that no transaction fails
half-way for having read first. What is short runs on the loop's own thread (`direct.py`), on one connection for reads
and one for writes that are never given back; what may scan a table runs beside it.

PostgreSQL: one that does not answer in time is away, as one that refuses. Not here: any query.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sqlite3
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Delete, Table, bindparam, delete, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from signaling.errors import SettingsError, Unavailable
from signaling.store.direct import direct
from signaling.store.durability import NotSynced, WalSync
from signaling.store.kinds import OF_ENTITY, Kind
from signaling.store.location import located
from signaling.store.prepared import DIRECT, Prepared, as_sqlalchemy, decode, encode

log = structlog.get_logger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_MS = 10_000
"""How long SQLite waits for another process's write; a write of ours takes single milliseconds."""

CONNECTION_TIMEOUT_SECONDS = 5.0
"""How long a request waits for one of the connections, for a new one, or for its turn to write; then it is told to come
back."""
STATEMENT_TIMEOUT_SECONDS = 10.0
"""How long PostgreSQL has for a statement that takes milliseconds. What does not answer by then is given up with its
connection, and all others as old are made anew: a machine that is gone closes none, and TCP asks it for a quarter of an
hour."""
SCAN_TIMEOUT_SECONDS = 120.0
"""The same for what may scan a table; it has connections of its own, so that nobody else waits for it."""
SCANS_AT_ONCE = 4
_LINE_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
)
"""The kernel gives up a line on which nothing is acknowledged for 10 s, for what asyncpg waits for without a limit:
migrations, and the closing of statements."""
_NOT_LET_IN = ("28", "3D")
"""Classes of SQLSTATE: invalid authorization, no such database (PostgreSQL's manual, appendix A)."""

ALSO: ContextVar[Callable[[AsyncConnection], Awaitable[None]] | None] = ContextVar("also", default=None)
"""What whoever has set this writes in each of his transactions besides, at its end."""


class DatabaseAway(Unavailable):
    """No connection, a broken one, one that does not answer in time, or one that another process keeps locked.

    `reason`: the driver's own words, for operators.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class WrongDatabase(DatabaseAway):
    """There is none of this URL, or it does not let us in; while it is set up, that may change."""


class NotOnDisk(DatabaseAway):
    """The transaction is committed, and holds for all who read, but the disk did not take it: it may not last."""


@contextmanager
def outlived(failure: str) -> Iterator[None]:
    """For what is done again and again, as what it is about stays in the database: nothing that goes wrong ends it.

    A database that is away was logged where that was found. Anything else is logged, with its traceback, as `failure`.
    """
    try:
        yield
    except DatabaseAway:
        pass
    except Exception:
        log.exception(failure)


class Database:
    """All access goes through `read` and `write`."""

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        """url: as `located` reads it."""
        self.url = located(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        # SQLite has one writer; queueing for it here is fair, its own busy handler is not.
        self._writer = asyncio.Semaphore(1 if self.is_sqlite else pool_size)
        self._sync: WalSync | None = None
        self._pool = self._engine(pool_size, STATEMENT_TIMEOUT_SECONDS)
        self._scans = self._pool if self.is_sqlite else self._engine(SCANS_AT_ONCE, SCAN_TIMEOUT_SECONDS)
        file = self.url.database if self.is_sqlite else None
        if file:
            self._sync = WalSync(file)
            self._direct = self._engine(2, async_creator=lambda: direct(file))
            event.listen(self._direct.sync_engine, "connect", _prepare_direct)
            event.listen(self._pool.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._pool.sync_engine, "begin", _begin_sqlite)
        self._standing: dict[str, AsyncConnection] = {}
        self._told: set[str] = set()
        """Why it is away, as far as it was logged since it last took something."""

    def _engine(self, size: int, statement_seconds: float | None = None, **more: Any) -> AsyncEngine:
        """Return connections, `size` at most.

        statement_seconds: how long PostgreSQL has for one statement; None: as long as it takes.
        """
        if not self.is_sqlite:
            more["connect_args"] = {"timeout": CONNECTION_TIMEOUT_SECONDS, "command_timeout": statement_seconds}
        engine = create_async_engine(
            self.url,
            pool_size=size,
            max_overflow=0,
            pool_timeout=CONNECTION_TIMEOUT_SECONDS,
            json_serializer=encode,
            json_deserializer=decode,
            **more,
        )
        if not self.is_sqlite:
            event.listen(engine.sync_engine, "connect", _watch_line)
            event.listen(engine.sync_engine, "close", _hang_up)
            event.listen(engine.sync_engine, "handle_error", self._give_up)
        return engine

    async def migrate(self) -> None:
        """Bring the tables up to date; safe to run by several processes at once.

        Raises `SettingsError` if they are those of a newer version.
        """
        if self.is_sqlite:
            if self.url.database:
                try:
                    Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise self._away(error) from error
            async with self.write(long=True) as connection:
                await connection.run_sync(_upgrade)
            return
        async with self.read() as connection:
            if await connection.run_sync(_is_up_to_date):
                return
        patient = self._engine(1)
        try:
            async with self._pooled_transaction(patient) as connection:
                await connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7261)")
                await connection.run_sync(_upgrade)
        finally:
            await patient.dispose()

    async def close(self) -> None:
        for connection in self._standing.values():
            await connection.close()
        self._standing.clear()
        if self._sync is not None:
            await self._sync.close()
            await self._direct.dispose()
        await self._scans.dispose()
        await self._pool.dispose()

    @asynccontextmanager
    async def read(self, *, long: bool = False, whole: bool = False) -> AsyncIterator[AsyncConnection]:
        """long: it may scan a table, so SQLite does it on another thread, and PostgreSQL has more time for it.
        whole: all statements see one state of the database; nothing but the database is waited for in between, nor is
        it `long`.
        """
        if self._sync is not None and not long:
            with self._broken_is_away():
                connection = await self._stand("read")
                with _snapshot(connection.info[DIRECT]) if whole else nullcontext():
                    yield connection
            return
        async with self._connected(self._scans if long else self._pool) as connection:
            if whole and not self.is_sqlite:
                connection = await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @asynccontextmanager
    async def write(self, *, long: bool = False, alone: str | None = None) -> AsyncIterator[AsyncConnection]:
        """Commit at the end, roll back if anything was raised. Returns once the commit is on the disk.

        alone: what is read and then written, by one transaction of this name at a time; SQLite has one writer anyway.
        Raises `NotOnDisk` if it was committed but may not last.
        """
        if self._sync is not None and not long:
            transaction = self._direct_transaction()
        else:
            transaction = self._pooled_transaction(self._scans if long else self._pool)
        async with self._turn_to_write(), transaction as connection:
            if alone is not None and not self.is_sqlite:
                await connection.execute(select(func.pg_advisory_xact_lock(zlib.crc32(alone.encode()))))
            yield connection
            also = ALSO.get()
            if also is not None:
                await also(connection)
        if self._sync is not None:
            try:
                await self._sync.wait()
            except NotSynced as error:
                raise NotOnDisk("The disk does not take what was written; try again.") from error
        if self._told:
            self._told.clear()
            log.info("database_back")

    @asynccontextmanager
    async def _turn_to_write(self) -> AsyncIterator[None]:
        """Raises `DatabaseAway` if those who write do not end."""
        try:
            async with asyncio.timeout(CONNECTION_TIMEOUT_SECONDS):
                await self._writer.acquire()
        except TimeoutError as error:
            raise self._away(error) from error
        try:
            yield
        finally:
            self._writer.release()

    async def _stand(self, name: str) -> AsyncConnection:
        connection = self._standing.get(name)
        if connection is None:
            connection = self._standing[name] = await self._direct.connect()
        return connection

    @asynccontextmanager
    async def _direct_transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of the writing connection, begun and ended past SQLAlchemy, which would take twice as long."""
        with self._broken_is_away():
            connection = await self._stand("write")
            direct: sqlite3.Connection = connection.info[DIRECT]
            await _begin(direct)
            try:
                yield connection
                _say(direct, "COMMIT")
            except BaseException:
                if direct.in_transaction:
                    _say(direct, "ROLLBACK")
                raise

    @asynccontextmanager
    async def _pooled_transaction(self, pool: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        async with self._connected(pool) as raw:
            connection = await raw.execution_options(begin="BEGIN IMMEDIATE")
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def _connected(self, pool: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """Raises `DatabaseAway` if there is no connection, or if it breaks."""
        with self._broken_is_away():
            async with AsyncExitStack() as stack:
                try:
                    # One time for both: waiting for one of the pool, and making it anew.
                    async with asyncio.timeout(None if self.is_sqlite else CONNECTION_TIMEOUT_SECONDS):
                        connection = await stack.enter_async_context(pool.connect())
                except (OSError, SQLAlchemyError) as error:
                    raise self._away(error) from error
                yield connection

    @contextmanager
    def _broken_is_away(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated:
                raise self._away(error) from error
            raise

    def _give_up(self, context: ExceptionContext) -> None:
        """Have a connection on which nothing is answered in time count as broken; SQLAlchemy knows no such error."""
        if isinstance(context.original_exception, TimeoutError):
            context.is_disconnect = True
            raise self._away(context.original_exception)

    def _away(self, error: Exception) -> DatabaseAway:
        reason = _words(error)
        # Every request and a dozen loops meet it, again and again.
        if reason not in self._told:
            self._told.add(reason)
            log.warning("database_away", error=type(error).__name__, reason=reason)
        kind = WrongDatabase if _is_wrong(error) else DatabaseAway
        return kind("The database does not answer; try again.", reason)


def _words(error: Exception) -> str:
    """Return the driver's own words ("database or disk is full").

    SQLAlchemy's would hold the statement and its values, those of a connection that fails the server's address.
    """
    if isinstance(error, DBAPIError):
        return str(error.orig)
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or "no answer in time"


def _is_wrong(error: Exception) -> bool:
    """Tell whether it is rather the URL that has to be mended than the database."""
    if isinstance(error, DBAPIError):
        state: str = getattr(error.orig, "sqlstate", None) or ""
        return state.startswith(_NOT_LET_IN)
    return isinstance(error, FileExistsError | NotADirectoryError)


def _watch_line(connection: Any, _record: Any) -> None:
    line = connection.driver_connection._transport.get_extra_info("socket")
    if line.family in (socket.AF_INET, socket.AF_INET6):
        for option in _LINE_OPTIONS:
            line.setsockopt(*option)


def _hang_up(connection: Any, _record: Any) -> None:
    """Close it before SQLAlchemy does: asyncpg's goodbye waits for the server, which may be gone.

    Not if it is in a transaction: then its server is told to leave off, and waited for two seconds.
    """
    raw = connection.driver_connection
    if not raw.is_closed() and not raw.is_in_transaction():
        raw.terminate()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own implicit BEGIN would come too late and be deferred.
    connection.isolation_level = None
    _set_pragmas(connection, f"busy_timeout = {BUSY_TIMEOUT_MS}")


def _prepare_direct(connection: Any, record: Any) -> None:
    record.info[DIRECT] = connection.driver_connection.direct
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


def _say(connection: sqlite3.Connection, what: str) -> None:
    try:
        connection.execute(what)
    except sqlite3.Error as error:
        raise as_sqlalchemy(what, error) from error


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    _say(connection, "BEGIN")
    try:
        yield
    finally:
        _say(connection, "COMMIT")


async def _begin(connection: sqlite3.Connection) -> None:
    """Begin to write; while another process does, wait without holding up the loop."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + BUSY_TIMEOUT_MS / 1_000
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            # Its kinds are in the upper bytes, as while another process puts the log of a killed one in order.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or loop.time() > deadline:
                raise as_sqlalchemy("BEGIN IMMEDIATE", error) from error
        else:
            return
        # At random, so that two processes do not meet again.
        await asyncio.sleep(random.uniform(0.0005, 0.005))  # noqa: S311 - no secret


def _begin_sqlite(connection: Connection) -> None:
    # Reads begin nothing: each statement sees a whole state, and what spans several is checked by revision.
    begin = connection.get_execution_options().get("begin")
    if begin is not None:
        connection.exec_driver_sql(begin)


def _is_up_to_date(connection: Connection) -> bool:
    return set(MigrationContext.configure(connection).get_current_heads()) == _heads()


def _upgrade(connection: Connection) -> None:
    before = MigrationContext.configure(connection).get_current_heads()
    if set(before) == _heads():
        return
    config = _migrations()
    newer = set(before) - {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if newer:
        raise SettingsError(
            f"The database is of a newer version (its schema is {', '.join(newer)}): start that one, or name another "
            "database (`database_url`)."
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    log.info("database_upgraded", before=", ".join(before) or None, after=", ".join(_heads()))


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
        known = {name: item for name, item in more.items() if name in kind.names}
        rows.setdefault(kind, []).append(kind.row(value, **known))
    for kind, of_kind in rows.items():
        await upsert(connection, kind.table, of_kind, kind.key, kind.lasting)


async def upsert(
    connection: AsyncConnection,
    table: Table,
    rows: list[dict[str, Any]],
    key: tuple[str, ...],
    lasting: frozenset[str] = frozenset(),
) -> None:
    """Insert rows, or change those of this key; `lasting`: columns that are not changed then."""
    await _upsertion(table, connection.dialect.name, tuple(rows[0]), key, lasting).run(connection, *rows)


@cache
def _upsertion(
    table: Table, dialect: str, names: tuple[str, ...], key: tuple[str, ...], lasting: frozenset[str]
) -> Prepared:
    insert: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    insert = insert.values({name: bindparam(name) for name in names})
    kept = {*key, *lasting, "call_key"}
    changes = {name: insert.excluded[name] for name in names if name not in kept}
    return Prepared(insert.on_conflict_do_update(index_elements=list(key), set_=changes))


async def fetch(connection: AsyncConnection, kind: Kind[Any], *conditions: Any) -> list[Any]:
    """Return all entities that meet the conditions."""
    if not conditions:
        rows = await _documents(kind.table).rows(connection)
    else:
        rows = list(await connection.execute(select(kind.table.c.doc).where(*conditions)))
    return [kind.read(row.doc) for row in rows]


@cache
def _documents(table: Table) -> Prepared:
    return Prepared(select(table.c.doc))


async def fetch_one(connection: AsyncConnection, kind: Kind[Any], **key: Any) -> Any:
    """Return the entity of this key, or None."""
    rows = await _document(kind.table, tuple(key)).rows(connection, key)
    return kind.read(rows[0].doc) if rows else None


@cache
def _document(table: Table, key: tuple[str, ...]) -> Prepared:
    return Prepared(select(table.c.doc).where(*(table.c[name] == bindparam(name) for name in key)))


def deletion(kind: Kind[Any], **key: Any) -> Delete:
    return delete(kind.table).where(*(kind.table.c[name] == value for name, value in key.items()))
