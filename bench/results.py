"""Raw results: everything that was measured, as it is kept beside the page, and how parts of it become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

import msgspec

from bench.machine import Machine
from bench.measure import Limit, Run
from bench.scenarios import named


class ResultsError(Exception):
    """The results cannot be put together; the text is a sentence."""


class Gap(msgspec.Struct, frozen=True):
    """What was not measured."""

    scenario: str
    """Its title; empty: all."""
    peer: str
    reason: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.scenario, self.peer))) + f": {self.reason}"


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """All of one call of the benchmark, or of several on one machine."""

    machine: Machine
    date: str
    runs: tuple[Run, ...] = ()
    """At the scenarios' own load."""
    ramp: tuple[Run, ...] = ()
    """With ever more rooms, in rising order of each server's."""
    limits: tuple[Limit, ...] = ()
    failures: tuple[Gap, ...] = ()
    skipped: tuple[Gap, ...] = ()
    """What this benchmark cannot measure here."""


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


def merge(parts: Sequence[Results]) -> Results:
    """What was measured again replaces what was measured before. `ResultsError` if the machines differ."""
    if not parts:
        raise ResultsError("There are no results.")
    if len({part.machine for part in parts}) > 1:
        raise ResultsError("Results of different machines cannot stand in one table.")
    merged = parts[0]
    for part in parts[1:]:
        scenarios = {limit.scenario for limit in part.limits}
        merged = Results(
            machine=part.machine,
            date=max(merged.date, part.date),
            runs=_replaced(merged.runs, part.runs),
            ramp=_replaced(merged.ramp, part.ramp),
            limits=(*(limit for limit in merged.limits if limit.scenario not in scenarios), *part.limits),
            failures=_gaps(merged.failures, part, part.failures),
            skipped=_gaps(merged.skipped, part, part.skipped),
        )
    return merged


def _replaced(before: tuple[Run, ...], after: tuple[Run, ...]) -> tuple[Run, ...]:
    again = {(run.scenario, run.peer) for run in after}
    return (*(run for run in before if (run.scenario, run.peer) not in again), *after)


def _gaps(before: tuple[Gap, ...], part: Results, after: tuple[Gap, ...]) -> tuple[Gap, ...]:
    """A gap is closed by whatever says more about it later."""
    told = {(gap.scenario, gap.peer) for gap in (*part.failures, *part.skipped)}
    told |= {(named(run.scenario).title, run.peer) for run in (*part.runs, *part.ramp)}
    return tuple(dict.fromkeys((*(gap for gap in before if (gap.scenario, gap.peer) not in told), *after)))


def read(path: Path) -> Results:
    """`ResultsError` if the file is not one of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Results)
    except msgspec.DecodeError as error:
        raise ResultsError(f"{path.name}: {error}.") from error


def write(path: Path, results: Results) -> None:
    """One run a line, so that versions can be compared."""
    parts = msgspec.to_builtins(results)
    lines = []
    for name, value in parts.items():
        if isinstance(value, list | tuple) and value:
            inner = ",\n".join(f"  {msgspec.json.encode(item).decode()}" for item in value)
            lines.append(f' "{name}": [\n{inner}\n ]')
        else:
            lines.append(f' "{name}": {msgspec.json.encode(value).decode()}')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
