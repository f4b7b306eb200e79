"""One run of the probe: two participants meet, exchange audio, video and data, and what arrives is judged.

The first joins an empty room and publishes; the second joins a running call, which is what its join times mean. Raises
nothing: a failure is part of the report.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from livekit.protocol import models

from signaling.probe import content
from signaling.probe.failure import ProbeFailure, Step
from signaling.probe.media import FRAMES_PER_SECOND, PictureTrack, ToneTrack
from signaling.probe.participant import LOSSY, RELIABLE, JoinOptions, Participant
from signaling.probe.report import Leg, MediaFigures, Report

_MIN_FRAMES_SHARE = 0.5
_RELIABLE_BYTES = (1, 1_000, 12_000)
_LOSSY_BYTES = 1_000
_LOSSY_MESSAGES = 10


@dataclass(frozen=True)
class RunOptions:
    """`tokens`: one for each participant, same room. `seconds`: of media that are watched, at least 1."""

    url: str
    tokens: tuple[str, str]
    join: JoinOptions = field(default_factory=JoinOptions)
    seconds: float = 3.0


@dataclass
class _Side:
    """One participant with what it sends."""

    name: str
    participant: Participant
    tone: ToneTrack
    picture: PictureTrack
    counts_from: float = 0.0
    sent: dict[bool, list[bytes]] = field(default_factory=lambda: {True: [], False: []})

    async def publish(self) -> None:
        await self.participant.publish(self.tone, self.picture)


async def run(options: RunOptions) -> Report:
    """One call from beginning to end."""
    loop = asyncio.get_running_loop()
    started, started_at = loop.time(), time.time()
    participants = [Participant(options.url, token, options.join) for token in options.tokens]
    first = _Side("first", participants[0], ToneTrack(440), PictureTrack(content.Colour(140, 60, 180)))
    second = _Side("second", participants[1], ToneTrack(660), PictureTrack(content.Colour(90, 200, 80)))
    first.participant.picture_source, second.participant.picture_source = second.picture, first.picture
    failure: ProbeFailure | None = None
    try:
        try:
            await _meet(first, second)
            await _exchange(first, second, options.seconds)
        except ProbeFailure as found:
            failure = found
        legs = (await _leg(first), await _leg(second))
    finally:
        await _to_the_end(_leave(second, first))
    return Report(
        url=options.url,
        mode="single" if options.join.single else "dual",
        started_at=started_at,
        seconds=loop.time() - started,
        legs=legs,
        failed_step=failure.step if failure else None,
        failure=failure.sentence if failure else None,
    )


async def _leave(*sides: _Side) -> None:
    for side in sides:
        await side.participant.leave()


async def _to_the_end(closing: Coroutine[Any, Any, None]) -> None:
    """Also when told to stop meanwhile: a receiver left half closed has a thread that keeps the process alive."""
    task = asyncio.create_task(closing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


async def _meet(first: _Side, second: _Side) -> None:
    loop = asyncio.get_running_loop()
    first.counts_from = loop.time()
    await first.participant.join()
    await first.publish()
    second.counts_from = loop.time()
    await second.participant.join()
    await _media_arrives(second)
    first.counts_from = loop.time()
    await second.publish()
    await _media_arrives(first)


async def _media_arrives(side: _Side) -> None:
    participant = side.participant

    def packet() -> bool:
        return participant.subscriber.counts.first_packet_at is not None

    def frames() -> bool:
        audio, video = participant.audio, participant.video
        return None not in (audio and audio.first_frame_at, video and video.first_frame_at)

    await participant.until(packet, Step.FIRST_PACKET, f"The {side.name} participant got no media packet")
    try:
        await participant.until(frames, Step.FIRST_FRAME, "")
    except ProbeFailure as failure:
        if failure.sentence:
            raise
        sinks = {"audio": participant.audio, "video": participant.video}
        got = [kind for kind, sink in sinks.items() if sink is not None and sink.frames]
        sentence = f"The {side.name} participant gets packets, but decoded {' and '.join(got) or 'nothing'} only."
        raise ProbeFailure(Step.FIRST_FRAME, sentence) from failure


async def _exchange(first: _Side, second: _Side, seconds: float) -> None:
    """Watch media for a while, send data meanwhile, then judge."""
    loop = asyncio.get_running_loop()
    watched_from = loop.time()
    frames_before = {side.name: _numbers(side) for side in (first, second)}
    for side in (first, second):
        for label in (RELIABLE, LOSSY):
            sentence = f"The data channel {label} of the {side.name} participant did not open"
            channel = side.participant.subscriber.channels
            await side.participant.until(
                lambda label=label, channel=channel: label in channel and channel[label].readyState == "open",  # type: ignore[misc]
                Step.DATA,
                sentence,
            )
    for side in (first, second):
        await _send_data(side)
    for sender, receiver in ((first, second), (second, first)):
        await _data_arrives(sender, receiver)
    await asyncio.sleep(max(0.0, watched_from + seconds - loop.time()))
    watched = loop.time() - watched_from
    for sender, receiver in ((first, second), (second, first)):
        _judge_tone(sender, receiver)
        _judge_picture(sender, receiver, frames_before[receiver.name], watched)


async def _send_data(side: _Side) -> None:
    for size in _RELIABLE_BYTES:
        payload = _payload(side.name, size)
        side.sent[True].append(payload)
        await side.participant.send(payload, reliable=True)
    for number in range(_LOSSY_MESSAGES):
        payload = _payload(f"{side.name} {number} ", _LOSSY_BYTES)
        side.sent[False].append(payload)
        await side.participant.send(payload, reliable=False)


async def _data_arrives(sender: _Side, receiver: _Side) -> None:
    """All reliable messages, whole and in order; of the lossy ones at least one, and none that was not sent."""

    def all_there() -> bool:
        return len(_payloads(receiver, reliable=True)) >= len(sender.sent[True]) and bool(
            _payloads(receiver, reliable=False)
        )

    try:
        await receiver.participant.until(all_there, Step.DATA, "")
    except ProbeFailure as failure:
        if failure.sentence:
            raise
        got, of = len(_payloads(receiver, reliable=True)), len(sender.sent[True])
        lossy = len(_payloads(receiver, reliable=False))
        sentence = f"The {receiver.name} participant got {got} of {of} reliable and {lossy} lossy messages."
        raise ProbeFailure(Step.DATA, sentence) from failure
    if _payloads(receiver, reliable=True) != sender.sent[True]:
        raise ProbeFailure(Step.DATA, f"Reliable messages reached the {receiver.name} participant altered.")
    if not set(_payloads(receiver, reliable=False)) <= set(sender.sent[False]):
        raise ProbeFailure(Step.DATA, f"Lossy messages reached the {receiver.name} participant altered.")


def _judge_tone(sender: _Side, receiver: _Side) -> None:
    audio = receiver.participant.audio
    heard = audio.pitch() if audio is not None else None
    wanted = sender.tone.frequency_hz
    if heard is None:
        raise ProbeFailure(Step.AUDIO, f"The {receiver.name} participant hears silence instead of {wanted:.0f} Hz.")
    if abs(heard.frequency_hz - wanted) > content.TONE_TOLERANCE_HZ or heard.share < content.MIN_TONE_SHARE:
        sentence = (
            f"The {receiver.name} participant hears {heard.frequency_hz:.0f} Hz"
            f" ({100 * heard.share:.0f} % of the energy) instead of a tone of {wanted:.0f} Hz."
        )
        raise ProbeFailure(Step.AUDIO, sentence)


def _judge_picture(sender: _Side, receiver: _Side, numbers_before: int, watched_seconds: float) -> None:
    video = receiver.participant.video
    picture = video.picture if video is not None else None
    if video is None or picture is None or not picture.shows(sender.picture.colour):
        sentence = f"The {receiver.name} participant sees {picture and picture.colour}, not {sender.picture.colour}."
        raise ProbeFailure(Step.VIDEO, sentence)
    numbers = video.numbers[numbers_before:]
    if not all(content.follows(later, earlier) for earlier, later in itertools.pairwise(numbers)):
        raise ProbeFailure(Step.VIDEO, f"The {receiver.name} participant sees frames out of order or twice.")
    least = int(_MIN_FRAMES_SHARE * watched_seconds * FRAMES_PER_SECOND)
    if len(numbers) < least:
        sentence = (
            f"The {receiver.name} participant saw {len(numbers)} readable frames in {watched_seconds:.1f} s,"
            f" fewer than {least}."
        )
        raise ProbeFailure(Step.VIDEO, sentence)


async def _leg(side: _Side) -> Leg:
    """What `side` saw so far; empty where it did not get."""
    participant = side.participant
    times = participant.times
    if times.signal is None:
        return Leg(side.name)
    peer = participant.subscriber
    audio, video = participant.audio, participant.video
    frame_times = [sink.first_frame_at for sink in (audio, video) if sink is not None]
    seen_frames = [at for at in frame_times if at is not None]
    reached = {Step.SIGNAL: times.signal, Step.ICE: times.ice, Step.DTLS: times.dtls}
    steps = {step: at - times.started for step, at in reached.items() if at is not None}
    if peer.counts.first_packet_at is not None:
        steps[Step.FIRST_PACKET] = peer.counts.first_packet_at - side.counts_from
    if len(seen_frames) == 2:
        steps[Step.FIRST_FRAME] = max(seen_frames) - side.counts_from
    path, remote = peer.link.path
    round_trips = list(peer.link.round_trips)
    pitch = audio.pitch() if audio is not None else None
    return Leg(
        name=side.name,
        steps=steps,
        path=path,
        remote=remote,
        dtls_version=peer.dtls.version,
        srtp_cipher=peer.dtls.cipher,
        signal_round_trip_seconds=participant.signal_round_trip_seconds,
        round_trip_seconds=statistics.median(round_trips) if round_trips else None,
        rtcp_round_trip_seconds=await participant.publisher.round_trip_by_rtcp(),
        audio=_figures(side, 48_000),
        video=_figures(side, 90_000),
        tone_hz=pitch.frequency_hz if pitch is not None else None,
        frames=video.frames if video is not None else 0,
        video_delay_seconds=statistics.median(video.delays) if video is not None and video.delays else None,
        reliable_messages=len(_payloads(side, reliable=True)),
        lossy_messages=len(_payloads(side, reliable=False)),
    )


def _figures(side: _Side, clock_rate: int) -> MediaFigures:
    streams = [one for one in side.participant.subscriber.receptions.values() if one.clock_rate == clock_rate]
    return MediaFigures(
        packets=sum(one.packets for one in streams),
        lost=sum(one.lost for one in streams),
        recovered=sum(one.recovered for one in streams),
        jitter_seconds=max((one.jitter_seconds for one in streams), default=0.0),
    )


def _numbers(side: _Side) -> int:
    video = side.participant.video
    return len(video.numbers) if video is not None else 0


def _payloads(side: _Side, *, reliable: bool) -> list[bytes]:
    kind = models.DataPacket.Kind.RELIABLE if reliable else models.DataPacket.Kind.LOSSY
    packets = side.participant.received
    return [one.user.payload for one in packets if one.WhichOneof("value") == "user" and one.kind == kind]


def _payload(seed: str, size: int) -> bytes:
    """Bytes of every value, different for each seed."""
    start = sum(seed.encode())
    return (seed.encode() + bytes((start + 7 * i) & 0xFF for i in range(size)))[:size]
