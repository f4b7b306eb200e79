"""What the simulator's results say: medians over seeds, beside their targets. Reads JSON, decides nothing else."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Column:
    """A figure of the table."""

    name: str
    title: str
    #: Digits behind the point.
    digits: int = 0
    #: True where more is better.
    rises: bool = False

    def show(self, value: float | None) -> str:
        return "never" if value is None else f"{value:.{self.digits}f}"

    def meets(self, value: float | None, target: float) -> bool:
        if value is None:
            return False
        # What is shown is what is compared: 0.92 has been reached by 0.918.
        shown = round(value, self.digits)
        return shown >= target if self.rises else shown <= target


#: Of every call, simulated or not.
OF_CALLS = (
    Column("utility", "utility", 2, rises=True),
    Column("frozen_ms_per_min", "frozen ms/min"),
    Column("longest_freeze_ms", "longest freeze ms"),
    Column("queue_p95_ms", "queue p95 ms"),
    Column("worst_offered", "worst second ÷ capacity", 2),
    Column("concealed_percent", "audio concealed %", 1),
    Column("down_s", "down s", 1),
    Column("up_s", "up s", 1),
    Column("switches_per_min", "switches /min", 1),
)
COLUMNS = (
    *OF_CALLS,
    Column("reversals_per_min", "reversals /min", 2),
    Column("first_frame_ms", "last first picture ms"),
    Column("target_layer_s", "target layer s", 1),
    Column("keyframes_per_min", "key frames /min", 1),
    Column("inversion_s", "inversion s", 1),
    Column("wasted_percent", "wasted uplink %", 1),
)
#: Only where there is a step to follow.
FOLLOWS = {"down_s": "falls", "up_s": "rises"}


@dataclass(frozen=True)
class Cell:
    column: Column
    value: float | None
    target: float | None
    #: False: the figure means nothing in this scenario.
    applies: bool = True

    @property
    def passed(self) -> bool | None:
        """`None` without a target."""
        return None if self.target is None or not self.applies else self.column.meets(self.value, self.target)


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    cells: tuple[Cell, ...]
    #: The run nearest to the median utility: what is drawn.
    typical: dict[str, Any]


def read(folder: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return runs


def rows(runs: list[dict[str, Any]], order: list[str]) -> Iterator[Row]:
    for name in order:
        of_scenario = [run for run in runs if run["scenario"]["name"] == name]
        if of_scenario:
            yield _row(name, of_scenario)


def _row(name: str, runs: list[dict[str, Any]]) -> Row:
    scenario = runs[0]["scenario"]
    cells = tuple(_cell(column, runs, scenario["targets"].get(column.name)) for column in COLUMNS)
    middle = statistics.median_low([run["metrics"]["utility"] for run in runs])
    typical = next(run for run in runs if run["metrics"]["utility"] == middle)
    return Row(name, scenario["title"], cells, typical)


def _cell(column: Column, runs: list[dict[str, Any]], target: float | None) -> Cell:
    follows = FOLLOWS.get(column.name)
    applies = follows is None or runs[0]["metrics"][follows] > 0
    # What never came is later than everything that did.
    values = sorted(float("inf") if (v := run["metrics"][column.name]) is None else v for run in runs)
    middle = statistics.median(values)
    return Cell(column, None if middle == float("inf") else middle, target, applies)
