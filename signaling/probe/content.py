"""What the probe's media shows, as pure functions: a tone and its pitch, a picture and what can be read from it.

No numpy: a probe must run where only the server is installed. Sizes are small enough for plain Python.
"""

from __future__ import annotations

import cmath
import math
from array import array
from dataclasses import dataclass

SAMPLE_RATE = 48_000
FRAME_SAMPLES = 960
"""20 ms, Opus' usual frame."""

_ANALYSIS_RATE = 8_000
_ANALYSIS_SAMPLES = 2_048
TONE_TOLERANCE_HZ = 2 * _ANALYSIS_RATE / _ANALYSIS_SAMPLES
"""Two bins of the analysis."""

MIN_TONE_SHARE = 0.5
"""Share of the energy that a pure tone leaves around its peak after Opus; speech and noise stay far below."""

WIDTH, HEIGHT = 320, 240
CELL = 40
"""Pixels. Cells of 40 survive VP8 at the lowest rate it starts with."""

_COUNTER_BITS = 12
NUMBERS = 1 << _COUNTER_BITS
"""How many pictures are told apart; the count then begins anew."""

_CELLS = 16
_DARK, _BRIGHT = 40, 215
_CODE_TOP = HEIGHT - 2 * CELL
_COLOUR_TOLERANCE = 24


def tone(frequency_hz: float, first_sample: int, samples: int = FRAME_SAMPLES) -> bytes:
    """Mono 16-bit samples of a sine at a quarter of full scale, continuing at `first_sample`."""
    step = 2 * math.pi * frequency_hz / SAMPLE_RATE
    return array("h", (int(8_000 * math.sin(step * (first_sample + i))) for i in range(samples))).tobytes()


@dataclass(frozen=True)
class Pitch:
    """`share`: how much of the energy lies at the dominant frequency, 0 to 1."""

    frequency_hz: float
    share: float


def needed_samples() -> int:
    """How many 48 kHz samples `pitch` wants."""
    return _ANALYSIS_SAMPLES * (SAMPLE_RATE // _ANALYSIS_RATE)


def pitch(samples: array[int]) -> Pitch | None:
    """The dominant frequency of 48 kHz mono samples up to 4 kHz; None when there are too few or all is silent."""
    if len(samples) < needed_samples():
        return None
    stride = SAMPLE_RATE // _ANALYSIS_RATE
    mean = [sum(samples[i : i + stride]) / stride for i in range(0, needed_samples(), stride)]
    windowed = [
        value * (0.5 - 0.5 * math.cos(2 * math.pi * i / (_ANALYSIS_SAMPLES - 1))) for i, value in enumerate(mean)
    ]
    power = [abs(value) ** 2 for value in _transform([complex(value) for value in windowed])[: _ANALYSIS_SAMPLES // 2]]
    power[0] = power[1] = 0.0  # an offset is no tone
    total = sum(power)
    if total < 1.0 * _ANALYSIS_SAMPLES**2:
        return None  # below one step of 16-bit samples
    peak = max(range(len(power)), key=power.__getitem__)
    around = range(max(0, peak - 2), min(len(power), peak + 3))
    weight = sum(power[i] for i in around)
    centre = sum(i * power[i] for i in around) / weight
    return Pitch(centre * _ANALYSIS_RATE / _ANALYSIS_SAMPLES, weight / total)


def _transform(values: list[complex]) -> list[complex]:
    """Discrete Fourier transform of a power of two (Cooley and Tukey)."""
    size = len(values)
    if size == 1:
        return values
    even, odd = _transform(values[0::2]), _transform(values[1::2])
    turned = [cmath.rect(1, -2 * math.pi * i / size) * odd[i] for i in range(size // 2)]
    return [a + b for a, b in zip(even, turned, strict=True)] + [a - b for a, b in zip(even, turned, strict=True)]


def follows(later: int, earlier: int) -> bool:
    """Whether a picture's number comes after another's, within half the count."""
    return 0 < (later - earlier) % NUMBERS < NUMBERS // 2


@dataclass(frozen=True)
class Colour:
    """BT.601 limited range, as in I420."""

    y: int
    u: int
    v: int


@dataclass(frozen=True)
class Picture:
    """What was read: the colour of the upper field, and the frame's number or None when its code does not check."""

    colour: Colour
    number: int | None

    def shows(self, colour: Colour) -> bool:
        """Whether the field is that colour, as far as a codec keeps colours."""
        mine, theirs = (self.colour.y, self.colour.u, self.colour.v), (colour.y, colour.u, colour.v)
        return all(abs(a - b) <= _COLOUR_TOLERANCE for a, b in zip(mine, theirs, strict=True))


def paint(colour: Colour, number: int, strides: tuple[int, int, int]) -> tuple[bytes, bytes, bytes]:
    """I420 planes: a field of one colour over two rows of cells that say the frame's number and its check.

    `number` counts modulo `NUMBERS`. `strides`: bytes per row of each plane, at least its width.
    """
    cells = _cells(number % NUMBERS)
    half = _CELLS // 2
    field = bytes([colour.y]) * WIDTH
    code = [b"".join(bytes([value]) * CELL for value in row) for row in (cells[:half], cells[half:])]
    pad = bytes(strides[0] - WIDTH)
    luma = (field + pad) * _CODE_TOP + (code[0] + pad) * CELL + (code[1] + pad) * CELL
    split = _CODE_TOP // 2

    def chroma(value: int, stride: int) -> bytes:
        gap = bytes(stride - WIDTH // 2)
        coloured, grey = bytes([value]) * (WIDTH // 2) + gap, bytes([128]) * (WIDTH // 2) + gap
        return coloured * split + grey * (HEIGHT // 2 - split)

    return luma, chroma(colour.u, strides[1]), chroma(colour.v, strides[2])


def read(planes: tuple[bytes, bytes, bytes], strides: tuple[int, int, int], width: int, height: int) -> Picture:
    """Read a picture of `paint`, also scaled."""

    def at(plane: int, x: float, y: float) -> int:
        column, row = int(x * width / WIDTH), int(y * height / HEIGHT)
        if plane:
            column, row = column // 2, row // 2
        return planes[plane][row * strides[plane] + column]

    def mean(plane: int) -> int:
        places = [(x, y) for x in (40, 120, 200, 280) for y in (20, 60, 100, 130)]
        return sum(at(plane, x, y) for x, y in places) // len(places)

    half = _CELLS // 2
    cells = []
    for i in range(_CELLS):
        x, y = (i % half + 0.5) * CELL, _CODE_TOP + (i // half + 0.5) * CELL
        near = [at(0, x + dx, y + dy) for dx in (-6, 0, 6) for dy in (-6, 0, 6)]
        cells.append(sum(near) // len(near))
    bits = [int(value > (_DARK + _BRIGHT) // 2) for value in cells]
    number = sum(bit << i for i, bit in enumerate(bits[:_COUNTER_BITS]))
    said = sum(bit << i for i, bit in enumerate(bits[_COUNTER_BITS:]))
    return Picture(Colour(mean(0), mean(1), mean(2)), number if said == _check(number) else None)


def _cells(number: int) -> list[int]:
    bits = [number >> i & 1 for i in range(_COUNTER_BITS)] + [_check(number) >> i & 1 for i in range(4)]
    return [_BRIGHT if bit else _DARK for bit in bits]


def _check(number: int) -> int:
    """Four bits that an all dark, all bright or stuck picture does not have."""
    return (number ^ number >> 4 ^ number >> 8 ^ 0b1010) & 0xF
