"""What is committed follows from the raw results beside it, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import draw, pages, report
from bench import results as raw
from bench.pages import MarkerError
from tests.bench.made import results, run


def test_committed_documents_follow_from_the_kept_results() -> None:
    kept = raw.read(pages.RAW)
    for path, text in pages.documents(kept).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: write it anew by `python -m bench --pages`"
    for name in report.plots(kept):
        assert (pages.RAW.parent / "images" / f"bench-{name}.png").stat().st_size > 10_000


def test_every_plot_is_drawn_where_there_is_something_to_draw(tmp_path: Path) -> None:
    names = ("live-1-10", "live-1-2000", "rooms-1", "rooms-500", "video-1-50", "meeting-6")
    ramp = (run("Callyard", 1.0, rooms=5), run("Callyard", 1.0, scenario="meeting-6", rooms=9))
    measured = results(*(run("Callyard", 2.0, scenario=name) for name in names), run("Other", 9.0), ramp=ramp)
    draw.draw(measured, tmp_path)
    expected = {f"bench-{name}.png" for name in ("fan-out", "rooms", "memory", "knee")}
    assert {path.name for path in tmp_path.iterdir()} == expected
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    draw.draw(measured, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert report.plots(results(run("Callyard", 2.0))) == {}


def test_a_table_is_written_between_its_markers_and_nowhere_else() -> None:
    begin, end = "<!-- benchmarks: begin (python -m bench --pages) -->", "<!-- benchmarks: end -->"
    document = f"before\n{begin}\nold\n{end}\nafter\n"
    assert pages.between_markers(document, "new") == f"before\n{begin}\nnew\n{end}\nafter\n"
    for broken in ("nothing", f"{begin}\n", f"{end}\n{begin}\n", document + document):
        with pytest.raises(MarkerError):
            pages.between_markers(broken, "new")
