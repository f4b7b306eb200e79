"""Lines of captions (`captions.text`), and the figures of an ended session (`stats.ready`)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.signaling.api.world import World, code

CALL = "/calls/default/x"
TEXT = f"{CALL}/captions/text"


@pytest.fixture
async def meeting(world: World) -> World:
    """Alice is admin, bob a plain user; both are in the session."""
    await world.call("default/x", by="alice")
    for user in ("alice", "bob"):
        await world.as_(user).join("default/x")
    return world


async def test_a_line_reaches_participants_and_watchers_and_is_not_replayed(meeting: World) -> None:
    bob = await meeting.listen(meeting.as_("bob"))
    watcher = await meeting.listen(meeting.as_("dave"), "default/x")
    outside = await meeting.listen(meeting.as_("eve"))
    before = (await meeting.recorded("default:x"))[-1].seq
    reply = await meeting.as_("alice").post(TEXT, {"text": "Good morning.", "language": "en", "final": False})
    line = {"user_id": "alice", "text": "Good morning.", "language": "en", "final": False}
    assert (reply.status_code, reply.json()) == (200, {"caption": line})
    for listener in (bob, watcher):
        (event,) = listener.events()
        assert (event["type"], event["data"], event["seq"], event["prev_seq"]) == ("captions.text", line, None, None)
    assert outside.events() == []
    await meeting.as_("alice").patch(CALL, {"custom": {"n": 1}})
    assert (await meeting.recorded("default:x"))[-1].seq == (before or 0) + 1


@pytest.mark.parametrize(("setting", "shown"), [("auto", None), ("de-CH", "de-CH")])
async def test_the_calls_language_stands_where_the_line_has_none(meeting: World, setting: str, shown: Any) -> None:
    await meeting.as_("alice").patch(CALL, {"settings": {"transcription": {"language": setting}}})
    caption = (await meeting.as_("alice").post(TEXT, {"text": "Grüezi"})).json()["caption"]
    assert (caption["language"], caption["final"]) == (shown, True)


async def test_a_transcriber_says_whose_words_they_are(meeting: World) -> None:
    reply = await meeting.server.post(TEXT, {"text": "Hello.", "user_id": "bob"})
    assert reply.json()["caption"]["user_id"] == "bob"
    nobody = await meeting.server.post(TEXT, {"text": "Hello."})
    assert (code(nobody), nobody.json()["errors"][0]["pointer"]) == ((422, "unprocessable"), "/user_id")
    absent = await meeting.server.post(TEXT, {"text": "Hello.", "user_id": "eve"})
    assert absent.json()["errors"][0] | {"detail": ""} == {"pointer": "/user_id", "code": "unknown_user", "detail": ""}


async def test_captions_are_refused_where_they_do_not_belong(meeting: World) -> None:
    assert code(await meeting.as_("bob").post(TEXT, {"text": "Hello."})) == (403, "missing_capability")
    for body in ({"text": ""}, {"text": "a" * 2_049}, {"text": "a", "language": "no language"}, {}):
        assert code(await meeting.as_("alice").post(TEXT, body)) == (422, "unprocessable")
    await meeting.as_("alice").patch(CALL, {"settings": {"transcription": {"captions_mode": "disabled"}}})
    assert code(await meeting.as_("alice").post(TEXT, {"text": "Hello."})) == (409, "feature_disabled")
    await meeting.call("default/idle", by="alice")
    idle = await meeting.server.post("/calls/default/idle/captions/text", {"text": "Hello.", "user_id": "alice"})
    assert code(idle) == (409, "conflict")


async def test_webhooks_get_captions_only_by_name(meeting: World) -> None:
    hooks = {}
    for name, events in (("all", ["*"]), ("group", ["captions.*"]), ("named", ["captions.text"])):
        reply = await meeting.server.post("/webhooks", {"url": f"http://127.0.0.1:9/{name}", "events": events})
        hooks[name] = reply.json()["webhook"]["id"]
    await meeting.as_("alice").post(TEXT, {"text": "Hello."})
    for name, id_ in hooks.items():
        owed = (await meeting.server.get(f"/webhooks/{id_}/deliveries")).json()["items"]
        assert [delivery["type"] for delivery in owed] == (["captions.text"] if name == "named" else [])


async def test_stats_are_ready_when_a_session_has_ended(meeting: World) -> None:
    alice = await meeting.listen(meeting.as_("alice"))
    reply = await meeting.server.post("/webhooks", {"url": "http://127.0.0.1:9/", "events": ["stats.ready"]})
    await meeting.as_("alice").post(f"{CALL}/end")
    (ready,) = [event for event in await meeting.recorded("default:x") if event.type == "stats.ready"]
    session_id = ready.data["session"]["id"]
    assert (ready.session_id, ready.data["session"]["end_reason"]) == (session_id, "ended_by")
    stats = (await meeting.server.get(f"{CALL}/sessions/{session_id}/stats")).json()["stats"]
    assert (stats["participants"], stats["left_reasons"]) == (2, {"call_ended": 2})
    owed = await meeting.server.get(f"/webhooks/{reply.json()['webhook']['id']}/deliveries")
    assert [delivery["type"] for delivery in owed.json()["items"]] == ["stats.ready"]
    assert "stats.ready" not in alice.types()
