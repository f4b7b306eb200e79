"""A recorded trace (`callyard trace`, `callyard-sim record`) as the series that a plot is drawn from. Values only."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

STEP_S = 0.1
_WIRE_OVERHEAD_BYTES = 28
_SENT_OVER_S = 0.5
_HEIGHTS = (180, 360, 720, 1080)


def series(lines: Iterable[str]) -> dict[str, Any]:
    """Sent rate, estimate, queue and, per track, the height of the layer chosen for it, every 100 ms.

    What the link carries nobody knows: `free` is empty. `ValueError` where a line is no JSON, or nothing is a trace.
    """
    steps: dict[int, dict[str, Any]] = {}
    sent: dict[int, int] = {}
    tracks: dict[str, dict[str, Any]] = {}
    pixels: dict[tuple[str, int], int] = {}
    end = -1
    for line in map(json.loads, filter(str.strip, lines)):
        index = int(line.get("at_ns", 0) / 1e9 / STEP_S)
        end = max(end, index)
        match line["line"]:
            case "sent":
                for after_ns, size, *_ in line["packets"]:
                    at = int((line["at_ns"] + after_ns) / 1e9 / STEP_S)
                    sent[at] = sent.get(at, 0) + size + _WIRE_OVERHEAD_BYTES
            case "estimate":
                steps.setdefault(index, {}).update(estimate=line["estimate_bps"], queue_ms=line["link_queue_ms"])
            case "situation":
                for track in line["situation"]["tracks"]:
                    for rung in track["rungs"]:
                        pixels[str(track["downtrack"]), rung["layer"]["spatial"]] = rung["pixels"]
            case "outcome":
                chosen = {str(choice["downtrack"]): choice["layer"] for choice in line["outcome"]["choices"]}
                steps.setdefault(index, {})["chosen"] = chosen
            case "names":
                tracks |= line["tracks"]
            case _:
                pass
    if end < 0:
        raise ValueError("there is no trace in it")
    downtracks = sorted({number for number, _ in pixels}, key=int)
    made: dict[str, Any] = {
        "t": [],
        "free": [],
        "estimate": [],
        "sent": [],
        "queue_ms": [],
        "freezes": [],
        "lanes": "chosen",
    }
    heights: dict[str, list[int]] = {number: [] for number in downtracks}
    estimate, queue_ms, chosen = float("nan"), 0.0, {}
    window = round(_SENT_OVER_S / STEP_S)
    for index in range(end + 1):
        step = steps.get(index, {})
        if "estimate" in step:
            estimate = float("nan") if step["estimate"] is None else float(step["estimate"])
            queue_ms = step["queue_ms"]
        chosen = step.get("chosen", chosen)
        made["t"].append(index * STEP_S)
        made["estimate"].append(estimate)
        made["queue_ms"].append(queue_ms)
        made["sent"].append(sum(sent.get(index - back, 0) for back in range(window)) * 8 / _SENT_OVER_S)
        for number in downtracks:
            layer = chosen.get(number)
            heights[number].append(-1 if layer is None else _height(pixels.get((number, layer["spatial"]), 0)))
    made["tracks"] = [
        {"height": heights[number], "name": tracks.get(number, {}).get("from") or number} for number in downtracks
    ]
    return made


def _height(pixels: int) -> int:
    """Of a 16:9 picture, the nearest usual one."""
    height = (pixels * 9 / 16) ** 0.5
    return min(_HEIGHTS, key=lambda usual: abs(usual - height))
