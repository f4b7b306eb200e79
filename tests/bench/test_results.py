"""Raw results: kept whole, and put together from parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from bench import results as raw
from bench.results import Gap, ResultsError
from tests.bench.made import results, run


def test_what_is_written_is_read_again_and_has_a_line_for_each_run(tmp_path: Path) -> None:
    measured = results(run("Callyard", 1.0), run("Other", 2.0), ramp=(run("Callyard", 1.0, rooms=3),))
    raw.write(tmp_path / "r.json", measured)
    assert raw.read(tmp_path / "r.json") == measured
    assert sum('"scenario":' in line for line in (tmp_path / "r.json").read_text().splitlines()) == 4


def test_what_is_no_result_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(ResultsError, match=r"r\.json"):
        raw.read(tmp_path / "r.json")


def test_what_was_measured_again_replaces_what_was_measured_before() -> None:
    first = results(run("Callyard", 1.0), run("Callyard", 1.5), run("Other", 2.0), date="2026-01-01")
    again = results(run("Callyard", 3.0), run("Callyard", 3.0, scenario="audio-10-20"), date="2026-01-02")
    merged = raw.merge([first, again])
    found = [(r.peer, r.scenario, r.cpu_us_per_packet) for r in merged.runs]
    assert found == [("Other", "video-1-50", 2.0), ("Callyard", "video-1-50", 3.0), ("Callyard", "audio-10-20", 3.0)]
    assert [limit.scenario for limit in merged.limits] == ["video-1-50", "audio-10-20"]
    assert merged.date == "2026-01-02"


def test_a_gap_is_closed_by_what_was_measured_later() -> None:
    gap = Gap("video, 1 → 50, AES-GCM", "Other", "it would not start")
    first = msgspec.structs.replace(results(run("Callyard", 1.0)), failures=(gap,))
    assert raw.merge([first, results(run("Callyard", 1.0))]).failures == (gap,)
    assert raw.merge([first, results(run("Other", 1.0))]).failures == ()


def test_machines_are_not_mixed() -> None:
    here = results(run("Callyard", 1.0))
    there = msgspec.structs.replace(here, machine=dataclasses.replace(here.machine, cpu="Another"))
    with pytest.raises(ResultsError, match="different machines"):
        raw.merge([here, there])
    with pytest.raises(ResultsError, match="no results"):
        raw.merge([])
