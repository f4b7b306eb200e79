"""A call of two raw participants (the probe's own): each publishes a tone and a picture and watches the other's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from livekit.protocol import models

from signaling.probe import content
from signaling.probe.content import Colour
from signaling.probe.failure import Step
from signaling.probe.media import PictureTrack, ToneTrack
from signaling.probe.participant import JoinOptions, Participant
from tests.e2e.harness.server import Endpoint


@dataclass
class Caller:
    """One participant and what it publishes."""

    participant: Participant
    tone: ToneTrack
    picture: PictureTrack

    @property
    def numbers(self) -> list[int]:
        """Of the pictures read so far."""
        video = self.participant.video
        return video.numbers if video is not None else []

    def video_ssrc(self) -> int:
        """Of the picture that is received."""
        for section in self.participant.subscriber.sections:
            if section.kind == "video" and section.received_ssrcs:
                return section.received_ssrcs[0]
        raise AssertionError("no picture is received")

    def video_lost(self) -> tuple[int, int]:
        """(never arrived, arrived by retransmission)."""
        reception = self.participant.subscriber.receptions[self.video_ssrc()]
        return reception.lost, reception.recovered

    def saw(self, other: Participant, state: int) -> bool:
        """Whether an update about `other` with that state has come."""
        return any(
            info.sid == other.sid and info.state == state
            for message in self.participant.messages
            for info in message.update.participants
        )

    async def sees_more(self, frames: int = 5, seconds: float = 15) -> None:
        """Until so many further pictures are read, none of them twice or out of order."""
        before = len(self.numbers)
        await eventually(lambda: len(self.numbers) >= before + frames, seconds, "the picture stands still")
        assert self.numbers == sorted(set(self.numbers))

    async def hears(self, tone: ToneTrack, seconds: float = 15) -> None:
        """Until what is heard is that tone."""

        def heard() -> bool:
            audio = self.participant.audio
            pitch = audio.pitch() if audio is not None else None
            return (
                pitch is not None
                and abs(pitch.frequency_hz - tone.frequency_hz) < content.TONE_TOLERANCE_HZ
                and pitch.share > content.MIN_TONE_SHARE
            )

        await eventually(heard, seconds, f"no tone of {tone.frequency_hz} Hz")


@contextlib.asynccontextmanager
async def raw_call(
    server: Endpoint, room: str, options: JoinOptions | None = None, other: JoinOptions | None = None
) -> AsyncIterator[tuple[Caller, Caller]]:
    """Alice with `options` and Bob with `other` (the same, if not said), once both hear and see each other."""
    options = options or JoinOptions()
    callers = [
        Caller(Participant(server.ws_url, server.token(room, name), chosen), ToneTrack(hertz), PictureTrack(colour))
        for name, chosen, hertz, colour in (
            ("alice", options, 440.0, Colour(140, 60, 180)),
            ("bob", other or options, 660.0, Colour(90, 200, 80)),
        )
    ]
    alice, bob = callers
    try:
        for caller in callers:
            await caller.participant.join()
            await caller.participant.publish(caller.tone, caller.picture)
        for caller in callers:
            await caller.participant.until(
                lambda caller=caller: len(caller.numbers) >= 2,  # type: ignore[misc]
                Step.FIRST_FRAME,
                "No picture",
            )
        yield alice, bob
    finally:
        for caller in callers:
            await caller.participant.leave()


async def still_a_call(alice: Caller, bob: Caller) -> None:
    """Both still hear and see each other, and pass data both ways."""
    for one, peer in ((alice, bob), (bob, alice)):
        await one.hears(peer.tone)
        await one.sees_more()
        picture = one.participant.video and one.participant.video.picture
        assert picture
        assert picture.shows(peer.picture.colour)
    for sender, receiver in ((alice, bob), (bob, alice)):
        payload = f"still here {len(receiver.participant.received)}".encode() * 20
        await sender.participant.send(payload, reliable=True)
        await eventually(lambda r=receiver, p=payload: p in payloads(r.participant), 10, "no data")  # type: ignore[misc]


def payloads(participant: Participant) -> list[bytes]:
    return [packet.user.payload for packet in participant.received]


async def eventually(true: Callable[[], object], seconds: float, otherwise: str) -> None:
    deadline = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < deadline, otherwise
        await asyncio.sleep(0.02)


DISCONNECTED = models.ParticipantInfo.State.DISCONNECTED
