"""Moving pictures and sound for publishers, made once and played in a loop: encoders are to work, not we."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 48_000
_LOOP_SECONDS = 4.0
#: Of the height and width, and of the 255 levels: as much as lets libvpx keep every layer at its full frame rate.
_SWAY, _NOISE = 0.01, 1.0

#: Rows of a line of text.
_LINE = 16
_PAPER = 230


def camera(width: int, height: int, fps: float, seed: int = 1) -> list[bytes]:
    """I420 frames of a textured scene that sways behind a few moving shapes, with the noise of a sensor.

    Detail at all sizes and noise make every layer of a simulcast use the rate that it is given.
    """
    chance = np.random.default_rng(seed)
    scene = _texture(chance, width, height)
    colours = [_texture(chance, width // 2, height // 2) for _ in range(2)]
    noises = [chance.normal(0, _NOISE, (height, width)) for _ in range(4)]
    shapes = [_texture(chance, width // 5, height // 3) for _ in range(3)]
    count = round(_LOOP_SECONDS * fps)
    frames = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        shift = (2 * round(_SWAY * height * math.sin(2 * angle)), 2 * round(_SWAY * width * math.sin(angle)))
        luma = np.roll(scene, shift, (0, 1)) + noises[index % len(noises)]
        for number, shape in enumerate(shapes):
            phase = angle + number * 2 * math.pi / len(shapes)
            top = round((height - shape.shape[0]) * (0.5 + 0.5 * math.sin(phase)))
            left = round((width - shape.shape[1]) * (0.5 + 0.5 * math.cos(phase)))
            luma[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
        chroma = [np.roll(plane, (shift[0] // 2, shift[1] // 2), (0, 1)) / 3 + 85 for plane in colours]
        frames.append(b"".join(np.clip(plane, 16, 235).astype(np.uint8).tobytes() for plane in (luma, *chroma)))
    return frames


def screen(width: int, height: int, fps: float, seed: int = 2) -> list[bytes]:
    """I420 frames of lines of text that scroll through a window on a still page."""
    chance = np.random.default_rng(seed)
    grey = b"\x80" * (width * height // 2)
    page = _text(chance, width, height)
    page[:, : width // 6] = page[:, -width // 6 :] = page[: height // 8] = _PAPER
    # As a page that is read: a column moves by a line now and then, the rest stands.
    long = _text(chance, width // 3, 2 * height)
    count = round(_LOOP_SECONDS * fps)
    frames = []
    for index in range(count):
        rows = (np.arange(height // 2) + index * _LINE) % long.shape[0]
        luma = page.copy()
        luma[height // 4 : height // 4 + len(rows), width // 3 : width // 3 + long.shape[1]] = long[rows]
        frames.append(luma.tobytes() + grey)
    return frames


def voice(seconds: float = 2.0, seed: int = 3) -> NDArray[np.int16]:
    """A chord with syllables and breath, which loops without a click."""
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    chord = sum(np.sin(2 * np.pi * pitch * t) / number for number, pitch in enumerate((180, 360, 540, 900, 2200), 1))
    syllables = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * t)
    breath = np.random.default_rng(seed).normal(0, 0.2, len(t))
    return (6_000 * (chord * syllables + breath)).clip(-32_000, 32_000).astype(np.int16)


def _texture(chance: np.random.Generator, width: int, height: int) -> NDArray[np.float64]:
    """Detail that falls with frequency, as photographs have it; its edges meet."""
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    frequency = np.hypot(x * width, y * height)
    frequency[0, 0] = 1
    spectrum = np.exp(2j * np.pi * chance.random((height, width))) / frequency**1.5
    spectrum[0, 0] = 0
    plane = np.fft.ifft2(spectrum).real
    return np.asarray(126 + 45 * plane / plane.std(), dtype=np.float64)


def _text(chance: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Dark marks of a letter's size in lines on white."""
    marks = chance.random((height // 4, width // 3)) < 0.45
    lines = np.arange(height // 4) % 4 != 3
    words = chance.random((height // 16 + 1, width // 18 + 1)) < 0.4
    words = words.repeat(4, 0).repeat(6, 1)[: marks.shape[0], : marks.shape[1]]
    coarse = np.where(marks & lines[:, None] & words, 40, _PAPER).astype(np.uint8)
    page = np.full((height, width), _PAPER, dtype=np.uint8)
    fine = coarse.repeat(4, 0).repeat(3, 1)
    page[: fine.shape[0], : fine.shape[1]] = fine
    return page
