"""`python -m bench.links`: calls of real clients over emulated links, Callyard and LiveKit's own server side by side.

Prints the table, keeps every run in `bench/results/links` and draws it there; `--docs` writes `docs/quality-real.md`
from all runs that are kept. Needs root (CAP_NET_ADMIN).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.links import call, draw, page, servers
from bench.links.figures import Series, View
from bench.links.lab import LabError
from bench.links.page import Result, Results
from bench.links.scenarios import SCENARIOS, Scenario
from bench.links.servers import Server
from bench.machine import Machine
from bench.peers.base import PeerError
from bench.peers.over_livekit import LiveKit

ROOT = Path(__file__).parents[2]
BINARIES = ROOT / "bench" / "results"
RESULTS = BINARIES / "links"
DOCS = ROOT / "docs"
SERVERS = ("callyard", "livekit", "livekit-bwe")
#: Scenarios whose plots stand in the page.
SHOWN = ("steady", "steps", "cameras-and-share", "burst-loss")


class Kept(msgspec.Struct):
    """One run in `bench/results/links`: its figures, what is drawn, and all that it left."""

    result: Result
    series: Series
    call: call.Call


def main() -> int:
    options = _options()
    RESULTS.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        # Ahead of whatever else the machine does: a late encoder looks like a bad server.
        os.nice(-15)
    failed = False
    for seed, scenario, server in _plan(options):
        name = f"{scenario.name}-{server}-{seed}"
        if options.missing and _is_whole(RESULTS / f"{name}.json"):
            continue
        try:
            with (RESULTS / f"{name}.log").open("wb") as log:
                made = call.run(scenario, _make(server), seed, log)
        except LabError as error:
            print(error, file=sys.stderr)
            return 2
        except (call.CallError, PeerError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
            continue
        _keep(name, made)
        told = "done" if _is_whole(RESULTS / f"{name}.json") else "disturbed: once more with --missing"
        print(f"{name}: {told}", flush=True)
    kept = dict(_kept())
    results = [kept_.result for kept_ in kept.values()]
    if options.scenario:
        results = [result for result in results if result.scenario in options.scenario]
    print(page.terminal(results))
    for scenario in SCENARIOS:
        _draw(scenario.name, scenario.title, list(kept.values()), RESULTS / f"{scenario.name}.png")
    if options.docs:
        _write(list(kept.values()))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m bench.links", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=names, help="this one alone; repeatable")
    parser.add_argument("--server", action="append", choices=SERVERS, help="default: callyard and livekit")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--missing", action="store_true", help="only what is not kept yet, or was disturbed")
    parser.add_argument("--judge", action="store_true", help="run nothing: judge anew what is kept")
    parser.add_argument("--docs", action="store_true", help="write docs/quality-real.md from all that is kept")
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Iterator[tuple[int, Scenario, str]]:
    """Servers in turn, so that whatever else the machine does meets all of them."""
    if options.judge:
        return
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for scenario in SCENARIOS:
            if not options.scenario or scenario.name in options.scenario:
                for server in options.server or SERVERS[:2]:
                    yield seed, scenario, server


def _make(server: str) -> Callable[[Path], Server]:
    if server == "callyard":
        return servers.callyard
    binary = LiveKit.build(BINARIES)
    return lambda _: servers.livekit(binary, estimates=server == "livekit-bwe")


def _keep(name: str, made: call.Call) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == made.scenario)
    view = View(scenario, made)
    kept = Kept(Result(made.scenario, made.server, made.seed, view.metrics()), view.series(), made)
    (RESULTS / f"{name}.json").write_bytes(msgspec.json.encode(kept))


def _is_whole(path: Path) -> bool:
    """Whether a run is kept in which the machine kept up with encoders and emulator."""
    if not path.exists():
        return False
    return msgspec.json.decode(path.read_bytes(), type=Kept).result.metrics.machine_kept_up


def _kept() -> Iterator[tuple[str, Kept]]:
    """All runs, judged anew: what is judged changes more often than what was seen."""
    for path in sorted(RESULTS.glob("*.json")):
        made = msgspec.json.decode(path.read_bytes(), type=Kept).call
        _keep(path.stem, made)
        yield path.stem, msgspec.json.decode(path.read_bytes(), type=Kept)


def _draw(name: str, title: str, kept: list[Kept], path: Path) -> bool:
    results = [k.result for k in kept]
    columns = []
    for server in dict.fromkeys(result.server for result in results):
        found = page.typical(results, name, server)
        columns += [(server, k.series) for k in kept if k.result is found]
    if columns:
        draw.compared(title, columns, path)
    return bool(columns)


def _write(kept: list[Kept]) -> None:
    results = Results(f"{datetime.now(UTC):%Y-%m-%d}", Machine.this(), [k.result for k in kept])
    (DOCS / "quality-real.json").write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    plots = []
    for scenario in SCENARIOS:
        file = f"images/quality-real-{scenario.name}.png"
        if scenario.name in SHOWN and _draw(scenario.name, scenario.title, kept, DOCS / file):
            plots.append((scenario.title, file))
    (DOCS / "quality-real.md").write_text(page.page(results, plots), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
