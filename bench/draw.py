"""Plots of the benchmark, from raw results alone: cost against fan-out and rooms, memory, and how a core fills."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench import report
from bench.measure import Run
from bench.quality.draw import FAINT, INK, STYLE
from bench.report import OURS, WHOLE, Row
from bench.results import Figure, Results
from bench.scenarios import named

_OWN = {OURS: "#1f7a8c", WHOLE: "#74b3c1"}
_OTHERS = ("#e07a2f", "#5a4f96", "#b23a48", "#8a9a5b", "#b08968", "#6b7280")
_LIMIT, _BARE = "#22313f", "#8795a1"
_DPI = 110


def draw(results: Results, folder: Path) -> None:
    """All plots that these results have something for, as `bench-NAME.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, Callable[[Results], None]] = {
        "fan-out": lambda r: _costs(r, "fan-out", lambda row: row.scenario.viewers, "subscribers"),
        "rooms": lambda r: _costs(r, "rooms", lambda row: row.scenario.rooms, "rooms of 1 → 4"),
        "memory": _memory,
        "knee": _knee,
    }
    for name in report.plots(results):
        with plt.rc_context(STYLE):
            drawn[name](results)
            # No version or date inside: the same results make the same file.
            plt.savefig(folder / f"bench-{name}.png", dpi=_DPI, metadata={"Software": None})
            plt.close()


def _colors(results: Results) -> dict[str, str]:
    peers = list(dict.fromkeys(run.peer for run in (*results.runs, *results.ramp)))
    others = [peer for peer in peers if peer not in _OWN]
    return {**_OWN, **{peer: _OTHERS[index % len(_OTHERS)] for index, peer in enumerate(others)}}


def _costs(results: Results, group: str, count: Callable[[Row], int], label: str) -> None:
    rows = [row for row in report.rows(results) if row.scenario.group == group]
    figure, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    for peer, color in _colors(results).items():
        own = [(count(row), row.cpu_us) for row in rows if row.peer == peer]
        if own:
            _with_spread(axes, own, color, peer)
    for name, color, figure_of in (
        ("fan-out limit", _LIMIT, attrgetter("fanout_us")),
        ("bare sendto", _BARE, attrgetter("bare_us")),
    ):
        points = {count(row): found.value for row in rows if (found := figure_of(row)) is not None}
        if points:
            axes.plot(list(points), list(points.values()), "--", color=color, linewidth=1, label=name)
    _counts(axes, sorted({count(row) for row in rows}), label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("CPU µs a packet")
    axes.set_title(report.plots(results)[group], weight="bold")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.align_ylabels()


def _memory(results: Results) -> None:
    rows = [row for row in report.rows(results) if row.scenario.group == "fan-out"]
    _, axes = plt.subplots(figsize=(7.4, 3.8), layout="constrained")
    for peer, color in _colors(results).items():
        own = []
        for row in rows:
            if row.peer == peer:
                grown = Figure.of(
                    run.subscribed_bytes / 1e6
                    for run in results.runs
                    if (run.scenario, run.peer) == (row.scenario.name, peer)
                )
                own.append((row.scenario.viewers, grown))
        if own:
            _with_spread(axes, own, color, peer)
    counts = sorted({row.scenario.viewers for row in rows})
    axes.plot(
        counts, [count * report.MEMORY_TARGET_KB / 1_000 for count in counts], ":", color=FAINT, linewidth=1,
        label=f"{report.MEMORY_TARGET_KB} KB each",
    )  # fmt: skip
    _counts(axes, counts, "subscribers")
    axes.set_yscale("log")
    axes.set_ylabel("MB more than without them")
    axes.set_title(report.plots(results)["memory"], weight="bold")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))


def _knee(results: Results) -> None:
    names = list(dict.fromkeys(run.scenario for run in results.ramp))
    _, panels = plt.subplots(
        2, len(names), figsize=(4.2 * len(names) + 1.2, 4.6), sharex="col", squeeze=False, layout="constrained"
    )
    for column, name in enumerate(names):
        latency, loss = panels[0][column], panels[1][column]
        for peer, color in _colors(results).items():
            runs = _climb(results, name, peer)
            if not runs:
                continue
            load = [run.packets_per_second / 1_000 for run in runs]
            for axes, values in (
                (latency, [run.p99_us / 1_000 for run in runs]),
                (loss, [100 * run.lost_share for run in runs]),
            ):
                axes.plot(load, values, "-", color=color, linewidth=1.4, label=peer)
                for x, y, run in zip(load, values, runs, strict=True):
                    # Hollow: the clients' core was full, not the server's.
                    axes.plot(
                        x, y, "o", markersize=4, color=color, markerfacecolor=color if run.is_generator_fine else "w"
                    )
        latency.set_yscale("log")
        latency.axhline(report.KNEE_P99_US / 1_000, color=FAINT, linewidth=0.8, linestyle=":")
        latency.set_title(named(name).title, weight="bold")
        loss.set_xlabel("1 000 packets a second forwarded")
        loss.set_ylim(bottom=0)
    panels[0][0].set_ylabel("p99 latency, ms")
    panels[1][0].set_ylabel("lost, %")
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1))


def _climb(results: Results, scenario: str, peer: str) -> list[Run]:
    """The least load first; of the scenario's own load the median run."""
    own = sorted(
        (run for run in results.runs if (run.scenario, run.peer) == (scenario, peer)), key=lambda run: run.p99_us
    )
    ramp = [run for run in results.ramp if (run.scenario, run.peer) == (scenario, peer)]
    if not ramp:
        return []
    return sorted((*own[len(own) // 2 : len(own) // 2 + 1], *ramp), key=lambda run: run.packets_per_second)


def _with_spread(axes: Axes, points: list[tuple[int, Figure]], color: str, label: str) -> None:
    counts = [count for count, _ in points]
    axes.plot(
        counts, [figure.value for _, figure in points], "o-", color=color, markersize=4, linewidth=1.6, label=label
    )
    axes.vlines(
        counts, [figure.low for _, figure in points], [figure.high for _, figure in points], color=color, linewidth=1
    )


def _counts(axes: Axes, counts: list[int], label: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:_}".replace("_", " ") for count in counts])
    axes.minorticks_off()
    axes.tick_params(colors=INK)
    axes.set_xlabel(label)
