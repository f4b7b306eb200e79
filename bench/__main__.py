"""`python -m bench`: measures the scenarios, prints the table, keeps the raw results, and writes the page on demand."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console

from bench import machine, report
from bench.measure import Harness, Limit, Run
from bench.peers.base import Peer, PeerError, UnsupportedError
from bench.peers.callyard import Callyard
from bench.peers.floor import Floor
from bench.peers.janus import Janus
from bench.peers.over_livekit import CallyardServer, LiveKit
from bench.peers.whip import Pion, RunningWhipWhep
from bench.scenarios import FULL, STANDARD, Scenario
from sfu.load import LoadError
from sfu.worker import Certificate

ROOT = Path(__file__).parent
RESULTS = ROOT / "results"
PAGE = ROOT.parent / "docs" / "benchmarks.md"
PEERS = ("callyard", "server", "livekit", "pion", "janus", "floor")
_MAX_TRANSPORTS = 3_000
_HALF = 0.5

# A file has no width of its own, and a wrapped table cannot be read.
console = Console(width=None if sys.stdout.isatty() else 220)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="all scenarios, five runs each")
    parser.add_argument("--scenario", action="append", choices=[s.name for s in FULL], help="only this one")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this server; Callyard's worker by default")
    parser.add_argument(
        "--whip", metavar="URL", help="also measure a running server: its WHIP address with {stream} in it"
    )
    parser.add_argument("--whep", metavar="URL", help="its WHEP address, likewise")
    parser.add_argument("--whip-pid", metavar="PID", type=int, help="its process, whose costs count")
    parser.add_argument("--whip-name", metavar="NAME", default="WHIP server", help="what to call it")
    parser.add_argument("--runs", type=int, help="runs of each scenario")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a run's window")
    parser.add_argument("--gro", action="store_true", help="clients take segmented runs whole, as a network card does")
    parser.add_argument("--no-half-load", action="store_true", help="leave out the runs at half load")
    parser.add_argument("--page", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument(
        "--nice", type=int, default=0, help="priority of all processes, for machines that do other things"
    )
    parser.add_argument("--udp-port", type=int, default=0, help="of the server under test; 0: any free one")
    arguments = parser.parse_args()
    if len({arguments.whip is None, arguments.whep is None, arguments.whip_pid is None}) > 1:
        parser.error("--whip, --whep and --whip-pid belong together")
    return arguments


async def measure(chosen: list[Scenario], arguments: argparse.Namespace) -> report.Results:
    certificate = Certificate()
    server_cpu, client_cpu = machine.cores()
    os.sched_setaffinity(0, {client_cpu})
    harness = Harness(certificate, server_cpu, client_cpu, gro=arguments.gro)
    failures: list[str] = []
    skipped: list[str] = []
    peers = make_peers(arguments, certificate, skipped)
    count = arguments.runs or (5 if arguments.full else 3)
    runs: list[Run] = []
    half: list[Run] = []
    limits: list[Limit] = []

    async def run(make: Callable[[], Peer], scenario: Scenario, rooms: int) -> Run | None:
        peer = make()
        try:
            done = await harness.run(peer, scenario, rooms, arguments.seconds)
        except UnsupportedError as error:
            skipped.append(f"{scenario.title}, {peer.name}: {error}")
            return None
        except (PeerError, LoadError) as error:
            failures.append(f"{scenario.title}, {rooms} rooms, {peer.name}: {error}")
            console.print(f"[red]{failures[-1]}[/red]")
            return None
        console.print(
            f"{scenario.title}, {rooms} x, {peer.name}: {done.cpu_us_per_packet:.2f} µs a packet, "
            f"p50 {done.p50_us:.0f} µs, p99 {done.p99_us:.0f} µs, {done.core_share:.0%} of a core, {done.lost} lost"
        )
        return done

    for scenario in chosen:
        for _ in range(count):
            # Alternating, so that whatever else the machine does meets all of them.
            limits.append(await harness.limit(scenario, min(arguments.seconds, 3.0)))
            runs += [done for make in peers if (done := await run(make, scenario, 1)) is not None]
        if arguments.no_half_load:
            continue
        for make in peers:
            own = [done for done in runs if (done.scenario, done.peer) == (scenario.name, make().name)]
            if own and (done := await run(make, scenario, rooms_for_half_load(scenario, own))) is not None:
                half.append(done)
    return report.Results(
        machine=machine.Machine.this(),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        runs=tuple(runs),
        half_load=tuple(half),
        limits=tuple(limits),
        failures=tuple(failures),
        skipped=tuple(dict.fromkeys(skipped)),
    )


def make_peers(arguments: argparse.Namespace, certificate: Certificate, skipped: list[str]) -> list[Callable[[], Peer]]:
    """The servers that were asked for and can be had here; the others go to `skipped`, each with its reason."""
    wanted = arguments.peer or (list(PEERS) if arguments.full else ["callyard"])
    fingerprint = certificate.fingerprint
    made: list[Callable[[], Peer]] = []
    if "callyard" in wanted:
        made.append(lambda: Callyard(arguments.udp_port, fingerprint))
    if "server" in wanted:
        made.append(lambda: CallyardServer(fingerprint))
    built: dict[str, tuple[str, Callable[[], Callable[[], Peer]]]] = {
        "livekit": (LiveKit.name, lambda: partial(LiveKit, fingerprint, LiveKit.build(RESULTS))),
        "pion": (Pion.name, lambda: partial(Pion, fingerprint, Pion.build(RESULTS))),
        "janus": (Janus.name, lambda: partial(Janus, fingerprint, Janus.install())),
    }
    for key, (name, make) in built.items():
        if key not in wanted:
            continue
        try:
            made.append(make())
        except PeerError as error:
            skipped.append(f"{name}: {error}")
            console.print(f"[yellow]{skipped[-1]}[/yellow]")
    if "floor" in wanted:
        made.append(lambda: Floor(fingerprint))
    if arguments.whip is not None:
        named = (arguments.whip_name, arguments.whip_pid, arguments.whip, arguments.whep)
        made.append(lambda: RunningWhipWhep(fingerprint, *named))
    return made


def rooms_for_half_load(scenario: Scenario, runs: list[Run]) -> int:
    """As many rooms as fill half a core at the median cost, within what one generator can open."""
    cost = report.Figure.of(run.core_share for run in runs).value
    most = _MAX_TRANSPORTS // (scenario.publishers + scenario.viewers)
    return max(1, min(round(_HALF / max(cost, 1e-6)), most))


def main() -> int:
    arguments = options()
    chosen = list(FULL if arguments.full else STANDARD)
    if arguments.scenario:
        chosen = [scenario for scenario in FULL if scenario.name in arguments.scenario]
    os.nice(arguments.nice)
    RESULTS.mkdir(exist_ok=True)
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    # What servers log goes beside the results, not between them.
    with (RESULTS / f"{stamp}.log").open("wb") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    results = asyncio.run(measure(chosen, arguments))
    (RESULTS / f"{stamp}.json").write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    console.print(report.table(results))
    if arguments.page:
        PAGE.write_text(report.page(results), encoding="utf-8")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
