"""The signal messages themselves, with a bare client: their order, their fields, both codings."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from livekit import api
from livekit.protocol import models, rtc
from websockets.exceptions import ConnectionClosed

from tests.e2e.harness.server import Endpoint
from tests.e2e.harness.signal_client import (
    SignalClient,
    claims_of,
    dual_path,
    join_request,
    signal_connection,
    single_path,
)

pytestmark = pytest.mark.e2e


def kinds(messages: list[rtc.SignalResponse]) -> list[str]:
    return [message.WhichOneof("message") or "" for message in messages]


async def test_a_dual_join_starts_with_join_then_an_offer_and_candidates(server: Endpoint, room: str) -> None:
    async with signal_connection(server, dual_path(), server.token(room, "alice")) as client:
        join = (await client.receive()).join
        check_join(join, room)
        assert join.subscriber_primary
        offer = await client.until("offer")
        assert offer.type == "offer"
        assert "m=application" in offer.sdp
        assert "m=audio" not in offer.sdp
        # Candidates come in the offer or after it.
        if "a=candidate:" not in offer.sdp:
            candidate = await client.until("trickle", lambda trickle: trickle.candidateInit)
            assert candidate.target == rtc.SUBSCRIBER
            assert "typ host" in json.loads(candidate.candidateInit)["candidate"]
        refresh = await refresh_of(client)
        claims = claims_of(refresh)
        assert claims["sub"] == "alice"
        assert claims["video"]["room"] == room
        assert claims["video"]["roomJoin"] is True
        assert claims["exp"] > time.time() + 300


async def refresh_of(client: SignalClient) -> str:
    for message in client.heard:
        if message.WhichOneof("message") == "refresh_token":
            return message.refresh_token
    return str(await client.until("refresh_token"))


def check_join(join: rtc.JoinResponse, room: str) -> None:
    assert join.room.name == room
    assert join.room.sid.startswith("RM_")
    assert join.room.creation_time > time.time() - 60
    assert {codec.mime.lower() for codec in join.room.enabled_codecs} >= {"audio/opus", "video/vp8", "video/h264"}
    assert join.participant.identity == "alice"
    assert join.participant.name == "Alice"
    assert join.participant.sid.startswith("PA_")
    assert join.participant.permission.can_publish
    assert join.ping_interval > 0
    assert join.ping_timeout > join.ping_interval
    assert join.server_info.protocol >= 16
    assert join.server_info.version
    assert join.sif_trailer
    assert join.fast_publish
    assert {codec.mime.lower() for codec in join.enabled_publish_codecs} >= {"audio/opus", "video/vp8", "video/av1"}


async def test_a_single_join_without_an_offer_waits_for_one(server: Endpoint, room: str) -> None:
    async with signal_connection(server, single_path(), server.token(room, "alice")) as client:
        join = (await client.receive()).join
        check_join(join, room)
        assert not join.subscriber_primary
        await refresh_of(client)
        assert "offer" not in kinds(await client.everything(1))


async def test_text_frames_are_answered_with_text(server: Endpoint, room: str) -> None:
    token = server.token(room, "alice", can_update_own_metadata=True)
    async with signal_connection(server, dual_path(), token, text=True) as client:
        await client.receive()
        await client.send(ping_req=rtc.Ping(timestamp=1234, rtt=1))
        pong = await client.until("pong_resp", lambda pong: pong.last_ping_timestamp == 1234)
        assert abs(pong.timestamp / 1000 - time.time()) < 60
        assert isinstance(client.frames[-1], str)
        await client.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="by text", request_id=7))
        answer = await client.until("request_response", lambda answer: answer.request_id == 7)
        assert answer.reason == rtc.RequestResponse.OK
        assert isinstance(client.frames[-1], str)


async def test_both_kinds_of_ping_are_answered(server: Endpoint, room: str) -> None:
    async with signal_connection(server, dual_path(), server.token(room, "alice")) as client:
        await client.receive()
        await client.send(ping=4321)
        await client.until("pong")
        await client.send(ping_req=rtc.Ping(timestamp=99, rtt=5))
        assert (await client.until("pong_resp")).last_ping_timestamp == 99


async def test_a_track_is_published_at_once_and_with_its_kind_in_the_sid(server: Endpoint, room: str) -> None:
    async with signal_connection(server, dual_path(), server.token(room, "alice")) as client:
        await client.receive()
        tracks = [
            ("a", models.AUDIO, models.MICROPHONE, "TR_AM"),
            ("b", models.VIDEO, models.CAMERA, "TR_VC"),
            ("c", models.VIDEO, models.SCREEN_SHARE, "TR_VS"),
            ("d", models.AUDIO, models.SCREEN_SHARE_AUDIO, "TR_As"),
        ]
        for cid, kind, source, prefix in tracks:
            await client.send(add_track=rtc.AddTrackRequest(cid=cid, type=kind, source=source, name=f"name {cid}"))
            published = await client.until("track_published")
            assert published.cid == cid
            assert published.track.sid.startswith(prefix)
            assert (published.track.type, published.track.source) == (kind, source)
            assert published.track.name == f"name {cid}"


async def test_a_track_that_may_not_be_is_refused(server: Endpoint, room: str) -> None:
    async with signal_connection(server, dual_path(), server.token(room, "alice", can_publish=False)) as client:
        await client.receive()
        await client.send(add_track=rtc.AddTrackRequest(cid="a", type=models.AUDIO, source=models.MICROPHONE))
        await client.send(ping=1)
        await client.until("pong")
        assert "track_published" not in kinds(client.heard)


async def test_a_change_of_metadata_is_answered_and_told_to_all(server: Endpoint, room: str) -> None:
    token = server.token(room, "alice", can_update_own_metadata=True)
    async with signal_connection(server, dual_path(), token) as client:
        join = (await client.receive()).join
        await client.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="m", name="N", request_id=3))
        answer = await client.until("request_response")
        assert (answer.request_id, answer.reason) == (3, rtc.RequestResponse.OK)
        own = [
            participant
            for message in client.heard
            for participant in message.update.participants
            if participant.sid == join.participant.sid and participant.metadata == "m"
        ] or list((await client.until("update", lambda update: has(update, join.participant.sid, "m"))).participants)
        assert own[0].name == "N"
        assert own[0].version > join.participant.version


def has(update: rtc.ParticipantUpdate, sid: str, metadata: str) -> bool:
    return any(one.sid == sid and one.metadata == metadata for one in update.participants)


async def test_a_change_of_metadata_without_the_permission_is_refused(server: Endpoint, room: str) -> None:
    async with signal_connection(server, dual_path(), server.token(room, "alice")) as client:
        await client.receive()
        await client.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="m", request_id=5))
        answer = await client.until("request_response")
        assert (answer.request_id, answer.reason) == (5, rtc.RequestResponse.NOT_ALLOWED)


async def test_a_later_join_with_the_same_identity_ends_the_first(server: Endpoint, room: str) -> None:
    token = server.token(room, "alice")
    async with signal_connection(server, dual_path(), token) as first:
        await first.receive()
        async with signal_connection(server, dual_path(), token) as second:
            join = (await second.receive()).join
            leave = await first.until("leave")
            assert leave.reason == models.DUPLICATE_IDENTITY
            assert leave.action == rtc.LeaveRequest.DISCONNECT
            assert join.participant.identity == "alice"
            assert not join.other_participants
            with pytest.raises(ConnectionClosed):
                await first.everything(5)


async def test_an_older_client_is_spared_what_it_does_not_know(server: Endpoint, room: str) -> None:
    path = dual_path(protocol=9)
    async with signal_connection(server, path, server.token(room, "alice", can_update_own_metadata=True)) as client:
        assert (await client.receive()).WhichOneof("message") == "join"
        await client.send(update_metadata=rtc.UpdateParticipantMetadata(metadata="m", request_id=1))
        await client.until("update", lambda update: any(one.metadata == "m" for one in update.participants))
        assert "request_response" not in kinds(await client.everything(0.5))


async def test_a_leave_is_understood(server: Endpoint, room: str) -> None:
    async with signal_connection(server, dual_path(), server.token(room, "alice")) as client:
        await client.receive()
        await client.send(leave=rtc.LeaveRequest(reason=models.CLIENT_INITIATED))
        with pytest.raises(ConnectionClosed):
            await client.everything(5)
    async with server.api() as service:
        deadline = asyncio.get_running_loop().time() + 5
        while await still_there(service, room):
            assert asyncio.get_running_loop().time() < deadline, "alice is still listed"
            await asyncio.sleep(0.1)


async def still_there(service: api.LiveKitAPI, room: str) -> bool:
    """A room that nobody is in may be there or not."""
    try:
        listed = await service.room.list_participants(api.ListParticipantsRequest(room=room))
    except api.TwirpError as error:
        if error.code == "not_found":
            return False
        raise
    return bool(listed.participants)


async def test_a_session_whose_transport_never_came_up_cannot_be_resumed(server: Endpoint, room: str) -> None:
    token = server.token(room, "alice")
    async with signal_connection(server, dual_path(), token) as client:
        sid = (await client.receive()).join.participant.sid
    await asyncio.sleep(0.5)
    async with signal_connection(server, dual_path(reconnect=1, sid=sid), token) as client:
        first = await client.receive()
        assert first.WhichOneof("message") == "leave"
        assert (first.leave.reason, first.leave.action) == (models.STATE_MISMATCH, rtc.LeaveRequest.RECONNECT)


async def test_server_wishes_are_seen_as_messages(server: Endpoint, room: str) -> None:
    """Mute, permission, removal by RoomService, as the participant's own connection hears them."""
    async with signal_connection(server, dual_path(), server.token(room, "alice")) as client, server.api() as service:
        await client.receive()
        await client.send(add_track=rtc.AddTrackRequest(cid="a", type=models.AUDIO, source=models.MICROPHONE))
        sid = (await client.until("track_published")).track.sid
        permission = api.ParticipantPermission(can_subscribe=True, can_publish=False)
        await service.room.update_participant(
            api.UpdateParticipantRequest(room=room, identity="alice", permission=permission, metadata="by admin")
        )
        # One update or one for each change.
        await client.until("update", lambda update: changed(update.participants[0]))
        refreshed = await client.until("refresh_token", lambda token: claims_of(token).get("metadata") == "by admin")
        if claims_of(refreshed)["video"].get("canPublish") is not False:
            await client.until("refresh_token", lambda token: claims_of(token)["video"].get("canPublish") is False)
        assert sid
        await service.room.remove_participant(api.RoomParticipantIdentity(room=room, identity="alice"))
        leave = await client.until("leave")
        assert (leave.reason, leave.action) == (models.PARTICIPANT_REMOVED, rtc.LeaveRequest.DISCONNECT)


def changed(participant: models.ParticipantInfo) -> bool:
    return participant.metadata == "by admin" and not participant.permission.can_publish


async def test_unknown_fields_and_messages_are_ignored(server: Endpoint, room: str) -> None:
    async with signal_connection(server, dual_path(), server.token(room, "alice")) as client:
        await client.receive()
        # Field 4000, a varint: of a protocol that does not exist yet.
        await client.socket.send(b"\x80\xfa\x01\x01")
        await client.socket.send(b"")
        await client.send(ping=1)
        await client.until("pong")


@pytest.mark.parametrize("path", ["dual", "single"])
async def test_the_join_carries_attributes_and_client_limits(server: Endpoint, room: str, path: str) -> None:
    token = server.token(room, "alice", can_update_own_metadata=True)
    paths: dict[str, Any] = {
        "dual": dual_path(attributes="eyJrIjogInYifQ==", client_protocol=1),
        "single": single_path(
            join_request(
                participant_attributes={"k": "v"},
                client_info=models.ClientInfo(
                    sdk=models.ClientInfo.PYTHON, version="1.0", protocol=16, client_protocol=1
                ),
            )
        ),
    }
    async with (
        signal_connection(server, paths[path], token) as alice,
        signal_connection(server, dual_path(), server.token(room, "bob")) as bob,
    ):
        me = (await alice.receive()).join.participant
        assert dict(me.attributes) == {"k": "v"}
        assert me.client_protocol == 1
        await bob.receive()
