"""Acceptance: reading, changing and deleting calls, and every settings group (A-49 … A-64)."""

from __future__ import annotations

from typing import Any

import pytest

from signaling.api.v1 import upkeep
from signaling.store.database import fetch
from signaling.store.kinds import TASKS
from tests.signaling.api.world import World, code, pointers

CALL = "/calls/default/x"

GROUPS: dict[int, tuple[str, dict[str, Any], dict[str, Any]]] = {
    50: ("ring", {"auto_cancel_timeout_ms": 45_000}, {"missed_call_timeout_ms": 60_000}),
    51: ("audio", {"mic_default_on": False}, {"default_device": "earpiece"}),
    52: ("video", {"camera_facing": "back"}, {"target_resolution": {"width": 640, "bitrate_bps": 600_000}}),
    53: ("screenshare", {"access_request_enabled": False}, {"enabled": False}),
    54: ("recording", {"mode": "disabled"}, {"kind": "audio"}),
    55: ("transcription", {"mode": "disabled"}, {"language": "pt-BR"}),
    56: ("backstage", {"enabled": True}, {"join_ahead_time_seconds": 300}),
    57: ("geofencing", {"names": ["eu", "us"]}, {"names": ["eu"]}),
}


def merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in patch.items():
        result[key] = merged(base[key], value) if isinstance(value, dict) else value
    return result


async def check_group(world: World, number: int) -> None:
    """Set a group at creation, read it back, change it; the type's own values stay as they are."""
    group, first, second = GROUPS[number]
    before = (await world.server.get("/call-types/default")).json()["call_type"]["settings"]
    made = (await world.call("default/x", by="alice", settings={group: first}))["call"]
    expected = merged(before[group], first)
    assert made["settings"][group] == expected
    assert made["settings_overrides"] == {group: first}
    assert {name: value for name, value in made["settings"].items() if name != group} == {
        name: value for name, value in before.items() if name != group
    }
    changed = (await world.as_("alice").patch(CALL, {"settings": {group: second}})).json()["call"]
    assert changed["settings"][group] == merged(expected, second)
    assert (await world.as_("alice").get(CALL)).json()["call"] == changed
    restored = (await world.as_("alice").patch(CALL, {"settings": {group: None}})).json()["call"]
    assert restored["settings"] == before
    assert restored["settings_overrides"] == {}
    assert (await world.server.get("/call-types/default")).json()["call_type"]["settings"] == before


async def test_a_49_what_is_sent_with_the_creation_holds_and_later_needs_the_right(world: World) -> None:
    made = await world.call("default/x", by="alice", custom={"name": "My first call"})
    assert made["call"]["custom"] == {"name": "My first call"}
    again = await world.call("default/x", by="alice", custom={"name": "Other"})
    assert again["call"]["custom"] == {"name": "My first call"}
    changed = await world.as_("alice").patch(CALL, {"custom": {"name": "Other"}})
    assert changed.json()["call"]["custom"] == {"name": "Other"}
    denied = await world.as_("bob").patch(CALL, {"custom": {"name": "Mine"}})
    assert (code(denied), denied.json()["capability"]) == ((403, "missing_capability"), "call.update")


async def test_a_50_ring_settings(world: World) -> None:
    await check_group(world, 50)


async def test_a_51_audio_settings(world: World) -> None:
    await check_group(world, 51)


async def test_a_52_video_settings(world: World) -> None:
    await check_group(world, 52)


async def test_a_53_screenshare_settings(world: World) -> None:
    await check_group(world, 53)


async def test_a_54_recording_settings(world: World) -> None:
    await check_group(world, 54)


async def test_a_55_transcription_settings(world: World) -> None:
    await check_group(world, 55)


async def test_a_56_backstage_settings(world: World) -> None:
    await check_group(world, 56)


async def test_a_57_geofencing_settings(world: World) -> None:
    await check_group(world, 57)


async def test_a_57_a_region_that_no_node_serves_is_an_error(world: World) -> None:
    await world.call("default/x", by="alice", settings={"geofencing": {"names": ["mars"]}})
    refused = await world.as_("alice").post(f"{CALL}/join")
    assert code(refused) == (503, "no_media_node")
    assert (await world.as_("alice").get(CALL)).json()["session"] is None
    await world.as_("alice").patch(CALL, {"settings": {"geofencing": {"names": ["mars", "eu"]}}})
    await world.as_("alice").join("default/x")


@pytest.mark.parametrize(
    ("settings", "pointer"),
    [
        ({"ring": {"auto_cancel_timeout_ms": 4_999}}, "/settings/ring/auto_cancel_timeout_ms"),
        ({"ring": {"auto_cancel_timeout_ms": 180_001}}, "/settings/ring/auto_cancel_timeout_ms"),
        ({"ring": {"auto_cancel_timeout_ms": 30_000.5}}, "/settings/ring/auto_cancel_timeout_ms"),
        ({"ring": {"alone_timeout_seconds": 601}}, "/settings/ring/alone_timeout_seconds"),
        ({"audio": {"mic_default_on": "yes"}}, "/settings/audio/mic_default_on"),
        ({"audio": {"default_device": "headset"}}, "/settings/audio/default_device"),
        ({"video": {"target_resolution": {"width": 159}}}, "/settings/video/target_resolution/width"),
        ({"video": {"target_resolution": 720}}, "/settings/video/target_resolution"),
        ({"recording": {"mode": "auto-on"}}, "/settings/recording/mode"),
        ({"transcription": {"language": "not a language"}}, "/settings/transcription/language"),
        ({"backstage": {"join_ahead_time_seconds": 86_401}}, "/settings/backstage/join_ahead_time_seconds"),
        ({"geofencing": {"names": ["x"] * 17}}, "/settings/geofencing/names"),
        ({"limits": {"max_participants": 0}}, "/settings/limits/max_participants"),
        ({"limits": {"max_duration_seconds": 59}}, "/settings/limits/max_duration_seconds"),
        ({"session": {"reconnect_grace_seconds": 61}}, "/settings/session/reconnect_grace_seconds"),
        ({"lobby": {"timeout_seconds": 9}}, "/settings/lobby/timeout_seconds"),
        ({"chat": {"enabled": True}}, "/settings/chat"),
        ({"video": {"brightness": 3}}, "/settings/video/brightness"),
    ],
)  # fmt: skip
async def test_settings_out_of_range_are_pointed_at(world: World, settings: dict[str, Any], pointer: str) -> None:
    refused = await world.as_("alice").put(CALL, {"settings": settings})
    assert (code(refused), pointers(refused)) == ((422, "unprocessable"), [pointer])
    assert code(await world.server.get(CALL)) == (404, "not_found")
    await world.call("default/x", by="alice")
    refused = await world.as_("alice").patch(CALL, {"settings": settings})
    assert pointers(refused) == [pointer]
    refused = await world.server.patch("/call-types/default", {"settings": settings})
    assert pointers(refused) == [pointer]


async def test_a_58_video_switched_off_stops_cameras(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x"))["participant"]
    assert world.publish(participant, "camera")
    assert world.publish(participant, "microphone")
    bob = await world.listen(world.as_("bob"), "default/x")
    await world.as_("alice").patch(CALL, {"settings": {"video": {"enabled": False}}})
    assert world.published(participant) == {"microphone"}
    assert world.publish(participant, "camera") is False
    frames = bob.frames()
    assert [f["type"] for f in frames] == ["call.capabilities_updated", "call.updated"]
    assert (frames[0]["data"]["removed"], frames[0]["data"]["reason"]) == (["media.video"], "settings_changed")
    assert frames[1]["data"]["paths"] == ["settings.video.enabled"]
    assert frames[1]["data"]["call"]["settings"]["video"]["enabled"] is False
    own = (await world.as_("bob").get(CALL)).json()["own_capabilities"]
    assert "media.video" not in own
    await world.as_("alice").patch(CALL, {"settings": {"video": {"enabled": None}}})
    assert world.publish(participant, "camera") is True


async def test_a_59_screenshare_switched_off_stops_the_share(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x"))["participant"]
    for source in ("screen_share", "screen_share_audio", "camera"):
        assert world.publish(participant, source)
    await world.as_("alice").patch(CALL, {"settings": {"screenshare": {"enabled": False}}})
    assert world.published(participant) == {"camera"}


async def check_modes(world: World, group: str, key: str, plural: str, name: str, disabled: bool) -> None:
    """Disabled is refused, available starts on demand, auto_on with the first participant."""
    await world.call("default/off", by="alice", settings={group: {key: "disabled"}})
    await world.as_("alice").join("default/off")
    if disabled:
        assert code(await world.as_("alice").post(f"/calls/default/off/{plural}")) == (409, "feature_disabled")
    assert (await world.as_("alice").get(f"/calls/default/off/{plural}")).json()["items"] == []
    await world.call("default/on", by="alice", settings={group: {key: "available"}})
    alice = await world.listen(world.as_("alice"), "default/on")
    assert code(await world.as_("alice").post(f"/calls/default/on/{plural}")) == (409, "conflict")
    session = (await world.as_("alice").join("default/on"))["session"]
    started = await world.as_("alice").post(f"/calls/default/on/{plural}")
    assert started.status_code == 201
    capture = started.json()[name]
    assert (capture["state"], capture["failure_reason"], capture["started_by"]) == ("failed", "no_engine", "alice")
    assert (capture["session_id"], capture["files"]) == (session["id"], [])
    told = [f for f in alice.frames() if f["type"].startswith(f"{name}.")]
    assert [f["type"] for f in told] == [f"{name}.starting", f"{name}.failed"]
    assert told[1]["data"][name] == capture
    assert (await world.as_("alice").get(f"/calls/default/on/{plural}")).json()["items"] == [capture]
    await world.call("default/auto", by="alice", settings={group: {key: "auto_on"}})
    assert (await world.as_("alice").get(f"/calls/default/auto/{plural}")).json()["items"] == []
    await world.as_("alice").join("default/auto")
    (automatic,) = (await world.as_("alice").get(f"/calls/default/auto/{plural}")).json()["items"]
    assert automatic["failure_reason"] == "no_engine"


async def test_a_60_recording_has_three_modes(world: World) -> None:
    await check_modes(world, "recording", "mode", "recordings", "recording", True)
    kinds = await world.as_("alice").post("/calls/default/on/recordings", {"kind": "audio", "layout": "speaker"})
    assert (kinds.json()["recording"]["kind"], kinds.json()["recording"]["layout"]) == ("audio", "speaker")
    wrong = await world.as_("alice").post("/calls/default/on/recordings", {"kind": "film"})
    assert pointers(wrong) == ["/kind"]
    assert code(await world.as_("bob").post("/calls/default/on/recordings")) == (403, "missing_capability")


async def test_a_61_transcription_has_three_modes(world: World) -> None:
    await check_modes(world, "transcription", "mode", "transcriptions", "transcription", True)


async def test_a_62_a_deleted_call_is_gone(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x"))["participant"]
    refused = await world.as_("bob").delete(CALL)
    assert (code(refused), refused.json()["capability"]) == ((403, "missing_capability"), "call.delete")
    bob = await world.listen(world.as_("bob"), "default/x")
    deleted = await world.as_("alice").delete(CALL)
    assert deleted.json()["call"]["ongoing"] is False
    assert world.media.closed == [(participant["session_id"], "deleted")]
    frames = bob.frames()
    assert [f["type"] for f in frames] == ["participant.left", "session.ended", "call.deleted", "unsubscribed"]
    assert frames[0]["data"]["reason"] == "call_deleted"
    assert frames[1]["data"]["session"]["end_reason"] == "deleted"
    assert frames[2]["data"] == {"call": deleted.json()["call"]}
    for client in (world.as_("alice"), world.as_("bob"), world.server):
        assert code(await client.get(CALL)) == (404, "not_found")
        assert code(await client.patch(CALL, {"custom": {}})) == (404, "not_found")
    assert code(await world.as_("alice").put(CALL)) == (410, "gone")
    assert code(await world.as_("alice").post("/calls/default", {"id": "x"})) == (410, "gone")


async def test_a_63_hard_deletion_wipes_and_frees_the_id(world: World) -> None:
    made = await world.call("default/x", by="alice")
    alice = await world.listen(world.as_("alice"))
    await world.as_("alice").join("default/x")
    await world.as_("alice").post(f"{CALL}/recordings")
    await world.as_("alice").delete(CALL)
    assert (await world.as_("alice").post("/calls/query", {})).json()["items"] == []
    assert code(await world.as_("alice").delete(CALL, params={"mode": "hard"})) == (404, "not_found")
    reply = await world.server.delete(CALL, params={"mode": "hard"})
    assert reply.status_code == 202
    task_id = reply.json()["task_id"]
    task = (await world.server.get(f"/tasks/{task_id}")).json()["task"]
    assert (task["status"], task["result"], task["error"]) == ("pending", None, None)
    async with world.service.database.read() as connection:
        (pending,) = await fetch(connection, TASKS)
    assert code(await world.as_("alice").get(f"/tasks/{task_id}")) == (403, "missing_capability")
    await world.advance(1)
    # Another process that comes later changes nothing.
    await upkeep._delete_call(world.service, pending)
    task = (await world.server.get(f"/tasks/{task_id}")).json()["task"]
    assert (task["status"], task["result"]) == ("completed", {"deleted": True})
    again = await world.call("default/x", by="bob")
    assert (again["created"], again["call"]["created_by"]) == (True, "bob")
    # The new call's events are numbered anew, for those too who heard the old one's.
    await world.as_("bob").patch(f"{CALL}/members", {"upsert": [{"user_id": "alice", "role": "listener"}]})
    assert [(f["type"], f["seq"], f["prev_seq"]) for f in alice.events()][-1] == ("member.added", 2, 0)
    await world.as_("bob").delete(f"{CALL}/members/alice")
    assert again["call"]["version"] == made["call"]["version"]
    assert [m["user_id"] for m in again["members"]["items"]] == ["bob"]
    assert (await world.as_("bob").get(f"{CALL}/sessions")).json()["items"] == []
    assert (await world.as_("bob").get(f"{CALL}/recordings")).json()["items"] == []


async def test_a_63_hard_deletion_needs_a_server_token(world: World) -> None:
    await world.call("default/x", by="alice")
    refused = await world.as_("alice").delete(CALL, params={"mode": "hard"})
    assert (code(refused), refused.json()["capability"]) == ((403, "missing_capability"), "app.admin")
    assert (await world.as_("alice").get(CALL)).status_code == 200
    bob = await world.listen(world.as_("bob"), "default/x")
    assert (await world.server.delete(CALL, params={"mode": "hard"})).status_code == 202
    assert bob.types() == ["call.deleted", "unsubscribed"]
    assert code(await world.as_("alice").get(CALL)) == (404, "not_found")
    wrong = await world.server.delete(CALL, params={"mode": "very"})
    assert code(wrong) == (404, "not_found")


async def test_a_64_reading_needs_the_capability(world: World) -> None:
    await world.call("default/x", by="alice")
    await world.server.patch("/call-types/default/grants", {"user": {"remove": ["read-call"]}})
    refused = await world.as_("bob").get(CALL)
    assert (code(refused), refused.json()["capability"]) == ((403, "missing_capability"), "call.read")
    assert code(await world.as_("bob").put(CALL)) == (403, "missing_capability")
    assert (await world.as_("bob").post("/calls/query", {})).json()["items"] == []
    assert (await world.as_("alice").get(CALL)).status_code == 200
    assert code(await world.anonymous("default:x").get(CALL)) == (403, "missing_capability")
    assert code(await world.as_("bob").get("/calls/default/other")) == (404, "not_found")


async def test_a_change_can_demand_the_version_it_is_based_on(world: World) -> None:
    await world.call("default/x", by="alice")
    read = await world.as_("alice").get(CALL)
    tag = {"if-match": read.headers["etag"]}
    first = await world.as_("alice").patch(CALL, {"custom": {"a": 1}}, headers=tag)
    assert (first.status_code, first.json()["call"]["version"], first.headers["etag"]) == (200, 2, '"2"')
    second = await world.as_("alice").patch(CALL, {"custom": {"a": 2}}, headers=tag)
    assert code(second) == (412, "version_mismatch")
    assert (await world.as_("alice").get(CALL)).json()["call"]["custom"] == {"a": 1}
    assert (await world.as_("alice").patch(CALL, {"custom": {"a": 3}}, headers={"if-match": "*"})).status_code == 200


async def test_a_change_of_nothing_tells_nobody(world: World) -> None:
    await world.call("default/x", by="alice", custom={"a": 1})
    alice = await world.listen(world.as_("alice"))
    same = await world.as_("alice").patch(CALL, {"custom": {"a": 1}, "settings": {"video": {"enabled": None}}})
    assert same.json()["call"]["version"] == 1
    assert alice.frames() == []
    both = await world.as_("alice").patch(CALL, {"starts_at": "2026-02-01T10:00:00+02:00"})
    assert both.json()["call"]["starts_at"] == "2026-02-01T08:00:00.000Z"
    assert [f["data"]["paths"] for f in alice.only("call.updated")] == [["starts_at"]]
    naive = await world.as_("alice").patch(CALL, {"starts_at": "2026-02-01T10:00:00"})
    assert pointers(naive) == ["/starts_at"]


async def test_t_10_a_deleted_call_takes_its_recordings_along(world: World) -> None:
    await world.call("default/x", by="alice")
    await world.as_("alice").join("default/x")
    recording = (await world.as_("alice").post(f"{CALL}/recordings")).json()["recording"]
    assert recording["files"] == []
    await world.as_("alice").delete(CALL)
    for client in (world.as_("alice"), world.server):
        for path in ("recordings", f"recordings/{recording['id']}", f"recordings/{recording['id']}/active"):
            method = "GET" if path == "recordings" else "DELETE"
            assert code(await client.request(method, f"{CALL}/{path}")) == (404, "not_found")
    await world.server.delete(CALL, params={"mode": "hard"})
    await world.advance(1)
    async with world.service.database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM captures")).scalar() == 0
