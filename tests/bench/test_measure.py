"""The benchmark's harness: that its figures are those of what really happened. No figure is compared with a bound."""

from __future__ import annotations

import os

import pytest

from bench.measure import Harness
from bench.peers.callyard import Callyard
from bench.scenarios import CAMERA, SIMULCAST, Cipher, Scenario
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


async def test_everybody_in_a_meeting_gets_the_layers_that_the_scenario_says() -> None:
    scenario = Scenario("test", "test", (SIMULCAST, MICROPHONE), members=3)
    run = await HARNESS.run(Callyard(0, CERTIFICATE.fingerprint), scenario, rooms=2, seconds=2)
    share = scenario.forwarded_per_second / scenario.sent_per_second
    assert run.packets == pytest.approx(run.sent * share, rel=0.3)


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
