"""Six people with microphones speak in turn where three are heard: all are, and receivers miss nothing of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from livekit import rtc

from tests.e2e.harness.media import Tone, hear_tone
from tests.e2e.harness.people import Party, Person
from tests.e2e.harness.server import ServerProcess

pytestmark = pytest.mark.e2e

PEOPLE, HEARD = 6, 3
WITHOUT_DTX = {"source": rtc.TrackSource.SOURCE_MICROPHONE, "dtx": False, "red": False}
"""Without DTX silence is sent as often as speech: whoever is not heard is left out by the server alone."""


async def heard(listener: Person) -> dict[int, Any]:
    """Statistics of the audio streams that the listener receives, by SSRC."""
    stats = await listener.room.get_rtc_stats()
    entries = [*stats.publisher_stats, *stats.subscriber_stats]
    inbound = [entry.inbound_rtp for entry in entries if entry.HasField("inbound_rtp")]
    return {stream.stream.ssrc: stream for stream in inbound if stream.stream.kind == "audio"}


async def test_who_speaks_is_heard_and_who_does_not_is_neither_missed_nor_made_up(
    own_server: Callable[..., Awaitable[ServerProcess]], room: str
) -> None:
    server = await own_server(environment={"CALLYARD_NODE_ENGINE_LOUDEST_MICROPHONES": str(HEARD)}, workers=1)
    party = Party(server, room)
    try:
        listener = await party.join("listener")
        tones = {}
        for number in range(PEOPLE):
            speaker = await party.join(f"speaker{number}")
            tone = Tone(500 + 100 * number, amplitude=0)
            party.closes(tone.stop)
            await speaker.publish(tone.track, **WITHOUT_DTX)
            tones[speaker.identity] = tone
        tracks = {identity: await listener.track(identity, "audio") for identity in tones}
        await asyncio.sleep(2)
        before = await heard(listener)
        await asyncio.sleep(2)
        after = await heard(listener)
        grown = [
            stream.received.packets_received - (before[name].received.packets_received if name in before else 0)
            for name, stream in after.items()
        ]
        assert len([packets for packets in grown if packets > 20]) == HEARD, "silence of no more than are heard"
        for tone, track in [(tones[identity], tracks[identity]) for identity in [*tones, *tones]]:
            tone.amplitude = 0.5
            await hear_tone(track, tone.frequency_hz, seconds=4)
            tone.amplitude = 0.0
            await asyncio.sleep(1)
        streams = (await heard(listener)).values()
        assert len(streams) == PEOPLE
        for stream in streams:
            received, inbound = stream.received, stream.inbound
            assert received.packets_lost <= received.packets_received // 100, "no number is missing"
            assert inbound.nack_count == 0
            made_up = inbound.concealed_samples - inbound.silent_concealed_samples
            assert made_up < 0.03 * inbound.total_samples_received, "nothing is made up for what is left out"
    finally:
        await party.close()
