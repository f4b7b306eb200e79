"""The figures of all runs as text for a terminal, and as the page `docs/quality-real.md`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from bench.links.figures import LEAST_FPS, MOST_LATE_MS, Metrics, median
from bench.links.scenarios import SCENARIOS, Scenario
from bench.machine import Machine
from bench.quality.figures import FOLLOWS, OF_CALLS, Column

COLUMNS = (
    *OF_CALLS,
    Column("reversals_per_min", "reversals /min", 1),
    Column("first_picture_ms", "last first picture ms"),
    Column("target_layer_s", "target layer s", 1),
    Column("paused_s", "paused s", 1),
    Column("dropped_percent", "dropped by the queue %", 1),
)


class Result(msgspec.Struct):
    """One run, judged."""

    scenario: str
    server: str
    seed: int
    metrics: Metrics


class Results(msgspec.Struct):
    """What the page is made of; kept beside it."""

    date: str
    machine: Machine
    runs: list[Result]


@dataclass(frozen=True)
class Row:
    """Medians of one server in one scenario."""

    scenario: Scenario
    server: str
    seeds: int
    values: dict[str, float | None]
    follows: dict[str, int]

    def cell(self, column: Column) -> str:
        if not self.applies(column):
            return ""
        shown, passed = column.show(self.values[column.name]), self.passed(column)
        if passed is None:
            return shown
        bound = f" ({'≥' if column.rises else '≤'} {self.scenario.targets[column.name]:g})"
        return f"{shown} {'✓' if passed else '✗'}{'' if passed else bound}"

    def passed(self, column: Column) -> bool | None:
        """`None` without a target."""
        target = self.scenario.targets.get(column.name)
        return None if target is None or not self.applies(column) else column.meets(self.values[column.name], target)

    def applies(self, column: Column) -> bool:
        follows = FOLLOWS.get(column.name)
        return follows is None or self.follows[follows] > 0


def rows(runs: list[Result]) -> Iterator[Row]:
    """Of runs in which the machine kept up."""
    runs = [run for run in runs if run.metrics.machine_kept_up]
    servers = list(dict.fromkeys(run.server for run in runs))
    for scenario in SCENARIOS:
        for server in servers:
            own = [run.metrics for run in runs if (run.scenario, run.server) == (scenario.name, server)]
            if own:
                values = {column.name: median([getattr(metrics, column.name) for metrics in own]) for column in COLUMNS}
                follows = {name: getattr(own[0], name) for name in FOLLOWS.values()}
                yield Row(scenario, server, len(own), values, follows)


def typical(runs: list[Result], scenario: str, server: str) -> Result | None:
    """The run with the median utility, of those that count."""
    own = [r for r in runs if (r.scenario, r.server) == (scenario, server) and r.metrics.machine_kept_up]
    own.sort(key=lambda r: r.metrics.utility)
    return own[(len(own) - 1) // 2] if own else None


def terminal(runs: list[Result]) -> str:
    lines: list[str] = []
    for scenario in SCENARIOS:
        of_scenario = [row for row in rows(runs) if row.scenario == scenario]
        if not of_scenario:
            continue
        names = [f"{row.server} ({row.seeds})" for row in of_scenario]
        lines.append(f"\n{scenario.title:<58}" + "".join(f"{name:>34}" for name in names))
        for column in COLUMNS:
            target = scenario.targets.get(column.name)
            bound = "" if target is None else f"{'>=' if column.rises else '<='} {target:g}"
            cells = "".join(f"{row.cell(column).partition(' (')[0]:>34}" for row in of_scenario)
            lines.append(f"  {column.title:<26}{bound:<30}{cells}")
    return "\n".join(lines)


def markdown(runs: list[Result]) -> str:
    lines = ["| link and call | server | runs | " + " | ".join(column.title for column in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 3) + "|")
    for row in rows(runs):
        cells = " | ".join(row.cell(column) for column in COLUMNS)
        lines.append(f"| {row.scenario.title} | {row.server} | {row.seeds} | {cells} |")
    return "\n".join(lines)


def page(results: Results, plots: list[tuple[str, str]]) -> str:
    """`plots`: (title, file) of the pictures in it."""
    runs = [run for run in results.runs if run.metrics.machine_kept_up]
    seeds = sorted({run.seed for run in runs})
    fps = [run.metrics.published_fps for run in runs]
    loads = [run.metrics.load_average for run in runs]
    head = _HEAD.format(
        seeds=len(seeds),
        machine=f"{results.machine.cpu}, {results.machine.cores} cores, Linux {results.machine.kernel}",
        date=results.date,
        fps=f"{min(fps):.0f} – {max(fps):.0f}",
        left_out=len(results.runs) - len(runs),
        least_fps=LEAST_FPS,
        most_late=MOST_LATE_MS,
        late=f"{max(run.metrics.late_p99_ms for run in runs):.0f}",
        load=f"{min(loads):.0f} – {max(loads):.0f}",
    )
    images = "\n\n".join(f"![{title}]({file})" for title, file in plots)
    return "\n".join((head, markdown(runs), "", images, "", _TAIL))


_HEAD = """\
# Quality with real clients

Written by `python -m bench.links --docs`; do not edit. Medians of up to {seeds} seeds, from `quality-real.json` beside
this page.

Real clients over a link that is known to the packet: the emulator (`bench/links/emulator.py`) moves every packet
between two network namespaces. On one side the server and its publishers, on the other the viewer. Publishers are the
official Python SDK (libwebrtc), encoding moving pictures to VP8 simulcast of 720p30, 360p20 and 180p15, which is the
SDK's own ladder, at about 1.9, 0.49 and 0.165 Mbit/s on the wire with three temporal layers, Opus of 74 kbit/s on the
wire without RED, a 1080p5 share of up to 0.8 Mbit/s. The viewer is the same SDK, or headless Chromium with the official
JavaScript client where it says so. Both servers run with their defaults, never at once, on the same links with the same
seeds. The queue is drop-tail, 300 ms before the rate, 20 ms of delay each way.

A figure with a target is marked: ✓ reached, ✗ missed (the target follows).

Measured on {date} on {machine}, with everything on the one machine
and others at work on it: load average {load}, publishers at {fps} frames a second, the emulator's 99th percentile of
lateness up to {late} ms. Runs in which publishers made less than {least_fps} frames a second or the emulator was later
than {most_late} ms say more of the machine than of the server; {left_out} were left out.
"""

_TAIL = """\
## What the figures mean

As in [simulated calls](quality.md), from the client's side:

* **utility**: Σ log2(pixels ÷ 14 400) × share of the layer's frame rate, of what was shown, ÷ the same for the best set
  of layers that fits the known capacity (less sound and rival) at every second. What layers cost is what the publisher
  sent of them. From the fifth second after the viewer began to join.
* **frozen, longest freeze**: W3C's definition (a picture that stays longer than max(3 × mean, mean + 150 ms) of the
  last 30 intervals): from the arrival of every picture with the Python SDK, from getStats with Chromium. A pause that
  was announced is none.
* **queue p95**: time that packets waited in the link's queue. **worst second**: bits offered ÷ bits carried, sliding,
  joining included. What a rival leaves is what counts as capacity.
* **audio concealed**: `concealedSamples` ÷ `totalSamplesReceived` of the voice that fared worst.
* **down**: from a fall of the rate until what is sent fits and the queue is below 50 ms, for a second. **up**: from a
  rise until 90 % of the optimum is seen, for a second. The slowest of all steps.
* **switches, reversals**: changes of the size shown, pauses included; a reversal is a climb taken back within 10 s.
* **last first picture**: from the beginning of joining (WebSocket, ICE, DTLS over the link) to the first picture of the
  last track. **target layer**: from there to 90 % of the optimum.
* **paused**: time for which the server said that it sends no video, all tracks together.

Again, as root: `python -m bench.links` (all), `--scenario steps --server callyard --seeds 1` (one). Every run is kept
in `bench/results/links` with each packet's passage and the server's own reasons (`/debug/rooms/{room}`).

## What a fall to 120 kbit/s costs a voice
Receivers report every 50 ms: from the fall to the first report, or the first missing one, that can tell of it 50 to
110 ms pass (14 calls, packet by packet), and 7.6 KB of pictures have left before they are held back. Pings tell
sooner ([bandwidth estimation](concepts/bandwidth-estimation.md)): 4.9 KB. Each KB costs some 59 ms of made-up sound,
beside 103 that it takes in any case (r = 0.92): 523 ms without pings, 360 with them (means of 7 and 20 calls). What is
left is mostly a matter of where in a picture the fall comes: nothing can be known of it within a round trip, 40 ms. So
that not chance decides, that row has nine seeds: 0.2 to 1.2 % of 45 s.
"""
