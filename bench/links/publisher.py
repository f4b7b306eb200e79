"""A process of publishers with the official Python SDK: full simulcast, beside the server, without a narrow link.

Orders come on the first line of its input; it says `ready` when all is published and sent, and at the end of its input
leaves what it has sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import Literal

import msgspec
import numpy as np
from livekit import rtc
from livekit.rtc._proto.room_pb2 import AudioEncoding

from bench.links import content

_AUDIO_FRAME_SAMPLES = 480
_WATCH_SECONDS = 0.5
#: RTP over UDP and IPv4, and the tag of AES-GCM: what statistics of senders leave out.
_WIRE_BYTES = 20 + 8 + 16


class Person(msgspec.Struct, frozen=True):
    token: str
    tracks: tuple[Literal["camera", "share", "voice"], ...]


class Picture(msgspec.Struct, frozen=True):
    """What a camera or a share makes."""

    width: int = 1_280
    height: int = 720
    fps: float = 30
    bps: int = 1_800_000


_SHARE = Picture(1_920, 1_080, 5, 800_000)


class Orders(msgspec.Struct, frozen=True):
    url: str
    people: tuple[Person, ...]
    camera: Picture = Picture()


class Reading(msgspec.Struct, frozen=True):
    """What a sender had sent of one encoding by some moment."""

    #: Monotonic seconds.
    at: float
    #: `voice`, `share`, or `camera` with its layer.
    kind: str
    person: int
    height: int
    frames: int
    key_frames: int
    wire_bytes: int
    #: Why the encoder does less than it might, as libwebrtc says it.
    limited_by: str
    plis: int


async def main() -> None:
    orders = msgspec.json.decode(sys.stdin.buffer.readline(), type=Orders)
    rooms = [rtc.Room() for _ in orders.people]
    playing: list[asyncio.Task[None]] = []
    scenes: dict[str, list[bytes]] = {}
    for person in orders.people:
        for kind in person.tracks:
            if kind not in scenes and kind != "voice":
                scenes[kind] = _scene(kind, orders.camera)
    await _listening(orders.url)
    for index, (room, person) in enumerate(zip(rooms, orders.people, strict=True)):
        await room.connect(orders.url, person.token, rtc.RoomOptions(auto_subscribe=False, dynacast=False))
        for kind in person.tracks:
            playing.append(await _publish(room, kind, scenes.get(kind, []), orders.camera, index))
    readings: list[Reading] = []
    watching = asyncio.create_task(_watch(rooms, readings))
    await _sending(orders, readings)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    watching.cancel()
    for task in playing:
        task.cancel()
    sys.stdout.buffer.write(msgspec.json.encode(readings))
    sys.stdout.flush()
    await asyncio.gather(*(room.disconnect() for room in rooms), return_exceptions=True)


async def _listening(url: str) -> None:
    """Until the server takes connections."""
    host, _, port = url.rpartition("/")[2].rpartition(":")
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()
                return
            await asyncio.sleep(0.1)


def _scene(kind: str, camera: Picture) -> list[bytes]:
    if kind == "camera":
        return content.camera(camera.width, camera.height, camera.fps)
    return content.screen(_SHARE.width, _SHARE.height, _SHARE.fps)


async def _publish(room: rtc.Room, kind: str, scene: list[bytes], camera: Picture, index: int) -> asyncio.Task[None]:
    if kind == "voice":
        sound = rtc.AudioSource(content.SAMPLE_RATE_HZ, 1, queue_size_ms=100)
        voice = rtc.LocalAudioTrack.create_audio_track("voice", sound)
        options = rtc.TrackPublishOptions(
            source=rtc.TrackSource.SOURCE_MICROPHONE,
            audio_encoding=AudioEncoding(max_bitrate=48_000),
            dtx=False,
            red=False,
        )
        await room.local_participant.publish_track(voice, options)
        return asyncio.create_task(_speak(sound))
    is_share = kind == "share"
    shape = _SHARE if is_share else camera
    source = rtc.VideoSource(shape.width, shape.height, is_screencast=is_share)
    track = rtc.LocalVideoTrack.create_video_track(kind, source)
    options = rtc.TrackPublishOptions(
        source=rtc.TrackSource.SOURCE_SCREENSHARE if is_share else rtc.TrackSource.SOURCE_CAMERA,
        video_codec=rtc.VideoCodec.VP8,
        video_encoding=rtc.VideoEncoding(max_bitrate=shape.bps, max_framerate=shape.fps),
        simulcast=not is_share,
    )
    await room.local_participant.publish_track(track, options)
    return asyncio.create_task(_show(source, scene, shape, index))


async def _show(source: rtc.VideoSource, scene: list[bytes], shape: Picture, index: int) -> None:
    loop = asyncio.get_running_loop()
    # People do not take pictures at the same moment.
    due = loop.time() + index * 0.382 / shape.fps
    number = index * 17
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        picture = scene[number % len(scene)]
        source.capture_frame(rtc.VideoFrame(shape.width, shape.height, rtc.VideoBufferType.I420, picture))
        number += 1
        due = max(due + 1 / shape.fps, loop.time() - 1 / shape.fps)


async def _speak(source: rtc.AudioSource) -> None:
    sound = content.voice()
    parts = np.split(sound, len(sound) // _AUDIO_FRAME_SAMPLES)
    while True:
        for part in parts:
            frame = rtc.AudioFrame(part.tobytes(), content.SAMPLE_RATE_HZ, 1, _AUDIO_FRAME_SAMPLES)
            await source.capture_frame(frame)


async def _watch(rooms: list[rtc.Room], readings: list[Reading]) -> None:
    while True:
        for index, room in enumerate(rooms):
            readings += _read(index, await room.get_rtc_stats())
        await asyncio.sleep(_WATCH_SECONDS)


def _read(person: int, stats: rtc.RtcStats) -> list[Reading]:
    now = time.monotonic()
    found = []
    for entry in stats.publisher_stats:
        if not entry.HasField("outbound_rtp"):
            continue
        stream, sent, out = entry.outbound_rtp.stream, entry.outbound_rtp.sent, entry.outbound_rtp.outbound
        # A share is the only video without a name for its encoding.
        kind = "voice" if stream.kind == "audio" else f"camera {out.rid}" if out.rid else "share"
        wire = sent.bytes_sent + out.header_bytes_sent + sent.packets_sent * _WIRE_BYTES
        limited = str(out.quality_limitation_reason)
        found.append(
            Reading(
                at=now,
                kind=kind,
                person=person,
                height=out.frame_height,
                frames=out.frames_encoded,
                key_frames=out.key_frames_encoded,
                wire_bytes=wire,
                limited_by=limited,
                plis=out.pli_count,
            )
        )
    return found


async def _sending(orders: Orders, readings: list[Reading]) -> None:
    """Until every encoding of every person has sent pictures for a while."""
    encodings = {"camera": 3, "share": 1, "voice": 1}
    wanted = sum(encodings[kind] for person in orders.people for kind in person.tracks)
    async with asyncio.timeout(30):
        while True:
            flowing = {(r.person, r.kind) for r in readings if r.wire_bytes and (r.kind == "voice" or r.frames > 5)}
            if len(flowing) >= wanted:
                break
            await asyncio.sleep(0.1)
    # Encoders begin carefully: until their rates are what they were told.
    await asyncio.sleep(4)


if __name__ == "__main__":
    asyncio.run(main())
