"""Acceptance: members at creation (A-18 … A-24)."""

from __future__ import annotations

from tests.signaling.api.world import World, code, pointers


async def test_a_18_members_at_creation_are_admins(world: World) -> None:
    await world.users("alice", "bob")
    body = await world.call("default/x", by="carol", member_ids=["alice", "bob"])
    assert {m["user_id"]: m["role"] for m in body["members"]["items"]} == dict.fromkeys(
        ("carol", "alice", "bob"), "admin"
    )
    own = (await world.as_("bob").get("/calls/default/x")).json()["own_capabilities"]
    assert "call.delete" in own
    assert "member.remove" in own
    every = {c["id"] for c in (await world.server.get("/capabilities")).json()["items"]}
    assert set(own) == every
    assert own == sorted(own)


async def test_a_19_a_role_at_creation_is_kept(world: World) -> None:
    await world.users("alice")
    body = await world.call("default/x", by="carol", members=[{"user_id": "alice", "role": "call_member"}])
    assert {m["user_id"]: m["role"] for m in body["members"]["items"]}["alice"] == "call_member"
    own = (await world.as_("alice").get("/calls/default/x")).json()["own_capabilities"]
    granted = (await world.server.get("/call-types/default")).json()["call_type"]["grants"]["call_member"]
    assert own == granted
    custom = {"members": [{"user_id": "alice", "custom": {"seat": 4}, "role": "wizard"}]}
    wrong = await world.as_("carol").put("/calls/default/y", custom)
    assert code(wrong) == (422, "unknown_role")
    assert pointers(wrong) == ["/members/0/role"]


async def test_a_20_get_or_create_of_an_existing_call_adds_nobody(world: World) -> None:
    await world.users("mallory")
    before = await world.call("default/x", by="alice")
    reply = await world.as_("mallory").put("/calls/default/x", {"member_ids": ["mallory"], "custom": {"a": 1}})
    assert reply.status_code == 200
    assert reply.json()["call"] == before["call"]
    assert [m["user_id"] for m in reply.json()["members"]["items"]] == ["alice"]


async def test_a_21_an_unknown_member_is_named_and_nothing_is_made(world: World) -> None:
    await world.users("alice")
    reply = await world.as_("carol").put("/calls/default/x", {"members": ["alice", {"user_id": "nobody"}]})
    assert code(reply) == (422, "unknown_user")
    assert pointers(reply) == ["/members/1/user_id"]
    assert code(await world.server.get("/calls/default/x")) == (404, "not_found")


async def test_a_22_both_spellings_are_accepted_but_not_together(world: World) -> None:
    await world.users("alice")
    reply = await world.as_("carol").put("/calls/default/x", {"members": ["alice"], "member_ids": ["alice"]})
    assert code(reply) == (422, "unprocessable")
    assert pointers(reply) == ["/member_ids"]
    for number, body in enumerate(
        ({"members": ["alice"]}, {"member_ids": ["alice"]}, {"members": [{"user_id": "alice"}]})
    ):
        made = await world.as_("carol").put(f"/calls/default/x{number}", body)
        assert [m["user_id"] for m in made.json()["members"]["items"]] == ["alice", "carol"]


async def test_a_23_duplicates_make_one_member_and_the_last_wins(world: World) -> None:
    await world.users("alice")
    body = await world.call("default/x", by="carol", members=["alice", {"user_id": "alice", "role": "listener"}])
    assert [(m["user_id"], m["role"]) for m in body["members"]["items"]] == [("alice", "listener"), ("carol", "admin")]


async def test_a_24_the_reply_shows_the_first_page_of_members(world: World) -> None:
    names = [f"user{index:03}" for index in range(30)]
    await world.users(*names)
    body = await world.call("default/x", by="carol", member_ids=names)
    assert len(body["members"]["items"]) == 25
    seen = [m["user_id"] for m in body["members"]["items"]]
    rest = (await world.server.get("/calls/default/x/members", params={"next": body["members"]["next"]})).json()
    seen += [m["user_id"] for m in rest["items"]]
    assert sorted(seen) == sorted(["carol", *names])
    assert rest["next"] is None
    back = (await world.server.get("/calls/default/x/members", params={"prev": rest["prev"]})).json()
    assert [m["user_id"] for m in back["items"]] == seen[:25]
    full = (await world.server.get("/calls/default/x", params={"members_limit": "100"})).json()["members"]
    assert len(full["items"]) == 31
    assert full["next"] is None
    assert pointers(await world.server.get("/calls/default/x/members", params={"limit": "101"})) == ["/limit"]
