"""What is past its time is forgotten, and what is not yet, is not."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import delete, event, select

from signaling.api.v1 import upkeep
from signaling.calls.model import AuditEntry, Callee, Capture, Feedback, LobbyEntry, Request, Ring, Task
from signaling.calls.state import CloseRoom
from signaling.store import schema
from signaling.store.database import save
from tests.signaling.api.world import World, code
from tests.signaling.events.gateways import gateway


async def _count(world: World, table: str) -> int:
    async with world.service.database.read() as connection:
        counted: Any = (await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar_one()
        return int(counted)


async def test_each_record_is_kept_for_its_time(world: World) -> None:
    async with gateway(lambda request: (204, None)) as endpoint:
        await world.server.post("/webhooks", {"url": endpoint.url, "events": ["call.created"]})
        await world.as_("alice").post("/calls/default", {"id": "x"}, headers={"idempotency-key": "k"})
        participant = (await world.as_("alice").join("default/x"))["participant"]
        await world.vanish(participant, clean=True)
        await world.advance(30)
    async with world.service.database.write() as connection:
        await save(connection, [world.service.orders.to("a node that never comes back", CloseRoom("x", "ended_by"))])
    tables = ("events", "idempotency", "deliveries", "orders", "participants", "sessions")

    async def counts() -> list[bool]:
        await upkeep.forget_old(world.service)
        return [await _count(world, table) > 0 for table in tables]

    assert await counts() == [True] * 6
    await world.advance(301)
    assert await counts() == [False, True, True, True, True, True]
    await world.advance(86_400)
    assert await counts() == [False, False, True, True, True, True]
    await world.advance(7 * 86_400)
    assert await counts() == [False, False, False, False, True, True]
    await world.advance(90 * 86_400)
    assert await counts() == [False] * 6
    assert (await world.as_("alice").get("/calls/default/x")).status_code == 200


def _of_call(at: datetime) -> dict[str, list[Any]]:
    """Return of each kind something that is over, and something that is not, where that can be."""
    times: dict[str, Any] = {"created_at": at, "updated_at": at}
    callee = Callee(user_id="bob", state="missed", reason=None, device_id=None, due_at=at, updated_at=at)
    ring = Ring(id="r", caller_id="alice", video=False, custom={}, state="timed_out", expires_at=at, ended_at=at,
                callees=(callee,), **times)  # fmt: skip
    request = Request(id="q", session_id="s", user_id="bob", capabilities=(), state="denied", expires_at=at,
                      resolved_at=at, resolved_by="alice", **times)  # fmt: skip
    entry = LobbyEntry(id="l", user_id="bob", device_id="d", state="denied", expires_at=at, resolved_by=None, **times)
    capture = Capture(id="c", feature="recordings", session_id="s", kind="audio", layout=None, state="failed",
                      failure_reason="no_engine", started_by=None, started_at=at, ended_at=at, files=(),
                      **times)  # fmt: skip
    feedback = Feedback(id="f", session_id="s", user_id="bob", rating=3, reason=None, custom={}, **times)
    task = Task(id="t", kind="delete_call", owner=None, argument="", status="completed", result=None, error=None,
                **times)  # fmt: skip
    ringing = structs.replace(ring, id="r2", state="pending", callees=(structs.replace(callee, state="ringing"),))
    return {
        "rings": [ring, ringing],
        "requests": [request, structs.replace(request, id="q2", state="pending")],
        "lobby": [entry, structs.replace(entry, id="l2", state="admitted")],
        "captures": [capture, structs.replace(capture, id="c2", state="started")],
        "feedback": [feedback],
        "tasks": [task, structs.replace(task, id="t2", status="running")],
    }


@pytest.mark.parametrize("table", ["rings", "requests", "lobby", "captures", "feedback", "tasks"])
async def test_what_is_over_is_kept_as_long_as_attendance(world: World, table: str) -> None:
    await world.call("default/x", by="alice")
    values = _of_call(world.clock.now)[table]
    async with world.service.database.write() as connection:
        key = (await connection.exec_driver_sql("SELECT key FROM calls")).scalar_one()
        await save(connection, values, call_key=key)
    for days, left in ((90, len(values)), (1, len(values) - 1)):
        # Not `advance`: a task that is unfinished would be finished.
        world.clock.now += timedelta(days=days)
        await upkeep.forget_old(world.service)
        assert await _count(world, table) == left


async def test_guests_are_forgotten_with_their_devices_unless_they_belong_somewhere(world: World) -> None:
    await world.server.patch("/app", {"guests_enabled": True})
    nobody = world.as_("nobody")
    nobody.headers = {}
    made = [(await nobody.post("/guests", {"name": "Guest"})).json()["user"]["id"] for _ in range(4)]
    stranger, member, banned, inside = made
    # Whom the application has called so is its own.
    await world.users("guest-7", role="guest")
    for guest in (stranger, member):
        reply = await world.as_(guest).post(f"/users/{guest}/devices", {"provider": "fcm", "token": guest})
        assert reply.status_code == 201
    await world.call("default/x", by="alice", members=[member])
    await world.server.put(f"/bans/{banned}", {})
    await world.as_(inside).join("default/x")
    for days, left in ((90, {*made, "guest-7", "alice"}), (1, {*made, "guest-7", "alice"} - {stranger})):
        # Not `advance`: who is inside would be taken for lost.
        world.clock.now += timedelta(days=days)
        await upkeep.forget_old(world.service)
        async with world.service.database.read() as connection:
            assert set((await connection.execute(select(schema.users.c.id))).scalars()) == left
    assert await _count(world, "devices") == 1
    # With a token that lasts longer than he did he would come back as a user.
    assert code(await world.as_(stranger).get("/calls/default/x")) == (401, "unauthenticated")
    assert (await world.as_(member).get("/calls/default/x")).status_code == 200


async def test_the_audit_log_is_kept_for_a_year(world: World) -> None:
    async with world.service.database.write() as connection:
        await connection.execute(delete(schema.audit))
        at = world.clock.now
        for number in range(upkeep.FORGOTTEN_AT_ONCE + 1):
            entry = AuditEntry(id=str(number), actor=None, action="ban", target="bob", before=None, after=None,
                               created_at=at, updated_at=at)  # fmt: skip
            await save(connection, [entry])
    for days, left in ((365, upkeep.FORGOTTEN_AT_ONCE + 1), (1, 0)):
        world.clock.now += timedelta(days=days)
        await upkeep.forget_old(world.service)
        assert await _count(world, "audit") == left


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_nothing_is_looked_through_for_what_is_old(world: World) -> None:
    statements: list[str] = []
    engine = world.service.database._pool.sync_engine

    def remember(_c: Any, _u: Any, statement: str, *_: Any) -> None:
        # Orders are few: all but those of lost nodes are done within seconds.
        if statement.startswith("DELETE") and "FROM orders" not in statement:
            statements.append(statement)

    event.listen(engine, "before_cursor_execute", remember)
    await upkeep.forget_old(world.service)
    event.remove(engine, "before_cursor_execute", remember)
    async with world.service.database.read(long=True) as connection:
        for statement in statements:
            values = tuple(0 for _ in range(statement.count("?")))
            plan = [row.detail for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
            assert [line for line in plan if "created_at<?" in line or "seen_at<?" in line], (statement, plan)
    assert len(statements) == 15
