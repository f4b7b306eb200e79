"""Who joins, in which order, and what is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfu.load import Codec
from signaling.load.plan import MICROPHONE, Plan, camera


def test_those_who_send_come_first_and_everybody_at_his_time() -> None:
    plan = Plan(rooms=2, tracks=(MICROPHONE,), prefix="r", speakers=1, members=1, viewers=2, joins_per_second=10)
    joins = list(plan.joins())
    assert len(joins) == plan.participants == 8
    assert [j.at_seconds for j in joins] == pytest.approx([n / 10 for n in range(8)])
    assert [(j.sends, j.receives) for j in joins] == [(True, False)] * 2 + [(True, True)] * 2 + [(False, True)] * 4
    assert len({(j.room, j.identity) for j in joins}) == 8
    assert plan.expects_media == 6


def test_nobody_waits_for_media_that_nobody_sends() -> None:
    assert Plan(rooms=3, tracks=(MICROPHONE,), prefix="r", viewers=5).expects_media == 0
    assert Plan(rooms=3, tracks=(MICROPHONE,), prefix="r", members=1).expects_media == 0
    assert Plan(rooms=3, tracks=(MICROPHONE,), prefix="r", members=2).expects_media == 6


@given(st.integers(30_000, 20_000_000), st.integers(1, 3))
def test_a_camera_has_the_bitrate_that_was_asked_for(bitrate: int, layers: int) -> None:
    track = camera(Codec.VP8, bitrate, layers=layers)
    assert len(track.layers) == layers
    top = track.layers[-1]
    # Below 30 packets of 64 bytes there is nothing smaller.
    assert top.bitrate_bps == pytest.approx(max(bitrate, 30 * 64 * 8), rel=0.1)
    assert all(64 <= layer.payload_bytes <= 1_160 and layer.packets_per_second >= 30 for layer in track.layers)
    assert [layer.bitrate_bps for layer in track.layers] == sorted(layer.bitrate_bps for layer in track.layers)
