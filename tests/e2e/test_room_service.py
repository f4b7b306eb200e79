"""Every RoomService method through the official library, seen by the participants it is about."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from livekit import api, rtc

from tests.e2e.harness.media import Tone, hear_tone, is_silent
from tests.e2e.harness.people import Party
from tests.e2e.harness.server import Endpoint

pytestmark = pytest.mark.e2e


@pytest.fixture
async def service(server: Endpoint) -> AsyncIterator[Any]:
    async with server.api() as opened:
        yield opened.room


def tone(party: Party, frequency_hz: float) -> Tone:
    made = Tone(frequency_hz)
    party.closes(made.stop)
    return made


async def test_a_room_is_made_listed_and_deleted(service: Any, room: str) -> None:
    made = await service.create_room(
        api.CreateRoomRequest(name=room, metadata="about", empty_timeout=77, departure_timeout=33, max_participants=5)
    )
    assert (made.name, made.metadata, made.empty_timeout, made.departure_timeout, made.max_participants) == (
        room,
        "about",
        77,
        33,
        5,
    )
    assert made.sid.startswith("RM_")
    assert abs(made.creation_time - time.time()) < 60
    again = await service.create_room(api.CreateRoomRequest(name=room))
    assert again.sid == made.sid
    listed = (await service.list_rooms(api.ListRoomsRequest(names=[room, "nobody-s"]))).rooms
    assert [one.sid for one in listed] == [made.sid]
    assert made.sid in {one.sid for one in (await service.list_rooms(api.ListRoomsRequest())).rooms}
    await service.delete_room(api.DeleteRoomRequest(room=room))
    assert not (await service.list_rooms(api.ListRoomsRequest(names=[room]))).rooms


async def test_a_full_room_takes_nobody_more(service: Any, party: Party, room: str) -> None:
    await service.create_room(api.CreateRoomRequest(name=room, max_participants=1))
    await party.join("alice")
    with pytest.raises(rtc.ConnectError):
        await party.join("bob")
    assert len((await service.list_participants(api.ListParticipantsRequest(room=room))).participants) == 1


async def test_participants_are_listed_with_their_tracks(service: Any, party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    low = tone(party, 440)
    published = await alice.publish(low.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await bob.track("alice", "audio")
    listed = (await service.list_participants(api.ListParticipantsRequest(room=room))).participants
    by_identity = {one.identity: one for one in listed}
    assert set(by_identity) == {"alice", "bob"}
    assert by_identity["alice"].sid == alice.sid
    assert by_identity["alice"].state == 2  # ACTIVE
    assert [track.sid for track in by_identity["alice"].tracks] == [published.sid]
    got = await service.get_participant(api.RoomParticipantIdentity(room=room, identity="alice"))
    assert (got.sid, got.name, got.is_publisher) == (alice.sid, "Alice", True)
    assert got.tracks[0].mime_type.lower() in {"audio/opus", "audio/red"}


async def test_a_removed_participant_is_told_and_seen_to_go(service: Any, party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    await bob.sees("alice")
    await service.remove_participant(api.RoomParticipantIdentity(room=room, identity="alice"))
    assert await alice.event("disconnected") == (rtc.DisconnectReason.PARTICIPANT_REMOVED,)
    await bob.loses("alice")
    assert not alice.events("reconnecting")


async def test_deleting_a_room_ends_it_for_all(service: Any, party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    await service.delete_room(api.DeleteRoomRequest(room=room))
    for person in (alice, bob):
        assert await person.event("disconnected") == (rtc.DisconnectReason.ROOM_DELETED,)


async def test_a_track_is_muted_from_the_server(service: Any, party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    low = tone(party, 440)
    published = await alice.publish(low.track)
    heard = await bob.track("alice", "audio")
    await hear_tone(heard, 440)
    answer = await service.mute_published_track(
        api.MuteRoomTrackRequest(room=room, identity="alice", track_sid=published.sid, muted=True)
    )
    assert (answer.track.sid, answer.track.muted) == (published.sid, True)
    await bob.event("track_muted")
    await alice.event("track_muted")
    assert await is_silent(heard, seconds=2)


async def test_a_participant_is_changed_from_the_server(service: Any, party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    seen = await bob.sees("alice")
    changed = await service.update_participant(
        api.UpdateParticipantRequest(
            room=room, identity="alice", metadata="seat 4", name="Queen", attributes={"role": "host"}
        )
    )
    assert (changed.metadata, changed.name, dict(changed.attributes)) == ("seat 4", "Queen", {"role": "host"})
    await bob.until(lambda: (seen.metadata, seen.name, seen.attributes) == ("seat 4", "Queen", {"role": "host"}))
    await alice.until(lambda: (alice.me.metadata, alice.me.name) == ("seat 4", "Queen"), what="her own news")
    await alice.until(lambda: alice.me.attributes == {"role": "host"}, what="her own attributes")


async def test_subscriptions_are_changed_from_the_server(service: Any, party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    low = tone(party, 440)
    published = await alice.publish(low.track)
    heard = await bob.track("alice", "audio")
    await hear_tone(heard, 440)

    async def subscribe(wanted: bool) -> None:
        await service.update_subscriptions(
            api.UpdateSubscriptionsRequest(room=room, identity="bob", track_sids=[published.sid], subscribe=wanted)
        )

    await subscribe(False)
    assert await is_silent(heard, seconds=4)
    await subscribe(True)
    await hear_tone(await bob.track("alice", "audio"), 440)


async def test_the_server_sends_data(service: Any, party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob", single=False)
    await alice.sees("bob")
    await asyncio.sleep(1)  # Their data channels open after the join.
    await service.send_data(api.SendDataRequest(room=room, data=b"to all", kind="RELIABLE", topic="news"))
    await service.send_data(
        api.SendDataRequest(room=room, data=b"to bob", kind="RELIABLE", destination_identities=["bob"])
    )
    for person, expected in ((alice, [b"to all"]), (bob, [b"to all", b"to bob"])):
        await person.event("data_received", count=len(expected))
        packets = [packet for (packet,) in person.events("data_received")]
        assert [packet.data for packet in packets] == expected
        assert packets[0].participant is None
        assert packets[0].topic == "news"


async def test_a_call_to_a_participant_s_method_is_answered(server: Endpoint, party: Party, room: str) -> None:
    alice = await party.join("alice")

    async def greet(data: rtc.RpcInvocationData) -> str:
        return f"hello, {data.payload}"

    alice.me.register_rpc_method("greet", greet)
    await asyncio.sleep(1)
    request = {"room": room, "destination_identity": "alice", "method": "greet", "payload": "server"}
    answer = await twirp(server, "PerformRpc", request, room_admin=True, room=room)
    assert (answer.status_code, answer.json()) == (200, {"payload": "hello, server"})

    async def fail(data: rtc.RpcInvocationData) -> str:
        raise rtc.RpcError(101, "no, never")

    alice.me.register_rpc_method("fail", fail)
    failed = await twirp(server, "PerformRpc", request | {"method": "fail"}, room_admin=True, room=room)
    assert (failed.status_code, failed.json()) == (500, {"code": "internal", "msg": "no, never"})
    unknown = await twirp(server, "PerformRpc", request | {"method": "levitate"}, room_admin=True, room=room)
    assert (unknown.status_code, unknown.json()["code"]) == (400, "invalid_argument"), unknown.text


async def twirp(server: Endpoint, method: str, body: Any, **grants: Any) -> httpx2.Response:
    token = (
        api.AccessToken(server.key, server.secret)
        .with_identity("admin")
        .with_grants(api.VideoGrants(**grants))
        .to_jwt()
    )
    async with httpx2.AsyncClient(timeout=15) as client:
        return await client.post(
            f"{server.url}/twirp/livekit.RoomService/{method}", json=body, headers={"Authorization": f"Bearer {token}"}
        )


GRANT_NEEDED = {
    "CreateRoom": {"name": "r"},
    "DeleteRoom": {"room": "r"},
    "ListRooms": {},
    "ListParticipants": {"room": "r"},
    "GetParticipant": {"room": "r", "identity": "x"},
    "RemoveParticipant": {"room": "r", "identity": "x"},
    "MutePublishedTrack": {"room": "r", "identity": "x", "track_sid": "TR_x"},
    "UpdateParticipant": {"room": "r", "identity": "x"},
    "UpdateSubscriptions": {"room": "r", "identity": "x"},
    "SendData": {"room": "r", "data": ""},
    "UpdateRoomMetadata": {"room": "r", "metadata": "m"},
    "PerformRpc": {"room": "r", "destination_identity": "x", "method": "m"},
}


@pytest.mark.parametrize("method", GRANT_NEEDED)
async def test_each_method_needs_its_grant(server: Endpoint, method: str) -> None:
    for grants in ({"room_join": True, "room": "r"}, {"room_admin": True, "room": "another"}):
        answer = await twirp(server, method, GRANT_NEEDED[method], **grants)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), answer.text
        assert answer.json()["msg"]


NOT_THERE = {
    "GetParticipant": {"identity": "nobody"},
    "RemoveParticipant": {"identity": "nobody"},
    "UpdateParticipant": {"identity": "nobody", "metadata": "m"},
}


@pytest.mark.parametrize("method", NOT_THERE)
async def test_who_is_not_there_is_not_found(server: Endpoint, party: Party, room: str, method: str) -> None:
    await party.join("alice")
    answer = await twirp(server, method, {"room": room, **NOT_THERE[method]}, room_admin=True, room=room)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), answer.text


async def test_nobody_is_in_a_room_that_is_not_there(server: Endpoint, room: str) -> None:
    answer = await twirp(server, "ListParticipants", {"room": room}, room_admin=True, room=room)
    assert (answer.status_code, answer.json()) == (200, {"participants": []}), answer.text


async def test_an_unknown_method_and_a_bad_token_are_told_apart(server: Endpoint) -> None:
    unknown = await twirp(server, "Levitate", {}, room_list=True)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "bad_route")
    async with httpx2.AsyncClient() as client:
        url = f"{server.url}/twirp/livekit.RoomService/ListRooms"
        nobody = await client.post(url, json={})
        assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthenticated")
        forged = api.AccessToken(server.key, "x" * 32).with_grants(api.VideoGrants(room_list=True)).to_jwt()
        assert (await client.post(url, json={}, headers={"Authorization": f"Bearer {forged}"})).status_code == 401


async def test_json_comes_in_snake_case_and_is_taken_in_both(server: Endpoint, room: str) -> None:
    made = await twirp(server, "CreateRoom", {"name": room, "emptyTimeout": 44}, room_create=True)
    body = made.json()
    assert body["empty_timeout"] == 44
    assert isinstance(body["creation_time"], str)
    again = await twirp(server, "CreateRoom", {"name": room, "empty_timeout": 44}, room_create=True)
    assert again.json()["sid"] == body["sid"]
    await twirp(server, "DeleteRoom", {"room": room}, room_create=True)
