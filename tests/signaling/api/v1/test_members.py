"""Acceptance: members while a call runs (A-42 … A-48)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.signaling.api.world import World, code, pointers

CALL = "/calls/members-only/x"
MEMBERS = f"{CALL}/members"


async def members_only(world: World, *members: Any) -> None:
    """Make a type that only members join, and a call of alice's of it."""
    assert (await world.server.post("/call-types", {"name": "members-only"})).status_code == 201
    changed = await world.server.patch("/call-types/members-only/grants", {"user": {"remove": ["JoinCall"]}})
    assert changed.status_code == 200
    await world.users("alice", "bob", "charlie", "mod")
    await world.call("members-only/x", by="alice", members=list(members))


async def roles(world: World) -> dict[str, str]:
    page = (await world.server.get(MEMBERS)).json()
    return {m["user_id"]: m["role"] for m in page["items"]}


async def test_a_42_a_member_added_while_the_call_runs_can_join(world: World) -> None:
    await members_only(world)
    await world.as_("alice").join("members-only/x")
    denied = await world.as_("charlie").post(f"{CALL}/join")
    assert code(denied) == (403, "missing_capability")
    listeners = {
        "member": await world.listen(world.as_("alice")),
        "watcher": await world.listen(world.as_("bob"), "members-only/x"),
        "himself": await world.listen(world.as_("charlie")),
        "stranger": await world.listen(world.as_("mod")),
    }
    reply = await world.as_("alice").patch(
        MEMBERS, {"upsert": [{"user_id": "charlie", "role": "call_member", "custom": {"seat": 4}}]}
    )
    shown = {m["user_id"]: m for m in reply.json()["members"]["items"]}
    assert (shown["charlie"]["role"], shown["charlie"]["custom"]) == ("call_member", {"seat": 4})
    assert shown["charlie"]["user"] == {"id": "charlie", "name": "Charlie", "image": None}
    for name in ("member", "watcher", "himself"):
        (added,) = listeners[name].only("member.added")
        assert added["data"] == {"member": shown["charlie"]}
        assert added["actor"] == "alice"
    assert listeners["stranger"].frames() == []
    joined = await world.as_("charlie").join("members-only/x")
    assert joined["participant"]["role"] == "call_member"


async def test_a_43_a_members_new_role_holds_without_a_rejoin(world: World) -> None:
    await members_only(world, {"user_id": "charlie", "role": "call_member"})
    participant = (await world.as_("charlie").join("members-only/x"))["participant"]
    assert world.publish(participant, "microphone") is True
    charlie, alice = await world.listen(world.as_("charlie")), await world.listen(world.as_("alice"))
    reply = await world.as_("alice").patch(MEMBERS, {"upsert": [{"user_id": "charlie", "role": "listener"}]})
    assert {m["user_id"]: m["role"] for m in reply.json()["members"]["items"]}["charlie"] == "listener"
    assert world.published(participant) == set()
    assert world.publish(participant, "microphone") is False
    heard = {f["type"]: f["data"] for f in charlie.frames()}
    assert heard["member.updated"]["member"]["role"] == "listener"
    update = heard["call.capabilities_updated"]
    own = (await world.as_("charlie").get(CALL)).json()["own_capabilities"]
    assert (update["user_id"], update["reason"], update["capabilities"]) == ("charlie", "member_changed", own)
    assert update["added"] == []
    assert update["removed"] == [
        "call.notify",
        "call.ring",
        "media.audio",
        "media.screen",
        "media.video",
        "member.read",
    ]
    assert heard["participant.updated"]["participant"]["role"] == "listener"
    # Who decides hears of the media rights alone.
    (redacted,) = [f["data"] for f in alice.frames() if f["type"] == "call.capabilities_updated"]
    assert redacted["removed"] == ["media.audio", "media.screen", "media.video"]
    assert redacted["capabilities"] == []


async def test_a_44_removed_from_a_members_only_call_one_is_cut_off(world: World) -> None:
    await members_only(world, {"user_id": "charlie", "role": "call_member"})
    participant = (await world.as_("charlie").join("members-only/x"))["participant"]
    charlie, alice = await world.listen(world.as_("charlie")), await world.listen(world.as_("alice"), "members-only/x")
    assert (await world.as_("alice").delete(f"{MEMBERS}/charlie")).status_code == 204
    assert world.media.removed == [(participant["session_id"], "charlie:phone", "removed")]
    heard = {f["type"]: f["data"] for f in charlie.frames()}
    assert heard["member.removed"]["member"]["user_id"] == "charlie"
    assert "call.join" in heard["call.capabilities_updated"]["removed"]
    (left,) = alice.only("participant.left")
    assert (left["data"]["reason"], left["data"]["participant"]["left_reason"]) == ("removed", "removed")
    refused = await world.as_("charlie").post(f"{CALL}/join")
    assert (code(refused), refused.json()["capability"]) == ((403, "missing_capability"), "call.join")
    assert code(await world.as_("charlie").post(f"{CALL}/media-token", {"participant_id": participant["id"]})) == (
        404,
        "not_found",
    )


async def test_a_44_removed_from_an_open_call_one_stays_as_a_user(world: World) -> None:
    await world.users("alice", "charlie")
    await world.call("default/x", by="alice", members=["charlie"])
    participant = (await world.as_("charlie").join("default/x"))["participant"]
    await world.as_("alice").delete("/calls/default/x/members/charlie")
    assert world.media.removed == []
    page = (await world.as_("alice").get("/calls/default/x/participants")).json()["items"]
    assert [(p["id"], p["role"], p["state"]) for p in page] == [(participant["id"], "user", "joined")]
    granted = (await world.server.get("/call-types/default")).json()["call_type"]["grants"]["user"]
    assert page[0]["capabilities"] == granted


@pytest.mark.parametrize("way", ["patch", "delete"])
async def test_a_45_both_forms_do_the_same(world: World, way: str) -> None:
    await members_only(world, "charlie")
    alice = await world.listen(world.as_("alice"))
    if way == "patch":
        await world.as_("alice").patch(MEMBERS, {"remove": ["charlie"]})
    else:
        await world.as_("alice").delete(f"{MEMBERS}/charlie")
    assert await roles(world) == {"alice": "admin"}
    assert [f["data"]["member"]["user_id"] for f in alice.only("member.removed")] == ["charlie"]


async def test_a_45_adding_and_removing_is_one_step(world: World) -> None:
    await members_only(world, "charlie")
    version = (await world.as_("alice").get(CALL)).json()["call"]["version"]
    body = {"upsert": ["bob", {"user_id": "mod", "role": "nonsense"}], "remove": ["charlie"]}
    reply = await world.as_("alice").patch(MEMBERS, body)
    assert (code(reply), pointers(reply)) == ((422, "unknown_role"), ["/upsert/1/role"])
    assert await roles(world) == {"charlie": "admin", "alice": "admin"}
    reply = await world.as_("alice").patch(MEMBERS, {"upsert": ["bob"], "remove": ["charlie"]})
    assert await roles(world) == {"alice": "admin", "bob": "call_member"}
    assert (await world.as_("alice").get(CALL)).json()["call"]["version"] == version + 1
    # Said again, nothing changes and nobody is told.
    alice = await world.listen(world.as_("alice"))
    await world.as_("alice").patch(MEMBERS, {"upsert": ["bob"], "remove": ["charlie"]})
    assert alice.frames() == []


async def test_a_46_without_the_capability_nothing_changes(world: World) -> None:
    await members_only(world, {"user_id": "charlie", "role": "call_member"}, {"user_id": "mod", "role": "moderator"})
    before = await roles(world)
    for body, capability in (
        ({"upsert": ["bob"]}, "member.add"),
        ({"upsert": [{"user_id": "charlie", "role": "listener"}]}, "member.update"),
        ({"remove": ["alice"]}, "member.remove"),
    ):
        reply = await world.as_("charlie").patch(MEMBERS, body)
        assert (code(reply), reply.json()["capability"]) == ((403, "missing_capability"), capability)
    moderator = world.as_("mod")
    assert (await moderator.patch(MEMBERS, {"upsert": ["bob"]})).status_code == 200
    both = await moderator.patch(MEMBERS, {"upsert": ["bob"], "remove": ["charlie"]})
    assert code(both) == (403, "missing_capability")
    assert await roles(world) == {**before, "bob": "call_member"}
    assert code(await moderator.delete(f"{MEMBERS}/charlie")) == (403, "missing_capability")
    assert code(await world.as_("alice").delete(f"{MEMBERS}/nobody")) == (404, "not_found")


async def test_a_47_nobody_gives_a_role_above_his_own(world: World) -> None:
    await members_only(world, {"user_id": "mod", "role": "moderator"}, {"user_id": "charlie", "role": "host"})
    for role in ("admin", "host"):
        reply = await world.as_("mod").patch(MEMBERS, {"upsert": [{"user_id": "bob", "role": role}]})
        assert code(reply) == (403, "role_escalation"), role
    for role in ("moderator", "listener"):
        reply = await world.as_("mod").patch(MEMBERS, {"upsert": [{"user_id": f"{role}-guest", "role": role}]})
        assert code(reply) == (422, "unknown_user")
    assert (
        await world.as_("mod").patch(MEMBERS, {"upsert": [{"user_id": "bob", "role": "moderator"}]})
    ).status_code == 200
    host = world.as_("charlie")
    assert code(await host.patch(MEMBERS, {"upsert": [{"user_id": "bob", "role": "admin"}]})) == (
        403,
        "role_escalation",
    )
    assert code(await host.patch(MEMBERS, {"upsert": [{"user_id": "alice", "role": "listener"}]})) == (
        403,
        "role_escalation",
    )
    assert code(await host.patch(MEMBERS, {"remove": ["alice"], "force": True})) == (403, "role_escalation")
    assert (await host.patch(MEMBERS, {"upsert": [{"user_id": "bob", "role": "host"}]})).status_code == 200
    assert await roles(world) == {"mod": "moderator", "charlie": "host", "alice": "admin", "bob": "host"}


async def test_a_48_the_last_admin_stays_unless_forced(world: World) -> None:
    await members_only(world, {"user_id": "charlie", "role": "host"})
    alice = world.as_("alice")
    assert code(await alice.delete(f"{MEMBERS}/alice")) == (409, "last_admin")
    assert code(await alice.patch(MEMBERS, {"upsert": [{"user_id": "alice", "role": "host"}]})) == (409, "last_admin")
    assert (await roles(world))["alice"] == "admin"
    swapped = {"upsert": [{"user_id": "bob", "role": "admin"}], "remove": ["alice"]}
    assert (await alice.patch(MEMBERS, swapped)).status_code == 200
    assert (await world.as_("bob").patch(MEMBERS, {"remove": ["bob"], "force": True})).status_code == 200
    assert await roles(world) == {"charlie": "host"}
    await world.call("default/y", by="alice")
    assert (await world.server.delete("/calls/default/y/members/alice")).status_code == 204
    await world.call("default/z", by="alice")
    forced = await alice.delete("/calls/default/z/members/alice", params={"force": "true"})
    assert forced.status_code == 204


async def test_members_are_searched_and_paged(world: World) -> None:
    names = [f"user{index:02}" for index in range(12)]
    await world.users("alice", *names)
    members = [
        {"user_id": n, "role": "listener" if int(n[4:]) % 2 else "call_member", "custom": {"seat": int(n[4:])}}
        for n in names
    ]
    await world.call("default/x", by="alice", members=members)

    async def found(body: dict[str, Any]) -> list[str]:
        reply = await world.as_("alice").post("/calls/default/x/members/query", body)
        assert reply.status_code == 200, reply.text
        return [m["user_id"] for m in reply.json()["items"]]

    assert await found(
        {"filter": {"role": "listener"}, "sort": [{"field": "user_id", "direction": "desc"}], "limit": 2}
    ) == ["user11", "user09"]
    assert await found({"filter": {"custom.seat": {"$gte": 10}}, "sort": [{"field": "user_id"}]}) == [
        "user10",
        "user11",
    ]
    odd = {"user_id": {"$prefix": "user0"}, "role": {"$in": ["host", "listener"]}}
    assert await found({"filter": odd, "sort": [{"field": "user_id"}]}) == [f"user0{n}" for n in (1, 3, 5, 7, 9)]
    wrong = await world.as_("alice").post("/calls/default/x/members/query", {"filter": {"age": 3}})
    assert (code(wrong), pointers(wrong)) == ((422, "unprocessable"), ["/filter/age"])
    wrong = await world.as_("alice").post("/calls/default/x/members/query", {"filter": {"role": {"$like": "x"}}})
    assert pointers(wrong) == ["/filter/role/$like"]
