"""What a call was worth, from what its viewer saw and its link did. The same figures as of simulated calls
(`sfu/core/sim/src/metrics.rs`); values in, values out.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from bench.links.call import Call
from bench.links.publisher import Reading
from bench.links.scenarios import Scenario
from bench.links.viewer import Video

LEAST_FPS, MOST_LATE_MS = 27, 30
_BIN = 0.1
#: A climb taken back within this time is a reversal.
_REVERSAL_SECONDS = 10.0
#: Resolution of capacities, bits a second.
_GRAIN = 5_000
#: Share of a layer's rate up to each of its temporal layers, and of its frames (libwebrtc's three layers of VP8).
_TEMPORAL = ((0.4, 0.25), (0.6, 0.5), (1.0, 1.0))
_RECENT_INTERVALS = 30


class Metrics(msgspec.Struct):
    """`None`: never, or nothing of the kind in this call."""

    utility: float
    frozen_ms_per_min: float
    longest_freeze_ms: float
    queue_p95_ms: float
    worst_offered: float
    concealed_percent: float
    first_picture_ms: float | None
    target_layer_s: float | None
    down_s: float | None
    up_s: float | None
    switches_per_min: float
    reversals_per_min: float
    #: By getStats of the client itself.
    client_freezes: int
    client_frozen_ms: float
    paused_s: float
    dropped_percent: float
    #: What the machine did: frames a second of the largest layer at the publisher, lateness of the emulator.
    published_fps: float
    late_p99_ms: float
    load_average: float
    falls: int
    rises: int

    @property
    def machine_kept_up(self) -> bool:
        """False: slower publishers or a later emulator than this say more of the machine than of the server."""
        return self.published_fps >= LEAST_FPS and self.late_p99_ms <= MOST_LATE_MS


class TrackSeries(msgspec.Struct):
    """By tenth of a second."""

    kind: str
    #: -1: nothing.
    height: list[int]
    #: Over the last second.
    fps: list[float]


class Series(msgspec.Struct):
    """What is drawn, by tenth of a second since the viewer began to join."""

    t: list[float]
    free: list[float]
    #: Bits a second; empty where the server does not tell.
    estimate: list[float]
    #: Offered to the link, bits a second over half a second.
    sent: list[float]
    queue_ms: list[float]
    tracks: list[TrackSeries]
    freezes: list[tuple[float, float]]


class Layer(msgspec.Struct, frozen=True):
    height: int
    bps: float
    fps: float
    temporal: bool

    @property
    def worth(self) -> float:
        """Doublings over 160 × 90 pixels of a 16:9 picture."""
        return math.log2(self.height**2 * 16 / 9 / 14_400)


class View:
    """A call, with second 0 at the start of the link's schedule, when its viewer begins to join."""

    def __init__(self, scenario: Scenario, call: Call) -> None:
        self.scenario = scenario
        self.call = call
        self.seconds = scenario.seconds
        self.free = scenario.link.rate.less(scenario.link.rival)
        self.videos = [_Seen(video, call) for video in call.sight.videos]
        self._ladders = _ladders(call.sent, len(scenario.people))
        self._voices = sum(layer.bps for kind, layers in self._ladders if kind == "voice" for layer in layers)
        self._optimum = Optimum([layers for kind, layers in self._ladders if kind != "voice"])
        self._offered = [0.0] * math.ceil(self.seconds / _BIN)
        for passage in call.link.down:
            if passage.at < self.seconds:
                self._offered[int(passage.at / _BIN)] += passage.bytes * 8

    def metrics(self) -> Metrics:
        scenario, minutes = self.scenario, self.seconds / 60
        count = sum(track != "voice" for tracks in scenario.people for track in tracks)
        windows = [scenario.warm_up + second for second in range(int(self.seconds - scenario.warm_up))]
        best = sum(self.best(t, 1.0) for t in windows)
        freezes = [length for video in self.videos for _, length in video.freezes()]
        waits = sorted(p.wait for p in self.call.link.down if p.wait is not None)
        jumps = [jump for jump in self.free.jumps() if jump[0] < self.seconds - 2]
        falls = [at for at, before, after in jumps if after < before]
        rises = [at for at, before, after in jumps if after > before]
        changes = [video.changes() for video in self.videos]
        firsts = [video.frames[0][0] if video.frames else None for video in self.videos]
        offered = sum(p.bytes for p in self.call.link.down)
        last = [video.video.freezes[-1] for video in self.videos if video.video.freezes]
        return Metrics(
            utility=sum(self.seen(t, 1.0) for t in windows) / best if best else 1.0,
            frozen_ms_per_min=sum(freezes) * 1e3 / minutes / count,
            longest_freeze_ms=max(freezes, default=0.0) * 1e3,
            queue_p95_ms=waits[len(waits) * 95 // 100] * 1e3 if waits else 0.0,
            worst_offered=self._worst_offered(),
            concealed_percent=self._concealed() * 100,
            first_picture_ms=_slowest([*firsts, *[None] * (count - len(firsts))], 1e3),
            target_layer_s=self._reaches_after(0.0),
            down_s=_slowest([self._fits_after(t) for t in falls]) if falls else None,
            up_s=_slowest([self._reaches_after(t) for t in rises]) if rises else None,
            switches_per_min=sum(switches for switches, _ in changes) / minutes / count,
            reversals_per_min=sum(reversals for _, reversals in changes) / minutes / count,
            client_freezes=sum(found.count for found in last),
            client_frozen_ms=sum(found.seconds for found in last) * 1e3,
            paused_s=sum(end - start for video in self.videos for start, end in video.pauses),
            dropped_percent=100 * sum(p.bytes for p in self.call.link.down if p.wait is None) / max(1, offered),
            published_fps=min(max(layer.fps for layer in own) for kind, own in self._ladders if kind == "camera"),
            late_p99_ms=self.call.link.late_p99 * 1e3,
            load_average=self.call.load_average,
            falls=len(falls),
            rises=len(rises),
        )

    def series(self) -> Series:
        times = [round(index * _BIN, 1) for index in range(len(self._offered))]
        waits: list[float] = [0.0] * len(times)
        for passage in self.call.link.down:
            if passage.at < self.seconds and passage.wait is not None:
                index = int(passage.at / _BIN)
                waits[index] = max(waits[index], passage.wait * 1e3)
        sent = [sum(self._offered[max(0, i - 4) : i + 1]) / (min(i + 1, 5) * _BIN) for i in range(len(times))]
        tracks = []
        for video in self.videos:
            pictures = [video.recent(t, 1.0) for t in times]
            heights = [found[-1][1] if found else -1 for found in pictures]
            fps = [float(sum(frames for _, _, frames in found)) for found in pictures]
            tracks.append(TrackSeries(video.video.kind, heights, fps))
        return Series(
            t=times,
            free=[self.free.at(t) for t in times],
            estimate=self._estimates(times),
            sent=[round(bps) for bps in sent],
            queue_ms=[round(wait, 1) for wait in waits],
            tracks=tracks,
            freezes=[freeze for video in self.videos for freeze in video.freezes()],
        )

    def seen(self, start: float, span: float) -> float:
        """Worth of what was seen in a window."""
        sum_ = 0.0
        for video in self.videos:
            layers = self._layers(video)
            # A burst of frames that had waited is not seen frame by frame.
            left = max(layer.fps for layer in layers) * span + 2
            for _, height, frames in video.between(start, start + span):
                layer = min(layers, key=lambda layer: abs(layer.height - height))
                counted = min(frames, left)
                left -= counted
                sum_ += layer.worth * min(counted / (layer.fps * span), 1.0)
        return sum_

    def best(self, start: float, span: float) -> float:
        """Worth of the best that the window would carry."""
        return self._optimum.at(self.free.bits(start, start + span) / span - self._voices)

    def _layers(self, video: _Seen) -> list[Layer]:
        index = int(video.video.person.rpartition("-")[2])
        own = [layers for (kind, layers) in self._ladders if kind == video.video.kind]
        return own[min(index, len(own) - 1)]

    def _worst_offered(self) -> float:
        width = round(1 / _BIN)
        windows = range(len(self._offered) - width + 1)
        bits = (sum(self._offered[index : index + width]) for index in windows)
        return max((b / self.free.bits(i * _BIN, i * _BIN + 1.0) for i, b in enumerate(bits)), default=0.0)

    def _concealed(self) -> float:
        shares = [0.0]
        for person in {sound.person for sound in self.call.sight.sounds}:
            own = [sound for sound in self.call.sight.sounds if sound.person == person]
            samples = own[-1].samples - own[0].samples
            shares.append((own[-1].concealed - own[0].concealed) / samples if samples else 1.0)
        return max(shares)

    def _fits_after(self, t: float) -> float | None:
        """Time until a second begins that is offered no more than it carries, with less than 50 ms in the queue."""
        slow = [p.at for p in self.call.link.down if p.wait is None or p.wait >= 0.05]
        width = round(1 / _BIN)
        for index in range(round(t / _BIN), len(self._offered) - width + 1):
            start = index * _BIN
            fits = sum(self._offered[index : index + width]) <= self.free.bits(start, start + 1)
            if fits and bisect_left(slow, start) == bisect_left(slow, start + 1):
                return start - t
        return None

    def _reaches_after(self, t: float) -> float | None:
        """Time until a second begins in which 90 % of the optimum is seen."""
        for index in range(round(t / _BIN), len(self._offered) - round(1 / _BIN) + 1):
            start = index * _BIN
            if self.seen(start, 1.0) >= 0.9 * self.best(start, 1.0):
                return start - t
        return None

    def _estimates(self, times: list[float]) -> list[float]:
        found = []
        for look in self.call.looks:
            known = [c["estimate_bps"] for c in look.connections if c["estimate_bps"]]
            if known:
                found.append((look.at - self.call.link.origin, float(max(known))))
        if not found:
            return []
        moments = [at for at, _ in found]
        return [found[max(0, bisect_left(moments, t) - 1)][1] for t in times]


class _Seen:
    """One video of the viewer, in the link's time."""

    def __init__(self, video: Video, call: Call) -> None:
        self.video = video
        self.is_exact = call.sight.is_exact
        self._origin = call.link.origin
        self._end = call.link.seconds
        self.frames = [(s.at - self._origin, s.height, s.frames) for s in video.shown if s.at >= self._origin]
        self._times = [at for at, _, _ in self.frames]
        self.pauses = list(self._pauses(call))

    def between(self, start: float, end: float) -> list[tuple[float, int, int]]:
        return self.frames[bisect_left(self._times, start) : bisect_left(self._times, end)]

    def recent(self, t: float, span: float) -> list[tuple[float, int, int]]:
        return self.between(t - span, t)

    def freezes(self) -> Iterator[tuple[float, float]]:
        """(when, for how long) a picture stayed longer than max(3 × mean, mean + 150 ms) of the last 30 intervals."""
        if not self.is_exact:
            yield from self._counted()
            return
        recent: list[float] = []
        for before, now in pairwise([*self._times, self._end]):
            gap = now - before
            mean = statistics.fmean(recent) if recent else gap
            announced = any(start < now and end > before for start, end in self.pauses)
            if len(recent) >= 5 and gap > max(3 * mean, mean + 0.15) and not announced:
                yield before, gap
            recent = [*recent[1 - _RECENT_INTERVALS :], gap] if not announced else []

    def changes(self) -> tuple[int, int]:
        """(changes of the size, those that took back a climb within ten seconds); a pause is a size of none."""
        sizes = sorted([(at, height) for at, height, _ in self.frames] + [(start, -1) for start, _ in self.pauses])
        switches = reversals = 0
        climbed: float | None = None
        for (_, before), (at, after) in pairwise(sizes):
            switches += before != after
            if after > before:
                climbed = at
            elif after < before:
                reversals += climbed is not None and at - climbed < _REVERSAL_SECONDS
                climbed = None
        return switches, reversals

    def _counted(self) -> Iterator[tuple[float, float]]:
        for before, now in pairwise(self.video.freezes):
            if now.count > before.count:
                lasted = now.seconds - before.seconds
                end = now.at - self._origin
                if not any(start < end and stop > end - lasted - 0.5 for start, stop in self.pauses):
                    yield end - lasted, lasted

    def _pauses(self, call: Call) -> Iterator[tuple[float, float]]:
        """As the client was told; where it does not say, as the server says that it told."""
        states = [(at - self._origin, paused) for at, paused in self.video.paused]
        if not states:
            for look in call.looks:
                own = [r for r in look.receives if r["track"] == self.video.track]
                states += [(look.at - self._origin, r["target_spatial"] is None) for r in own]
        since: float | None = None
        for at, paused in states:
            if paused and since is None:
                since = at
            elif not paused and since is not None:
                yield since, at
                since = None
        if since is not None:
            yield since, self._end


def _ladders(sent: Sequence[Reading], people: int) -> list[tuple[str, list[Layer]]]:
    """(kind, layers as they were sent) of every track, by publisher."""
    found = []
    for person in range(people):
        readings: dict[str, list[Reading]] = defaultdict(list)
        for reading in sent:
            if reading.person == person:
                readings[reading.kind].append(reading)
        layers: dict[str, list[Layer]] = defaultdict(list)
        for kind, own in readings.items():
            # Its start is left out: encoders begin carefully.
            first, last = own[len(own) // 4], own[-1]
            span = last.at - first.at
            bps = (last.wire_bytes - first.wire_bytes) * 8 / span
            fps = (last.frames - first.frames) / span
            layers[kind.split()[0]].append(Layer(last.height, bps, fps, kind.startswith("camera")))
        found += [(kind, sorted(own, key=lambda layer: layer.height)) for kind, own in layers.items()]
    return found


class Optimum:
    """The best set of layers that fits a known capacity: exact dynamic programming, and no switch costs it anything."""

    def __init__(self, tracks: list[list[Layer]]) -> None:
        self._options = [list(_options(layers)) for layers in tracks]
        self._known: dict[int, float] = {}

    def at(self, bps: float) -> float:
        most = sum(max(grains for grains, _ in options) for options in self._options)
        budget = min(max(0, int(bps / _GRAIN)), most)
        if budget not in self._known:
            self._known[budget] = self._solve(budget)
        return self._known[budget]

    def _solve(self, budget: int) -> float:
        values = [0.0] * (budget + 1)
        for options in self._options:
            values = [
                max(values[room - grains] + worth for grains, worth in options if grains <= room)
                for room in range(budget + 1)
            ]
        return values[budget]


def _options(layers: list[Layer]) -> Iterator[tuple[int, float]]:
    yield 0, 0.0
    for layer in layers:
        for rate, frames in _TEMPORAL if layer.temporal else ((1.0, 1.0),):
            yield math.ceil(layer.bps * rate / _GRAIN), layer.worth * frames


def _slowest(values: Sequence[float | None], scale: float = 1.0) -> float | None:
    """`None` if one of them never came."""
    known = [value for value in values if value is not None]
    return max(known) * scale if len(known) == len(values) else None


def median(values: Sequence[float | None]) -> float | None:
    """What never came is later than everything that did."""
    middle = statistics.median(math.inf if value is None else value for value in values)
    return None if middle == math.inf else middle
