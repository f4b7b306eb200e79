"""Name, metadata, attributes and permission: changed by oneself or by an administrator, and what follows."""

from __future__ import annotations

import pytest
from livekit.protocol import room as api
from livekit.protocol import rtc

from signaling.errors import InvalidRequest, TooLarge
from tests.signaling.rooms.world import CAMERA, VIDEO, Client, World, without_permission

RESPONSES = rtc.RequestResponse.Reason


def change(client: Client, **values: object) -> rtc.RequestResponse:
    client.say(update_metadata=rtc.UpdateParticipantMetadata(request_id=9, **values))  # type: ignore[arg-type]
    response: rtc.RequestResponse = client.heard("request_response")[-1]
    assert response.request_id == 9
    return response


def administer(world: World, identity: str, **values: object) -> None:
    request = api.UpdateParticipantRequest(identity=identity, **values)  # type: ignore[arg-type]
    world.apply(world.room.update_participant(request, world.now))
    world.settle()


def test_a_change_is_answered_told_to_all_and_put_into_a_fresh_token(world: World) -> None:
    alice, bob = world.join("alice", can_update_own_metadata=True, attributes={"a": "1", "b": "2"}), world.join("bob")
    tokens = len(alice.tokens)
    assert change(alice, metadata="m", name="A", attributes={"b": "", "c": "3"}).reason == RESPONSES.OK
    for people in (alice.people, bob.people):
        info = people[alice.sid]
        assert (info.metadata, info.name, dict(info.attributes)) == ("m", "A", {"a": "1", "c": "3"})
    assert len(alice.tokens) == tokens + 1
    assert (alice.tokens[-1].metadata, alice.tokens[-1].attributes) == ("m", {"a": "1", "c": "3"})


def test_what_is_empty_changes_nothing(world: World) -> None:
    alice = world.join("alice", can_update_own_metadata=True, name="A", metadata="m", attributes={"a": "1"})
    assert change(alice).reason == RESPONSES.OK
    info = alice.people[alice.sid]
    assert (info.name, info.metadata, dict(info.attributes)) == ("A", "m", {"a": "1"})


def test_without_the_right_nothing_changes_and_the_client_is_told(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    bob.forget()
    response = change(alice, metadata="m", attributes={"role": "host"})
    assert (response.reason, response.update_metadata.metadata) == (RESPONSES.NOT_ALLOWED, "m")
    assert bob.inbox == []
    assert alice.record.metadata == ""


@pytest.mark.parametrize(
    "values", [{"metadata": "x" * 70_000}, {"name": "x" * 300}, {"attributes": {"a": "x" * 70_000}}, {"name": "a\nb"}]
)
def test_too_much_is_refused_as_a_whole(world: World, values: dict[str, object]) -> None:
    """S-49"""
    alice = world.join("alice", can_update_own_metadata=True)
    response = change(alice, **{"metadata": "m", **values})
    assert response.reason == RESPONSES.LIMIT_EXCEEDED
    assert response.message
    assert (alice.record.metadata, alice.record.name, alice.record.attributes) == ("", "", {})


def test_attributes_are_measured_together_with_those_there_are(world: World) -> None:
    alice = world.join("alice", can_update_own_metadata=True)
    assert change(alice, attributes={"a": "x" * 40_000}).reason == RESPONSES.OK
    assert change(alice, attributes={"b": "x" * 40_000}).reason == RESPONSES.LIMIT_EXCEEDED
    assert change(alice, attributes={"a": "", "b": "x" * 40_000}).reason == RESPONSES.OK


def test_an_administrator_changes_without_asking_for_rights(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    administer(world, "alice", metadata="m", name="A", attributes={"a": "1"})
    assert bob.people[alice.sid].metadata == alice.people[alice.sid].metadata == "m"
    assert not alice.heard("request_response")
    with pytest.raises(TooLarge):
        administer(world, "alice", metadata="x" * 70_000)
    with pytest.raises(InvalidRequest):
        administer(world, "alice", name="\x00")
    assert alice.record.metadata == "m"


def test_a_permission_taken_away_ends_what_it_allowed(world: World) -> None:
    """S-65"""
    alice, bob = world.join("alice"), world.join("bob")
    audio = alice.publish_audio().sid
    video = alice.publish_video().sid
    permission = without_permission(alice.grants, can_publish_sources=("microphone",))
    administer(world, "alice", permission=permission)
    assert [message.track_sid for message in alice.heard("track_unpublished")] == [video]
    assert [track.sid for track in bob.people[alice.sid].tracks] == [audio]
    assert len(world.worker.uptracks) == len(world.worker.downtracks) == 1
    assert alice.people[alice.sid].permission == permission
    assert alice.tokens[-1].can_publish_sources == ("microphone",)
    alice.announce("again", VIDEO, CAMERA)
    assert alice.heard("request_response")[-1].reason == RESPONSES.NOT_ALLOWED
    administer(world, "alice", permission=without_permission(alice.grants, can_publish=False))
    assert not world.worker.uptracks
    assert not alice.tokens[-1].can_publish


def test_a_track_that_was_only_announced_ends_too(world: World) -> None:
    alice = world.join("alice")
    alice.announce("cam", VIDEO, CAMERA)
    administer(world, "alice", permission=without_permission(alice.grants, can_publish=False))
    assert not alice.record.tracks
    alice.send_on("cam", "video")
    assert not world.worker.uptracks


def test_the_right_to_subscribe_comes_and_goes(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    alice.publish_audio()
    alice.publish_video()
    for allowed, count in ((False, 0), (True, 2)):
        bob.forget()
        administer(world, "bob", permission=without_permission(bob.grants, can_subscribe=allowed))
        assert len(world.worker.downtracks) == count
        assert len(bob.heard("offer")) == 1


def test_one_who_hides_has_left_for_the_others_and_sees_them_still(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    administer(world, "alice", permission=without_permission(alice.grants, hidden=True))
    assert set(bob.people) == {bob.sid}
    assert set(alice.people) == {alice.sid, bob.sid}
    assert not world.worker.downtracks
    carol = world.join("carol")
    assert set(carol.people) == {bob.sid, carol.sid}
    assert set(alice.people) == {alice.sid, bob.sid, carol.sid}
    administer(world, "alice", permission=without_permission(alice.grants, hidden=False))
    assert alice.sid in bob.people
    assert alice.sid in carol.people
    assert len(world.worker.downtracks) == 2


def test_one_who_hid_while_another_was_away_is_gone_for_him(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    world.lose_signal(bob)
    administer(world, "alice", permission=without_permission(alice.grants, hidden=True))
    world.resume(bob)
    assert set(bob.people) == {bob.sid}


def test_hidden_ones_are_not_told_of_and_see_all(world: World) -> None:
    bob = world.join("bob")
    bob.forget()
    spy = world.join("spy", hidden=True, can_update_own_metadata=True)
    change(spy, metadata="secret")
    spy.say(leave=rtc.LeaveRequest())
    assert bob.inbox == []
    assert set(spy.people) == {spy.sid, bob.sid}


def test_recorders_are_seen_as_such_and_not_counted(world: World) -> None:
    bob = world.join("bob")
    tape = world.join("tape", recorder=True)
    assert bob.people[tape.sid].permission.recorder
    world.wait(2)
    assert bob.room.num_participants == 1


def test_metadata_of_the_room_is_told_to_all(world: World) -> None:
    clients = [world.join("alice"), world.join("bob")]
    world.apply(world.room.update_metadata("new"))
    assert [client.room.metadata for client in clients] == ["new", "new"]
    with pytest.raises(TooLarge):
        world.room.update_metadata("x" * 70_000)


def test_versions_grow_with_every_change(world: World) -> None:
    alice, bob = world.join("alice", can_update_own_metadata=True), world.join("bob")
    for text in ("a", "b", "c"):
        change(alice, metadata=text)
    told = [info for update in bob.heard("update") for info in update.participants if info.sid == alice.sid]
    assert [info.metadata for info in told] == ["a", "b", "c"]
    versions = [info.version for info in told]
    assert sorted(set(versions)) == versions


def test_pings_of_both_kinds_are_answered(world: World) -> None:
    alice = world.join("alice")
    alice.forget()
    alice.say(ping=5)
    alice.say(ping_req=rtc.Ping(timestamp=6, rtt=1))
    assert alice.heard("pong") == [world.now.unix_ms]
    (pong,) = alice.heard("pong_resp")
    assert (pong.last_ping_timestamp, pong.timestamp) == (6, world.now.unix_ms)
