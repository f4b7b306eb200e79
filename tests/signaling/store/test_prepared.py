"""A prepared statement says and finds the same on SQLite's own way as through SQLAlchemy."""

from __future__ import annotations

import pytest
from sqlalchemy import bindparam, delete, select
from sqlalchemy.exc import IntegrityError

from signaling.store import schema
from signaling.store.database import Database, DatabaseAway
from signaling.store.prepared import Prepared

TABLE = schema.lobby
COLUMNS = ("id", "call_key", "open", "created_at", "doc")
ADD = Prepared(TABLE.insert().values({name: bindparam(name) for name in COLUMNS}))
ADD_USER = Prepared(
    schema.users.insert().values({n: bindparam(n) for n in ("id", "role", "deleted", "created_at", "doc")})
)
USERS = Prepared(
    select(schema.users.c.id, schema.users.c.deleted, schema.users.c.doc)
    .where(schema.users.c.created_at >= bindparam("since"), schema.users.c.deleted.is_(False))
    .order_by(schema.users.c.id)
)
FORGET = Prepared(delete(schema.users).where(schema.users.c.role == bindparam("role_")))


def _user(name: str, created_at: int = 5) -> dict[str, object]:
    return {"id": name, "role": "user", "deleted": False, "created_at": created_at, "doc": {"näme": [name, None, 1.5]}}


async def test_rows_come_back_as_they_were_written(database_url: str) -> None:
    database = Database(database_url)
    async with database.write() as connection:
        await ADD_USER.run(connection, _user("a"), _user("b"), _user("c", 1))
    async with database.read() as connection:
        rows = await USERS.rows(connection, {"since": 2})
        assert [(row.id, row.deleted, row.doc) for row in rows] == [
            (name, False, {"näme": [name, None, 1.5]}) for name in "ab"
        ]
        assert [tuple(row) for row in rows] == [
            tuple(row) for row in await connection.execute(USERS.statement, {"since": 2})
        ]
    async with database.write() as connection:
        assert await FORGET.run(connection, {"role_": "user"}) == 3
        assert await FORGET.run(connection, {"role_": "user"}) == 0
    await database.close()


async def test_a_constraint_is_the_error_of_sqlalchemy_and_undoes_the_transaction(database_url: str) -> None:
    database = Database(database_url)

    async def write() -> None:
        async with database.write() as connection:
            await ADD_USER.run(connection, _user("a"))
            await ADD.run(connection, {"id": "1", "call_key": "no such", "open": True, "created_at": 1, "doc": {}})

    with pytest.raises(IntegrityError):
        await write()
    async with database.read() as connection:
        assert await USERS.rows(connection, {"since": 0}) == []
    await database.close()


async def test_a_parameter_that_is_missing_is_refused(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(Exception, match="role_"):
        async with database.write() as connection:
            await FORGET.run(connection, {})
    await database.close()


async def test_a_locked_database_is_away_and_usable_again(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.store.database.BUSY_TIMEOUT_MS", 20)
    first, second = Database(f"sqlite:///{tmp_path}/calls.db"), Database(f"sqlite:///{tmp_path}/calls.db")
    await first.migrate()
    async with first.write():
        with pytest.raises(DatabaseAway):
            async with second.write():
                pass
    async with second.write() as connection:
        assert await ADD_USER.run(connection, _user("a")) == 1
    await first.close()
    await second.close()
