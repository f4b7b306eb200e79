"""Calls over links, as data, and what is to be reached in them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bench.links.link import LinkSpec, Rate, Rival

Track = Literal["camera", "share", "voice"]
_EVERYWHERE = {"worst_offered": 1.5}
_STEADY = {"utility": 0.92, "frozen_ms_per_min": 200, "queue_p95_ms": 60, "reversals_per_min": 0.1} | _EVERYWHERE
_STEPS = {"utility": 0.92, "longest_freeze_ms": 600, "down_s": 0.7, "up_s": 4} | _EVERYWHERE
_LOSS = {"utility": 0.92} | _EVERYWHERE


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    seconds: float
    link: LinkSpec
    targets: dict[str, float]
    #: What each publisher sends.
    people: tuple[tuple[Track, ...], ...] = (("camera", "voice"),)
    client: Literal["python", "chromium"] = "python"
    #: Seconds of joining that utility leaves out.
    warm_up: float = field(default=5.0)


def _steps(*steps: tuple[float, float]) -> Rate:
    return Rate(tuple((at, mega * 1e6) for at, mega in steps))


_ONE = LinkSpec(Rate.constant(1e6))
_THREE_STEPS = LinkSpec(_steps((0, 3), (15, 0.5), (35, 3)))

SCENARIOS = (
    Scenario("steady", "steady 1 Mbit/s", 45, _ONE, _STEADY),
    Scenario("steps", "3 → 0.5 → 3 Mbit/s after 15 and 35 s", 55, _THREE_STEPS, _STEPS),
    Scenario(
        "cameras-and-share",
        "three cameras and a share over 2 Mbit/s",
        45,
        LinkSpec(Rate.constant(2e6)),
        {"utility": 0.92, "first_picture_ms": 1_000, "reversals_per_min": 0.1} | _EVERYWHERE,
        people=(("camera", "voice"), ("camera", "voice"), ("camera", "voice", "share")),
    ),
    Scenario("random-loss", "5 % random loss, 5 Mbit/s", 30, LinkSpec(Rate.constant(5e6), loss=0.05), _LOSS),
    Scenario(
        "burst-loss", "3 % loss in bursts of 8, 5 Mbit/s", 30, LinkSpec(Rate.constant(5e6), loss=0.03, burst=8), _LOSS
    ),
    Scenario(
        "audio-only",
        "120 kbit/s between 12 and 27 s of 1 Mbit/s: only audio fits",
        45,
        LinkSpec(_steps((0, 1), (12, 0.12), (27, 1))),
        {"concealed_percent": 1, "up_s": 4} | _EVERYWHERE,
    ),
    Scenario(
        "rival",
        "a flow of 1.5 Mbit/s joins 3 Mbit/s between 15 and 30 s",
        45,
        LinkSpec(Rate.constant(3e6), rival=Rival(1.5e6, 15, 30)),
        _STEPS,
    ),
    Scenario("steady-chromium", "Chromium: steady 1 Mbit/s", 45, _ONE, _STEADY, client="chromium"),
    Scenario(
        "steps-chromium", "Chromium: 3 → 0.5 → 3 Mbit/s after 15 and 35 s", 55, _THREE_STEPS, _STEPS, client="chromium"
    ),
)
