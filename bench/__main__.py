"""`python -m bench`: measures scenarios and prints a table; keeps raw results; writes the pages from kept ones."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from bench import machine, pages, report, results
from bench.measure import Harness, Limit, Run
from bench.peers.base import Peer, PeerError, UnsupportedError
from bench.peers.callyard import Callyard, Unestimated
from bench.peers.floor import Floor
from bench.peers.janus import Janus
from bench.peers.over_livekit import CallyardServer, LiveKit
from bench.peers.over_mediasoup import VERSION as MEDIASOUP_VERSION
from bench.peers.over_mediasoup import Mediasoup
from bench.peers.whip import Pion, RunningWhipWhep
from bench.results import Figure, Gap, Results
from bench.scenarios import FULL, GROUPS, STANDARD, Scenario
from sfu.load import LoadError
from sfu.worker import Certificate

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
PEERS = ("callyard", "server", "livekit", "pion", "janus", "mediasoup", "floor", "unestimated")
PAIR = ("callyard", "unestimated")
"""What the group `estimation` compares; the second is measured nowhere else."""
_RAMP = (0.25, 0.5, 0.7, 0.85, 1.0, 1.2)
"""Of a core, by what one room was found to cost."""
_HALF = (0.5,)
_MAX_TRANSPORTS = 3_000
_MAX_LIMIT_SECONDS = 3.0

# A file has no width of its own, and a wrapped table cannot be read.
console = Console(width=None if sys.stdout.isatty() else 220)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all scenarios and servers, five runs each, whole ramps")
    parser.add_argument("--group", action="append", choices=GROUPS, help="only scenarios of this group")
    parser.add_argument("--scenario", action="append", choices=[s.name for s in FULL], help="only this one")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this server; Callyard's worker by default")
    parser.add_argument(
        "--whip", metavar="URL", help="also measure a running server: its WHIP address with {stream} in it"
    )
    parser.add_argument("--whep", metavar="URL", help="its WHEP address, likewise")
    parser.add_argument("--whip-pid", metavar="PID", type=int, help="its process, whose costs count")
    parser.add_argument("--whip-name", metavar="NAME", default="WHIP server", help="what to call it")
    parser.add_argument("--mediasoup", metavar="VERSION", default=MEDIASOUP_VERSION, help="of the npm package")
    parser.add_argument("--runs", type=int, help="runs of each scenario")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a run's window")
    parser.add_argument("--gro", action="store_true", help="clients take segmented runs whole, as a network card does")
    parser.add_argument("--no-ramp", action="store_true", help="leave out the runs with more rooms")
    parser.add_argument(
        "--pages", nargs="*", type=Path, metavar="RESULTS", help="measure nothing: write the pages from these, in order"
    )
    parser.add_argument("--page", action="store_true", help="write the pages from what was measured")
    parser.add_argument(
        "--nice", type=int, default=0, help="priority of all processes, for machines that do other things"
    )
    parser.add_argument("--udp-port", type=int, default=0, help="of the server under test; 0: any free one")
    arguments = parser.parse_args()
    if len({arguments.whip is None, arguments.whep is None, arguments.whip_pid is None}) > 1:
        parser.error("--whip, --whep and --whip-pid belong together")
    return arguments


class Session:
    """One call of the benchmark: what was asked for, and what was found so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._certificate = Certificate()
        server_cpu, client_cpu = machine.cores()
        os.sched_setaffinity(0, {client_cpu})
        self._harness = Harness(self._certificate, server_cpu, client_cpu, gro=arguments.gro)
        self._runs: list[Run] = []
        self._ramp: list[Run] = []
        self._limits: list[Limit] = []
        self._failures: list[Gap] = []
        self._skipped: list[Gap] = []
        self._peers = dict(self._make_peers())

    @property
    def results(self) -> Results:
        return Results(
            machine=machine.Machine.this(),
            date=f"{datetime.now(UTC):%Y-%m-%d}",
            runs=tuple(self._runs),
            ramp=tuple(self._ramp),
            limits=tuple(self._limits),
            failures=tuple(dict.fromkeys(self._failures)),
            skipped=tuple(dict.fromkeys(self._skipped)),
        )

    async def measure(self, scenario: Scenario) -> None:
        arguments = self._arguments
        given_up: set[str] = set()
        for _ in range(arguments.runs or (5 if arguments.full else 3)):
            # Alternating, so that whatever else the machine does meets all of them.
            self._limits.append(await self._harness.limit(scenario, min(arguments.seconds / 2, _MAX_LIMIT_SECONDS)))
            for make in self._peers_of(scenario):
                peer = make()
                if peer.name in given_up:
                    continue
                if (done := await self._run(peer, scenario, scenario.rooms)) is not None:
                    self._runs.append(done)
                else:
                    given_up.add(peer.name)
        if scenario.is_ramped and not arguments.no_ramp:
            for share in _RAMP if arguments.full else _HALF:
                for make in self._peers_of(scenario):
                    await self._climb(make(), scenario, share)

    async def _climb(self, peer: Peer, scenario: Scenario, share: float) -> None:
        own = [run for run in self._runs if (run.scenario, run.peer) == (scenario.name, peer.name)]
        if not own:
            return
        done = [run.rooms for run in self._ramp if (run.scenario, run.peer) == (scenario.name, peer.name)]
        rooms = rooms_for(share, scenario, own)
        if rooms not in done and (run := await self._run(peer, scenario, rooms)) is not None:
            self._ramp.append(run)

    async def _run(self, peer: Peer, scenario: Scenario, rooms: int) -> Run | None:
        try:
            done = await self._harness.run(peer, scenario, rooms, self._arguments.seconds)
        except UnsupportedError as error:
            self._skipped.append(Gap(scenario.title, peer.name, str(error)))
            return None
        except (PeerError, LoadError) as error:
            self._failures.append(Gap(scenario.title, peer.name, f"{error} ({rooms} rooms)"))
            console.print(f"[red]{self._failures[-1]}[/red]")
            return None
        doubt = "" if done.is_generator_fine else " [yellow](the clients' core was full)[/yellow]"
        console.print(
            f"{scenario.title}, {rooms} x, {peer.name}: {done.cpu_us_per_packet:.2f} µs a packet, "
            f"p50 {done.p50_us:.0f} µs, p99 {done.p99_us:.0f} µs, {done.core_share:.0%} of a core, {done.lost} lost, "
            f"first media p99 {done.joins.total.p99_ms:.0f} ms{doubt}"
        )
        return done

    def _peers_of(self, scenario: Scenario) -> list[Callable[[], Peer]]:
        is_pair = scenario.group == "estimation"
        return [make for key, make in self._peers.items() if (key in PAIR if is_pair else key != PAIR[1])]

    def _make_peers(self) -> Iterator[tuple[str, Callable[[], Peer]]]:
        """The servers that were asked for and can be had here; the others are told with their reasons."""
        arguments = self._arguments
        wanted = arguments.peer or (PEERS if arguments.full else PAIR)
        fingerprint = self._certificate.fingerprint
        if "callyard" in wanted:
            yield "callyard", lambda: Callyard(arguments.udp_port, fingerprint)
        if "unestimated" in wanted:
            yield "unestimated", lambda: Unestimated(arguments.udp_port, fingerprint)
        if "server" in wanted:
            yield "server", lambda: CallyardServer(fingerprint)
        version = arguments.mediasoup
        built: dict[str, tuple[str, Callable[[], Callable[[], Peer]]]] = {
            "livekit": (LiveKit.name, lambda: partial(LiveKit, fingerprint, LiveKit.build(RESULTS))),
            "pion": (Pion.name, lambda: partial(Pion, fingerprint, Pion.build(RESULTS))),
            "janus": (Janus.name, lambda: partial(Janus, fingerprint, Janus.install())),
            "mediasoup": (
                f"mediasoup {version}",
                lambda: partial(Mediasoup, fingerprint, version, Mediasoup.install(RESULTS, version)),
            ),
        }
        for key, (name, make) in built.items():
            if key not in wanted:
                continue
            try:
                made = make()
            except PeerError as error:
                self._skipped.append(Gap("", name, str(error)))
                console.print(f"[yellow]{self._skipped[-1]}[/yellow]")
            else:
                yield key, made
        if "floor" in wanted:
            yield "floor", lambda: Floor(fingerprint)
        if arguments.whip is not None:
            given = (arguments.whip_name, arguments.whip_pid, arguments.whip, arguments.whep)
            yield "whip", lambda: RunningWhipWhep(fingerprint, *given)


def rooms_for(share: float, scenario: Scenario, runs: list[Run]) -> int:
    """As many rooms as take this share of a core at the median cost, within what one generator can open."""
    cost = Figure.of(run.core_share / run.rooms for run in runs).value
    most = _MAX_TRANSPORTS // (scenario.publishers + scenario.viewers)
    return max(1, min(round(share / max(cost, 1e-6)), most))


def chosen(arguments: argparse.Namespace) -> list[Scenario]:
    names, groups = arguments.scenario or [], arguments.group or []
    if names or groups:
        return [scenario for scenario in FULL if scenario.name in names or scenario.group in groups]
    return list(FULL if arguments.full else STANDARD)


def measure(arguments: argparse.Namespace) -> Results:
    RESULTS.mkdir(exist_ok=True)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    # What servers log goes beside the results, not between them.
    with (RESULTS / f"{stamp}.log").open("wb") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    session = Session(arguments)

    async def run() -> None:
        for scenario in chosen(arguments):
            await session.measure(scenario)
            # What was measured is not lost with what comes after it.
            results.write(RESULTS / f"{stamp}.json", session.results)

    asyncio.run(run())
    console.print(report.table(session.results))
    console.print(f"raw results: {(RESULTS / f'{stamp}.json').relative_to(ROOT.parent)}")
    return session.results


def main() -> int:
    arguments = options()
    os.nice(arguments.nice)
    if arguments.pages is not None:
        kept = arguments.pages or [pages.RAW]
        pages.write(results.merge([results.read(path) for path in kept]))
        return 0
    measured = measure(arguments)
    if arguments.page:
        pages.write(measured)
    return 1 if measured.failures else 0


if __name__ == "__main__":
    sys.exit(main())
