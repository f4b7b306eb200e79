"""Statements that every operation runs: put together once, and run on SQLite without SQLAlchemy in between.

SQLAlchemy carries a statement to SQLite in 400 µs, ten times what SQLite itself takes (the bench's joins). Here it
compiles the statement once and names the columns' types; what is done at each run is `sqlite3` and their conversions.
PostgreSQL takes a round trip anyway, so there SQLAlchemy runs it. Not here: any statement; transactions
(`database.py`).
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from sqlalchemy import JSON, Dialect, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

Parameters = Mapping[str, Any]
Conversion = Callable[[Any], Any]
Result = TypeVar("Result")

NOTHING: Parameters = MappingProxyType({})
DIRECT = "direct"
"""The key in a connection's `info` under which the `sqlite3` connection of the loop's own thread is found."""


def encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


decode = msgspec.json.decode


class _OnSqlite:
    """A statement in SQLite's words, how its parameters are written and how the columns of its rows are read."""

    def __init__(self, statement: Any) -> None:
        dialect = sqlite.dialect(json_serializer=encode, json_deserializer=decode)
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        binds = [compiled.binds[name] for name in compiled.positiontup]
        converted = [(bind, _writer(bind.type, dialect)) for bind in binds]
        # Constants of the statement have no name that a caller could use.
        self._parameters: list[tuple[str | None, Any, Conversion | None]] = [
            (bind.key if bind.required else None, bind.effective_value, convert) for bind, convert in converted
        ]
        columns = statement.selected_columns if isinstance(statement, Select) else ()
        readers = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._readers = [(place, reader) for place, reader in enumerate(readers) if reader is not None]
        self._row: Any = namedtuple("Row", [str(column.key) for column in columns])  # type: ignore[misc]

    def values(self, parameters: Parameters) -> list[Any]:
        values = []
        for name, value, convert in self._parameters:
            if name is not None:
                value = parameters[name]
            values.append(value if convert is None else convert(value))
        return values

    def read(self, raw: Iterable[Sequence[Any]]) -> list[Any]:
        if not self._readers:
            return list(map(self._row._make, raw))
        rows = []
        for values in raw:
            row = list(values)
            for place, reader in self._readers:
                row[place] = reader(row[place])
            rows.append(self._row._make(row))
        return rows


def _writer(type_: TypeEngine[Any], dialect: Dialect) -> Conversion | None:
    if isinstance(type_, JSON):
        return _document  # SQLAlchemy's own asks of each value four things that are known here
    return type_.dialect_impl(dialect).bind_processor(dialect)


def _document(value: Any) -> str | None:
    """Return JSON; None is NULL, as the schema's documents have it."""
    return None if value is None else encode(value)


class Prepared:
    """`rows` and `run` take a connection of `Database`; parameters by the names of the statement's `bindparam`s.

    The statement takes no list as a parameter: such are put together anew for each length.
    """

    def __init__(self, statement: Any) -> None:
        self.statement = statement

    @cached_property
    def _on_sqlite(self) -> _OnSqlite:
        return _OnSqlite(self.statement)

    async def rows(self, connection: AsyncConnection, parameters: Parameters = NOTHING) -> list[Any]:
        """Return what a SELECT finds, as rows with the columns' names."""
        direct: sqlite3.Connection | None = connection.info.get(DIRECT)
        if direct is None:
            return list(await connection.execute(self.statement, parameters))
        found = _run(partial(_all, direct), self._on_sqlite.sql, self._on_sqlite.values(parameters))
        return self._on_sqlite.read(found)

    async def run(self, connection: AsyncConnection, *parameters: Parameters) -> int:
        """Run it once for each of `parameters`; return how many rows were concerned, which only one run tells."""
        direct: sqlite3.Connection | None = connection.info.get(DIRECT)
        if direct is None:
            return int((await connection.execute(self.statement, list(parameters))).rowcount)
        statement = self._on_sqlite
        if len(parameters) == 1:
            return _run(direct.execute, statement.sql, statement.values(parameters[0])).rowcount
        return _run(direct.executemany, statement.sql, [statement.values(row) for row in parameters]).rowcount


def _all(connection: sqlite3.Connection, sql: str, values: Any) -> list[Any]:
    # All of it before any is read: a statement that is not at its end holds all others to what it saw.
    return connection.execute(sql, values).fetchall()


def _run(execute: Callable[..., Result], sql: str, values: Any) -> Result:
    try:
        return execute(sql, values)
    except sqlite3.Error as error:
        raise as_sqlalchemy(sql, error) from error


def as_sqlalchemy(sql: str, error: sqlite3.Error) -> Exception:
    """Return the error as SQLAlchemy would have raised it, so that nobody has to know who ran the statement."""
    raised: Exception = DBAPIError.instance(sql, None, error, sqlite3.Error)
    return raised
