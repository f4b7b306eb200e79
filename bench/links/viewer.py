"""A process with one viewer behind the link: the official Python SDK, which is libwebrtc.

Orders come on the first line of its input, `start` on the second; at the end of its input it leaves what it saw.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from livekit import rtc

_WATCH_SECONDS = 0.2


class Orders(msgspec.Struct, frozen=True):
    url: str
    token: str
    #: Of the page that a browser loads its client from; the SDK needs none.
    origin: str = ""


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """Pictures of one size that were shown, at once or since the one before."""

    #: Monotonic seconds.
    at: float
    height: int
    frames: int


class Freezes(msgspec.Struct, frozen=True, array_like=True):
    """What the client itself counts by W3C's definition, up to some moment."""

    at: float
    count: int
    seconds: float


class Video(msgspec.Struct):
    #: Its id in the room.
    track: str
    #: `camera` or `share`.
    kind: str
    person: str
    shown: list[Shown] = msgspec.field(default_factory=list)
    freezes: list[Freezes] = msgspec.field(default_factory=list)
    #: (moment, whether it was paused), as the client was told; empty if it does not say.
    paused: list[tuple[float, bool]] = msgspec.field(default_factory=list)
    nacks: int = 0
    plis: int = 0


class Sound(msgspec.Struct, frozen=True, array_like=True):
    """What one voice had needed by some moment."""

    at: float
    person: str
    samples: int
    concealed: int


class Sight(msgspec.Struct):
    """All that a viewer leaves."""

    #: When it began to join.
    joined_at: float
    videos: list[Video] = msgspec.field(default_factory=list)
    sounds: list[Sound] = msgspec.field(default_factory=list)
    #: True if frames were noted one by one, so that gaps between them can be told.
    is_exact: bool = True


async def main() -> None:
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    room = rtc.Room()
    watching: list[asyncio.Task[None]] = []
    sight = Sight(joined_at=0.0)

    def subscribed(track: rtc.Track, publication: rtc.RemoteTrackPublication, person: rtc.RemoteParticipant) -> None:
        if track.kind == rtc.TrackKind.KIND_VIDEO:
            is_share = publication.source == rtc.TrackSource.SOURCE_SCREENSHARE
            video = Video(publication.sid, "share" if is_share else "camera", person.identity)
            sight.videos.append(video)
            watching.append(asyncio.create_task(_look(track, video)))
            watching.append(asyncio.create_task(_count(track, video)))
        else:
            watching.append(asyncio.create_task(_listen(track, person.identity, sight.sounds)))

    room.on("track_subscribed", subscribed)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.readline)
    sight.joined_at = time.monotonic()
    await room.connect(orders.url, orders.token, rtc.RoomOptions(auto_subscribe=True))
    await asyncio.to_thread(sys.stdin.buffer.read)
    for task in watching:
        task.cancel()
    sys.stdout.buffer.write(msgspec.json.encode(sight))
    sys.stdout.flush()
    await room.disconnect()


async def _look(track: rtc.Track, video: Video) -> None:
    async for event in rtc.VideoStream(track, format=rtc.VideoBufferType.I420):
        video.shown.append(Shown(time.monotonic(), event.frame.height, 1))


async def _count(track: rtc.Track, video: Video) -> None:
    async for found in _statistics(track):
        video.freezes.append(Freezes(time.monotonic(), found.freeze_count, found.total_freeze_duration))
        video.nacks, video.plis = found.nack_count, found.pli_count


async def _listen(track: rtc.Track, person: str, sounds: list[Sound]) -> None:
    async for found in _statistics(track):
        sounds.append(Sound(time.monotonic(), person, found.total_samples_received, found.concealed_samples))


async def _statistics(track: rtc.Track) -> AsyncIterator[Any]:
    """What libwebrtc counts of the stream that it receives, again and again."""
    while True:
        for entry in await track.get_stats():
            if entry.HasField("inbound_rtp"):
                yield entry.inbound_rtp.inbound
        await asyncio.sleep(_WATCH_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
