"""Loss and jitter as RFC 3550 counts them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.probe.reception import Reception

FRAME = 960


def receive(numbers: list[int], *, start: float = 0.0) -> Reception:
    reception = Reception(48_000)
    for i, number in enumerate(numbers):
        reception.add(number & 0xFFFF, (i * FRAME) & 0xFFFFFFFF, start + i * 0.02)
    return reception


@pytest.mark.parametrize(
    ("numbers", "packets", "lost"),
    [
        ([1, 2, 3, 4], 4, 0),
        ([1, 2, 4], 3, 1),
        ([1, 3, 2, 4], 4, 0),
        ([1, 2, 2, 3], 3, 0),
        ([65_534, 65_535, 0, 2], 4, 1),
        ([0, 65_535, 1], 3, 0),
        ([7], 1, 0),
        ([], 0, 0),
    ],
)
def test_loss_is_what_never_came(numbers: list[int], packets: int, lost: int) -> None:
    reception = receive(numbers)
    assert (reception.packets, reception.lost) == (packets, lost)


@given(st.integers(0, 65_535), st.integers(1, 2_000), st.sets(st.integers(0, 1_999)), st.randoms(use_true_random=False))
def test_loss_holds_across_wraps_and_any_local_disorder(
    first: int, count: int, missing: set[int], shuffler: random.Random
) -> None:
    kept = [first + i for i in range(count) if i not in missing or i in (0, count - 1)]
    for at in range(0, len(kept) - 8, 8):
        chunk = kept[at : at + 8]
        shuffler.shuffle(chunk)
        kept[at : at + 8] = chunk
    reception = receive(kept)
    assert reception.packets == len(kept)
    assert reception.lost == count - len(kept)


def test_a_restarted_sender_is_no_loss() -> None:
    reception = receive([1, 2, 3, 30_000, 30_001])
    assert (reception.packets, reception.lost) == (5, 0)


def test_a_recovered_packet_is_not_lost_and_not_jitter() -> None:
    reception = receive([1, 2, 4])
    reception.add(3, 2 * FRAME, 5.0, recovered=True)
    assert (reception.packets, reception.recovered, reception.lost) == (4, 1, 0)
    assert reception.jitter_seconds == pytest.approx(0.0)


def test_a_steady_stream_has_no_jitter_even_where_timestamps_wrap() -> None:
    reception = Reception(48_000)
    for i in range(50):
        reception.add(i, (0xFFFFFFFF - 10 * FRAME + i * FRAME) & 0xFFFFFFFF, 100.0 + i * 0.02)
    assert reception.jitter_seconds < 1e-9


def test_alternating_delay_converges_to_its_swing() -> None:
    reception = Reception(48_000)
    for i in range(400):
        reception.add(i, i * FRAME, i * 0.02 + 0.004 * (i % 2))
    assert reception.jitter_seconds == pytest.approx(0.004, rel=0.01)
