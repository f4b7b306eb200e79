"""From raw results to what people read: a table on the terminal and the page `docs/benchmarks.md`. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

import msgspec
from rich.table import Table

from bench.machine import Machine
from bench.measure import Limit, Run
from bench.scenarios import FULL, Scenario

LATENCY_TARGET_MS = 1.0
MEMORY_TARGET_KB = 150


_HEAD = """\
# Benchmarks

Written by `make bench` (`python -m bench --page`); do not edit.

{machine.cpu}, {machine.cores} cores, Linux {machine.kernel}, Python {machine.python}, {date}.

One server process pinned to one core; the load generator (`sfu/load.py`) with all clients pinned to another. Everything
over loopback. Clients are complete: ICE, DTLS-SRTP, RTCP reports, NACK, and transport-wide feedback ten times a second
each. Median of the runs, in brackets the lowest and the highest.

* **CPU** is the scheduler's time of all the server's threads, divided by the packets that reached clients.
* **Fan-out limit** is the same load without protocol, in the same run: open once, rewrite, seal and send in segmented
  runs. **Bare `sendto`** sends as many bytes and does nothing else.
* **Latency** is one way: from just before the publisher's send call to the kernel's time stamp at the subscriber, over
  all subscribers; a picture's packets reach the last of fifty after those of the other forty-nine.
* **Half load**: so many rooms at once that the server's core is about half busy.
* On loopback the sender pays for the delivery into the receiver's socket, for every server alike. Clients take
  datagrams one by one, so the sender's kernel also cuts segmented runs.
* A loaded machine flatters by batching and punishes by cold caches: compare within one run only. Load average
  meanwhile: {load}.
"""
_BUSY = """\
**The machine was busy with other work during this run.** Processes waited for their core: latencies, and all of half
load, tell of that and not of the servers. CPU is higher for whoever works in short passes, for the caches are cold, and
lower for whoever batches more when it is late. Compare it with the bare `sendto` of the same run.
"""
_COLUMNS = (
    "scenario",
    "server",
    "cipher",
    "CPU µs a packet",
    "user + sys",
    "target",
    "fan-out limit",
    "bare `sendto`",
    "switches / 1000 packets",
    "p50 / p99 µs",
    "half load: p50 / p99 µs (core)",
    "KB a subscriber",
    "lost",
)
_TARGETS = """
Targets beside CPU: p99 ≤ {latency:g} ms at half load, ≤ {memory} KB a subscriber.

Others, measured earlier with another generator on another machine (2 vCPUs of a Sapphire Rapids Xeon, otherwise idle;
LiveKit 1.13.5, mediasoup 3.27, Janus 1.1, a plain Pion SFU), CPU µs a packet; not to be compared with the table above:
"""


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All of one call of the benchmark."""

    machine: Machine
    date: str
    runs: tuple[Run, ...]
    """At the scenarios' own load."""
    half_load: tuple[Run, ...]
    """With so many rooms that the server's core is about half busy."""
    limits: tuple[Limit, ...]
    failures: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """What this benchmark cannot measure here, and why."""


class Figure(msgspec.Struct, frozen=True):
    """Median of several runs, with the lowest and the highest."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Figure:
        values = sorted(values)
        return Figure(median(values), values[0], values[-1])

    def show(self, digits: int = 2) -> str:
        if self.low == self.high:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} – {self.high:.{digits}f})"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One server in one scenario."""

    scenario: Scenario
    peer: str
    cipher: str
    runs: int
    cpu_us: Figure
    user_us: Figure
    system_us: Figure
    switches: Figure
    p50_us: Figure
    p99_us: Figure
    kb_per_subscriber: Figure
    lost: int
    overflows: int
    bare_us: Figure | None
    fanout_us: Figure | None
    half: Run | None


def rows(results: Results) -> list[Row]:
    """By scenario, then by server, in the order in which they were measured."""
    out = []
    for scenario in FULL:
        runs = [run for run in results.runs if run.scenario == scenario.name]
        limits = [limit for limit in results.limits if limit.scenario == scenario.name]
        for peer in dict.fromkeys(run.peer for run in runs):
            own = [run for run in runs if run.peer == peer]
            half = [run for run in results.half_load if (run.scenario, run.peer) == (scenario.name, peer)]

            def figure(read: Callable[[Run], float], own: Sequence[Run] = own) -> Figure:
                return Figure.of(map(read, own))

            out.append(
                Row(
                    scenario=scenario,
                    peer=peer,
                    cipher=own[0].cipher,
                    runs=len(own),
                    cpu_us=figure(lambda run: run.cpu_us_per_packet),
                    user_us=figure(lambda run: run.user_us_per_packet),
                    system_us=figure(lambda run: run.system_us_per_packet),
                    switches=figure(lambda run: run.switches_per_1000),
                    p50_us=figure(lambda run: run.p50_us),
                    p99_us=figure(lambda run: run.p99_us),
                    kb_per_subscriber=figure(lambda run: run.bytes_per_subscriber / 1_000),
                    lost=sum(run.lost for run in own),
                    overflows=sum(run.generator_overflows for run in own),
                    bare_us=Figure.of(limit.bare_us for limit in limits) if limits else None,
                    fanout_us=Figure.of(limit.fanout_us for limit in limits) if limits else None,
                    half=half[0] if half else None,
                )
            )
    return out


def table(results: Results) -> Table:
    shown = Table(title="CPU of the server's process per forwarded packet; clients on another core")
    shown.add_column("scenario")
    shown.add_column("server")
    for name in ("CPU µs", "user + sys", "target", "fan-out limit µs", "bare sendto µs", "switches / 1000"):
        shown.add_column(name, justify="right")
    for name in ("p50 / p99 µs", "half load p50 / p99 µs", "KB / subscriber", "lost"):
        shown.add_column(name, justify="right")
    for row in rows(results):
        shown.add_row(*cells(row))
    return shown


def cells(row: Row) -> tuple[str, ...]:
    target = row.scenario.target_us if row.peer == "Callyard" else None
    half = "–" if row.half is None else f"{row.half.p50_us:.0f} / {row.half.p99_us:.0f} ({row.half.core_share:.0%})"
    return (
        row.scenario.title,
        row.peer,
        row.cpu_us.show(),
        f"{row.user_us.value:.1f} + {row.system_us.value:.1f}",
        "–" if target is None else f"≤ {target:g}",
        "–" if row.fanout_us is None else row.fanout_us.show(),
        "–" if row.bare_us is None else row.bare_us.show(),
        f"{row.switches.value:.0f}",
        f"{row.p50_us.value:.0f} / {row.p99_us.value:.0f}",
        half,
        f"{row.kb_per_subscriber.value:.0f}",
        str(row.lost),
    )


def page(results: Results) -> str:
    """The committed page. It names the machine, and no path, host or user of it."""
    machine = results.machine
    measured = rows(results)
    load = Figure.of(run.load_average for run in results.runs)
    lines = [
        _HEAD.format(machine=machine, date=results.date, load=load.show(1)),
        *([_BUSY] if load.value > machine.cores else []),
        "| " + " | ".join(_COLUMNS) + " |",
        "|---" * len(_COLUMNS) + "|",
    ]
    for row in measured:
        scenario, peer, *rest = cells(row)
        lines.append("| " + " | ".join((scenario, peer, row.cipher, *rest)) + " |")
    names = ("LiveKit", "mediasoup", "Janus", "Pion SFU")
    targets = _TARGETS.format(latency=LATENCY_TARGET_MS, memory=MEMORY_TARGET_KB)
    lines += [targets, "| scenario | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for scenario in dict.fromkeys(row.scenario.name for row in measured):
        known = next(row.scenario for row in measured if row.scenario.name == scenario)
        if known.peers_us:
            figures = [f"{known.peers_us[name]:g}" if name in known.peers_us else "–" for name in names]
            lines.append(f"| {known.title} | " + " | ".join(figures) + " |")
    unmeasured = (*results.failures, *results.skipped)
    if unmeasured:
        lines += ["", "Not measured:", "", *(f"* {sentence}" for sentence in unmeasured)]
    return "\n".join(lines) + "\n"
