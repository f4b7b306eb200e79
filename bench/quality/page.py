"""The table as text for a terminal, and as the page `docs/quality.md`."""

from __future__ import annotations

from pathlib import Path

from bench.quality import draw
from bench.quality.figures import COLUMNS, Cell, Row

#: Scenarios whose plots stand in the page.
SHOWN = ("steps", "cameras-and-share", "lte", "burst-loss")

_HEAD = """\
# Quality in simulated calls

Written by `make quality` (`python -m bench.quality --docs`); do not edit. Medians of {seeds} seeds.

The simulator (`sfu/core/sim`) drives the real media core over ICE, DTLS and SRTP in virtual time. Publishers,
receivers and links are models: VP8 simulcast of 720p30, 360p30 and 180p30 at 1.8, 0.53 and 0.165 Mbit/s with three
temporal layers, where said the same in AV1 or as VP9 SVC or AV1 SVC (AV1's layers are chosen by dependency
descriptor), a 1080p5 share of 0.8 Mbit/s, Opus of 71 kbit/s on the wire; a drop-tail queue of 300 ms before the
link's rate, 20 ms one way where nothing else is said; receivers that feed back, ask again, buffer, conceal and
freeze as libwebrtc's do.

A figure with a target is marked: ✓ reached, ✗ missed (the target follows). Figures without target are for
comparison.
"""

_TAIL = """\
## What the figures mean

* **utility**: Σ log2(pixels ÷ 14 400) × share of the frame rate, of what was seen, ÷ the same for the best set of
  layers that fits the known capacity at every second (`optimum.rs`; no switch costs it anything). From the fifth
  second on.
* **frozen, longest freeze**: a picture that stays longer than max(3 × mean, mean + 150 ms) of the last 30 intervals
  (W3C webrtc-stats), per minute and track. A pause that the core announced is no freeze.
* **queue p95**: time that packets waited in the link's queue. **worst second**: bits offered ÷ bits carried.
* **audio concealed**: voice frames that were not there when they had to be heard.
* **down**: from a fall of the rate until what is sent fits and the queue is below 50 ms. **up**: from a rise until
  90 % of the optimum is seen. The slowest of all steps; empty where the rate does not step.
* **switches, reversals**: changes of the size seen, pauses included, per track and minute; a reversal is a climb
  taken back within 10 s.
* **last first picture**: from subscribing to the first picture of the last track. **target layer**: to 90 % of the
  optimum.
* **key frames**: made per camera and minute, all subscribers together. **inversion**: time in which
  tracks of less weight have what one of more weight, that has nothing, could be sent with.
* **wasted uplink**: published bits of layers that nobody gets.

Again: `make quality`; one scenario: `python -m bench.quality --only steps`. What was decided in a call and why, line by
line, to look at and to play again: `callyard-sim record steps --out steps.jsonl`, `callyard-sim replay steps.jsonl`
([traces](guides/traces.md)).

## What an ideal estimate would reach
Two figures missed their targets when this was tried, before probes measured links as closely as they do and while a
layer that had failed waited 5 s. Beside them the same calls with the link's true rate, 50 ms late, in place of the
estimate, all else as it was (medians of 12 seeds, with a changed core):

| | target | with the estimate | true rate of the last 200 ms | of the last 500 ms | the same, no dwell, no back-off |
|---|---|---|---|---|---|
| LTE-like, utility | ≥ 0.85 | 0.81 | 0.84 | 0.86 | 0.97 |
| LTE-like, switches and reversals /min | | 9.5, 3.0 | 10.3, 3.3 | 7.5, 2.5 | 17.3, 7.0 |
| LTE-like, queue p95 | | 27 ms | 30 ms | 36 ms | 57 ms |
| LTE-like, audio concealed | ≤ 1 % | 0.75 % | 0.67 % | 0.70 % | 1.02 % |
| sawtooth, audio concealed | ≤ 1 % | 1.08 % | 1.08 % | 1.10 % | 1.11 % |

A better estimate could gain 0.03 to 0.05 on such a link. What remains is the price of a steady picture: the
optimum is told of every second beforehand and switches for nothing, and whoever follows the link that closely shows
another size every three to four seconds. Single seeds lie between 0.70 and 0.87, and between 0.72 and 0.92 with the
true rate, so it takes a hundred of them to tell one hundredth from chance. What the sawtooth's falls from 3 to
0.5 Mbit/s cost the voice is hardly an error of the estimate: with one that knows the next second beforehand it was
0.15 %.
"""


def _text(cell: Cell) -> str:
    if not cell.applies:
        return ""
    shown = cell.column.show(cell.value)
    if cell.passed is None:
        return shown
    if cell.passed:
        return f"{shown} ✓"
    return f"{shown} ✗ ({'≥' if cell.column.rises else '≤'} {cell.target:g})"


def terminal(table: list[Row]) -> str:
    """One block of lines a scenario: narrow enough for a terminal, targets beside results."""
    lines = []
    for row in table:
        lines.append(f"\n{row.title}")
        for cell in row.cells:
            if cell.applies and cell.target is not None:
                mark = "ok  " if cell.passed else "MISS"
                bound = f"{'>=' if cell.column.rises else '<='} {cell.target:g}"
                lines.append(f"  {mark} {cell.column.title:<26} {cell.column.show(cell.value):>8}   target {bound}")
        rest = [c for c in row.cells if c.applies and c.target is None]
        lines.append("       " + ", ".join(f"{c.column.title} {c.column.show(c.value)}" for c in rest))
    cells = [cell for row in table for cell in row.cells if cell.passed is not None]
    lines.append(f"\n{sum(cell.passed is True for cell in cells)} of {len(cells)} targets reached")
    return "\n".join(lines)


def markdown(table: list[Row]) -> str:
    lines = ["| link and call | " + " | ".join(column.title for column in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    lines += ["| " + row.title + " | " + " | ".join(_text(cell) for cell in row.cells) + " |" for row in table]
    return "\n".join(lines)


def write(docs: Path, table: list[Row], seeds: int) -> None:
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    shown = [row for row in table if row.name in SHOWN]
    for row in shown:
        draw.call(row.typical, images / f"quality-{row.name}.png", dpi=95)
    plots = "\n\n".join(f"![{row.title}](images/quality-{row.name}.png)" for row in shown)
    parts = [_HEAD.format(seeds=seeds), markdown(table), "", plots, "", _TAIL]
    (docs / "quality.md").write_text("\n".join(parts))
