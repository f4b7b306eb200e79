"""Acceptance: joining, media tokens, moderation of who is inside (A-65 … A-70), traps T-1 … T-5, T-8."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select

from signaling.api.v1.service import SYSTEM
from signaling.calls.media import Allow, Permission, Refuse
from signaling.calls.settings import CallsSettings
from signaling.calls.state import Turn
from signaling.store import schema
from tests.signaling.api.world import World, claims, code, pointers
from tests.signaling.events.gateways import Received, gateway

CALL = "/calls/default/x"


async def test_a_65_the_first_join_starts_a_session_and_others_hear_of_it(world: World) -> None:
    await world.call("default/x", by="alice")
    alice = await world.listen(world.as_("alice"), "default/x")
    first = await world.as_("alice").join("default/x")
    session = first["session"]
    assert (session["cid"], session["ended_at"], session["expires_at"]) == ("default:x", None, None)
    assert list(world.media.rooms) == [session["id"]]
    bob = await world.as_("bob").join("default/x", device="tablet")
    assert bob["session"]["id"] == session["id"]
    frames = alice.frames()
    assert [f["type"] for f in frames] == ["session.started", "participant.joined", "participant.joined"]
    assert [f["session_id"] for f in frames] == [session["id"]] * 3
    assert [f["data"].get("participant_count") for f in frames] == [None, 1, 2]
    told = frames[2]["data"]["participant"]
    assert (told["identity"], told["name"], told["state"], told["hidden"]) == ("bob:tablet", "bob", "joined", False)
    shown = (await world.as_("alice").get(CALL)).json()
    assert (shown["call"]["ongoing"], shown["call"]["session_id"]) == (True, session["id"])
    assert shown["call"]["participant_count"] == shown["session"]["participant_count"] == 2


async def test_the_join_hook_waits_for_no_webhook(database_url: str) -> None:
    """Over HTTP/2 all requests to one server share a connection, and one of a hundred that hang is the last."""

    def answer(request: Received) -> tuple[int, None]:
        return (204 if request.json["user_id"] == "alice" else 403), None

    async with gateway(answer) as application:
        world = await World.open(database_url, settings=CallsSettings(before_join_url=application.url))
        await world.call("default/x", by="alice")
        # Whatever becomes of those connections.
        await world.service.outbound.close()
        await world.as_("alice").join("default/x")
        assert code(await world.as_("bob").post(f"{CALL}/join")) == (403, "missing_capability")
        assert [request.json["type"] for request in application.received] == ["before_join"] * 2
        await world.close()


async def test_a_65_the_reply_has_all_that_media_needs(world: World) -> None:
    await world.users("bob")
    await world.call("default/x", by="alice")
    joined = await world.as_("bob").join("default/x", connect=False)
    participant, media = joined["participant"], joined["media"]
    assert (participant["state"], participant["joined_at"]) == ("connecting", None)
    assert participant["capabilities"] == joined["own_capabilities"]
    assert media["url"] == "wss://media.example.com"
    assert media["ice_servers"] == [{"urls": ["turn:media.example.com"], "username": "u", "credential": "c"}]
    token = claims(media["token"])
    assert (token["sub"], token["name"], token["video"]["room"]) == ("bob:phone", "Bob", joined["session"]["id"])
    assert token["video"] == {
        "roomJoin": True,
        "room": joined["session"]["id"],
        "canSubscribe": True,
        "canPublish": True,
        "canPublishSources": ["microphone", "camera", "screen_share", "screen_share_audio"],
        "canPublishData": True,
        "hidden": False,
    }
    assert media["expires_at"] == "2026-01-01T09:10:00.000Z"
    assert token["exp"] == int((world.clock.now + timedelta(minutes=10)).timestamp())
    assert joined["call"]["participant_count"] == 0
    # Who never connects is forgotten after 20 s, and nobody has heard of him.
    listener = await world.listen(world.as_("alice"), "default/x")
    await world.advance(20)
    assert listener.frames() == []
    assert (await world.as_("alice").get(f"{CALL}/participants")).json()["items"] == []


async def test_a_66_who_is_no_member_joins_as_a_user(world: World) -> None:
    await world.call("default/x", by="alice")
    joined = await world.as_("bob").join("default/x")
    granted = (await world.server.get("/call-types/default")).json()["call_type"]["grants"]
    assert joined["participant"]["role"] == "user"
    assert joined["own_capabilities"] == granted["user"]
    await world.users("mona", role="moderator")
    mona = await world.as_("mona").join("default/x")
    assert (mona["participant"]["role"], mona["own_capabilities"]) == ("moderator", granted["moderator"])


async def test_a_67_a_refusal_names_what_is_missing_and_gives_no_token(world: World) -> None:
    await world.call("default/x", by="alice")
    await world.server.patch("/call-types/default/grants", {"user": {"remove": ["JoinCall"]}})
    refused = await world.as_("bob").post(f"{CALL}/join")
    assert code(refused) == (403, "missing_capability")
    problem = refused.json()
    assert problem["capability"] == "call.join"
    assert problem["type"] == "https://docs.example.org/errors/missing_capability"
    assert problem["request_id"] == refused.headers["x-request-id"]
    assert "token" not in refused.text
    assert (await world.as_("alice").get(CALL)).json()["session"] is None
    assert world.media.rooms == {}


async def test_a_68_a_call_that_is_not_there_is_made_only_if_asked(world: World) -> None:
    assert code(await world.as_("alice").post("/calls/default/new/join")) == (404, "not_found")
    joined = await world.as_("alice").join("default/new", create=True)
    assert (joined["call"]["created_by"], joined["participant"]["role"]) == ("alice", "admin")
    assert code(await world.as_("alice").post("/calls/nothing/new/join", {"create": True})) == (
        404,
        "call_type_not_found",
    )
    wrong = await world.as_("alice").post("/calls/default/new2/join", {"create": True, "device_id": "a b"})
    assert (code(wrong), pointers(wrong)) == ((422, "unprocessable"), ["/device_id"])


async def test_a_69_a_member_joins_with_his_role(world: World) -> None:
    await world.users("bob", "carl", role="moderator")
    await world.call("default/x", by="alice", members=[{"user_id": "bob", "role": "listener"}])
    bob = await world.as_("bob").join("default/x")
    assert bob["participant"]["role"] == "listener"
    assert bob["own_capabilities"] == ["call.join", "call.read", "event.send", "reaction.send"]
    grant = claims(bob["media"]["token"])["video"]
    assert (grant["canPublish"], grant["canSubscribe"], grant["canPublishData"]) == (False, True, True)


async def test_a_70_blocked_a_valid_media_token_opens_nothing(world: World) -> None:
    await world.users("bob")
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x"))["participant"]
    alice, bob = await world.listen(world.as_("alice"), "default/x"), await world.listen(world.as_("bob"), "default/x")
    blocked = await world.as_("alice").put(f"{CALL}/blocks/bob", {"reason": "spam"})
    assert blocked.json()["block"]["user_id"] == "bob"
    assert (blocked.json()["block"]["blocked_by"], blocked.json()["block"]["expires_at"]) == ("alice", None)
    assert world.media.removed == [(participant["session_id"], "bob:phone", "blocked")]
    verdict = await world.system.feed.admit(participant["session_id"], "bob:phone")
    assert isinstance(verdict, Refuse)
    assert [f["data"]["reason"] for f in alice.only("participant.left")] == ["blocked"]
    assert [f["type"] for f in bob.frames()][-1] == "unsubscribed"
    for attempt in (
        world.as_("bob").post(f"{CALL}/join"),
        world.as_("bob").get(CALL),
        world.as_("bob").put(CALL),
        world.as_("bob").post(f"{CALL}/media-token", {"participant_id": participant["id"]}),
        world.as_("bob").patch(CALL, {"nonsense": 1}),
    ):
        assert code(await attempt) == (403, "blocked")
    assert (await world.as_("alice").get(f"{CALL}/blocks")).json()["items"] == [blocked.json()["block"]]
    assert (await world.as_("alice").delete(f"{CALL}/blocks/bob")).status_code == 204
    assert (await world.as_("bob").join("default/x"))["participant"]["id"] != participant["id"]


async def test_a_block_ends_at_its_time(world: World) -> None:
    await world.users("bob")
    await world.call("default/x", by="alice")
    bob = await world.listen(world.as_("bob"))
    await world.as_("alice").put(f"{CALL}/blocks/bob", {"expires_at": "2026-01-01T09:10:00Z"})
    await world.advance(599)
    assert code(await world.as_("bob").get(CALL)) == (403, "blocked")
    await world.advance(1)
    assert (await world.as_("bob").get(CALL)).status_code == 200
    assert bob.types() == ["participant.blocked", "participant.unblocked"]
    past = await world.as_("alice").put(f"{CALL}/blocks/bob", {"expires_at": "2026-01-01T09:00:00Z"})
    assert pointers(past) == ["/expires_at"]
    assert code(await world.as_("bob").put(f"{CALL}/blocks/alice")) == (403, "missing_capability")


async def test_a_ban_holds_in_every_call(world: World) -> None:
    await world.users("bob")
    await world.call("default/x", by="alice", members=["bob"])
    participant = (await world.as_("bob").join("default/x"))["participant"]
    bob = await world.listen(world.as_("bob"), "default/x")
    assert (await world.server.put("/bans/bob", {"reason": "spam"})).json()["ban"]["user_id"] == "bob"
    assert world.media.removed == [(participant["session_id"], "bob:phone", "blocked")]
    assert code(await world.as_("bob").get(CALL)) == (403, "banned")
    assert code(await world.as_("bob").put("/calls/default/mine")) == (403, "banned")
    bob.frames()
    await world.as_("alice").patch(CALL, {"custom": {"secret": 1}})
    assert bob.frames() == []
    assert (await world.server.delete("/bans/bob")).status_code == 204
    assert (await world.as_("bob").get(CALL)).status_code == 200


async def test_kicked_one_may_come_back_unless_blocked(world: World) -> None:
    await world.call("default/x", by="alice")
    await world.as_("bob").join("default/x")
    bob = await world.listen(world.as_("bob"))
    assert code(await world.as_("bob").post(f"{CALL}/participants/alice/kick")) == (403, "missing_capability")
    assert (await world.as_("alice").post(f"{CALL}/participants/bob/kick")).status_code == 204
    assert [f["type"] for f in bob.frames()] == ["participant.kicked"]
    assert world.media.removed[-1][2] == "kicked"
    assert code(await world.as_("alice").post(f"{CALL}/participants/bob/kick")) == (404, "not_found")
    await world.as_("bob").join("default/x")
    await world.as_("alice").post(f"{CALL}/participants/bob/kick", {"block": True})
    assert code(await world.as_("bob").post(f"{CALL}/join")) == (403, "blocked")
    attended = (await world.as_("alice").get(f"{CALL}/sessions/{world.media.removed[0][0]}/attendance")).json()["items"]
    assert [p["left_reason"] for p in attended] == ["kicked", "kicked"]


async def test_muting_reaches_the_tracks_and_never_unmutes(world: World) -> None:
    await world.call("default/x", by="alice")
    for name in ("alice", "bob", "carl"):
        await world.as_(name).join("default/x")
    bob = await world.listen(world.as_("bob"))
    path = f"{CALL}/participants/mute"
    reply = await world.as_("alice").post(path, {"all": True, "kinds": ["screen", "audio"], "except": ["carl"]})
    assert reply.json() == {"muted": [{"user_id": "bob", "kinds": ["audio", "screen"]}]}
    (muted,) = world.media.muted
    assert muted[1:] == ("bob:phone", ("microphone", "screen_share", "screen_share_audio"))
    assert [f["data"] for f in bob.only("participant.muted")] == [{"user_id": "bob", "kinds": ["audio", "screen"]}]
    assert code(await world.as_("bob").post(path, {"all": True, "kinds": ["audio"]})) == (403, "missing_capability")
    for body, pointer in (
        ({"kinds": ["audio"]}, "/user_ids"),
        ({"all": True, "user_ids": ["bob"], "kinds": ["audio"]}, "/user_ids"),
        ({"all": True, "kinds": ["smell"]}, "/kinds/0"),
        ({"all": True, "kinds": []}, "/kinds"),
    ):
        assert pointers(await world.as_("alice").post(path, body)) == [pointer]


async def test_a_full_call_takes_nobody_more_but_the_same_device_again(world: World) -> None:
    await world.call("default/x", by="alice", settings={"limits": {"max_participants": 1}})
    first = await world.as_("alice").join("default/x")
    assert code(await world.as_("bob").post(f"{CALL}/join")) == (409, "call_full")
    again = await world.as_("alice").join("default/x")
    assert again["participant"]["id"] != first["participant"]["id"]


async def test_an_ended_call_is_joined_by_nobody_until_reopened(world: World) -> None:
    await world.call("default/x", by="alice", members=[])
    await world.as_("bob").join("default/x")
    bob = await world.listen(world.as_("bob"), "default/x")
    ended = (await world.as_("alice").post(f"{CALL}/end")).json()["call"]
    assert (ended["ended_at"], ended["ended_by"], ended["ongoing"]) == ("2026-01-01T09:00:00.000Z", "alice", False)
    assert [f["type"] for f in bob.frames() if f["type"] != "call.capabilities_updated"] == [
        "participant.left",
        "session.ended",
        "call.ended",
    ]
    assert (await world.as_("alice").post(f"{CALL}/end")).json()["call"] == ended
    assert code(await world.as_("bob").post(f"{CALL}/join")) == (409, "call_ended")
    assert "call.join" not in (await world.as_("bob").get(CALL)).json()["own_capabilities"]
    assert (await world.as_("bob").put(CALL)).status_code == 200
    assert code(await world.as_("bob").post(f"{CALL}/reopen")) == (403, "missing_capability")
    await world.as_("alice").join("default/x")
    reopened = (await world.as_("alice").post(f"{CALL}/reopen")).json()["call"]
    assert (reopened["ended_at"], reopened["ended_by"]) == (None, None)
    await world.as_("bob").join("default/x")


async def test_a_call_that_is_reopened_gives_back_at_once_what_its_end_took(world: World) -> None:
    await world.users("bob")
    await world.call("default/x", by="alice", members=[{"user_id": "bob", "role": "host"}])
    await world.as_("alice").post(f"{CALL}/end")
    grants = "/call-types/default/grants"
    await world.server.patch(grants, {"host": {"add": ["call.join_ended"]}})
    participant = (await world.as_("bob").join("default/x"))["participant"]
    assert world.publish(participant, "microphone")
    await world.server.patch(grants, {"host": {"remove": ["call.join_ended"]}})
    assert not world.publish(participant, "microphone")
    await world.as_("alice").post(f"{CALL}/reopen")
    assert world.publish(participant, "microphone")


async def test_t_1_the_sfu_asks_at_every_connect(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x"))["participant"]
    room = participant["session_id"]
    feed = world.system.feed
    assert not isinstance(await feed.admit(room, "bob:phone"), Refuse)
    assert isinstance(await feed.admit(room, "bob:tablet"), Refuse)
    assert isinstance(await feed.admit("another-room", "bob:phone"), Refuse)
    await world.as_("bob").post(f"{CALL}/leave", {"participant_id": participant["id"]})
    assert isinstance(await feed.admit(room, "bob:phone"), Refuse)
    await world.as_("bob").join("default/x")
    await world.as_("alice").post(f"{CALL}/end")
    assert isinstance(await feed.admit(room, "bob:phone"), Refuse)


def test_t_2_without_a_media_capability_nothing_may_be_published() -> None:
    grant = Permission(frozenset({"call.join"}), hidden=False, version=1).video_grant("room")
    assert (grant["canPublish"], grant["canPublishSources"]) == (False, [])
    audio = Permission(frozenset({"call.join", "media.audio"}), hidden=False, version=1).video_grant("room")
    assert (audio["canPublish"], audio["canPublishSources"]) == (True, ["microphone"])


async def test_t_3_a_change_of_rights_carries_the_whole_set_with_a_rising_version(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x"))["participant"]
    for settings in ({"video": {"enabled": False}}, {"screenshare": {"enabled": False}}, {"video": None}):
        await world.as_("alice").patch(CALL, {"settings": settings})
    rejoined = (await world.as_("bob").join("default/x"))["participant"]
    await world.as_("alice").patch(CALL, {"settings": {"screenshare": None}})
    updates = [(identity, p.version, p.sources) for _, identity, p in world.media.updates if identity == "bob:phone"]
    assert updates == [
        ("bob:phone", 2, ("microphone", "screen_share", "screen_share_audio")),
        ("bob:phone", 3, ("microphone",)),
        ("bob:phone", 4, ("microphone", "camera")),
        ("bob:phone", 6, ("microphone", "camera", "screen_share", "screen_share_audio")),
    ]
    assert rejoined["id"] != participant["id"]


async def _rights(world: World) -> list[str]:
    """Return of whom the call knows rights in the session; in memory and in the store it is the same."""
    loaded = world.service.calls.remembered("livestream", "x")
    assert loaded is not None
    async with world.service.database.read() as connection:
        rows = await connection.execute(select(schema.rights.c.user_id))
        stored = sorted(row.user_id for row in rows)
    assert sorted(loaded.state.rights) == stored
    return stored


async def test_nothing_is_kept_of_the_many_who_came_and_went(world: World) -> None:
    await world.call("livestream/x", by="alice", settings={"backstage": {"enabled": False}})
    await world.as_("alice").join("livestream/x")
    viewer = world.anonymous("livestream:x")
    for number in range(50):
        joined = await viewer.join("livestream/x")
        await world.vanish(joined["participant"], clean=bool(number % 2))
    assert len(await _rights(world)) == 26
    await world.advance(15)
    assert await _rights(world) == ["alice"]


async def test_what_was_granted_outlasts_a_visit(world: World) -> None:
    await world.call("livestream/x", by="alice", settings={"backstage": {"enabled": False}})
    await world.as_("alice").join("livestream/x")
    carl, dave = [(await world.as_(name).join("livestream/x"))["participant"] for name in ("carl", "dave")]
    path = "/calls/livestream/x/participants/dave/capabilities"
    told = (await world.as_("alice").patch(path, {"grant": ["media.audio"]})).json()["version"]
    for participant in (carl, dave):
        await world.vanish(participant, clean=True)
    assert await _rights(world) == ["alice", "dave"]
    assert "media.audio" in (await world.as_("dave").join("livestream/x"))["own_capabilities"]
    assert (await world.as_("alice").patch(path, {"revoke": ["media.audio"]})).json()["version"] > told


async def test_a_viewer_who_is_removed_and_comes_again_at_once_is_let_in(world: World) -> None:
    """The media side lets nobody in by a version that is not above the one he was removed with."""
    call, settings = "/calls/livestream/x", {"lobby": {"enabled": True}, "backstage": {"enabled": False}}
    await world.call("livestream/x", by="alice", settings=settings)
    await world.as_("alice").join("livestream/x")
    viewer = world.anonymous("livestream:x")
    entry = (await viewer.post(f"{call}/join")).json()["lobby"]
    await world.as_("alice").post(f"{call}/lobby/{entry['id']}/admit")
    versions = []
    for _ in range(3):
        participant = (await viewer.join("livestream/x", resume=entry["id"]))["participant"]
        verdict = await world.system.feed.admit(participant["session_id"], participant["identity"])
        assert isinstance(verdict, Allow)
        versions.append(verdict.permission.version)
        assert (await world.as_("alice").post(f"{call}/participants/{entry['user_id']}/kick")).status_code == 204
        assert await _rights(world) == ["alice"]
    assert versions == sorted(set(versions))


async def test_versions_of_a_session_that_began_before_they_were_counted_go_on(world: World) -> None:
    await world.call("livestream/x", by="alice", settings={"backstage": {"enabled": False}})
    await world.as_("alice").join("livestream/x")
    bob = (await world.as_("bob").join("livestream/x"))["participant"]

    def as_it_was(turn: Turn) -> None:
        turn.change_session(permissions=0)
        turn.put("rights", "bob", turn.state.rights["bob"], permission_version=7)

    await world.service.operate(SYSTEM, "livestream", "x", as_it_was)
    await world.vanish(bob, clean=True)
    assert await _rights(world) == ["alice"]
    await world.as_("bob").join("livestream/x")
    verdict = await world.system.feed.admit(bob["session_id"], bob["identity"])
    assert isinstance(verdict, Allow)
    assert verdict.permission.version == 8


async def test_t_4_two_devices_are_two_and_the_same_device_replaces_itself(world: World) -> None:
    await world.call("default/x", by="alice")
    alice = await world.listen(world.as_("alice"), "default/x")
    phone = (await world.as_("bob").join("default/x", device="phone"))["participant"]
    await world.as_("bob").join("default/x", device="tablet")
    assert world.media.removed == []
    again = (await world.as_("bob").join("default/x", device="phone"))["participant"]
    assert again["identity"] == phone["identity"] == "bob:phone"
    assert [(f["data"]["participant"]["id"], f["data"]["reason"]) for f in alice.only("participant.left")] == [
        (phone["id"], "replaced")
    ]
    assert len((await world.as_("alice").get(f"{CALL}/participants")).json()["items"]) == 2
    # What the old connection reports late does not touch the new one.
    connecting = (await world.as_("bob").join("default/x", device="phone", connect=False))["participant"]
    await world.system.feed.participant_left(connecting["session_id"], "bob:phone", clean=True)
    await world.connect(connecting)
    states = {p["id"]: p["state"] for p in (await world.as_("alice").get(f"{CALL}/participants")).json()["items"]}
    assert states[connecting["id"]] == "joined"


async def test_t_5_a_stale_token_makes_no_room(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("alice").join("default/x"))["participant"]
    await world.as_("alice").post(f"{CALL}/end")
    verdict = await world.system.feed.admit(participant["session_id"], participant["identity"])
    assert isinstance(verdict, Refuse)
    assert verdict.code == "not_found"
    assert world.media.rooms == {}


async def test_t_8_without_a_node_there_is_no_session(world: World) -> None:
    await world.call("default/x", by="alice")
    world.media.available = False
    refused = await world.as_("alice").post(f"{CALL}/join")
    assert code(refused) == (503, "no_media_node")
    assert "retry-after" in refused.headers
    assert (await world.as_("alice").get(CALL)).json()["session"] is None
    assert [e.type for e in await world.recorded("default:x")] == ["call.created"]
    world.media.available = True
    await world.as_("alice").join("default/x")


async def test_a_media_token_is_renewed_while_one_may_be_there(world: World) -> None:
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x"))["participant"]
    await world.advance(300)
    path, body = f"{CALL}/media-token", {"participant_id": participant["id"]}
    media = (await world.as_("bob").post(path, body)).json()["media"]
    assert media["expires_at"] == "2026-01-01T09:15:00.000Z"
    assert claims(media["token"])["sub"] == "bob:phone"
    assert code(await world.as_("carl").post(path, body)) == (404, "not_found")
    assert code(await world.as_("bob", ceiling=["call.read"]).post(path, body)) == (403, "missing_capability")


async def test_hidden_are_only_app_admins_and_others_do_not_see_them(world: World) -> None:
    await world.users("root", role="admin")
    await world.call("default/x", by="alice")
    assert code(await world.as_("alice").post(f"{CALL}/join", {"hidden": True})) == (403, "missing_capability")
    bob = await world.listen(world.as_("bob"), "default/x")
    await world.as_("bob").join("default/x")
    bob.frames()
    joined = await world.as_("root").join("default/x", hidden=True)
    assert claims(joined["media"]["token"])["video"]["hidden"] is True
    assert bob.frames() == []
    page = (await world.as_("bob").get(f"{CALL}/participants")).json()["items"]
    assert [(p["user_id"], p["capabilities"] is not None) for p in page] == [("bob", True)]
    assert (await world.as_("bob").get(CALL)).json()["call"]["participant_count"] == 1
    seen = (await world.as_("root").get(f"{CALL}/participants")).json()["items"]
    assert sorted(p["user_id"] for p in seen) == ["bob", "root"]
    await world.vanish(joined["participant"], clean=True)
    assert bob.frames() == []
