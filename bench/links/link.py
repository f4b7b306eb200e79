"""One direction of an emulated link: a drop-tail queue before a changing rate, delay, jitter, loss, and a rival.

A value without socket or clock: seconds and packets go in, packets come out when they are due. Second 0 is the start of
the schedule; before it the rate of second 0 holds, nothing is lost and nothing is noted. The same link in virtual time
is `sfu/core/sim/src/link.rs`.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

#: A queue is never shorter than this rate would need, bits a second: links that stall hold packets, they do not drop
#: them.
_LEAST_QUEUE_BPS = 300_000.0
#: Steps in which rates that change all the time are described, seconds.
_STEP_SECONDS = 0.1
_RIVAL_BYTES = 1_200


@dataclass(frozen=True)
class Rate:
    """Bits a second over time, constant between steps."""

    #: (from this second on, bits a second), rising, the first from 0.
    steps: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        times = [at for at, _ in self.steps]
        if not times or times[0] != 0 or times != sorted(set(times)):
            raise ValueError("steps begin at 0 and rise")
        if any(bps <= 0 for _, bps in self.steps):
            raise ValueError("a rate is above 0")

    @staticmethod
    def constant(bps: float) -> Rate:
        return Rate(((0.0, bps),))

    @staticmethod
    def sawtooth(low: float, high: float, period: float, seconds: float) -> Rate:
        """From `high` down to `low` at once, then up again evenly, every `period` seconds."""
        times = [index * _STEP_SECONDS for index in range(math.ceil(seconds / _STEP_SECONDS))]
        return Rate(tuple((t, low + (high - low) * (t % period) / period) for t in times))

    @staticmethod
    def wandering(mean: float, seconds: float, seed: int) -> Rate:
        """As a mobile cell does: a random walk of the logarithm that is drawn back to `mean`, with rare deep fades."""
        chance, level, fade, steps = random.Random(seed), 0.0, 0, []
        for index in range(math.ceil(seconds / _STEP_SECONDS)):
            level += -0.03 * level + chance.gauss(0, 0.12)
            fade = fade - 1 if fade else (chance.randint(5, 15) if chance.random() < 0.004 else 0)
            steps.append((index * _STEP_SECONDS, mean * min(2.5, math.exp(level)) * (0.2 if fade else 1.0)))
        return Rate(tuple(steps))

    def at(self, t: float) -> float:
        return self.steps[self._index(t)][1]

    def bits(self, start: float, end: float) -> float:
        """What is carried between two moments."""
        sum_, index = 0.0, self._index(start)
        while start < end:
            until = min(end, self._until(index))
            sum_ += (until - start) * self.steps[index][1]
            start, index = until, index + 1
        return sum_

    def finish(self, start: float, bits: float) -> float:
        """When so many bits have passed that begin to pass at `start`."""
        index = self._index(start)
        while True:
            until, bps = self._until(index), self.steps[index][1]
            if start + bits / bps <= until:
                return start + bits / bps
            bits -= (until - start) * bps
            start, index = until, index + 1

    def less(self, rival: Rival | None) -> Rate:
        """What a rival leaves; never less than a thousandth of what is there."""
        if rival is None:
            return self
        times = sorted({at for at, _ in self.steps} | {rival.start, rival.end})
        left = ((t, self.at(t) - (rival.bps if rival.start <= t < rival.end else 0.0)) for t in times)
        return Rate(tuple((t, max(bps, self.at(t) / 1_000)) for t, bps in left))

    def jumps(self) -> list[tuple[float, float, float]]:
        """(second, rate before, rate after) of each step that changes it."""
        return [(at, before, after) for (_, before), (at, after) in pairwise(self.steps) if before != after]

    def _index(self, t: float) -> int:
        return max(0, bisect_right(self.steps, (t, math.inf)) - 1)

    def _until(self, index: int) -> float:
        return self.steps[index + 1][0] if index + 1 < len(self.steps) else math.inf


@dataclass(frozen=True)
class Rival:
    """A flow of 1200-byte packets that yields to nobody and ends behind the link."""

    bps: float
    start: float
    end: float


@dataclass(frozen=True)
class LinkSpec:
    """One direction. Sizes are those of IP packets."""

    rate: Rate
    #: Packets that would wait longer are dropped.
    queue_ms: float = 300.0
    #: One way, behind the queue.
    delay_ms: float = 20.0
    #: Uniform, on top of the delay; order is kept.
    jitter_ms: float = 0.0
    #: Share of packets lost behind the queue.
    loss: float = 0.0
    #: Mean number lost in a row (Gilbert's two states); 1: each on its own.
    burst: float = 1.0
    rival: Rival | None = None

    def wide(self) -> LinkSpec:
        """The way back: as long as this one, with room for all and without loss."""
        return replace(self, rate=Rate.constant(100e6), loss=0.0, rival=None)


@dataclass(frozen=True)
class Passage:
    """What happened to one packet."""

    #: When it came to the link, seconds.
    at: float
    bytes: int
    #: Seconds in the queue; `None`: it was full.
    wait: float | None
    #: Lost behind the queue.
    lost: bool = False


class Direction:
    """Carries packets one way. Times of successive calls never fall."""

    def __init__(self, spec: LinkSpec, seed: int, note: Callable[[Passage], None] = lambda _: None) -> None:
        self._spec = spec
        self._note = note
        self._chance = random.Random(seed)
        self._in_bad_state = False
        self._busy_until = -math.inf
        self._last_arrival = -math.inf
        self._in_flight: deque[tuple[float, bytes]] = deque()
        self._rival_at = spec.rival.start if spec.rival is not None else math.inf

    def offer(self, t: float, packet: bytes) -> None:
        self._run_rival(t)
        queued = self._queue(t, len(packet))
        lost = queued is not None and t >= 0 and self._is_lost()
        if t >= 0:
            self._note(Passage(t, len(packet), queued[0] if queued is not None else None, lost))
        if queued is None or lost:
            return
        delay = self._spec.delay_ms + self._spec.jitter_ms * self._chance.random()
        self._last_arrival = max(self._last_arrival, queued[1] + delay / 1e3)
        self._in_flight.append((self._last_arrival, packet))

    def next_at(self) -> float | None:
        """When something is due."""
        return self._in_flight[0][0] if self._in_flight else None

    def due(self, t: float) -> list[tuple[float, bytes]]:
        """All that has arrived by `t`, with the moment at which it did."""
        arrived = []
        while self._in_flight and self._in_flight[0][0] <= t:
            arrived.append(self._in_flight.popleft())
        return arrived

    def _queue(self, t: float, size: int) -> tuple[float, float] | None:
        """(seconds of waiting, when it has passed); `None` if the queue is full."""
        begin = max(t, self._busy_until)
        room = self._spec.queue_ms / 1e3 * max(self._spec.rate.at(t), _LEAST_QUEUE_BPS)
        if begin > t and self._spec.rate.bits(t, begin) > room:
            return None
        self._busy_until = self._spec.rate.finish(begin, size * 8)
        return begin - t, self._busy_until

    def _run_rival(self, t: float) -> None:
        rival = self._spec.rival
        while rival is not None and self._rival_at <= min(t, rival.end):
            self._queue(self._rival_at, _RIVAL_BYTES)
            self._rival_at += _RIVAL_BYTES * 8 / rival.bps

    def _is_lost(self) -> bool:
        share, burst = self._spec.loss, self._spec.burst
        if not share:
            return False
        if burst <= 1:
            return self._chance.random() < share
        # The bad state loses all; its mean length is `burst`, its share of time `share`.
        leave = 1 / burst
        turn = leave if self._in_bad_state else leave * share / (1 - share)
        if self._chance.random() < turn:
            self._in_bad_state = not self._in_bad_state
        return self._in_bad_state
