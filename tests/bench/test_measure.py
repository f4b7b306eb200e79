"""The benchmark's harness: that its figures are those of what really happened. No figure is compared with a bound."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from bench.machine import Usage
from bench.measure import Harness, joins_of
from bench.peers.base import Arrival
from bench.peers.callyard import Callyard
from bench.scenarios import CAMERA, FULL, SIMULCAST, SMALL, Cipher, Scenario, named
from sfu.worker import Certificate
from signaling.load.plan import MICROPHONE

CERTIFICATE = Certificate()
CPU = min(os.sched_getaffinity(0))
# Long enough for the estimate of a new subscriber's link to grow beyond one camera.
HARNESS = Harness(CERTIFICATE, server_cpu=CPU, client_cpu=max(os.sched_getaffinity(0)), settle_seconds=4.0)


@pytest.mark.parametrize(("cipher", "negotiated"), [(Cipher.GCM, "aead_aes_256_gcm"), (Cipher.CM, "aes128_cm_sha1_80")])
async def test_a_run_counts_what_the_scenario_forwards(cipher: Cipher, negotiated: str) -> None:
    scenario = Scenario("test", "test", (CAMERA, MICROPHONE), speakers=1, viewers=3, cipher=cipher)
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=1, seconds=1)
    assert run.cipher == negotiated
    assert run.lost <= run.expected // 100
    # By what was sent, and loosely: on a busy machine packets of before the window arrive in it, hundreds of them.
    assert run.packets == pytest.approx(run.sent * 3, rel=0.5)
    assert run.cpu_us_per_packet > 0
    assert 0 < run.p50_us <= run.p99_us <= run.p999_us


async def test_clients_that_take_runs_count_every_packet_in_them() -> None:
    scenario = replace(named("video-1-50-runs"), viewers=3)
    assert scenario.takes_runs
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=1, seconds=1)
    assert run.packets == pytest.approx(run.sent * 3, rel=0.5)
    assert run.lost <= run.expected // 100


async def test_everybody_in_a_meeting_gets_the_layers_that_the_scenario_says() -> None:
    scenario = Scenario("test", "test", (SIMULCAST, MICROPHONE), members=3)
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=2, seconds=2)
    share = scenario.forwarded_per_second / scenario.sent_per_second
    assert run.packets == pytest.approx(run.sent * share, rel=0.3)


async def test_viewers_come_at_the_scenarios_rate_and_the_way_to_their_first_picture_is_told_apart() -> None:
    scenario = Scenario("test", "test", (SMALL,), speakers=1, viewers=5, rooms=2, joins_per_second=20)
    began = time.monotonic()
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=2, seconds=1)
    assert time.monotonic() - began > 9 / 20
    joins = run.joins
    assert (joins.count, run.subscribers, run.received_tracks) == (10, 10, 10)
    parts = (joins.signal, joins.ice, joins.dtls, joins.media)
    assert all(0 <= part.p50_ms <= part.p99_ms for part in parts)
    assert max(part.p99_ms for part in parts) <= joins.total.p99_ms <= sum(part.p99_ms for part in parts)
    assert joins.cpu_ms > 0
    assert run.idle_bytes > 1_000_000


async def test_who_leaves_makes_room_for_others_and_what_he_got_counts() -> None:
    scenario = Scenario("test", "test", (SMALL,), speakers=1, viewers=4, churn_per_second=5)
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=1, seconds=2)
    assert run.joins.count > 4
    assert run.packets > 0.4 * scenario.forwarded_per_second * run.seconds
    assert run.lost <= run.expected // 20


async def test_what_links_lose_is_sent_again() -> None:
    scenario = Scenario("test", "test", (SMALL,), speakers=1, viewers=3, loss=0.1)
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=1, seconds=2)
    assert run.recovered > run.expected // 50
    assert run.lost < run.expected // 20


async def test_nobody_is_sent_more_tiles_and_voices_than_the_scenario_says() -> None:
    scenario = Scenario("test", "test", (SMALL, MICROPHONE), members=4, tiles=1, voices=2)
    assert scenario.received_tracks == 4 * 3
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=1, seconds=1)
    assert run.packets == pytest.approx(scenario.forwarded_per_second * run.seconds, rel=0.3)


async def test_the_limit_is_measured_with_every_cipher() -> None:
    for cipher in Cipher:
        limit = await HARNESS.limit(Scenario("t", "t", (CAMERA,), speakers=1, viewers=4, cipher=cipher), seconds=0.3)
        assert limit.bare_us > 0
        assert limit.fanout_us > 0


def test_what_is_forwarded_follows_from_who_watches_what() -> None:
    assert Scenario("t", "t", (CAMERA,), speakers=1, viewers=50).forwarded_per_second == 260 * 50
    assert Scenario("t", "t", (MICROPHONE,), speakers=10, viewers=20).forwarded_per_second == 50 * 10 * 20
    meeting = Scenario("t", "t", (SIMULCAST, MICROPHONE), members=6)
    assert meeting.forwarded_per_second == 6 * (200 + 60 + 60 + 30 + 30 + 5 * 50)


def test_every_scenario_can_be_found_by_its_name_and_somebody_gets_something() -> None:
    assert len({scenario.name for scenario in FULL}) == len(FULL)
    for scenario in FULL:
        assert named(scenario.name) is scenario
        assert scenario.forwarded_per_second > 0
    tiles = named("meeting-50")
    assert tiles.received_tracks == 50 * (9 + 4)
    assert tiles.forwarded_per_second == 50 * (200 + 2 * 60 + 6 * 30 + 4 * 50)


def test_joins_count_those_with_media_from_the_moment_they_were_due() -> None:
    scenario = Scenario("t", "t", (CAMERA, MICROPHONE), speakers=1, viewers=2)
    viewer = Arrival(due=10.0, opened=10.5, ice_us=10_000, dtls_us=40_000, media_us={False: 45_000, True: 100_000})
    publisher = Arrival(opened=9.0, ice_us=1_000, dtls_us=2_000)
    joins = joins_of([viewer, publisher], scenario, Usage(6_000_000, 0, 0, 0, 0), 3)
    assert (joins.count, joins.cpu_ms) == (1, 6.0)
    assert joins.total.p99_ms == pytest.approx(600)
    parts = (joins.signal.p50_ms, joins.ice.p50_ms, joins.dtls.p50_ms, joins.media.p50_ms)
    assert parts == pytest.approx((500, 10, 30, 60))
