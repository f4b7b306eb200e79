"""What is past its time is forgotten, and what is not yet, is not."""

from __future__ import annotations

from typing import Any

from signaling.api.v1 import upkeep
from signaling.calls.state import CloseRoom
from signaling.store.database import save
from tests.signaling.api.world import World
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
