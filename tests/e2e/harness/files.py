"""Media files for clients that read and write files instead of frames: a tone in Ogg, a picture in IVF."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from tests.e2e.harness.media import SAMPLE_RATE_HZ, Seen, measure, paint, write_number


def write_tone(path: Path, frequency_hz: float, seconds: float) -> None:
    with av.open(str(path), "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE_HZ)
        stream.layout = "mono"
        samples = 960
        for number in range(int(seconds * SAMPLE_RATE_HZ / samples)):
            index = np.arange(number * samples, (number + 1) * samples)
            wave = (16_000 * np.sin(2 * np.pi * frequency_hz * index / SAMPLE_RATE_HZ)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.pts = number * samples
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_picture(
    path: Path,
    left: tuple[int, int, int],
    right: tuple[int, int, int],
    seconds: float,
    fps: int = 15,
    key_every: int = 0,
) -> None:
    """320 by 240, VP8, a key frame each second unless every so many frames: nobody answers to a wish for one."""
    with av.open(str(path), "w", format="ivf") as container:
        stream = container.add_stream(
            "libvpx", rate=fps, options={"deadline": "realtime", "cpu-used": "8", "g": str(key_every or fps)}
        )
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        planes = paint(left, right, 320, 240)
        for number in range(int(seconds * fps)):
            write_number(planes[0], number % 256)
            packed = np.concatenate([plane.reshape(-1, 320) for plane in planes])
            frame = av.VideoFrame.from_ndarray(packed, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def heard_in(path: Path) -> float:
    """The dominant frequency in Hz of the last half second of an Ogg file that may still grow."""
    parts = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                parts.append(
                    frame.to_ndarray().astype(np.float64).reshape(-1, frame.layout.nb_channels)[:, 0]
                    if frame.format.is_packed
                    else frame.to_ndarray().astype(np.float64)[0]
                )
    except av.error.FFmpegError:
        # The last page is cut where the writer is now.
        pass
    samples = np.concatenate(parts)[-SAMPLE_RATE_HZ // 2 :]
    return measure(samples)[0]


def seen_in(path: Path) -> Seen:
    """The last whole picture of an IVF file that may still grow."""
    last = None
    try:
        with av.open(str(path)) as container:
            for picture in container.decode(video=0):
                last = picture
    except av.error.FFmpegError:
        pass
    assert last is not None, f"no picture in {path}"
    planes = [np.asarray(plane).reshape(-1, plane.line_size)[:, : plane.width] for plane in last.planes]

    def colour(from_x: float, to_x: float) -> tuple[int, int, int]:
        means = []
        for plane in planes:
            rows, columns = plane.shape
            part = plane[rows // 2 : rows * 7 // 8, int(columns * from_x) : int(columns * to_x)]
            means.append(round(float(part.mean())))
        return means[0], means[1], means[2]

    return Seen(colour(0.1, 0.4), colour(0.6, 0.9), 0, last.width, last.height)
