"""What a token allows and what it does not, as the Python SDK meets it: publishing, subscribing, being seen."""

from __future__ import annotations

import asyncio

import pytest
from livekit import api, rtc

from tests.e2e.harness.media import BLUE, GREEN, RED, Picture, Tone, hear_tone, is_silent
from tests.e2e.harness.people import Party

pytestmark = pytest.mark.e2e


def tone(party: Party, frequency_hz: float) -> Tone:
    made = Tone(frequency_hz)
    party.closes(made.stop)
    return made


async def test_who_may_not_publish_cannot(party: Party) -> None:
    alice, bob = await party.join("alice", can_publish=False), await party.join("bob")
    low = tone(party, 440)
    with pytest.raises(Exception, match=r"(?i)publish|permission|not allowed|timeout|timed out"):
        await alice.publish(low.track)
    await bob.sees("alice")
    assert not bob.publications("alice")
    assert not alice.me.permissions.can_publish


async def test_only_the_allowed_sources_may_be_published(party: Party) -> None:
    alice, bob = await party.join("alice", can_publish_sources=["microphone"]), await party.join("bob")
    low = tone(party, 440)
    shown = Picture(RED, GREEN)
    party.closes(shown.stop)
    await alice.publish(low.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await hear_tone(await bob.track("alice", "audio"), 440)
    with pytest.raises(Exception, match=r"(?i)publish|permission|not allowed|timeout|timed out"):
        await alice.publish(shown.track, source=rtc.TrackSource.SOURCE_CAMERA)
    assert not bob.publications("alice", "video")


async def test_who_may_not_subscribe_sees_tracks_and_gets_none(party: Party) -> None:
    alice, bob = await party.join("alice"), await party.join("bob", can_subscribe=False)
    carol = await party.join("carol")
    low = tone(party, 440)
    await alice.publish(low.track)
    await hear_tone(await carol.track("alice", "audio"), 440)
    await asyncio.sleep(0.5)
    assert not bob.events("track_subscribed")


async def test_who_is_hidden_is_seen_by_nobody_and_sees_all(party: Party, room: str) -> None:
    alice = await party.join("alice")
    ghost = await party.join("ghost", hidden=True, can_publish=False)
    bob = await party.join("bob")
    low = tone(party, 440)
    await alice.publish(low.track)
    await ghost.sees("alice")
    await ghost.sees("bob")
    await hear_tone(await ghost.track("alice", "audio"), 440)
    assert set(alice.room.remote_participants) == {"bob"}
    assert set(bob.room.remote_participants) == {"alice"}
    await ghost.leave()
    await bob.leave()
    await alice.loses("bob")
    assert {person.identity for (person,) in alice.events("participant_disconnected")} == {"bob"}


async def test_the_kind_of_a_participant_is_told(party: Party) -> None:
    alice = await party.join("alice")
    await party.join("robot", token=party.server.token(party.room, "robot", kind="agent"))
    assert (await alice.sees("robot")).kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT


async def test_a_publisher_chooses_who_hears_it(party: Party) -> None:
    alice, bob, carol = await party.join("alice"), await party.join("bob"), await party.join("carol")
    alice.me.set_track_subscription_permissions(
        allow_all_participants=False,
        participant_permissions=[rtc.ParticipantTrackPermission(participant_identity="bob", allow_all=True)],
    )
    low = tone(party, 440)
    await alice.publish(low.track)
    heard = await bob.track("alice", "audio")
    await hear_tone(heard, 440)
    await carol.publication("alice", "audio")
    assert not carol.events("track_subscribed")
    alice.me.set_track_subscription_permissions(allow_all_participants=True)
    await hear_tone(await carol.track("alice", "audio"), 440)
    alice.me.set_track_subscription_permissions(
        allow_all_participants=False,
        participant_permissions=[rtc.ParticipantTrackPermission(participant_identity="carol", allow_all=True)],
    )
    assert await is_silent(heard, seconds=4)
    await hear_tone(await carol.track("alice", "audio"), 440)


async def test_a_permission_may_be_taken_and_given_back(party: Party, room: str) -> None:
    """S-65"""
    alice, bob = await party.join("alice"), await party.join("bob")
    low = tone(party, 440)
    await alice.publish(low.track)
    await hear_tone(await bob.track("alice", "audio"), 440)
    async with party.server.api() as service:

        async def allow(can_publish: bool) -> None:
            permission = api.ParticipantPermission(
                can_publish=can_publish, can_subscribe=True, can_publish_data=True, can_update_metadata=True
            )
            await service.room.update_participant(
                api.UpdateParticipantRequest(room=room, identity="alice", permission=permission)
            )

        await allow(False)
        await bob.until(lambda: not bob.publications("alice"), what="the track to end")
        await alice.until(lambda: not alice.me.permissions.can_publish, what="the news")
        await alice.event("participant_permissions_changed")
        # The right that was not there at the join works at once.
        assert alice.me.permissions.can_update_metadata
        await alice.me.set_metadata("new right")
        await allow(True)
        await alice.until(lambda: alice.me.permissions.can_publish, what="the right to return")
    again = tone(party, 880)
    await alice.publish(again.track)
    await hear_tone(await bob.track("alice", "audio"), 880)


async def test_the_right_to_subscribe_may_be_taken_and_given_back(party: Party, room: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    low, shown = tone(party, 440), Picture(BLUE, GREEN)
    party.closes(shown.stop)
    await alice.publish(low.track)
    heard = await bob.track("alice", "audio")
    await hear_tone(heard, 440)
    async with party.server.api() as service:

        async def allow(can_subscribe: bool) -> None:
            permission = api.ParticipantPermission(can_subscribe=can_subscribe, can_publish=True, can_publish_data=True)
            await service.room.update_participant(
                api.UpdateParticipantRequest(room=room, identity="bob", permission=permission)
            )

        await allow(False)
        assert await is_silent(heard, seconds=4)
        await allow(True)
        await hear_tone(await bob.track("alice", "audio"), 440)
