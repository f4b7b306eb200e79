"""`python -m bench.quality`: all scenarios, their table on the terminal, plots in `bench/results/quality`.

With `--docs` the summary page in `docs/` is written anew. The process ends with 1 if a target is missed and `--strict`.
With `--trace FILE` nothing is simulated: a recorded trace (`callyard trace`) is drawn beside it, as FILE.png.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.quality import draw, page, trace
from bench.quality.figures import Row, read, rows

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench" / "results" / "quality"
SCENARIOS = ROOT / "sfu" / "core" / "sim" / "scenarios" / "quality.json"


def simulate(binary: Path, seeds: int, only: list[str]) -> None:
    if not only and RESULTS.exists():
        shutil.rmtree(RESULTS)
    command = [str(binary), "run", "--out", str(RESULTS), "--seeds", str(seeds)]
    for name in only:
        command += ["--only", name]
    subprocess.run(command, check=True)


def draw_trace(path: Path) -> int:
    try:
        with path.open(encoding="utf-8") as lines:
            series = trace.series(lines)
    except (OSError, ValueError, KeyError) as error:
        print(f"{path}: no trace: {error}", file=sys.stderr)
        return 1
    drawn = path.with_suffix(".png")
    draw.call({"scenario": {"title": path.stem}, "series": series}, drawn)
    print(drawn)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument("--binary", type=Path, default=ROOT / "sfu" / "core" / "target" / "release" / "callyard-sim")
    parser.add_argument("--seeds", type=int, default=96, help="some five minutes of two cores; 3 show what is gross")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this scenario alone; repeatable")
    parser.add_argument("--docs", action="store_true", help="write docs/quality.md and its plots anew")
    parser.add_argument("--strict", action="store_true", help="fail if a target is missed")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="draw this trace, and nothing else")
    options = parser.parse_args()
    if options.trace is not None:
        return draw_trace(options.trace)

    simulate(options.binary, options.seeds, options.only)
    order = [scenario["name"] for scenario in json.loads(SCENARIOS.read_text())]
    table: list[Row] = list(rows(read(RESULTS), order))
    if options.only:
        table = [row for row in table if row.name in options.only]
    for row in table:
        draw.call(row.typical, RESULTS / f"{row.name}.png")
    print(page.terminal(table))
    print(f"\nplots and figures: {RESULTS.relative_to(ROOT)}")
    if options.docs:
        page.write(ROOT / "docs", table, options.seeds)
    missed = [cell for row in table for cell in row.cells if cell.passed is False]
    return 1 if options.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
