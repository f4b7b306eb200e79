"""Acceptance: call types (A-7 … A-14)."""

from __future__ import annotations

from structlog.testing import capture_logs

from tests.signaling.api.world import World, claims, code


async def test_a_7_a_fresh_installation_has_the_four_types(world: World) -> None:
    items = (await world.server.get("/call-types")).json()["items"]
    assert sorted(t["name"] for t in items) == ["audio_room", "default", "development", "livestream"]
    for call_type in items:
        assert call_type["built_in"] is True
        assert call_type["settings"]["ring"]["auto_cancel_timeout_ms"] == 30_000
        assert "call.join" in call_type["grants"]["user"]
        assert "admin" not in call_type["grants"] or call_type["grants"]["admin"] == []
        user, member = (set(call_type["grants"][role]) for role in ("user", "call_member"))
        assert user - {"call.create"} <= member
    settings = {t["name"]: t["settings"] for t in items}
    assert {name: s["backstage"]["enabled"] for name, s in settings.items()} == {
        "default": False, "audio_room": True, "livestream": True, "development": False,
    }  # fmt: skip
    assert {name: s["audio"]["mic_default_on"] for name, s in settings.items()} == {
        "default": True, "audio_room": False, "livestream": False, "development": True,
    }  # fmt: skip
    assert settings["audio_room"]["video"]["enabled"] is False
    assert settings["audio_room"]["screenshare"]["enabled"] is False
    assert settings["livestream"]["broadcasting"]["mode"] == "available"
    assert settings["livestream"]["session"]["inactivity_seconds"] == 60
    assert settings["development"]["limits"] == {"max_participants": 50, "max_duration_seconds": 3_600}
    assert settings["default"]["limits"] == {"max_participants": None, "max_duration_seconds": None}


async def test_a_8_a_custom_type_copies_the_default_grants(world: World) -> None:
    made = await world.server.post("/call-types", {"name": "my-call-type"})
    assert made.status_code == 201
    default = (await world.server.get("/call-types/default")).json()["call_type"]
    assert made.json()["call_type"]["grants"] == default["grants"]
    reply = await world.as_("alice").put("/calls/my-call-type/one", {})
    assert reply.status_code == 201
    assert reply.json()["call"]["cid"] == "my-call-type:one"
    stage = await world.server.post("/call-types", {"name": "stage", "base": "livestream"})
    assert stage.json()["call_type"]["settings"]["backstage"]["enabled"] is True
    assert code(await world.server.post("/call-types", {"name": "stage"})) == (409, "conflict")


async def test_a_9_an_unknown_type_is_no_default(world: World) -> None:
    assert code(await world.as_("alice").put("/calls/defualt/x", {})) == (404, "call_type_not_found")
    assert code(await world.as_("alice").post("/calls/defualt", {})) == (404, "call_type_not_found")
    assert code(await world.server.post("/call-types", {"name": "x", "base": "defualt"})) == (
        404,
        "call_type_not_found",
    )


async def test_a_10_one_id_under_two_types_is_two_calls(world: World) -> None:
    await world.call("default/x", by="alice")
    other = await world.call("livestream/x", by="alice")
    assert other["created"] is True
    assert other["call"]["cid"] == "livestream:x"


async def test_a_14_a_built_in_type_is_changed_but_not_deleted(world: World) -> None:
    changed = await world.server.patch("/call-types/default", {"settings": {"limits": {"max_participants": 5}}})
    assert changed.json()["call_type"]["settings"]["limits"]["max_participants"] == 5
    assert code(await world.server.delete("/call-types/default")) == (409, "conflict")


async def test_a_11_in_an_audio_room_one_asks_to_speak(world: World) -> None:
    await world.call("audio_room/talk", by="host")
    host, dave = world.as_("host"), world.as_("dave")
    assert (await host.put("/calls/audio_room/talk/live")).status_code == 200
    joined = await dave.join("audio_room/talk")
    participant = joined["participant"]
    assert "media.audio" not in joined["own_capabilities"]
    assert world.publish(participant, "microphone") is False
    asked = await dave.post("/calls/audio_room/talk/permission-requests", {"capabilities": ["send-audio"]})
    assert asked.status_code == 201
    request = asked.json()["request"]
    assert request["capabilities"] == ["media.audio"]
    granted = await host.post(f"/calls/audio_room/talk/permission-requests/{request['id']}/grant")
    assert granted.json()["request"]["state"] == "granted"
    assert world.publish(participant, "microphone") is True
    assert world.publish(participant, "camera") is False


async def test_a_12_in_a_livestream_one_watches(world: World) -> None:
    await world.call("livestream/show", by="host")
    await world.as_("host").put("/calls/livestream/show/live")
    joined = await world.as_("dave").join("livestream/show")
    assert joined["participant"]["role"] == "user"
    grant = claims(joined["media"]["token"])["video"]
    assert (grant["canSubscribe"], grant["canPublish"], grant["canPublishSources"]) == (True, False, [])
    for source in ("microphone", "camera", "screen_share"):
        assert world.publish(joined["participant"], source) is False


async def test_a_13_in_development_everybody_may_do_everything(world: World) -> None:
    await world.call("development/lab", by="host")
    mallory = world.as_("mallory")
    await world.as_("host").join("development/lab")
    await world.as_("bob").join("development/lab")
    muted = await mallory.post("/calls/development/lab/participants/mute", {"user_ids": ["bob"], "kinds": ["audio"]})
    assert muted.json()["muted"] == [{"user_id": "bob", "kinds": ["audio"]}]
    assert (await mallory.put("/calls/development/lab/blocks/bob")).status_code == 200
    assert (await mallory.post("/calls/development/lab/end")).json()["call"]["ended_by"] == "mallory"


async def test_a_13_the_development_type_is_refused_unless_enabled(world: World) -> None:
    await world.server.patch("/app", {"development_type_enabled": False})
    assert code(await world.as_("alice").put("/calls/development/lab")) == (409, "feature_disabled")
    assert code(await world.server.get("/calls/development/lab")) == (404, "not_found")
    with capture_logs() as logs:
        await world.server.patch("/app", {"development_type_enabled": True})
    assert "development_type_enabled" in [entry["event"] for entry in logs]
    assert (await world.as_("alice").put("/calls/development/lab")).status_code == 201
