"""Acceptance: call objects, ids, types, members at creation, custom data (A-2 … A-24, A-33 … A-36)."""

from __future__ import annotations

import asyncio

from tests.signaling.api.world import World, code, pointers


async def test_a2_get_or_create_makes_a_call(world: World) -> None:
    reply = await world.as_("alice").put("/calls/default/standup", {"custom": {"name": "Standup"}})
    assert reply.status_code == 201
    body = reply.json()
    assert body["created"] is True
    assert body["call"]["cid"] == "default:standup"
    assert body["call"]["created_by"] == "alice"
    assert body["call"]["ongoing"] is False
    assert [m["user_id"] for m in body["members"]["items"]] == ["alice"]
    assert "call.delete" in body["own_capabilities"]
    assert body["session"] is None
    assert body["ring"] is None


async def test_a3_get_or_create_again_returns_the_same_call(world: World) -> None:
    first = await world.call("default/standup", by="alice")
    await world.advance(10)
    for user in ("alice", "bob"):
        reply = await world.as_(user).put("/calls/default/standup", {})
        assert reply.status_code == 200
        assert reply.json()["created"] is False
        assert reply.json()["call"] == first["call"]


async def test_a4_fifty_at_once_make_one_call(world: World) -> None:
    clients = [world.as_(f"user{index}") for index in range(50)]
    replies = await asyncio.gather(*(client.put("/calls/default/rush", {}) for client in clients))
    assert sorted(reply.status_code for reply in replies) == [200] * 49 + [201]
    call = (await world.server.get("/calls/default/rush")).json()["call"]
    assert call["version"] == 1
    created = [event for event in await world.recorded("default:rush") if event.type == "call.created"]
    assert [event.seq for event in created] == [1]


async def test_a5_no_room_exists_before_a_join(world: World) -> None:
    await world.call("default/standup", by="alice")
    assert world.media.rooms == {}


async def test_a7_a_fresh_installation_has_the_four_types(world: World) -> None:
    items = (await world.server.get("/call-types")).json()["items"]
    assert sorted(t["name"] for t in items) == ["audio_room", "default", "development", "livestream"]
    for call_type in items:
        assert call_type["built_in"] is True
        assert call_type["settings"]["ring"]["auto_cancel_timeout_ms"] == 30_000
        assert "call.join" in call_type["grants"]["user"]


async def test_a8_a_custom_type_copies_the_default_grants(world: World) -> None:
    made = await world.server.post("/call-types", {"name": "my-call-type"})
    assert made.status_code == 201
    default = (await world.server.get("/call-types/default")).json()["call_type"]
    assert made.json()["call_type"]["grants"] == default["grants"]
    reply = await world.as_("alice").put("/calls/my-call-type/one", {})
    assert reply.status_code == 201


async def test_a9_an_unknown_type_is_no_default(world: World) -> None:
    assert code(await world.as_("alice").put("/calls/defualt/x", {})) == (404, "call_type_not_found")


async def test_a10_one_id_under_two_types_is_two_calls(world: World) -> None:
    await world.call("default/x", by="alice")
    other = await world.call("livestream/x", by="alice")
    assert other["created"] is True
    assert other["call"]["cid"] == "livestream:x"


async def test_a14_a_built_in_type_is_changed_but_not_deleted(world: World) -> None:
    changed = await world.server.patch("/call-types/default", {"settings": {"limits": {"max_participants": 5}}})
    assert changed.json()["call_type"]["settings"]["limits"]["max_participants"] == 5
    assert code(await world.server.delete("/call-types/default")) == (409, "conflict")


async def test_a16_an_empty_id_is_generated(world: World) -> None:
    for body in ({}, {"id": ""}):
        reply = await world.as_("alice").post("/calls/default", body)
        assert reply.status_code == 201
        call_id = reply.json()["call"]["id"]
        assert call_id[14] == "7"
        assert reply.headers["location"] == f"/v1/calls/default/{call_id}"


async def test_a17_ids_have_an_alphabet(world: World) -> None:
    await world.call("default/appointment-4711", by="alice")
    assert (await world.as_("alice").get("/calls/default/appointment-4711")).status_code == 200
    for wrong in ("a:b", "a.b", "ü", "x" * 65):
        reply = await world.as_("alice").put(f"/calls/default/{wrong}", {})
        assert code(reply) == (422, "unprocessable")
        assert pointers(reply) == ["/id"]


async def test_a18_members_at_creation_are_admins(world: World) -> None:
    await world.users("alice", "bob")
    body = await world.call("default/x", by="carol", member_ids=["alice", "bob"])
    assert {m["user_id"]: m["role"] for m in body["members"]["items"]} == dict.fromkeys(
        ("carol", "alice", "bob"), "admin"
    )
    own = (await world.as_("bob").get("/calls/default/x")).json()["own_capabilities"]
    assert "call.delete" in own
    assert "member.remove" in own


async def test_a19_a_role_at_creation_is_kept(world: World) -> None:
    await world.users("alice")
    body = await world.call("default/x", by="carol", members=[{"user_id": "alice", "role": "call_member"}])
    assert {m["user_id"]: m["role"] for m in body["members"]["items"]}["alice"] == "call_member"


async def test_a20_get_or_create_of_an_existing_call_adds_nobody(world: World) -> None:
    await world.users("mallory")
    before = await world.call("default/x", by="alice")
    reply = await world.as_("mallory").put("/calls/default/x", {"member_ids": ["mallory"], "custom": {"a": 1}})
    assert reply.status_code == 200
    assert reply.json()["call"] == before["call"]
    assert [m["user_id"] for m in reply.json()["members"]["items"]] == ["alice"]


async def test_a21_an_unknown_member_is_named_and_nothing_is_made(world: World) -> None:
    await world.users("alice")
    reply = await world.as_("carol").put("/calls/default/x", {"members": ["alice", {"user_id": "nobody"}]})
    assert code(reply) == (422, "unknown_user")
    assert pointers(reply) == ["/members/1/user_id"]
    assert code(await world.server.get("/calls/default/x")) == (404, "not_found")


async def test_a22_members_and_member_ids_exclude_each_other(world: World) -> None:
    await world.users("alice")
    reply = await world.as_("carol").put("/calls/default/x", {"members": ["alice"], "member_ids": ["alice"]})
    assert code(reply) == (422, "unprocessable")
    assert pointers(reply) == ["/member_ids"]


async def test_a23_duplicates_make_one_member_and_the_last_wins(world: World) -> None:
    await world.users("alice")
    body = await world.call("default/x", by="carol", members=["alice", {"user_id": "alice", "role": "listener"}])
    assert [(m["user_id"], m["role"]) for m in body["members"]["items"]] == [("alice", "listener"), ("carol", "admin")]


async def test_a24_the_reply_shows_the_first_page_of_members(world: World) -> None:
    names = [f"user{index:03}" for index in range(30)]
    await world.users(*names)
    body = await world.call("default/x", by="carol", member_ids=names)
    assert len(body["members"]["items"]) == 25
    seen = [m["user_id"] for m in body["members"]["items"]]
    rest = (await world.server.get("/calls/default/x/members", params={"next": body["members"]["next"]})).json()
    seen += [m["user_id"] for m in rest["items"]]
    assert sorted(seen) == sorted(["carol", *names])
    assert rest["next"] is None
    assert pointers(await world.server.get("/calls/default/x/members", params={"limit": "101"})) == ["/limit"]


async def test_a33_custom_data_comes_back_as_it_was(world: World) -> None:
    custom = {"name": "Grüße 🎉", "n": 1.5, "deep": {"list": [1, "zwei", None, {"x": True}]}, "big": 2**53}
    body = await world.call("default/x", by="alice", custom=custom)
    assert body["call"]["custom"] == custom
    assert (await world.as_("alice").get("/calls/default/x")).json()["call"]["custom"] == custom


async def test_a34_custom_data_is_merge_patched(world: World) -> None:
    await world.call("default/x", by="alice", custom={"a": 1, "b": {"c": 2, "d": 3}})
    listener = await world.listen(world.as_("alice"))
    reply = await world.as_("alice").patch("/calls/default/x", {"custom": {"a": None, "b": {"c": 4}, "e": "new"}})
    assert reply.json()["call"]["custom"] == {"b": {"c": 4, "d": 3}, "e": "new"}
    updated = listener.only("call.updated")[0]
    assert updated["data"]["paths"] == ["custom.a", "custom.b.c", "custom.e"]


async def test_a35_custom_data_has_a_limit(world: World) -> None:
    fits = {"x": "y" * (16_384 - len('{"x":""}'))}
    await world.call("default/x", by="alice", custom=fits)
    reply = await world.as_("alice").patch("/calls/default/x", {"custom": {"x": fits["x"] + "y"}})
    assert code(reply) == (413, "custom_too_large")


async def test_a36_calls_are_found_by_custom_data(world: World) -> None:
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
