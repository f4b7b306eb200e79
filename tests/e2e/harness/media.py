"""Synthetic media that says who sent it: a tone by its frequency, a picture by its colours and a frame number.

Everything is judged by what is decoded at the far end, never by counters.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import numpy as np
from livekit import rtc
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 48_000
_FRAME_SAMPLES = 480
_BITS = 8

# Far apart in both chroma planes, so that no codec confuses them: (Y, U, V).
RED, GREEN, BLUE, GREY = (81, 90, 240), (145, 54, 34), (60, 220, 110), (128, 128, 128)


class Tone:
    """A sine tone as an audio source."""

    def __init__(self, frequency_hz: float, amplitude: float = 0.5) -> None:
        self.frequency_hz = frequency_hz
        self.amplitude = amplitude
        self.source = rtc.AudioSource(SAMPLE_RATE_HZ, 1, queue_size_ms=100)
        self.track = rtc.LocalAudioTrack.create_audio_track(f"tone-{frequency_hz:g}", self.source)
        self._task = asyncio.create_task(self._play())

    async def _play(self) -> None:
        position = 0
        while True:
            index = np.arange(position, position + _FRAME_SAMPLES)
            wave = self.amplitude * 32767 * np.sin(2 * np.pi * self.frequency_hz * index / SAMPLE_RATE_HZ)
            position += _FRAME_SAMPLES
            data = wave.astype(np.int16).tobytes()
            await self.source.capture_frame(rtc.AudioFrame(data, SAMPLE_RATE_HZ, 1, _FRAME_SAMPLES))

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.source.aclose()


class Picture:
    """A video source: `left` and `right` colour halves, and the frame's number as black and white blocks on top."""

    def __init__(
        self,
        left: tuple[int, int, int],
        right: tuple[int, int, int],
        *,
        width: int = 320,
        height: int = 240,
        fps: int = 15,
    ) -> None:
        self.left, self.right, self.width, self.height, self.fps = left, right, width, height, fps
        self.number = 0
        self.source = rtc.VideoSource(width, height)
        self.track = rtc.LocalVideoTrack.create_video_track("picture", self.source)
        self._task = asyncio.create_task(self._play())

    async def _play(self) -> None:
        loop = asyncio.get_running_loop()
        planes = paint(self.left, self.right, self.width, self.height)
        due = loop.time()
        while True:
            self.number = (self.number + 1) % (1 << _BITS)
            write_number(planes[0], self.number)
            data = b"".join(plane.tobytes() for plane in planes)
            self.source.capture_frame(rtc.VideoFrame(self.width, self.height, rtc.VideoBufferType.I420, data))
            due += 1 / self.fps
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.source.aclose()


@dataclass(frozen=True)
class Seen:
    """One decoded picture."""

    left: tuple[int, int, int]
    right: tuple[int, int, int]
    number: int
    width: int
    height: int

    def shows(self, left: tuple[int, int, int], right: tuple[int, int, int], tolerance: int = 16) -> bool:
        pairs = zip((*self.left, *self.right), (*left, *right), strict=True)
        return all(abs(got - sent) <= tolerance for got, sent in pairs)


async def look(track: rtc.Track) -> AsyncGenerator[Seen, None]:
    """What a subscriber of `track` sees, frame by frame."""
    stream = rtc.VideoStream(track, capacity=2, format=rtc.VideoBufferType.I420)
    try:
        async for event in stream:
            yield read_picture(event.frame)
    finally:
        await stream.aclose()


async def see(track: rtc.Track, picture: Picture, *, seconds: float = 15, frames: int = 3) -> Seen:
    """Waits until `frames` frames with different numbers show `picture`; returns the last of them."""
    numbers: set[int] = set()
    last: Seen | None = None
    try:
        async with asyncio.timeout(seconds), contextlib.aclosing(look(track)) as pictures:
            async for last in pictures:
                if last.shows(picture.left, picture.right):
                    numbers.add(last.number)
                if len(numbers) >= frames:
                    return last
    except TimeoutError:
        pass
    raise AssertionError(f"the picture {picture.left}|{picture.right} was not seen; last: {last}")


async def hear(track: rtc.Track, *, seconds: float = 15, window_seconds: float = 0.4, quiet: float = 300) -> float:
    """The dominant frequency in Hz of the first window that is not silent."""
    try:
        async with asyncio.timeout(seconds), contextlib.aclosing(windows(track, window_seconds)) as heard:
            async for frequency, level in heard:
                if level > quiet:
                    return frequency
    except TimeoutError:
        pass
    raise AssertionError("nothing but silence was heard")


async def hear_tone(track: rtc.Track, frequency_hz: float, *, seconds: float = 15) -> None:
    """Waits until `frequency_hz` (to 10 Hz) dominates one window."""
    heard: list[tuple[int, int]] = []
    try:
        async with asyncio.timeout(seconds), contextlib.aclosing(windows(track, 0.4)) as measured:
            async for frequency, level in measured:
                heard.append((round(frequency), round(level)))
                if level > 300 and abs(frequency - frequency_hz) < 10:
                    return
    except TimeoutError:
        pass
    raise AssertionError(f"{frequency_hz} Hz was not heard; (frequency, level) were {heard[-10:]}")


async def is_silent(track: rtc.Track, *, seconds: float) -> bool:
    """Whether nothing but silence, or nothing at all, comes for the last half of `seconds`."""
    loop = asyncio.get_running_loop()
    middle = loop.time() + seconds / 2
    try:
        async with asyncio.timeout(seconds), contextlib.aclosing(windows(track, 0.2)) as measured:
            async for _, level in measured:
                if level > 100 and loop.time() > middle:
                    return False
    except TimeoutError:
        pass
    return True


async def windows(track: rtc.Track, window_seconds: float) -> AsyncGenerator[tuple[float, float], None]:
    """(dominant frequency in Hz, root mean square) of successive windows."""
    stream = rtc.AudioStream(track, sample_rate=SAMPLE_RATE_HZ, num_channels=1)
    wanted = int(window_seconds * SAMPLE_RATE_HZ)
    collected: list[NDArray[np.int16]] = []
    count = 0
    try:
        async for event in stream:
            samples = np.frombuffer(event.frame.data, dtype=np.int16)
            collected.append(samples)
            count += len(samples)
            if count >= wanted:
                yield measure(np.concatenate(collected).astype(np.float64))
                collected, count = [], 0
    finally:
        await stream.aclose()


def measure(samples: NDArray[np.float64]) -> tuple[float, float]:
    """(dominant frequency in Hz, root mean square)."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    spectrum[0] = 0
    return float(np.argmax(spectrum) * SAMPLE_RATE_HZ / len(samples)), float(np.sqrt(np.mean(samples**2)))


def paint(
    left: tuple[int, int, int], right: tuple[int, int, int], width: int, height: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """The Y, U and V planes of two halves."""
    planes = []
    for index, scale in enumerate((1, 2, 2)):
        plane = np.empty((height // scale, width // scale), dtype=np.uint8)
        middle = plane.shape[1] // 2
        plane[:, :middle] = left[index]
        plane[:, middle:] = right[index]
        planes.append(plane)
    return planes[0], planes[1], planes[2]


def write_number(luma: NDArray[np.uint8], number: int) -> None:
    height, width = luma.shape
    block = width // _BITS
    for bit in range(_BITS):
        luma[: height // 8, bit * block : (bit + 1) * block] = 220 if number >> bit & 1 else 30


def read_picture(frame: rtc.VideoFrame) -> Seen:
    width, height = frame.width, frame.height
    planes = []
    for index, scale in enumerate((1, 2, 2)):
        plane = np.frombuffer(frame.get_plane(index) or b"", dtype=np.uint8)
        planes.append(plane.reshape((height + scale - 1) // scale, -1))

    def colour(from_x: float, to_x: float) -> tuple[int, int, int]:
        means = []
        for plane in planes:
            rows, columns = plane.shape
            part = plane[rows // 2 : rows * 7 // 8, int(columns * from_x) : int(columns * to_x)]
            means.append(round(float(part.mean())))
        return means[0], means[1], means[2]

    row = planes[0][height // 16]
    block = planes[0].shape[1] / _BITS
    number = sum(1 << bit for bit in range(_BITS) if row[int((bit + 0.5) * block)] > 125)
    return Seen(colour(0.1, 0.4), colour(0.6, 0.9), number, width, height)
