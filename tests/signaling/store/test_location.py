"""Where the database is: forms that providers hand out, and slips that are said without the secret."""

from __future__ import annotations

import re

import pytest

from signaling.store.database import Database
from signaling.store.location import located


@pytest.mark.parametrize(
    ("url", "driver", "host", "database"),
    [
        ("sqlite:///var/calls.db", "sqlite+aiosqlite", None, "var/calls.db"),
        ("sqlite:////srv/calls.db", "sqlite+aiosqlite", None, "/srv/calls.db"),
        ("sqlite+aiosqlite:///calls.db", "sqlite+aiosqlite", None, "calls.db"),
        ("postgresql://me:secret@db.example.org/calls", "postgresql+asyncpg", "db.example.org", "calls"),
        ("postgres://me:secret@db.example.org:5433/calls", "postgresql+asyncpg", "db.example.org", "calls"),
        ("postgresql+asyncpg://me@[::1]/calls", "postgresql+asyncpg", "::1", "calls"),
        ("postgresql:///calls?host=/run/postgresql", "postgresql+asyncpg", None, "calls"),
    ],
)
def test_the_usual_forms_name_the_driver(url: str, driver: str, host: str | None, database: str) -> None:
    location = located(url)
    assert (location.drivername, location.host, location.database) == (driver, host, database)


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-full"])
def test_the_mode_of_tls_is_said_in_the_driver_s_word(mode: str) -> None:
    location = located(f"postgres://me:secret@db/calls?sslmode={mode}&target_session_attrs=read-write")
    assert dict(location.query) == {"ssl": mode, "target_session_attrs": "read-write"}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_provider_s_url_reaches_the_server(database_url: str) -> None:
    database = Database(database_url.replace("postgresql:", "postgres:") + "?sslmode=prefer")
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT 1")).scalar_one() == 1
    await database.close()


def test_an_escaped_secret_is_read() -> None:
    assert located("postgresql://me:p%40ss%2Fword@db/calls").password == "p@ss/word"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("hunter2", "does not read as `postgresql://user:secret@host/name`"),
        ("db.example.org/calls", "does not read as"),
        ("postgresql://me:hunter2@x:y@db/calls", "does not read as"),
        ("postgresql://me:hunter2@db:port/calls", "does not read as"),
        ("mysql://me:hunter2@db/calls", "of the kind `mysql` cannot be used"),
        ("postgresql+psycopg://me:hunter2@db/calls", "of the kind `postgresql+psycopg` cannot be used"),
        ("postgresql://me:hunter2@x@db/calls", "one `@` too many"),
        ("postgresql://me:hunter2@x/y@db/calls", "one `@` too many"),
        ("postgresql://me:hunter2@db/calls?sslmode=yes", "`sslmode` is one of disable, allow"),
        ("postgresql://me:hunter2@db/calls?sslmode=require&channel_binding=require", "`channel_binding` is not known"),
        ("sqlite://var/calls.db", "with three slashes"),
        ("sqlite://", "with three slashes"),
    ],
)
def test_what_cannot_be_used_is_said_without_the_secret(url: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        located(url)
    assert "hunter2" not in str(error.value)
