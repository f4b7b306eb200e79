"""Loading a call costs what it holds unfinished, however much of it is over."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy.dialects import sqlite

from signaling.calls.model import Callee, Ring
from signaling.store.call_repository import _RINGS_OF, CallRepository, _latest_rings
from signaling.store.database import save
from tests.signaling.api.world import World


async def test_of_many_rings_the_latest_of_each_call_is_loaded(world: World) -> None:
    now = world.clock.now
    for name in "ab":
        await world.call(f"default/{name}", by="alice")
    callee = Callee(user_id="bob", state="missed", reason=None, device_id=None, due_at=now, updated_at=now)
    async with world.service.database.write() as connection:
        found: Any = await connection.exec_driver_sql("SELECT key, id FROM calls")
        keys = {row.id: row.key for row in found}
        for name, key in keys.items():
            for number in range(5):
                at = now + timedelta(seconds=number // 2)
                ring = Ring(id=f"{name}{number}", caller_id="alice", video=False, custom={}, state="timed_out",
                            expires_at=at, ended_at=at, callees=(callee,), created_at=at, updated_at=at)  # fmt: skip
                await save(connection, [ring], call_key=key)
        # Two of one instant: the greater id is the later one.
        await save(connection, [structs.replace(ring, id="b4z")], call_key=keys["b"])
    calls = CallRepository()
    async with world.service.database.read() as connection:
        rows = await calls.whereabouts_of(connection, list(keys.values()))
        loaded = {one.state.call.id: list(one.state.rings) for one in await calls.load_each(connection, rows)}
    assert loaded == {"a": ["a4"], "b": ["b4z"]}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_who_is_rung_is_found_without_a_look_at_other_calls(world: World) -> None:
    statement = _RINGS_OF.statement.params(user_id_="bob")
    text = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    async with world.service.database.read(long=True) as connection:
        plan = [row.detail for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    assert any("ix_members_user_id" in line for line in plan), plan
    assert any("ix_rings_call_key_open" in line for line in plan), plan
    assert not any(line.startswith("SCAN") for line in plan), plan


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_latest_ring_is_found_without_a_look_at_the_others(world: World) -> None:
    text = str(_latest_rings(["a"]).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
    async with world.service.database.read(long=True) as connection:
        plan = [row.detail for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    assert any("ix_rings_call_key_created_at" in line for line in plan), plan
    assert not any(line.startswith("SCAN") for line in plan), plan
