"""Clients that nobody here wrote answer pings over a link that limits what they get; pictures and sound go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import pytest

from bench.links import call, servers
from bench.links.link import LinkSpec, Rate
from bench.links.scenarios import Scenario
from tests.namespaces import skipped_without_namespaces

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]

PING_BYTES = 56
"""As an IP packet: twenty of IPv4, eight of UDP, a STUN header and four bytes of signature."""
SECONDS = 14
PINGED_SINCE = 7
"""By then he has got what fits, and the link's end is known."""


@pytest.mark.parametrize("client", ["python", "chromium"])
async def test_pings_are_answered_by_whom_the_link_limits(
    client: Literal["python", "chromium"], tmp_path: Path
) -> None:
    scenario = Scenario("pings", "steady 1 Mbit/s", SECONDS, LinkSpec(Rate.constant(1e6)), {}, client=client)
    with (tmp_path / "log").open("wb") as log, skipped_without_namespaces():
        made = await asyncio.to_thread(call.run, scenario, servers.callyard, 1, log)
    down = [p for p in made.link.down if p.bytes == PING_BYTES and PINGED_SINCE <= p.at < SECONDS - 1]
    up = [p for p in made.link.up if p.bytes == PING_BYTES and PINGED_SINCE <= p.at < SECONDS - 1]
    assert 60 < len(down) < 220, "1.2 % of 1 Mbit/s is 27 a second at most"
    assert abs(len(up) - len(down)) <= 4
    # Answered at once: each within some milliseconds of its arrival.
    arrived = [p.at + (p.wait or 0) + 0.02 for p in down]
    answered = sum(any(0 <= back.at - at < 0.015 for back in up) for at in arrived)
    assert answered > 0.8 * len(down)
    (video,) = made.sight.videos
    frames = sum(shown.frames for shown in video.shown if PINGED_SINCE <= shown.at - made.link.origin < SECONDS - 1)
    assert frames > 60, "pictures go on meanwhile"
