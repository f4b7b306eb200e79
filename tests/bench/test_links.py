"""The emulated link: in virtual time, and as two namespaces see it."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import subprocess
import sys

import pytest

from bench.links import lab as labs
from bench.links.emulator import Emulator, Log, by_second
from bench.links.link import Direction, LinkSpec, Passage, Rate, Rival
from tests.namespaces import skipped_without_namespaces

PACKET = bytes(1_000)


def carried(spec: LinkSpec, offered: list[float], seed: int = 1) -> tuple[list[float], list[Passage]]:
    """When packets of 1000 bytes arrive that are offered at these moments, and what was noted."""
    noted: list[Passage] = []
    direction = Direction(spec, seed, noted.append)
    for t in offered:
        direction.offer(t, PACKET)
    return [at for at, _ in direction.due(1e9)], noted


def every(seconds: float, period: float) -> list[float]:
    return [index * period for index in range(round(seconds / period))]


def test_a_rate_changes_while_bits_pass() -> None:
    rate = Rate(((0.0, 8_000.0), (1.0, 4_000.0), (3.0, 16_000.0)))
    assert rate.bits(0.5, 3.5) == 4_000 + 8_000 + 8_000
    assert rate.finish(0.5, 20_000) == 3.5
    assert rate.finish(-1.0, 8_000) == 0.0
    assert rate.jumps() == [(1.0, 8_000.0, 4_000.0), (3.0, 4_000.0, 16_000.0)]


def test_a_sawtooth_falls_at_once_and_rises_evenly() -> None:
    rate = Rate.sawtooth(500e3, 3e6, 10.0, 20.0)
    assert rate.at(0.0) == rate.at(10.05) == 500e3
    assert rate.at(5.0) == pytest.approx(1.75e6)
    assert rate.at(9.95) > 2.9e6


def test_a_wandering_rate_is_its_seeds() -> None:
    assert Rate.wandering(2e6, 30.0, 1) == Rate.wandering(2e6, 30.0, 1) != Rate.wandering(2e6, 30.0, 2)


def test_packets_leave_at_the_rate_and_wait_for_those_before_them() -> None:
    arrivals, noted = carried(LinkSpec(Rate.constant(1e6), delay_ms=20), [0.0, 0.0, 0.0])
    assert arrivals == pytest.approx([0.028, 0.036, 0.044])
    assert [p.wait for p in noted] == pytest.approx([0.0, 0.008, 0.016])


def test_a_full_queue_drops_what_comes() -> None:
    # Twice what is carried: the queue of 300 ms fills, then every second packet is dropped.
    arrivals, noted = carried(LinkSpec(Rate.constant(1e6), queue_ms=300), every(10.0, 0.004))
    assert max(p.wait for p in noted if p.wait is not None) == pytest.approx(0.3, abs=0.009)
    late = [p for p in noted if p.at > 2]
    assert sum(p.wait is None for p in late) == pytest.approx(len(late) / 2, rel=0.01)
    assert len(arrivals) == sum(p.wait is not None for p in noted)


def test_loss_has_its_share_and_its_bursts() -> None:
    """F-03"""
    offered = every(500.0, 0.01)
    for burst in (1.0, 8.0):
        _, noted = carried(LinkSpec(Rate.constant(1e9), loss=0.05, burst=burst), offered)
        assert statistics.mean(p.lost for p in noted) == pytest.approx(0.05, rel=0.15)
        starts = sum(p.lost and not before.lost for before, p in itertools.pairwise(noted))
        assert sum(p.lost for p in noted) / starts == pytest.approx(burst, rel=0.2)


def test_jitter_keeps_the_order() -> None:
    arrivals, _ = carried(LinkSpec(Rate.constant(1e9), delay_ms=20, jitter_ms=30), every(10.0, 0.01))
    assert arrivals == sorted(arrivals)
    delays = [arrived - offered for arrived, offered in zip(arrivals, every(10.0, 0.01), strict=True)]
    assert min(delays) < 0.025
    assert max(delays) == pytest.approx(0.05, abs=0.002)


def test_a_rival_takes_its_part() -> None:
    spec = LinkSpec(Rate.constant(3e6), rival=Rival(2.5e6, 10.0, 20.0))
    _, noted = carried(spec, every(30.0, 0.008))
    passed = [sum(p.wait is not None for p in noted if start <= p.at < start + 9) for start in (0, 11, 21)]
    assert passed[0] == passed[2] == pytest.approx(1_125, abs=2)
    # Both queue alike: 1 of 3.5 Mbit/s offered into 3.
    assert passed[1] == pytest.approx(1_125 * 3 / 3.5, rel=0.1)
    assert spec.rate.less(spec.rival).steps == ((0.0, 3e6), (10.0, 0.5e6), (20.0, 3e6))


def test_before_the_start_nothing_is_lost_or_noted() -> None:
    arrivals, noted = carried(LinkSpec(Rate.constant(1e6), loss=0.99), [-2.0, -1.0])
    assert len(arrivals) == 2
    assert noted == []


#: Sends packets of 1000 bytes (IP) with their moment for some seconds.
_SENDER = """
import socket, sys, time
address, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
begin = due = time.monotonic()
while due < begin + seconds:
    time.sleep(max(0.0, due - time.monotonic()))
    sender.sendto(repr(time.monotonic()).encode().ljust(972), (address, 7000))
    due += 8000 / rate
"""
#: Prints [seconds since it was sent, moment of arrival] of each packet until none comes for a second.
_RECEIVER = """
import json, socket, time
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
receiver.bind(("0.0.0.0", 7000))
print("ready", flush=True)
receiver.settimeout(10)
seen = []
try:
    while True:
        sent = float(receiver.recv(2000))
        now = time.monotonic()
        seen.append((now - sent, now))
        receiver.settimeout(1)
except TimeoutError:
    print(json.dumps(seen))
"""


def over_the_emulator(spec: LinkSpec, bps: float, seconds: float) -> tuple[list[tuple[float, float]], Log]:
    """(delay, arrival) of packets that the server's side sent to the viewer's, and the emulator's own log."""
    with contextlib.ExitStack() as stack:
        with skipped_without_namespaces():
            built = stack.enter_context(labs.lab())
        emulator = Emulator(built, spec, seed=3)
        stack.callback(emulator.kill)
        receiver = subprocess.Popen(
            built.viewer.command(sys.executable, "-c", _RECEIVER), stdout=subprocess.PIPE, text=True
        )
        stack.callback(receiver.kill)
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        emulator.start()
        sender = built.server.command(sys.executable, "-c", _SENDER, labs.VIEWER_IP, str(bps), str(seconds))
        subprocess.run(sender, check=True, timeout=30)
        seen = json.loads(receiver.communicate(timeout=30)[0])
        return seen, emulator.stop()


def test_two_namespaces_see_the_rate_the_queue_and_its_changes() -> None:
    spec = LinkSpec(Rate(((0.0, 2e6), (2.0, 0.8e6))), queue_ms=200, delay_ms=30)
    seen, log = over_the_emulator(spec, 1.6e6, 5.0)
    early = [delay for delay, arrived in seen if arrived < log.origin + 1.9]
    # 4 ms to pass, 30 of delay.
    assert statistics.median(early) == pytest.approx(0.034, abs=0.008)
    late = [delay for delay, arrived in seen if log.origin + 3.0 < arrived < log.origin + 4.9]
    assert len(late) == pytest.approx(0.8e6 / 8_000 * 1.9, rel=0.08)
    assert statistics.median(late) == pytest.approx(0.24, abs=0.02)
    assert sum(p.wait is not None for p in log.down) == len(seen)
    seconds = by_second(log.down, 5.0)
    assert seconds[0].dropped == 0 < seconds[4].dropped
    assert seconds[3].carried_bytes == pytest.approx(100_000, rel=0.08)


def test_two_namespaces_see_the_loss() -> None:
    seen, log = over_the_emulator(LinkSpec(Rate.constant(8e6), delay_ms=5, loss=0.1, burst=3), 4e6, 3.0)
    sent = len(log.down)
    assert sent == pytest.approx(1_500, rel=0.05)
    assert len(seen) == sent - sum(p.lost for p in log.down)
    assert 1 - len(seen) / sent == pytest.approx(0.1, abs=0.05)


def test_nothing_is_left_behind() -> None:
    with skipped_without_namespaces(), labs.lab() as built:
        names = [built.server.namespace, built.viewer.namespace]
        assert all(labs.family(name) == [] for name in names)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert not [name for name in names if name in listed]
