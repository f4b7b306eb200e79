"""Webhooks in LiveKit's format, verified by the official receiver, in the order of what happened in the room."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from livekit import api, rtc

from tests.e2e.harness.media import Tone, hear_tone
from tests.e2e.harness.people import Party
from tests.e2e.harness.server import Endpoint, ServerProcess, external
from tests.e2e.harness.webhook_receiver import WebhookReceiver

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def receiver() -> AsyncIterator[WebhookReceiver]:
    receiver = await WebhookReceiver(external() or Endpoint("http://unused")).start()
    yield receiver
    await receiver.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hooked(receiver: WebhookReceiver) -> AsyncIterator[Endpoint]:
    """A server that tells the receiver; an external one must have been told so itself."""
    named = external()
    if named is not None:
        yield named
        return
    server = ServerProcess("--webhook-url", receiver.url, workers=1)
    try:
        await server.start()
        yield server
    finally:
        server.close()


@pytest_asyncio.fixture(loop_scope="module")
async def party(hooked: Endpoint, room: str) -> AsyncIterator[Party]:
    gathered = Party(hooked, room)
    yield gathered
    await gathered.close()


async def test_a_call_s_life_is_told_in_order(receiver: WebhookReceiver, party: Party, room: str) -> None:
    alice = await party.join("alice", single=False)
    bob = await party.join("bob")
    low = Tone(440)
    party.closes(low.stop)
    published = await alice.publish(low.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await hear_tone(await bob.track("alice", "audio"), 440)
    published_sid = published.sid
    alice_sid, bob_sid, room_sid = alice.sid, bob.sid, await alice.room.sid
    await alice.me.unpublish_track(published_sid)
    await receiver.until(lambda: [event for event in receiver.of(room) if event.event == "track_unpublished"])
    await bob.leave()
    await receiver.until(lambda: [event for event in receiver.of(room) if event.event == "participant_left"])
    await alice.leave()
    async with party.server.api() as service:
        await service.room.delete_room(api.DeleteRoomRequest(room=room))
    await receiver.until(lambda: [event for event in receiver.of(room) if event.event == "room_finished"])
    told = [(event.event, event.participant.identity, event.track.sid) for event in receiver.of(room)]
    assert told == [
        ("room_started", "", ""),
        ("participant_joined", "alice", ""),
        ("participant_joined", "bob", ""),
        ("track_published", "alice", published_sid),
        ("track_unpublished", "alice", published_sid),
        ("participant_left", "bob", ""),
        ("participant_left", "alice", ""),
        ("room_finished", "", ""),
    ]
    events = receiver.of(room)
    assert {event.room.sid for event in events} == {room_sid}
    assert len({event.id for event in events}) == len(events)
    assert all(abs(event.created_at - time.time()) < 60 for event in events)
    assert {event.participant.sid for event in events if event.participant.identity == "alice"} == {alice_sid}
    assert {event.participant.sid for event in events if event.participant.identity == "bob"} == {bob_sid}
    assert events[1].participant.state == 2  # ACTIVE
    assert events[5].participant.disconnect_reason == int(rtc.DisconnectReason.CLIENT_INITIATED)
    track = events[3].track
    assert (track.source, track.mime_type.lower()) in {(2, "audio/opus"), (2, "audio/red")}


async def test_a_webhook_has_livekit_s_form(receiver: WebhookReceiver, party: Party, room: str) -> None:
    await party.join("alice")
    await receiver.until(lambda: [event for event in receiver.of(room) if event.event == "participant_joined"])
    index = next(index for index, event in enumerate(receiver.events) if event.room.name == room)
    request, body = receiver.requests[index], json.loads(receiver.bodies[index])
    assert request.content_type == "application/webhook+json"
    assert not request.headers["Authorization"].startswith("Bearer")
    assert isinstance(body["createdAt"], str)
    assert body["event"] == "room_started"
    assert body["room"]["name"] == room


async def test_a_receiver_that_fails_is_tried_again(receiver: WebhookReceiver, party: Party, room: str) -> None:
    receiver.statuses = [500, 503]
    await party.join("alice")
    await receiver.until(
        lambda: [event.event for event in receiver.of(room)][:2] == ["room_started", "participant_joined"], seconds=30
    )
    assert not receiver.statuses
