"""From costs to cores, memory and bandwidth."""

from __future__ import annotations

import pytest

from bench import sizing
from bench.sizing import Shape, SizingError
from tests.bench.made import results, run

# A participant takes 50 KB, a track 10 KB, what is kept of one who sends 300 KB.
MEASURED = results(
    run("Callyard", 2.0, scenario="video-1-50"),
    run("Callyard", 4.0, scenario="video-1-500"),
    run("Callyard", 5.0, scenario="meeting-6", kb=350),
    run("Callyard", 3.0, scenario="audio-10-500", kb=150),
    run("Callyard", 2.0, scenario="live-1-2000", kb=60),
    run("Other", 90.0, scenario="video-1-50"),
)


def test_memory_is_told_apart_into_people_and_tracks() -> None:
    """F-39"""
    kept = sizing.memory(MEASURED)
    assert (kept.participant, kept.track, kept.idle) == (50_000, 10_000, 30_000_000)
    # 100 KB of a publisher's 600 KB ÷ 6, and 350 KB less one participant and ten tracks.
    assert kept.publisher == 100_000 + 350_000 - 50_000 - 100_000


def test_costs_are_those_of_the_most_similar_number_of_people() -> None:
    assert sizing.cost(MEASURED, Shape.LIVESTREAM, 20).cpu_us.value == 2.0
    assert sizing.cost(MEASURED, Shape.LIVESTREAM, 900).cpu_us.value == 4.0


def test_rooms_add_up_in_cores_bandwidth_and_memory() -> None:
    one = sizing.need(MEASURED, Shape.LIVESTREAM, 1, 51, use=0.5)
    # 50 viewers of 260 + 50 packets a second at 2 µs, on half of each core.
    assert one.cores == pytest.approx(50 * 310 * 2e-6 / 0.5)
    assert one.down_bps == pytest.approx(50 * 8 * (260 * (1_160 + 68) + 50 * (100 + 68)))
    assert one.up_bps == pytest.approx(one.down_bps / 50)
    assert one.memory_bytes == pytest.approx(51 * 50_000 + 100 * 10_000 + 300_000 + 30_000_000)
    many = sizing.need(MEASURED, Shape.LIVESTREAM, 100, 51, use=0.5)
    assert many.cores == pytest.approx(100 * one.cores)
    assert many.down_bps == pytest.approx(100 * one.down_bps)


def test_whatever_fills_first_decides_how_many_nodes() -> None:
    by_cores = sizing.need(MEASURED, Shape.MEETING, 1_000, 6, cores=4, gbps=1_000)
    assert by_cores.nodes == -(-by_cores.cores // 4)
    by_card = sizing.need(MEASURED, Shape.MEETING, 1_000, 6, cores=4_000, gbps=1)
    assert by_card.nodes == -(-by_card.down_bps // 0.6e9)


def test_large_meetings_show_so_many_tiles_and_no_more() -> None:
    packets = [sizing.room(Shape.MEETING, people).forwarded_per_second / people for people in (10, 50, 200)]
    assert packets[0] == packets[1] == packets[2]


def test_the_largest_room_fits_a_core_and_one_person_more_does_not() -> None:
    for shape in Shape:
        people = sizing.largest_room(MEASURED, shape)
        assert sizing.need(MEASURED, shape, 1, people).cores <= 1 < sizing.need(MEASURED, shape, 1, people + 1).cores


def test_the_page_has_its_tables_or_says_what_was_not_measured() -> None:
    page = sizing.page(MEASURED)
    assert "| a participant connected | 50 KB |" in page
    assert "| 100 × meeting, 6 people each |" in page
    assert "## On paper: 10 000 nodes" in page
    assert "audio-10-500, which was not measured" in sizing.page(results(run("Callyard", 1.0)))
    with pytest.raises(SizingError, match="“audio”"):
        sizing.cost(results(run("Callyard", 1.0)), Shape.AUDIO, 20)
