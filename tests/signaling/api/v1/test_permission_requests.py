"""Acceptance: asking for rights, granting, revoking (G-1 … G-5, G-7 … G-9). G-6 is in `test_races.py`."""

from __future__ import annotations

from typing import Any

from tests.signaling.api.world import Client, World, code, pointers

CALL = "/calls/livestream/x"
REQUESTS = f"{CALL}/permission-requests"


async def on_stage(world: World, **settings: Any) -> dict[str, Any]:
    """Have a livestream of alice's live, and dave watch it; return his participant."""
    await world.users("alice", "dave", "erin")
    await world.call("livestream/x", by="alice", settings=settings)
    await world.as_("alice").put(f"{CALL}/live")
    await world.as_("alice").join("livestream/x")
    participant: dict[str, Any] = (await world.as_("dave").join("livestream/x"))["participant"]
    return participant


async def ask(client: Client, *capabilities: str) -> dict[str, Any]:
    reply = await client.post(REQUESTS, {"capabilities": list(capabilities)})
    assert reply.status_code == 201, reply.text
    request: dict[str, Any] = reply.json()["request"]
    return request


async def test_g_1_granted_one_publishes_without_a_rejoin(world: World) -> None:
    participant = await on_stage(world)
    alice, dave = await world.listen(world.as_("alice")), await world.listen(world.as_("dave"))
    request = await ask(world.as_("dave"), "SendVideo", "media.audio")
    assert (request["user_id"], request["capabilities"], request["state"]) == (
        "dave",
        ["media.audio", "media.video"],
        "pending",
    )
    assert request["expires_at"] == "2026-01-01T09:02:00.000Z"
    for listener in (alice, dave):
        assert [f["data"] for f in listener.frames()] == [{"request": request}]
    assert (await world.as_("alice").get(REQUESTS)).json()["items"] == [request]
    assert (await world.as_("dave").get(REQUESTS)).json()["items"] == [request]
    assert (await world.as_("erin").get(REQUESTS)).json()["items"] == []
    assert code(await world.as_("erin").post(f"{REQUESTS}/{request['id']}/grant")) == (403, "missing_capability")
    granted = (await world.as_("alice").post(f"{REQUESTS}/{request['id']}/grant")).json()["request"]
    assert (granted["state"], granted["resolved_by"], granted["resolved_at"]) == (
        "granted",
        "alice",
        "2026-01-01T09:00:00.000Z",
    )
    for source in ("microphone", "camera"):
        assert world.publish(participant, source) is True
    heard = {f["type"]: f["data"] for f in dave.frames()}
    assert heard["permission.resolved"] == {"request": granted}
    update = heard["call.capabilities_updated"]
    assert (update["added"], update["removed"], update["reason"]) == (["media.audio", "media.video"], [], "granted")
    assert world.media.muted == []
    assert (await world.as_("alice").get(REQUESTS)).json()["items"] == []


async def test_g_2_revoked_the_track_is_gone(world: World) -> None:
    participant = await on_stage(world)
    path = f"{CALL}/participants/dave/capabilities"
    granted = await world.as_("alice").patch(path, {"grant": ["send-audio", "send-video"]})
    assert granted.json()["user_id"] == "dave"
    assert {"media.audio", "media.video"} <= set(granted.json()["capabilities"])
    assert world.publish(participant, "microphone")
    assert world.publish(participant, "camera")
    dave = await world.listen(world.as_("dave"))
    revoked = await world.as_("alice").patch(path, {"revoke": ["media.audio"]})
    assert revoked.json()["version"] == granted.json()["version"] + 1
    assert world.published(participant) == {"camera"}
    updates = dave.only("call.capabilities_updated")
    assert [(f["data"]["removed"], f["data"]["reason"], f["data"]["version"]) for f in updates] == [
        (["media.audio"], "revoked", revoked.json()["version"])
    ]
    # A revocation outweighs the role.
    await world.as_("alice").patch(path, {"revoke": ["JoinCall"]})
    assert world.media.removed[-1] == (participant["session_id"], "dave:phone", "lost_capability")
    assert code(await world.as_("dave").post(f"{CALL}/join")) == (403, "missing_capability")


async def test_g_2_one_gives_only_what_one_holds(world: World) -> None:
    await world.users("mod")
    await on_stage(world)
    await world.as_("alice").patch(f"{CALL}/members", {"upsert": [{"user_id": "mod", "role": "moderator"}]})
    path = f"{CALL}/participants/dave/capabilities"
    refused = await world.as_("mod").patch(path, {"grant": ["call.delete"]})
    assert (code(refused), refused.json()["capability"]) == ((403, "missing_capability"), "call.delete")
    above = await world.as_("mod").patch(f"{CALL}/participants/alice/capabilities", {"revoke": ["media.audio"]})
    assert code(above) == (403, "role_escalation")
    both = await world.as_("mod").patch(path, {"grant": ["media.audio"], "revoke": ["send-audio"]})
    assert (code(both), pointers(both)) == ((422, "unprocessable"), ["/revoke"])
    unknown = await world.as_("mod").patch(path, {"grant": ["media.smell"]})
    assert (code(unknown), pointers(unknown)) == ((422, "unknown_capability"), ["/grant/0"])


async def test_g_3_denied_one_is_told(world: World) -> None:
    participant = await on_stage(world)
    request = await ask(world.as_("dave"), "media.audio")
    dave = await world.listen(world.as_("dave"))
    denied = (await world.as_("alice").post(f"{REQUESTS}/{request['id']}/deny")).json()["request"]
    assert denied["state"] == "denied"
    assert [(f["type"], f["data"]) for f in dave.frames()] == [("permission.resolved", {"request": denied})]
    assert world.publish(participant, "microphone") is False
    again = await world.as_("alice").post(f"{REQUESTS}/{request['id']}/grant")
    assert (code(again), again.json()["request"]) == ((409, "already_resolved"), denied)


async def test_g_3_requests_are_withdrawn_and_expire(world: World) -> None:
    await on_stage(world)
    first = await ask(world.as_("dave"), "media.audio")
    doubled = await world.as_("dave").post(REQUESTS, {"capabilities": ["media.audio", "media.video"]})
    assert (code(doubled), doubled.json()["request"]["id"]) == ((409, "conflict"), first["id"])
    assert code(await world.as_("erin").delete(f"{REQUESTS}/{first['id']}")) == (404, "not_found")
    assert (await world.as_("dave").delete(f"{REQUESTS}/{first['id']}")).status_code == 204
    second = await ask(world.as_("dave"), "media.audio")
    dave = await world.listen(world.as_("dave"))
    await world.advance(120)
    assert [f["data"]["request"]["state"] for f in dave.only("permission.resolved")] == ["expired"]
    late = await world.as_("alice").post(f"{REQUESTS}/{second['id']}/grant")
    assert (code(late), late.json()["request"]["state"]) == ((409, "already_resolved"), "expired")


async def test_g_4_what_one_holds_one_does_not_ask_for(world: World) -> None:
    await on_stage(world)
    await world.call("default/y", by="alice")
    await world.as_("dave").join("default/y")
    reply = await world.as_("dave").post("/calls/default/y/permission-requests", {"capabilities": ["media.audio"]})
    assert code(reply) == (409, "already_held")


async def test_g_5_requests_can_be_disabled(world: World) -> None:
    await on_stage(world, audio={"access_request_enabled": False})
    reply = await world.as_("dave").post(REQUESTS, {"capabilities": ["media.audio"]})
    assert code(reply) == (403, "requests_disabled")
    # The screen is not requestable for a user of a livestream; call.end for nobody.
    assert code(await world.as_("dave").post(REQUESTS, {"capabilities": ["screenshare"]})) == (403, "requests_disabled")
    wrong = await world.as_("dave").post(REQUESTS, {"capabilities": ["call.end"]})
    assert (code(wrong), pointers(wrong)) == ((422, "unprocessable"), ["/capabilities/0"])
    outside = await world.as_("erin").post(REQUESTS, {"capabilities": ["media.video"]})
    assert code(outside) == (409, "conflict")
    await ask(world.as_("dave"), "media.video")


async def test_g_7_a_reconnect_keeps_what_was_granted(world: World) -> None:
    participant = await on_stage(world)
    request = await ask(world.as_("dave"), "media.audio")
    await world.as_("alice").post(f"{REQUESTS}/{request['id']}/grant")
    await world.vanish(participant)
    states = {p["user_id"]: p["state"] for p in (await world.as_("alice").get(f"{CALL}/participants")).json()["items"]}
    assert states["dave"] == "reconnecting"
    await world.advance(10)
    await world.connect(participant)
    assert world.publish(participant, "microphone") is True
    await world.vanish(participant, clean=True)
    rejoined = await world.as_("dave").join("livestream/x")
    assert "media.audio" in rejoined["own_capabilities"]
    assert world.publish(rejoined["participant"], "microphone") is True
    await world.as_("alice").post(f"{CALL}/end")
    await world.as_("alice").post(f"{CALL}/reopen")
    await world.as_("alice").put(f"{CALL}/live")
    fresh = await world.as_("dave").join("livestream/x")
    assert "media.audio" not in fresh["own_capabilities"]


async def test_g_7_persistent_grants_outlive_the_session(world: World) -> None:
    await on_stage(world)
    path = f"{CALL}/participants/dave/capabilities"
    stranger = await world.as_("alice").patch(path, {"grant": ["media.audio"], "persist": True})
    assert code(stranger) == (409, "conflict")
    await world.as_("alice").patch(f"{CALL}/members", {"upsert": ["dave"]})
    await world.as_("alice").patch(path, {"grant": ["media.audio"], "persist": True})
    await world.as_("alice").post(f"{CALL}/end")
    await world.as_("alice").post(f"{CALL}/reopen")
    await world.as_("alice").put(f"{CALL}/live")
    fresh = await world.as_("dave").join("livestream/x")
    assert "media.audio" in fresh["own_capabilities"]


async def test_what_is_granted_to_a_member_between_sessions_ends_with_his_membership(world: World) -> None:
    await world.server.post("/call-types", {"name": "closed"})
    await world.server.patch("/call-types/closed/grants", {"user": {"remove": ["JoinCall"]}})
    await world.users("dave")
    await world.call("closed/x", by="alice", members=[{"user_id": "dave", "role": "listener"}])
    body = {"grant": ["call.join", "call.ring"], "revoke": ["event.send"], "persist": True}
    reply = await world.as_("alice").patch("/calls/closed/x/participants/dave/capabilities", body)
    held = (await world.as_("dave").get("/calls/closed/x")).json()["own_capabilities"]
    assert reply.json() == {"user_id": "dave", "capabilities": held, "version": 0}
    assert ("call.ring" in held, "event.send" in held) == (True, False)
    assert (await world.as_("dave").join("closed/x"))["own_capabilities"] == held
    await world.as_("alice").post("/calls/closed/x/end")
    await world.as_("alice").post("/calls/closed/x/reopen")
    await world.as_("alice").patch("/calls/closed/x/participants/dave/capabilities", body)
    await world.as_("alice").delete("/calls/closed/x/members/dave")
    assert code(await world.as_("dave").post("/calls/closed/x/join")) == (403, "missing_capability")
    await world.as_("alice").join("closed/x")
    assert code(await world.as_("dave").post("/calls/closed/x/join")) == (403, "missing_capability")


async def test_g_8_every_device_of_the_user_gets_the_change(world: World) -> None:
    phone = await on_stage(world)
    tablet = (await world.as_("dave").join("livestream/x", device="tablet"))["participant"]
    sockets = [await world.listen(world.as_("dave"), device=device) for device in ("phone", "tablet")]
    request = await ask(world.as_("dave"), "media.audio")
    await world.as_("alice").post(f"{REQUESTS}/{request['id']}/grant")
    for participant in (phone, tablet):
        assert world.publish(participant, "microphone") is True
    for socket in sockets:
        assert len(socket.only("call.capabilities_updated")) == 1


async def test_g_9_another_types_calls_stay_untouched(world: World) -> None:
    await on_stage(world)
    await world.call("default/y", by="alice")
    elsewhere = (await world.as_("dave").join("default/y"))["participant"]
    before = (await world.as_("alice").get("/calls/default/y/participants")).json()
    dave = await world.listen(world.as_("dave"))
    await world.server.patch("/call-types/livestream/grants", {"user": {"add": ["media.audio"]}})
    assert [f["cid"] for f in dave.only("call.capabilities_updated")] == ["livestream:x"]
    assert (await world.as_("alice").get("/calls/default/y/participants")).json() == before
    assert world.publish(elsewhere, "microphone") is True
