"""The tracks a probe sends and what it makes of those it receives. The rules are `content.py`'s; here is the clock."""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from fractions import Fraction

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from signaling.probe import content

FRAMES_PER_SECOND = 15
_VIDEO_CLOCK = 90_000
_REMEMBERED_FRAMES = 512
_HEARD_SECONDS = 0.5


class ToneTrack(MediaStreamTrack):
    """A sine in 20 ms frames at real-time pace."""

    kind = "audio"

    def __init__(self, frequency_hz: float) -> None:
        super().__init__()
        self.frequency_hz = frequency_hz
        self._sample = 0
        self._started_at: float | None = None

    async def recv(self) -> av.AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._started_at is None:
            self._started_at = loop.time()
        await asyncio.sleep(self._started_at + self._sample / content.SAMPLE_RATE - loop.time())
        frame = av.AudioFrame(format="s16", layout="mono", samples=content.FRAME_SAMPLES)
        frame.planes[0].update(content.tone(self.frequency_hz, self._sample))
        frame.pts, frame.sample_rate = self._sample, content.SAMPLE_RATE
        frame.time_base = Fraction(1, content.SAMPLE_RATE)
        self._sample += content.FRAME_SAMPLES
        return frame


class PictureTrack(MediaStreamTrack):
    """Numbered pictures of one colour. Remembers when each was made, so that a receiver nearby can tell the delay."""

    kind = "video"

    def __init__(self, colour: content.Colour) -> None:
        super().__init__()
        self.colour = colour
        self.made_at: OrderedDict[int, float] = OrderedDict()
        self._number = 0
        self._started_at: float | None = None

    async def recv(self) -> av.VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        loop = asyncio.get_running_loop()
        if self._started_at is None:
            self._started_at = loop.time()
        await asyncio.sleep(self._started_at + self._number / FRAMES_PER_SECOND - loop.time())
        frame = av.VideoFrame(content.WIDTH, content.HEIGHT, "yuv420p")
        strides = (frame.planes[0].line_size, frame.planes[1].line_size, frame.planes[2].line_size)
        for plane, pixels in zip(frame.planes, content.paint(self.colour, self._number, strides), strict=True):
            plane.update(pixels)
        frame.pts, frame.time_base = self._number * _VIDEO_CLOCK // FRAMES_PER_SECOND, Fraction(1, _VIDEO_CLOCK)
        self.made_at[self._number % content.NUMBERS] = loop.time()
        while len(self.made_at) > _REMEMBERED_FRAMES:
            self.made_at.popitem(last=False)
        self._number += 1
        return frame


class AudioSink:
    """Plays a received track into `pitch` analysis. `first_frame_at`: loop time of the first decoded frame."""

    def __init__(self, track: MediaStreamTrack) -> None:
        self.first_frame_at: float | None = None
        self.frames = 0
        self._samples = array("h")
        self._task = asyncio.create_task(self._play(track))

    def pitch(self) -> content.Pitch | None:
        """Of the newest half second."""
        return content.pitch(self._samples[-content.needed_samples() :])

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _play(self, track: MediaStreamTrack) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.AudioFrame)
                self.frames += 1
                if self.first_frame_at is None:
                    self.first_frame_at = loop.time()
                channels = len(frame.layout.channels)
                interleaved = array("h", bytes(frame.planes[0])[: frame.samples * channels * 2])
                self._samples.extend(interleaved[::channels])
                excess = len(self._samples) - int(_HEARD_SECONDS * content.SAMPLE_RATE)
                if excess > 0:
                    del self._samples[:excess]
        except MediaStreamError:
            pass


class VideoSink:
    """Watches a received track: colour, numbers, delay against `source` when that is in this process."""

    def __init__(self, track: MediaStreamTrack, source: PictureTrack | None = None) -> None:
        self.first_frame_at: float | None = None
        self.frames = 0
        self.picture: content.Picture | None = None
        self.numbers: list[int] = []
        self.delays: list[float] = []
        self._source = source
        self._task = asyncio.create_task(self._watch(track))

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self, track: MediaStreamTrack) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                frame = await track.recv()
                assert isinstance(frame, av.VideoFrame)
                now = loop.time()
                self.frames += 1
                if self.first_frame_at is None:
                    self.first_frame_at = now
                planes = (bytes(frame.planes[0]), bytes(frame.planes[1]), bytes(frame.planes[2]))
                strides = (frame.planes[0].line_size, frame.planes[1].line_size, frame.planes[2].line_size)
                self.picture = content.read(planes, strides, frame.width, frame.height)
                if self.picture.number is not None:
                    self.numbers.append(self.picture.number)
                    made_at = self._source.made_at.get(self.picture.number) if self._source is not None else None
                    if made_at is not None:
                        self.delays.append(now - made_at)
        except MediaStreamError:
            pass
