"""What is sent can be told apart by what arrives, and nothing else passes for it."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.probe import content
from signaling.probe.content import Colour

FIRST, SECOND = Colour(140, 60, 180), Colour(90, 200, 80)
TIGHT = (320, 160, 160)


def samples_of(frequency_hz: float) -> array[int]:
    samples = array("h")
    for at in range(0, content.needed_samples(), content.FRAME_SAMPLES):
        samples.frombytes(content.tone(frequency_hz, at))
    return samples


@pytest.mark.parametrize("frequency_hz", [220.0, 440.0, 660.0, 1_000.0, 2_500.0])
def test_a_tone_is_heard_at_its_pitch_across_frames(frequency_hz: float) -> None:
    heard = content.pitch(samples_of(frequency_hz))
    assert heard is not None
    assert abs(heard.frequency_hz - frequency_hz) < content.TONE_TOLERANCE_HZ
    assert heard.share > 0.99


def test_silence_and_too_little_have_no_pitch() -> None:
    assert content.pitch(array("h", bytes(2 * content.needed_samples()))) is None
    assert content.pitch(samples_of(440)[: content.needed_samples() - 1]) is None


def test_noise_is_no_tone() -> None:
    noise = random.Random(1)
    heard = content.pitch(array("h", (noise.randint(-8_000, 8_000) for _ in range(content.needed_samples()))))
    assert heard is not None
    assert heard.share < content.MIN_TONE_SHARE


def test_the_stronger_of_two_tones_wins() -> None:
    mixed = array("h", (a // 4 + b for a, b in zip(samples_of(440), samples_of(660), strict=True)))
    heard = content.pitch(mixed)
    assert heard is not None
    assert abs(heard.frequency_hz - 660) < content.TONE_TOLERANCE_HZ


@given(st.integers(0, 4_095), st.sampled_from([FIRST, SECOND]), st.sampled_from([TIGHT, (384, 192, 192)]))
def test_a_picture_is_read_back(number: int, colour: Colour, strides: tuple[int, int, int]) -> None:
    picture = content.read(content.paint(colour, number, strides), strides, content.WIDTH, content.HEIGHT)
    assert picture.number == number
    assert picture.shows(colour)
    assert not picture.shows(FIRST if colour is SECOND else SECOND)


def test_a_picture_of_half_the_size_is_read_too() -> None:
    full = content.paint(FIRST, 1_234, TIGHT)
    halved = tuple(
        b"".join(plane[row * stride : row * stride + stride : 2] for row in range(0, len(plane) // stride, 2))
        for plane, stride in zip(full, TIGHT, strict=True)
    )
    picture = content.read((halved[0], halved[1], halved[2]), (160, 80, 80), 160, 120)
    assert picture.number == 1_234
    assert picture.shows(FIRST)


@pytest.mark.parametrize("luma", [0, 16, 128, 235, 255])
def test_an_even_picture_has_no_number(luma: int) -> None:
    planes = (bytes([luma]) * (320 * 240), bytes([128]) * (160 * 120), bytes([128]) * (160 * 120))
    assert content.read(planes, TIGHT, 320, 240).number is None


def test_successive_pictures_differ() -> None:
    assert len({content.paint(FIRST, number, TIGHT)[0] for number in range(100)}) == 100


@pytest.mark.parametrize(
    ("later", "earlier", "after"),
    [(1, 0, True), (0, 0, False), (0, 1, False), (0, 4_095, True), (4_095, 0, False), (2_047, 0, True)],
)
def test_numbers_follow_each_other_around_the_end_of_the_count(later: int, earlier: int, after: bool) -> None:
    assert content.follows(later, earlier) is after
