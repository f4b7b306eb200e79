"""A participant made of the Python SDK as a process of its own, for namespaces.

It sends a tone and a picture, and tells by JSON lines on stdout what the SDK says, and every half second which tone and
how many pictures come of each other participant.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

from livekit import rtc

from tests.e2e.harness.media import GREEN, RED, Picture, Tone, look, windows
from tests.e2e.harness.people import Person

_EVERY_SECONDS = 0.5


def tell(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


class Attention:
    """What comes of one other participant."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.hertz = 0.0
        self.windows = 0
        self.pictures = 0
        self._tasks: list[asyncio.Task[None]] = []

    def take(self, track: rtc.Track) -> None:
        watching = self._hear(track) if track.kind == rtc.TrackKind.KIND_AUDIO else self._see(track)
        self._tasks.append(asyncio.create_task(watching))

    async def _hear(self, track: rtc.Track) -> None:
        async for frequency_hz, loudness in windows(track, 0.25):
            if loudness > 300:
                self.hertz = frequency_hz
                self.windows += 1

    async def _see(self, track: rtc.Track) -> None:
        async for seen in look(track):
            self.pictures += seen.shows(RED, GREEN)


async def take_part(url: str, token: str, hertz: float, single: bool) -> None:
    person = Person("me")
    others: dict[str, Attention] = {}
    await person.room.connect(url, token, rtc.RoomOptions(single_peer_connection=single))
    tone, picture = Tone(hertz), Picture(RED, GREEN)
    await person.publish(tone.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await person.publish(picture.track, source=rtc.TrackSource.SOURCE_CAMERA)
    tell("connected", sid=person.sid)
    position = 0
    while not person.events("disconnected"):
        for event, arguments in person.told[position:]:
            position += 1
            if event == "track_subscribed":
                track, _, participant = arguments
                others.setdefault(participant.identity, Attention(participant.identity)).take(track)
            tell(event, identity=next((one.identity for one in arguments if isinstance(one, rtc.Participant)), ""))
        for one in others.values():
            tell("gets", identity=one.identity, hertz=round(one.hertz), windows=one.windows, pictures=one.pictures)
        await asyncio.sleep(_EVERY_SECONDS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--hertz", type=float, required=True)
    parser.add_argument("--single", action="store_true")
    given = parser.parse_args()
    asyncio.run(take_part(given.url, given.token, given.hertz, given.single))
