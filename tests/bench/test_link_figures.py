"""What is made of a call's raw readings: calls whose figures one can work out by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replaced

from bench.links import page
from bench.links.call import Call
from bench.links.emulator import Log
from bench.links.figures import Layer, Metrics, Optimum, View
from bench.links.link import LinkSpec, Passage, Rate
from bench.links.page import Result
from bench.links.publisher import Reading
from bench.links.scenarios import SCENARIOS, Scenario
from bench.links.viewer import Shown, Sight, Sound, Video
from bench.links.watch import Look

#: Of the machine's clock.
ORIGIN = 1_000.0
SECONDS = 20.0
SCENARIO = Scenario("steady", "a call", SECONDS, LinkSpec(Rate.constant(1e6)), {"utility": 0.92})
STEPS = replace(SCENARIO, link=LinkSpec(Rate(((0.0, 3e6), (5.0, 0.3e6), (10.0, 3e6)))))


def sent() -> Iterator[Reading]:
    """A camera of 2000, 500 and 150 kbit/s and a voice of 50, read twice."""
    encodings = {"camera f": (720, 2e6), "camera h": (360, 5e5), "camera q": (180, 1.5e5), "voice": (0, 5e4)}
    for at in (0.0, 10.0):
        for kind, (height, bps) in encodings.items():
            frames = 0 if kind == "voice" else round(30 * at)
            yield Reading(ORIGIN + at, kind, 0, height, frames, 1, round(bps * at / 8), "0", 0)


def pictures(*parts: tuple[float, float, int]) -> list[Shown]:
    """30 a second of each (start, end, height)."""
    times = [(start + i / 30, height) for start, end, height in parts for i in range(round((end - start) * 30))]
    return [Shown(ORIGIN + at, height, 1) for at, height in times]


def packets(*parts: tuple[float, float, float]) -> list[Passage]:
    """Of 1250 bytes, at so many bits a second of each (start, end, bps), each with 10 ms of waiting."""
    return [
        Passage(start + i * 1e4 / bps, 1_250, 0.01)
        for start, end, bps in parts
        for i in range(round((end - start) * bps / 1e4))
    ]


def call(shown: list[Shown], down: list[Passage], looks: list[Look] | None = None) -> Call:
    sounds = [Sound(ORIGIN + 1, "person-0", 48_000, 0), Sound(ORIGIN + 20, "person-0", 960_000, 9_120)]
    sight = Sight(ORIGIN, [Video("TR_1", "camera", "person-0", shown=shown)], sounds)
    link = Log(origin=ORIGIN, seconds=SECONDS, down=down, up=[], late_p50=0.0, late_p99=0.002)
    return Call("steady", "A server", 1, link, sight, list(sent()), looks or [], 0.5)


def judged(scenario: Scenario, *given: Any) -> Metrics:
    return View(scenario, call(*given)).metrics()


def test_the_best_that_fits_is_worth_one() -> None:
    found = judged(SCENARIO, pictures((0.6, SECONDS, 360)), packets((0.0, SECONDS, 6e5)))
    assert found.utility == pytest.approx(1.0, abs=0.01)
    assert found.first_picture_ms == pytest.approx(600)
    assert found.worst_offered == pytest.approx(0.6, abs=0.02)
    assert found.queue_p95_ms == pytest.approx(10)
    assert found.concealed_percent == pytest.approx(1.0)
    assert (found.longest_freeze_ms, found.switches_per_min, found.falls, found.rises) == (0, 0, 0, 0)
    assert found.published_fps == pytest.approx(30)


def test_a_smaller_picture_is_worth_its_share() -> None:
    found = judged(SCENARIO, pictures((0.6, SECONDS, 180)), packets((0.0, SECONDS, 2e5)))
    assert found.utility == pytest.approx(0.5, abs=0.01)


def test_a_picture_that_stays_is_a_freeze_unless_a_pause_was_announced() -> None:
    shown = pictures((0.6, 8.0, 360), (10.0, SECONDS, 360))
    down = packets((0.0, SECONDS, 6e5))
    found = judged(SCENARIO, shown, down)
    assert found.longest_freeze_ms == pytest.approx(2_033, abs=5)
    assert found.frozen_ms_per_min == pytest.approx(3 * 2_033, abs=15)
    paused = [
        Look(ORIGIN + at, [], [{"track": "TR_1", "target_spatial": None if 8.0 <= at < 10.0 else 1}])
        for at in (6.0, 8.0, 9.0, 10.0, 12.0)
    ]
    announced = judged(SCENARIO, shown, down, paused)
    assert announced.longest_freeze_ms == 0
    assert announced.paused_s == pytest.approx(2.0)
    assert announced.utility == found.utility < 0.9


def test_steps_are_followed_down_and_up() -> None:
    shown = pictures((0.5, 5.5, 720), (5.5, 13.0, 180), (13.0, SECONDS, 720))
    found = judged(STEPS, shown, packets((0.0, 6.0, 2e6), (6.0, 13.0, 2e5), (13.0, SECONDS, 2e6)))
    assert found.down_s == pytest.approx(1.0, abs=0.11)
    assert found.up_s == pytest.approx(3.0, abs=0.15)
    assert found.worst_offered == pytest.approx(2e6 / 0.3e6, rel=0.02)
    assert found.switches_per_min == pytest.approx(6)
    assert found.reversals_per_min == 0


def test_what_never_comes_is_said_so() -> None:
    found = judged(STEPS, [], packets((0.0, SECONDS, 3.1e6)))
    assert (found.utility, found.first_picture_ms, found.down_s, found.up_s) == (0, None, None, None)


def test_a_climb_taken_back_soon_is_a_reversal() -> None:
    shown = pictures((0.5, 5.0, 180), (5.0, 9.0, 360), (9.0, SECONDS, 180))
    assert judged(SCENARIO, shown, packets((0.0, SECONDS, 2e5))).reversals_per_min == pytest.approx(3)


def test_the_optimum_takes_frames_where_size_costs_too_much() -> None:
    layers = [Layer(180, 150e3, 30, True), Layer(360, 500e3, 30, True), Layer(720, 2e6, 30, True)]
    optimum = Optimum([layers])
    # Nothing; 180p; 360p; 720p at half its frames loses to 360p; 720p.
    assert [optimum.at(bps) for bps in (5e4, 2e5, 6e5, 1.3e6, 2.1e6)] == pytest.approx([0, 2, 4, 4, 6])
    assert Optimum([layers, layers]).at(0.7e6) == pytest.approx(6)


def test_medians_stand_beside_their_targets() -> None:
    scenario = next(s for s in SCENARIOS if s.name == "steady")
    view = View(SCENARIO, call(pictures((0.6, SECONDS, 360)), packets((0.0, SECONDS, 6e5))))
    good = view.metrics()
    assert good.machine_kept_up
    poor = View(SCENARIO, call(pictures((0.6, SECONDS, 180)), packets((0.0, SECONDS, 2e5)))).metrics()
    runs = [Result("steady", "A server", seed, metrics) for seed, metrics in enumerate((good, good, poor))]
    runs += [Result("steady", "Another", seed, metrics) for seed, metrics in enumerate((poor, poor, good))]
    table = page.markdown(runs)
    assert f"| {scenario.title} | A server | 3 | 1.00 ✓ |" in table
    assert f"| {scenario.title} | Another | 3 | 0.50 ✗ (≥ 0.92) |" in table
    assert "1.00 ✓" in page.terminal(runs)
    late = [Result("steady", "Another", 3, replaced(good, late_p99_ms=31.0))]
    assert page.markdown(runs + late) == table, "the machine's faults are nobody's figures"
