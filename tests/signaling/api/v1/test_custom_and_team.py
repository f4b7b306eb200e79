"""Acceptance: custom data and teams (A-33 … A-41)."""

from __future__ import annotations

from tests.signaling.api.world import World, code, pointers


async def test_a_33_custom_data_comes_back_as_it_was(world: World) -> None:
    custom = {"name": "Grüße 🎉", "n": 1.5, "deep": {"list": [1, "zwei", None, {"x": True}]}, "big": 2**53}
    body = await world.call("default/x", by="alice", custom=custom)
    assert body["call"]["custom"] == custom
    assert (await world.as_("alice").get("/calls/default/x")).json()["call"]["custom"] == custom


async def test_a_34_custom_data_is_merge_patched(world: World) -> None:
    await world.call("default/x", by="alice", custom={"a": 1, "b": {"c": 2, "d": 3}})
    listener = await world.listen(world.as_("alice"))
    reply = await world.as_("alice").patch("/calls/default/x", {"custom": {"a": None, "b": {"c": 4}, "e": "new"}})
    assert reply.json()["call"]["custom"] == {"b": {"c": 4, "d": 3}, "e": "new"}
    updated = listener.only("call.updated")[0]
    assert updated["data"]["paths"] == ["custom.a", "custom.b.c", "custom.e"]


async def test_a_35_custom_data_has_a_limit(world: World) -> None:
    fits = {"x": "y" * (16_384 - len('{"x":""}'))}
    await world.call("default/x", by="alice", custom=fits)
    reply = await world.as_("alice").patch("/calls/default/x", {"custom": {"x": fits["x"] + "y"}})
    assert code(reply) == (413, "custom_too_large")


async def test_a_36_calls_are_found_by_custom_data(world: World) -> None:
    await world.call("default/x", by="alice", custom={"name": "My first Call", "n": 3, "ok": True})
    await world.call("default/y", by="alice", custom={"name": "Another", "n": "3"})

    async def found(wanted: dict[str, object]) -> list[str]:
        reply = await world.as_("alice").post("/calls/query", {"filter": wanted})
        assert reply.status_code == 200, reply.text
        return sorted(item["call"]["id"] for item in reply.json()["items"])

    assert await found({"custom.name": "My first Call"}) == ["x"]
    assert await found({"custom.n": 3}) == ["x"]
    assert await found({"custom.n": {"$gte": 3}}) == ["x"]
    assert await found({"custom.ok": True}) == ["x"]
    assert await found({"custom.name": {"$prefix": "An"}}) == ["y"]
    assert await found({"custom.ok": {"$exists": False}}) == ["y"]
    assert await found({"$not": {"custom.name": "Another"}}) == ["x"]
    assert await found({"members": {"$in": ["alice", "nobody"]}}) == ["x", "y"]
    assert await found({"$or": [{"id": "x"}, {"cid": "default:y"}]}) == ["x", "y"]
    assert await found({"backstage": True}) == []
