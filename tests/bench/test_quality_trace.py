"""A trace as series: lines whose figures one can work out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.quality import trace
from bench.quality.__main__ import draw_trace

SECOND = 1_000_000_000


def rungs() -> list[dict[str, Any]]:
    return [
        {"layer": {"spatial": n, "temporal": 3}, "pixels": w * h} for n, (w, h) in enumerate([(320, 180), (640, 360)])
    ]


def chosen(at_ns: int, layer: int | None) -> dict[str, Any]:
    choice = {"downtrack": 7, "layer": None if layer is None else {"spatial": layer, "temporal": 3}}
    return {"line": "outcome", "at_ns": at_ns, "outcome": {"choices": [choice]}}


LINES = [
    {"line": "header", "version": 1},
    {"line": "names", "tracks": {"7": {"track": "TR_1", "from": "alice"}}},
    {"line": "state", "at_ns": 0},
    {"line": "situation", "at_ns": 0, "situation": {"tracks": [{"downtrack": 7, "rungs": rungs()}]}},
    chosen(0, 0),
    {"line": "estimate", "at_ns": SECOND, "estimate_bps": 500_000, "link_queue_ms": 12.0},
    {"line": "sent", "at_ns": SECOND, "packets": [[0, 972, "video", True, None], [SECOND, 972, "video", True, None]]},
    chosen(2 * SECOND, 1),
    chosen(3 * SECOND, None),
    {"line": "end", "at_ns": 4 * SECOND, "reason": "time"},
]


def test_figures_stand_where_they_were_written_down() -> None:
    made = trace.series(map(json.dumps, LINES))
    assert len(made["t"]) == 41
    assert math.isnan(made["estimate"][9])
    assert made["estimate"][10] == made["estimate"][40] == 500_000
    assert made["queue_ms"][10] == 12.0
    # A thousand bytes on the wire, over half a second.
    assert [made["sent"][index] for index in (9, 10, 14, 15, 20)] == [0, 16_000, 16_000, 0, 16_000]
    (track,) = made["tracks"]
    assert track["name"] == "alice"
    assert [track["height"][index] for index in (0, 19, 20, 29, 30, 40)] == [180, 180, 360, 360, -1, -1]


def test_it_is_drawn_and_what_is_no_trace_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "call.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    assert draw_trace(path) == 0
    assert path.with_suffix(".png").stat().st_size > 10_000
    for text in ("", "no trace", '{"at_ns": 1}'):
        path.write_text(text)
        assert draw_trace(path) == 1
    assert "no trace" in capsys.readouterr().err
