"""From raw results to what people read: tables on the terminal and in `docs/benchmarks.md`. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from rich.table import Table

from bench.measure import Run
from bench.results import Figure, Results
from bench.scenarios import FULL, Scenario, named

OURS = "Callyard"
UNESTIMATED = "Callyard, nothing estimated"
WHOLE = "Callyard, whole server"
FLOOR = "Python floor"
"""Shown beside the servers, but none: its keys are handed to it and it keeps no history, reports or estimates."""
FEWER_TARGET = 6.0
"""So many times less CPU a packet than the best other server."""
LIMIT_TARGET = 0.7
"""Share of the fan-out limit."""
MEMORY_TARGET_KB = 100
FLAT_TARGET = 0.2
JOIN_TARGET_MS = 300
ESTIMATION_TARGET = 0.15
"""So much more CPU a packet for estimating and pacing everybody's link."""
KNEE_P99_US = 10_000
KNEE_LOST = 0.001

_HEAD = """\
# Benchmarks

Written by `python -m bench --pages` from [raw results](benchmarks.json); do not edit. `make bench-full` measures and
writes all of it, `make bench` takes minutes and writes nothing.

{machine.cpu}, {machine.cores} cores, Linux {machine.kernel}, Python {machine.python}, {date}.

One server process pinned to one core; the load generator (`sfu/load.py`) with all clients pinned to another. Everything
over loopback. Clients are complete: ICE, DTLS-SRTP, RTCP reports, NACK, and transport-wide feedback ten times a second
each. Servers take turns; each run starts a fresh one. Median of {runs} of {seconds:.0f} s, in brackets the lowest and
the highest.

* **CPU** is the scheduler's time of all the server's threads, divided by the packets that reached clients.
  **Callyard** is the worker alone, driven over its control socket; **Callyard, whole server** has its signaling process
  on the same core and is reached over LiveKit's protocol, as LiveKit is.
* **Fan-out limit** is the same load without protocol, in the same run: open once, rewrite, seal and send in segmented
  runs. **Bare `sendto`** sends as many bytes and does nothing else.
* **Latency** is one way: from just before the publisher's send call to the kernel's time stamp at the subscriber, over
  all subscribers; a picture's packets reach the last of fifty after those of the other forty-nine. Where 1 % is lost on
  the way down, p99 is the edge between what came at once and what clients asked for again 10 ms later: chance decides
  on which side of it a run falls.
* **First picture** is counted from the moment at which a viewer was due, to the end of the first picture.
* **KB a subscriber**: growth of the resident memory with them; a meeting's includes the packets kept of what they send.
* On loopback the sender pays for the delivery into the receiver's socket, for every server alike. Clients take
  datagrams one by one, so the sender's kernel also cuts segmented runs. Where a row says that clients take runs, they
  get them in one piece (UDP_GRO): closer to what is left to do where a network card segments, and no other than before
  for whoever sends datagrams one by one.
* A loaded machine flatters by batching and punishes by cold caches: compare within one scenario only. Load average
  meanwhile: {load}.
"""
_BUSY = """\
**The machine was busy with other work during this run.** Processes waited for their core: latencies, ramps and joins
tell of that and not of the servers. CPU is higher for whoever works in short passes, for the caches are cold, and
lower for whoever batches more when it is late. Compare it with the bare `sendto` of the same run.
"""
_EARLIER = """\
## Measured earlier, elsewhere

With another generator on another machine (2 vCPUs of a Sapphire Rapids Xeon, otherwise idle; LiveKit 1.13.5,
mediasoup 3.27, Janus 1.1, a plain Pion SFU), CPU µs a packet; not to be compared with the tables above.
"""
_COLUMNS = (
    "scenario",
    "server",
    "CPU µs a packet",
    "user + sys",
    "target",
    "fan-out limit",
    "bare `sendto`",
    "switches / 1000 packets",
    "p50 / p99 / p99.9 µs",
    "KB a subscriber",
    "lost",
)
_TITLES = {
    "headline": "Calls and livestreams",
    "estimation": "What estimating and pacing every link costs",
    "offload": "The same, where nobody cuts segmented runs",
    "large": "Large ones",
    "fan-out": "The same stream to ever more people",
    "rooms": "Ever more rooms",
    "loss": "Lossy links",
    "joins": "Coming and going",
}


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
    p999_us: Figure
    kb_per_subscriber: Figure
    first_p50_ms: Figure
    first_p99_ms: Figure
    lost: int
    lost_share: float
    is_sound: bool
    """False: in some run it was the clients' core that was full."""
    bare_us: Figure | None
    fanout_us: Figure | None


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """The greatest load that a server carried well; None: not even the least."""

    scenario: Scenario
    peer: str
    best: Run | None
    is_beyond: bool
    """Nothing greater was tried that it did not carry."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A target beside what was measured."""

    target: str
    subject: str
    """The scenario's title, or what else it is about."""
    found: str
    passed: bool

    def show(self) -> str:
        return f"{self.found} {'✓' if self.passed else '✗'}"


def _in_order(peers: Iterable[str]) -> list[str]:
    """Ours first, the floor last, others in the order in which they were measured."""
    return sorted(dict.fromkeys(peers), key=lambda peer: (peer != OURS, peer != WHOLE, peer == FLOOR))


def rows(results: Results) -> list[Row]:
    """By scenario, then by server."""
    out = []
    for scenario in FULL:
        runs = [run for run in results.runs if run.scenario == scenario.name]
        limits = [limit for limit in results.limits if limit.scenario == scenario.name]
        for peer in _in_order(run.peer for run in runs):
            own = [run for run in runs if run.peer == peer]

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
                    p999_us=figure(lambda run: run.p999_us),
                    kb_per_subscriber=figure(lambda run: run.bytes_per_subscriber / 1_000),
                    first_p50_ms=figure(lambda run: run.joins.total.p50_ms),
                    first_p99_ms=figure(lambda run: run.joins.total.p99_ms),
                    lost=sum(run.lost for run in own),
                    lost_share=sum(run.lost for run in own) / max(sum(run.expected for run in own), 1),
                    is_sound=all(run.is_generator_fine for run in own),
                    bare_us=Figure.of(limit.bare_us for limit in limits) if limits else None,
                    fanout_us=Figure.of(limit.fanout_us for limit in limits) if limits else None,
                )
            )
    return out


def row_of(measured: Iterable[Row], scenario: str, peer: str = OURS) -> Row | None:
    return next((row for row in measured if (row.scenario.name, row.peer) == (scenario, peer)), None)


def knees(results: Results) -> list[Knee]:
    """Runs in which the clients were the bottleneck say nothing and are left out."""
    runs = [*results.runs, *results.ramp]
    out = []
    for name, peer in dict.fromkeys((run.scenario, run.peer) for run in results.ramp):
        own = [run for run in runs if (run.scenario, run.peer) == (name, peer) and run.is_generator_fine]
        good = [run for run in own if run.p99_us <= KNEE_P99_US and run.lost_share <= KNEE_LOST]
        best = max(good, key=lambda run: run.packets_per_second, default=None)
        most = max(own, key=lambda run: run.rooms, default=None)
        out.append(Knee(scenario=named(name), peer=peer, best=best, is_beyond=best is not None and best is most))
    return out


_FEWER = f"CPU: ≥ {FEWER_TARGET:g} × less than the best other server"
_SHARE = f"≥ {LIMIT_TARGET:g} of the fan-out limit"
_QUICK = "p99 µs: no worse than the best other server"
_SMALL = f"≤ {MEMORY_TARGET_KB} KB a subscriber"
_FLAT = f"cost a packet flat within ± {FLAT_TARGET:.0%}"
_LITTLE_MORE = f"every link estimated and paced: ≤ {ESTIMATION_TARGET:.0%} more CPU than without"
_SOON = f"first picture p99 ≤ {JOIN_TARGET_MS} ms"


def checks(results: Results) -> list[Check]:
    """What was promised, as far as it was measured."""
    measured = rows(results)
    ours = [row for row in measured if row.peer == OURS and row.scenario.group != "estimation"]
    out = []
    for row in ours:
        title = row.scenario.title
        beside = [other for other in measured if other.scenario is row.scenario and not other.peer.startswith(OURS)]
        others = [other for other in beside if other.peer != FLOOR]
        limit = _limit_us(row)
        if others:
            best = min(others, key=lambda other: other.cpu_us.value)
            ratio = best.cpu_us.value / row.cpu_us.value
            found = f"{ratio:.1f} × ({best.peer})"
            floor = next((other.cpu_us.value for other in beside if other.peer == FLOOR), None)
            if floor is not None:
                found += f", {floor / row.cpu_us.value:.1f} × (floor)"
            if limit is not None:
                found += f"; the limit itself {best.cpu_us.value / limit:.1f} ×"
            out.append(Check(target=_FEWER, subject=title, found=found, passed=ratio >= FEWER_TARGET))
        if limit is not None:
            share = limit / row.cpu_us.value
            out.append(Check(target=_SHARE, subject=title, found=f"{share:.2f}", passed=share >= LIMIT_TARGET))
        if others:
            quickest = min(others, key=lambda other: other.p99_us.value)
            found = f"{row.p99_us.value:.0f}, {quickest.p99_us.value:.0f} ({quickest.peer})"
            passed = row.p99_us.value <= quickest.p99_us.value
            out.append(Check(target=_QUICK, subject=title, found=found, passed=passed))
        if not row.scenario.members:
            kb = row.kb_per_subscriber.value
            out.append(Check(target=_SMALL, subject=title, found=f"{kb:.0f}", passed=kb <= MEMORY_TARGET_KB))
    out += [check for group in ("fan-out", "rooms") if (check := _flatness(ours, group)) is not None]
    out += [check for row in measured if (check := _estimation(row, measured)) is not None]
    for row in measured:
        if row.scenario.joins_per_second == 50 and row.peer.startswith(OURS):
            ms = row.first_p99_ms.value
            subject = f"{row.scenario.title}, {row.peer}"
            out.append(Check(target=_SOON, subject=subject, found=f"{ms:.0f} ms", passed=ms <= JOIN_TARGET_MS))
    return out


def _limit_us(row: Row) -> float | None:
    """The fan-out limit where it is of the same load: it is measured with one room."""
    return row.fanout_us.value if row.fanout_us is not None and row.scenario.rooms == 1 else None


def _estimation(row: Row, measured: Sequence[Row]) -> Check | None:
    without = row_of(measured, row.scenario.name, UNESTIMATED)
    if row.peer != OURS or without is None:
        return None
    more = row.cpu_us.value / without.cpu_us.value - 1
    found = f"{without.cpu_us.value:.2f} → {row.cpu_us.value:.2f} µs, {more:+.0%}"
    return Check(target=_LITTLE_MORE, subject=row.scenario.title, found=found, passed=more <= ESTIMATION_TARGET)


def _flatness(ours: Sequence[Row], group: str) -> Check | None:
    own = [row for row in ours if row.scenario.group == group]
    if len(own) < 2:
        return None
    found, off = _spread([row.cpu_us.value for row in own])
    limits = [limit for row in own if (limit := _limit_us(row)) is not None]
    if len(limits) == len(own):
        found += f"; the limit itself {_spread(limits)[0]}"
    return Check(target=_FLAT, subject=_TITLES[group], found=found, passed=off <= FLAT_TARGET)


def _spread(costs: Sequence[float]) -> tuple[str, float]:
    """In words, and how far the one that is furthest off lies from the median."""
    middle = Figure.of(costs).value
    off = max(max(costs) / middle - 1, 1 - min(costs) / middle)
    return f"{min(costs):.2f} – {max(costs):.2f} µs, {off:.0%} off the median", off


def table(results: Results) -> Table:
    shown = Table(title="CPU of the server's process per forwarded packet; clients on another core")
    shown.add_column("scenario")
    shown.add_column("server")
    for name in (*_COLUMNS[2:], "first picture p50 / p99 ms"):
        shown.add_column(name, justify="right")
    for row in rows(results):
        shown.add_row(*cells(row), _first(row))
    return shown


def cells(row: Row) -> tuple[str, ...]:
    target = row.scenario.target_us if row.peer == OURS else None
    return (
        row.scenario.title,
        row.peer,
        row.cpu_us.show() + ("" if row.is_sound else " †"),
        f"{row.user_us.value:.1f} + {row.system_us.value:.1f}",
        "–" if target is None else f"≤ {target:g}",
        "–" if row.fanout_us is None else row.fanout_us.show(),
        "–" if row.bare_us is None else row.bare_us.show(),
        f"{row.switches.value:.0f}",
        f"{row.p50_us.value:.0f} / {row.p99_us.value:.0f} / {row.p999_us.value:.0f}",
        f"{row.kb_per_subscriber.value:.0f}",
        f"{row.lost_share:.2%}" if row.lost else "0",
    )


def _first(row: Row) -> str:
    return f"{row.first_p50_ms.value:.0f} / {row.first_p99_ms.value:.0f}"


def page(results: Results) -> str:
    """The committed page. It names the machine, and no path, host or user of it."""
    machine = results.machine
    measured = rows(results)
    load = Figure.of(run.load_average for run in results.runs)
    counts = sorted({row.runs for row in measured})
    runs = f"{counts[0]} runs" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"
    seconds = Figure.of(run.seconds for run in results.runs).value
    lines = [_HEAD.format(machine=machine, date=results.date, load=load.show(1), runs=runs, seconds=seconds)]
    if load.value > machine.cores:
        lines.append(_BUSY)
    lines += _targets(checks(results))
    lines += _plots(results)
    for group, title in _TITLES.items():
        own = [row for row in measured if row.scenario.group == group]
        if own:
            lines += [f"## {title}", "", *markdown(_COLUMNS, map(cells, own)), ""]
            if any(not row.is_sound for row in own):
                lines += [
                    "† The clients' core was full in some of these runs: the server had waiting times of theirs.",
                    "",
                ]
        if group == "joins" and own:
            lines += _joins(results)
    lines += _knee_section(results)
    lines += _earlier(measured)
    gaps = (*results.failures, *results.skipped)
    if gaps:
        lines += ["## Not measured, or failed in a run", "", *(f"* {gap}" for gap in gaps), ""]
    return "\n".join(lines).rstrip() + "\n"


def readme(results: Results) -> str:
    """The README's table: CPU a packet of all servers, and the limit, in the scenarios that people know."""
    measured = [row for row in rows(results) if row.scenario.group in ("headline", "large")]
    peers = _in_order(row.peer for row in measured)
    heads = ("CPU µs a forwarded packet", *peers, "fan-out limit", "bare `sendto`")
    body = []
    for scenario in dict.fromkeys(row.scenario.name for row in measured):
        found = {row.peer: row for row in measured if row.scenario.name == scenario}
        one = next(iter(found.values()))
        limits = ("–" if figure is None else f"{figure.value:.1f}" for figure in (one.fanout_us, one.bare_us))
        costs = (f"{found[peer].cpu_us.value:.1f}" if peer in found else "–" for peer in peers)
        body.append((one.scenario.title, *costs, *limits))
    machine = results.machine
    under = (
        f"{machine.cpu}, one core for the server, {results.date}; spread, latency, memory, joins and how it was "
        "measured: [docs/benchmarks.md](docs/benchmarks.md). What that means for a deployment: "
        "[docs/sizing.md](docs/sizing.md)."
    )
    return "\n".join((*markdown(heads, body), "", under))


def markdown(heads: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
        *("| " + " | ".join(line) + " |" for line in body),
    ]


def _targets(found: Sequence[Check]) -> list[str]:
    heads = (_FEWER, _SHARE, _QUICK, _SMALL)
    by_scenario: dict[str, dict[str, Check]] = {}
    for check in found:
        if check.target in heads:
            by_scenario.setdefault(check.subject, {})[check.target] = check
    body = [
        (title, *(own[head].show() if head in own else "–" for head in heads)) for title, own in by_scenario.items()
    ]
    rest = [f"* {check.subject}: {check.target}: {check.show()}" for check in found if check.target not in heads]
    met = sum(check.passed for check in found)
    text = (
        f"{met} of {len(found)} met; Callyard’s worker beside the best of the other servers in the same scenario.\n"
        "The Python floor is none of them: keys are handed to it; it keeps no history, reports or estimates.\n"
        "“The limit itself”: what a server would reach that costs no more than the fan-out limit; where that is less "
        "than what is asked, nobody can have it on this machine."
    )
    return ["## Targets", "", text, "", *markdown(("scenario", *heads), body), "", *rest, *([""] if rest else [])]


def _plots(results: Results) -> list[str]:
    lines = ["## Plots", ""]
    for name, text in plots(results).items():
        lines += [f"![{text}](images/bench-{name}.png)", ""]
    return lines if len(lines) > 2 else []


def plots(results: Results) -> dict[str, str]:
    """Names of the plots that these results have something for, and what they show."""
    groups = {named(run.scenario).group for run in results.runs}
    shown = {
        "fan-out": ("fan-out" in groups, "CPU a packet against the number of subscribers"),
        "rooms": ("rooms" in groups, "CPU a packet against the number of rooms"),
        "memory": ("fan-out" in groups, "Memory against the number of subscribers"),
        "knee": (bool(results.ramp), "Latency and loss as one core fills"),
    }
    return {name: text for name, (is_there, text) in shown.items() if is_there}


def _joins(results: Results) -> list[str]:
    heads = (
        "scenario",
        "server",
        "viewers",
        "first picture p50 / p99 ms",
        "signal",
        "ICE",
        "DTLS",
        "media",
        "CPU ms",
        "key frames",
    )
    body = []
    for row in rows(results):
        if row.scenario.group != "joins" or row.scenario.churn_per_second:
            continue
        own = [run.joins for run in results.runs if (run.scenario, run.peer) == (row.scenario.name, row.peer)]
        phases = (
            Figure.of(getattr(joins, phase).p99_ms for joins in own).value
            for phase in ("signal", "ice", "dtls", "media")
        )
        cpu = Figure.of(joins.cpu_ms for joins in own).value
        asked = [joins.keyframes for joins in own if joins.keyframes is not None]
        body.append(
            (
                row.scenario.title,
                row.peer,
                str(own[0].count),
                _first(row),
                *(f"{phase:.0f}" for phase in phases),
                f"{cpu:.1f}",
                f"{Figure.of(asked).value:.0f}" if asked else "–",
            )
        )
    if not body:
        return []
    text = (
        "Where the time of a join goes, p99 of each part: all that is said before the first ICE check, ICE, DTLS, from "
        "the keys to the end of the first picture. CPU of the server while they came, a viewer; media meanwhile "
        "included. Key frames that publishers were asked for meanwhile."
    )
    return ["### First pictures", "", text, "", *markdown(heads, body), ""]


def _knee_section(results: Results) -> list[str]:
    found = knees(results)
    if not found:
        return []
    heads = ("scenario", "server", "rooms", "packets a second", "core", "p99 µs", "lost")
    body = []
    for knee in found:
        run = knee.best
        if run is None:
            body.append((knee.scenario.title, knee.peer, "none", "–", "–", "–", "–"))
            continue
        more = "≥ " if knee.is_beyond else ""
        rate = f"{more}{run.packets_per_second:_.0f}".replace("_", " ")
        body.append(
            (
                knee.scenario.title,
                knee.peer,
                f"{more}{run.rooms}",
                rate,
                f"{run.core_share:.0%}",
                f"{run.p99_us:.0f}",
                f"{run.lost_share:.2%}",
            )
        )
    text = (
        f"The greatest load, in rooms, with p99 of at most {KNEE_P99_US / 1_000:g} ms and at most {KNEE_LOST:.1%} "
        "lost. “≥”: nothing greater was tried that failed; one generator opens 3 000 transports at most."
    )
    return ["## How much one core carries", "", text, "", *markdown(heads, body), ""]


def _earlier(measured: Sequence[Row]) -> list[str]:
    known = [scenario for scenario in dict.fromkeys(row.scenario.name for row in measured) if named(scenario).peers_us]
    names = ("LiveKit", "mediasoup", "Janus", "Pion SFU")
    body = [
        (
            named(scenario).title,
            *(f"{named(scenario).peers_us[name]:g}" if name in named(scenario).peers_us else "–" for name in names),
        )
        for scenario in known
    ]
    return [_EARLIER, *markdown(("scenario", *names), body), ""] if body else []
