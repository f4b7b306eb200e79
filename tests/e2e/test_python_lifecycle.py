"""How sessions of the Python SDK end and how they come back: leaving, being replaced, resuming, joining afresh."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc

from tests.e2e.harness.media import GREEN, RED, Picture, Tone, hear_tone, see
from tests.e2e.harness.people import Party, Person
from tests.e2e.harness.tcp_proxy import TcpProxy

pytestmark = pytest.mark.e2e

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


def tone(party: Party, frequency_hz: float) -> Tone:
    made = Tone(frequency_hz)
    party.closes(made.stop)
    return made


async def proxied(party: Party, identity: str, single: bool) -> tuple[Person, TcpProxy]:
    proxy = await TcpProxy(party.server.url).start()
    party.closes(proxy.stop)
    return await party.join(identity, url=proxy.url, single=single), proxy


@MODES
async def test_a_leave_is_seen_at_once_and_with_its_reason(party: Party, single: bool) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    seen = await bob.sees("alice")
    await alice.leave()
    (left,) = await bob.event("participant_disconnected", seconds=3)
    assert left.identity == "alice"
    assert seen.disconnect_reason == rtc.DisconnectReason.CLIENT_INITIATED
    # The SDK loses its own "disconnected" in one leave of six: it closes the queue of events while it is in there.
    assert not alice.room.isconnected()
    assert set(alice.events("disconnected")) <= {(rtc.DisconnectReason.CLIENT_INITIATED,)}
    assert not alice.events("reconnecting")


@MODES
async def test_a_second_session_of_an_identity_replaces_the_first(party: Party, single: bool) -> None:
    first, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    old = (await bob.sees("alice")).sid
    second = await party.join("alice", single=single)
    assert await first.event("disconnected") == (rtc.DisconnectReason.DUPLICATE_IDENTITY,)
    await bob.until(lambda: (await_sid(bob, "alice") or old) != old, what="the new session")
    low = tone(party, 440)
    await second.publish(low.track)
    await hear_tone(await bob.track("alice", "audio"), 440)
    assert not first.events("reconnecting")


def await_sid(person: Person, identity: str) -> str | None:
    found = person.room.remote_participants.get(identity)
    return found.sid if found else None


@MODES
async def test_a_cut_signal_connection_is_resumed_and_nothing_is_lost(party: Party, single: bool) -> None:
    alice, proxy = await proxied(party, "alice", single)
    bob = await party.join("bob", single=single)
    low, high = tone(party, 440), tone(party, 880)
    shown = Picture(RED, GREEN)
    party.closes(shown.stop)
    published = await alice.publish(low.track)
    await alice.publish(shown.track)
    await bob.publish(high.track)
    await hear_tone(await bob.track("alice", "audio"), 440)
    await see(await bob.track("alice", "video"), shown)
    await hear_tone(await alice.track("bob", "audio"), 880)
    sid = alice.sid
    proxy.cut()
    await alice.event("reconnecting")
    await alice.event("reconnected", seconds=20)
    assert alice.sid == sid
    assert published.sid in alice.me.track_publications
    assert not bob.events("participant_disconnected")
    assert not bob.events("track_unpublished")
    assert not alice.events("local_track_republished")
    # The old tracks go on both ways, and the renewed connection serves for new ones.
    await hear_tone(await bob.track("alice", "audio"), 440)
    await hear_tone(await alice.track("bob", "audio"), 880)
    await see(await bob.track("alice", "video"), shown)
    await alice.me.publish_data(b"after")
    (packet,) = await bob.event("data_received")
    assert packet.data == b"after"
    carol = await party.join("carol", single=single)
    third = tone(party, 1320)
    await carol.publish(third.track)
    await hear_tone(await alice.track("carol", "audio"), 1320)
    again = tone(party, 660)
    await alice.publish(again.track)
    await carol.until(lambda: len(carol.publications("alice", "audio")) == 2, what="the new track")


@MODES
async def test_what_happens_during_an_outage_is_told_after_it(party: Party, single: bool) -> None:
    """F-12"""
    alice, proxy = await proxied(party, "alice", single)
    bob = await party.join("bob", single=single)
    carol = await party.join("carol", single=single)
    await alice.sees("carol")
    proxy.flowing.clear()
    proxy.cut()
    await alice.event("reconnecting")
    low = tone(party, 440)
    await asyncio.gather(bob.publish(low.track), carol.leave(), bob.me.publish_data(b"meanwhile"))
    await bob.loses("carol")
    proxy.flowing.set()
    await alice.event("reconnected", seconds=30)
    assert not bob.events("participant_disconnected")[1:], "only carol left"
    await alice.loses("carol")
    await hear_tone(await alice.track("bob", "audio"), 440)
    (packet,) = await alice.event("data_received")
    assert packet.data == b"meanwhile"


@MODES
async def test_who_unmutes_himself_during_an_outage_stays_unmuted(party: Party, single: bool) -> None:
    alice, proxy = await proxied(party, "alice", single)
    bob = await party.join("bob", single=single)
    low = tone(party, 440)
    await alice.publish(low.track)
    await hear_tone(await bob.track("alice", "audio"), 440)
    low.track.mute()
    await bob.event("track_muted")
    proxy.flowing.clear()
    proxy.cut()
    await alice.event("reconnecting")
    low.track.unmute()
    proxy.flowing.set()
    await alice.event("reconnected", seconds=30)
    await bob.event("track_unmuted")
    await hear_tone(await bob.track("alice", "audio"), 440)
    assert not low.track.muted


@MODES
async def test_reliable_data_survives_a_resume_exactly_once(party: Party, single: bool) -> None:
    alice, proxy = await proxied(party, "alice", single)
    bob = await party.join("bob", single=single)
    await alice.sees("bob")
    await bob.sees("alice")

    async def chatter(person: Person, count: int) -> list[bytes]:
        sent = []
        for number in range(count):
            data = f"{person.identity} {number}".encode()
            try:
                await person.me.publish_data(data)
            except Exception:
                # While it reconnects the SDK may refuse; what it took must arrive.
                await asyncio.sleep(0.1)
                continue
            sent.append(data)
            await asyncio.sleep(0.05)
        return sent

    talking = asyncio.gather(chatter(alice, 80), chatter(bob, 80))
    await asyncio.sleep(1)
    proxy.cut()
    from_alice, from_bob = await talking
    await alice.event("reconnected", seconds=20)

    def got(person: Person) -> list[bytes]:
        return [packet.data for (packet,) in person.events("data_received")]

    await bob.until(lambda: len(got(bob)) >= len(from_alice), what="all of alice's data")
    await alice.until(lambda: len(got(alice)) >= len(from_bob), what="all of bob's data")
    assert got(bob) == from_alice
    assert got(alice) == from_bob


@MODES
@pytest.mark.parametrize(
    "scenario",
    ["SIMULATE_FULL_RECONNECT", "SIMULATE_NODE_FAILURE", "SIMULATE_MIGRATION"],
)
async def test_a_full_reconnect_brings_back_the_tracks(party: Party, single: bool, scenario: str) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    low, high = tone(party, 440), tone(party, 880)
    published = await alice.publish(low.track)
    await bob.publish(high.track)
    await hear_tone(await bob.track("alice", "audio"), 440)
    await hear_tone(await alice.track("bob", "audio"), 880)
    old_sid, old_track = alice.sid, published.sid
    await alice.room.simulate_scenario(getattr(rtc.SimulateScenarioKind, scenario))
    await alice.event("reconnected", seconds=30)
    await bob.until(lambda: (await_sid(bob, "alice") or old_sid) != old_sid, what="the new session")
    await hear_tone(await bob.track("alice", "audio", not_sid=old_track), 440)
    await alice.until(lambda: "bob" in alice.room.remote_participants)
    await hear_tone(await alice.track("bob", "audio"), 880)


@MODES
async def test_a_signal_reconnect_keeps_the_session(party: Party, single: bool) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    low = tone(party, 440)
    await alice.publish(low.track)
    await hear_tone(await bob.track("alice", "audio"), 440)
    sid = alice.sid
    await alice.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_SIGNAL_RECONNECT)
    await alice.event("reconnected", seconds=20)
    assert alice.sid == sid
    assert not bob.events("participant_disconnected")
    await hear_tone(await bob.track("alice", "audio"), 440)


async def test_a_resume_that_is_cut_off_ends_in_a_join_afresh(party: Party) -> None:
    """F-13"""
    alice, bob = await party.join("alice"), await party.join("bob")
    low = tone(party, 440)
    old = (await alice.publish(low.track)).sid
    await hear_tone(await bob.track("alice", "audio"), 440)
    await alice.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_DISCONNECT_SIGNAL_ON_RESUME)
    await alice.event("reconnected", seconds=30)
    await hear_tone(await bob.track("alice", "audio", not_sid=old), 440)


async def test_a_server_that_leaves_ends_the_session(party: Party) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    await bob.sees("alice")
    await alice.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_SERVER_LEAVE)
    assert await alice.event("disconnected") == (rtc.DisconnectReason.SERVER_SHUTDOWN,)
    await bob.loses("alice")


async def test_a_simulated_speaker_is_told(party: Party) -> None:
    alice = await party.join("alice")
    await alice.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_SPEAKER)
    await alice.until(
        lambda: any(speakers for (speakers,) in alice.events("active_speakers_changed")), what="a speaker"
    )


@MODES
async def test_media_goes_over_tcp_when_it_is_asked_to(party: Party, single: bool) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    low, high = tone(party, 440), tone(party, 880)
    old = (await alice.publish(low.track)).sid
    await bob.publish(high.track)
    await hear_tone(await bob.track("alice", "audio"), 440)
    await alice.room.simulate_scenario(rtc.SimulateScenarioKind.SIMULATE_FORCE_TCP)
    await alice.event("reconnected", seconds=30)
    await hear_tone(await bob.track("alice", "audio", not_sid=old), 440)
    await hear_tone(await alice.track("bob", "audio"), 880)
    assert await paths(alice) == {"tcp"}


async def paths(person: Person) -> set[str]:
    """The protocols of the far ends that the chosen candidate pairs use."""
    stats = await person.room.get_rtc_stats()
    found: set[str] = set()
    for side in (stats.publisher_stats, stats.subscriber_stats):
        remote = {
            entry.remote_candidate.rtc.id: candidate(entry) for entry in side if entry.HasField("remote_candidate")
        }
        pairs = {
            entry.candidate_pair.rtc.id: entry.candidate_pair for entry in side if entry.HasField("candidate_pair")
        }
        for entry in side:
            if entry.HasField("transport"):
                chosen = pairs.get(entry.transport.transport.selected_candidate_pair_id)
                if chosen is not None:
                    found.add(remote[chosen.candidate_pair.remote_candidate_id])
    return found


def candidate(entry: Any) -> str:
    protocol: str = entry.remote_candidate.candidate.protocol
    return protocol.lower()


async def test_who_vanishes_is_seen_to_go(party: Party) -> None:
    """F-11: The process dies: no leave, no closed socket that says so, no media."""
    bob = await party.join("bob")
    alice, proxy = await proxied(party, "alice", single=True)
    await bob.sees("alice")
    proxy.closed = True
    proxy.cut()
    await alice.event("reconnecting")
    await alice.event("disconnected", seconds=60)
    await bob.loses("alice", seconds=30)
