"""Acceptance: restricting access by roles and types (A-80, A-82 … A-84), traps T-6, T-11. A-81 is the dashboard's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.signaling.api.world import World, code, pointers

CALL = "/calls/default/x"
GRANTS = "/call-types/my-call-type/grants"


async def recipe(world: World) -> None:
    """Do what the brief says: a type whose calls only members join."""
    await world.server.post("/call-types", {"name": "my-call-type"})
    body = {"user": {"remove": ["JoinCall"]}, "call_member": {"add": ["JoinCall"]}}
    assert (await world.server.patch(GRANTS, body)).status_code == 200
    await world.users("charlie")
    await world.call("my-call-type/x", by="alice", members=[{"user_id": "charlie", "role": "call_member"}])
    await world.call("default/x", by="alice")


async def test_a_80_members_join_and_others_get_the_error(world: World) -> None:
    await recipe(world)
    refused = await world.as_("dave").post("/calls/my-call-type/x/join")
    assert (code(refused), refused.json()["capability"]) == ((403, "missing_capability"), "call.join")
    await world.as_("charlie").join("my-call-type/x")
    await world.as_("dave").join("default/x")
    assert "call.join" not in (await world.as_("dave").get("/calls/my-call-type/x")).json()["own_capabilities"]


async def test_a_80_the_recipe_is_audited(world: World) -> None:
    await recipe(world)
    entries = (await world.server.get("/audit")).json()["items"]
    (change,) = [e for e in entries if (e["action"], e["target"]) == ("call_type.update", "my-call-type")]
    assert "call.join" in change["before"]["grants"]["user"]
    assert "call.join" not in change["after"]["grants"]["user"]
    assert change["actor"] is None


async def test_a_80_explained(world: World) -> None:
    await recipe(world)
    why = (
        await world.as_("alice").get("/calls/my-call-type/x/capabilities/explain", params={"user": "charlie"})
    ).json()
    assert (why["user_id"], why["role"]) == ("charlie", "call_member")
    assert "call.join" in why["steps"][0]["added"]
    assert why["capabilities"] == (await world.as_("charlie").get("/calls/my-call-type/x")).json()["own_capabilities"]
    denied = await world.as_("charlie").get("/calls/my-call-type/x/capabilities/explain", params={"user": "alice"})
    assert code(denied) == (403, "missing_capability")


async def test_a_82_t_6_an_edit_reaches_running_calls_of_that_type_only(world: World) -> None:
    await recipe(world)
    await world.server.patch(GRANTS, {"user": {"add": ["JoinCall"]}})
    inside = (await world.as_("dave").join("my-call-type/x"))["participant"]
    elsewhere = (await world.as_("dave").join("default/x"))["participant"]
    member = (await world.as_("charlie").join("my-call-type/x"))["participant"]
    dave, charlie = await world.listen(world.as_("dave")), await world.listen(world.as_("charlie"))
    await world.server.patch(GRANTS, {"user": {"remove": ["JoinCall"]}, "call_member": {"remove": ["send-video"]}})
    assert world.media.removed == [(inside["session_id"], "dave:phone", "lost_capability")]
    assert world.publish(elsewhere, "camera") is True
    assert world.publish(member, "camera") is False
    assert world.publish(member, "microphone") is True
    updates = [f["data"] for f in dave.frames() if f["type"] == "call.capabilities_updated"]
    assert [(u["user_id"], u["reason"], u["removed"]) for u in updates] == [("dave", "type_changed", ["call.join"])]
    updates = [f["data"] for f in charlie.frames() if f["type"] == "call.capabilities_updated"]
    assert [(u["user_id"], u["removed"]) for u in updates] == [("charlie", ["media.video"])]


async def test_a_82_an_app_role_reaches_running_calls(world: World) -> None:
    await world.users("dave")
    await world.call("default/x", by="alice")
    participant = (await world.as_("dave").join("default/x"))["participant"]
    dave = await world.listen(world.as_("dave"))
    await world.server.patch("/users/dave", {"role": "listener"})
    assert world.publish(participant, "microphone") is False
    updates = [f["data"] for f in dave.frames() if f["type"] == "call.capabilities_updated"]
    assert [u["reason"] for u in updates] == ["role_changed"]


@pytest.mark.parametrize("spelling", ["JoinCall", "join-call", "call.join"])
async def test_a_83_t_11_three_spellings_one_output(world: World, spelling: str) -> None:
    reply = await world.server.patch("/call-types/default/grants", {"user": {"remove": [spelling]}})
    held = reply.json()["call_type"]["grants"]["user"]
    assert "call.join" not in held
    reply = await world.server.patch("/call-types/default/grants", {"user": {"add": [spelling, "call.join"]}})
    held = reply.json()["call_type"]["grants"]["user"]
    assert held.count("call.join") == 1
    assert held == sorted(held)
    assert all("." in capability for capability in held)


async def test_a_83_every_alias_is_understood_and_a_wrong_one_pointed_at(world: World) -> None:
    catalogue = (await world.server.get("/capabilities")).json()["items"]
    for capability in catalogue:
        for alias in capability["aliases"]:
            pascal = "".join(part.capitalize() for part in alias.split("-"))
            for name in (alias, pascal):
                reply = await world.server.patch("/call-types/default", {"grants": {"listener": [name]}})
                assert capability["id"] in reply.json()["call_type"]["grants"]["listener"]
    reply = await world.server.patch(
        "/call-types/default/grants", {"user": {"add": ["call.join", "JoinCal", "joincall"]}}
    )
    assert code(reply) == (422, "unknown_capability")
    assert pointers(reply) == ["/user/add/1", "/user/add/2"]
    both = await world.server.patch(
        "/call-types/default/grants", {"user": {"add": ["JoinCall"], "remove": ["join-call"]}}
    )
    assert code(both) == (422, "unprocessable")
    requestable = {c["id"] for c in catalogue if c["requestable"]}
    assert requestable == {"media.audio", "media.video", "media.screen"}


async def test_a_84_a_role_of_ones_own(world: World) -> None:
    assert (await world.server.post("/roles", {"name": "usher"})).json()["role"]["built_in"] is False
    assert code(await world.server.post("/roles", {"name": "usher"})) == (409, "conflict")
    assert pointers(await world.server.post("/roles", {"name": "Usher!"})) == ["/name"]
    body = {"usher": {"add": ["call.join", "call.read", "lobby.admit"]}}
    await world.server.patch("/call-types/default/grants", body)
    await world.users("bob")
    await world.call("default/x", by="alice", members=[{"user_id": "bob", "role": "usher"}])
    joined = await world.as_("bob").join("default/x")
    assert joined["own_capabilities"] == ["call.join", "call.read", "lobby.admit"]
    assert code(await world.server.delete("/roles/usher")) == (409, "role_in_use")
    await world.server.patch("/call-types/default", {"grants": {"usher": []}})
    assert code(await world.server.delete("/roles/usher")) == (409, "role_in_use")
    await world.as_("alice").delete("/calls/default/x/members/bob")
    assert (await world.server.delete("/roles/usher")).status_code == 204
    assert code(await world.server.delete("/roles/usher")) == (404, "not_found")
    assert code(await world.server.delete("/roles/listener")) == (409, "conflict")
    reply = await world.server.patch("/call-types/default/grants", {"usher": {"add": ["call.join"]}})
    assert (code(reply), pointers(reply)) == ((422, "unknown_role"), ["/usher"])


async def test_a_84_a_role_that_a_user_has_is_in_use(world: World) -> None:
    await world.server.post("/roles", {"name": "usher"})
    await world.users("bob", role="usher")
    assert code(await world.server.delete("/roles/usher")) == (409, "role_in_use")
    await world.server.patch("/users/bob", {"role": "user"})
    assert (await world.server.delete("/roles/usher")).status_code == 204
    assert pointers(await world.server.patch("/users/bob", {"role": "usher"})) == ["/role"]


async def test_only_the_server_and_app_admins_change_types_and_roles(world: World) -> None:
    await world.users("root", role="admin")
    await world.call("default/x", by="alice")
    for client in (world.as_("alice"), world.as_("root", role="user"), world.as_("root", ceiling=["call.join"])):
        for attempt in (
            client.get("/call-types"),
            client.patch("/call-types/default", {}),
            client.post("/roles", {"name": "usher"}),
            client.delete("/roles/usher"),
        ):
            reply = await attempt
            assert (code(reply), reply.json()["capability"]) == ((403, "missing_capability"), "app.admin")
    assert (await world.as_("root").post("/roles", {"name": "usher"})).status_code == 201


async def test_a_token_only_narrows(world: World) -> None:
    await world.users("alice", "bob")
    await world.call("default/x", by="alice")
    await world.call("default/y", by="alice")
    narrow = world.as_("alice", calls=["default:x"])
    assert (await narrow.get("/calls/default/x")).status_code == 200
    assert code(await narrow.get("/calls/default/y")) == (404, "not_found")
    assert code(await narrow.put("/calls/default/z")) == (404, "not_found")
    assert [i["call"]["id"] for i in (await narrow.post("/calls/query", {})).json()["items"]] == ["x"]
    listener = (await world.as_("alice", role="listener").get("/calls/default/x")).json()["own_capabilities"]
    assert listener == ["call.join", "call.read", "event.send", "reaction.send"]
    raised = (await world.as_("bob", role="admin").get("/calls/default/x")).json()["own_capabilities"]
    assert raised == (await world.as_("bob").get("/calls/default/x")).json()["own_capabilities"]
    ceiling = (await world.as_("alice", ceiling=["JoinCall", "call.read"]).get("/calls/default/x")).json()
    assert ceiling["own_capabilities"] == ["call.join", "call.read"]
    joined = await world.as_("alice", ceiling=["call.read", "call.join"]).join("default/x")
    assert world.publish(joined["participant"], "microphone") is False


@pytest.mark.parametrize("claims", [{"ceiling": ["call.read", "call.join"]}, {"role": "listener"}])
async def test_a_token_only_narrows_what_another_device_came_with(world: World, claims: dict[str, Any]) -> None:
    await world.users("alice")
    await world.call("default/x", by="alice")
    phone = (await world.as_("alice").join("default/x"))["participant"]
    narrow, wide = world.as_("alice", **claims), world.as_("alice")
    resume, renew = {"device_id": "phone", "resume": phone["id"]}, {"participant_id": phone["id"]}

    async def refused() -> None:
        for reply in (await narrow.post(f"{CALL}/join", resume), await narrow.post(f"{CALL}/media-token", renew)):
            assert (code(reply), "token" in reply.json()) == ((403, "missing_capability"), False)
            assert reply.json()["capability"] not in (claims.get("ceiling") or ["call.join", "event.send"])

    await refused()
    # What he has lost for now he may have again, and then it would be the narrow token's too.
    lost = sorted(set(phone["capabilities"]) - {"call.read", "call.join"})
    reply = await world.server.patch(f"{CALL}/participants/alice/capabilities", {"revoke": lost})
    assert reply.json()["capabilities"] == ["call.join", "call.read"]
    await refused()
    assert (await wide.post(f"{CALL}/join", resume)).json()["participant"]["id"] == phone["id"]
    assert (await wide.post(f"{CALL}/media-token", renew)).status_code == 200
    assert (await world.server.post(f"{CALL}/media-token", renew)).status_code == 200
    # Its own device is its own.
    tablet = (await narrow.join("default/x", device="tablet"))["participant"]
    assert (await narrow.post(f"{CALL}/media-token", {"participant_id": tablet["id"]})).status_code == 200
    assert (await narrow.post(f"{CALL}/join", {"resume": tablet["id"]})).json()["participant"]["id"] == tablet["id"]
