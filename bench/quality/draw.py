"""Plots of a call: what the link carried and what was sent over it, what was seen, how long packets waited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

INK, FAINT, ROOM = "#22313f", "#8795a1", "#e6edf2"
SENT, ESTIMATE, QUEUE = "#1f7a8c", "#e07a2f", "#b23a48"
#: Seen size, from nothing to the largest.
HEIGHTS = {-1: "#f3e3e3", 180: "#c6dfe5", 360: "#74b3c1", 720: "#1f7a8c", 1080: "#5a4f96"}

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def call(run: dict[str, Any], path: Path, dpi: int = 130) -> None:
    """Draw one run into `path` (PNG)."""
    series, scenario = run["series"], run["scenario"]
    tracks = series["tracks"]
    with plt.rc_context(STYLE):
        lanes = 0.5 + 0.16 * len(tracks)
        figure, (rate, seen, wait) = plt.subplots(
            3, 1, sharex=True, figsize=(8.4, 3.6 + lanes), height_ratios=[2.4, lanes, 0.9], layout="constrained"
        )
        rate_of(rate, series)
        rate.set_title(scenario["title"], weight="bold", pad=18)
        seen_of(seen, series)
        wait_of(wait, series)
        wait.set_xlabel("seconds since the subscriber joined")
        figure.align_ylabels()
        figure.savefig(path, dpi=dpi)
        plt.close(figure)


def rate_of(axes: Axes, series: dict[str, Any]) -> None:
    """What the link carried, where that is known, what was thought of it, what was sent."""
    t = series["t"]
    mega = {name: [value / 1e6 for value in series[name]] for name in ("free", "estimate", "sent")}
    # Not every server tells its estimate.
    estimate = mega["estimate"] or [float("nan")] * len(t)
    if mega["free"]:
        axes.fill_between(t, mega["free"], step="post", color=ROOM, linewidth=0, label="link")
        axes.plot(t, mega["free"], drawstyle="steps-post", color=FAINT, linewidth=0.7)
        top = 1.3 * max(min(max(mega["free"]), 12.0), max(mega["sent"]) / 1.6)
    else:
        top = 1.6 * max([0.1, *mega["sent"]])
    axes.plot(t, estimate, color=ESTIMATE, linewidth=1.3, label="estimate")
    axes.plot(t, mega["sent"], color=SENT, linewidth=1.0, label="sent")
    axes.set_ylim(0, top)
    axes.set_ylabel("Mbit/s")
    axes.margins(x=0)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.2)


def seen_of(axes: Axes, series: dict[str, Any]) -> None:
    """A lane a track: its size over time; freezes above them."""
    t, tracks = series["t"], series["tracks"]
    step = t[1] - t[0] if len(t) > 1 else 0.1
    for lane, track in enumerate(tracks):
        start = 0
        heights = track["height"]
        for index in range(1, len(heights) + 1):
            if index == len(heights) or heights[index] != heights[start]:
                color = HEIGHTS.get(heights[start], FAINT)
                axes.broken_barh([(t[start], (index - start) * step)], (lane - 0.4, 0.8), color=color, linewidth=0)
                start = index
    for start_s, length in series["freezes"]:
        axes.plot([start_s, start_s + length], [-0.62, -0.62], color=QUEUE, linewidth=2.5, solid_capstyle="butt")
    axes.set_ylim(len(tracks) - 0.4, -0.8)
    axes.set_yticks([])
    axes.set_ylabel(series.get("lanes", "seen"))
    axes.spines["left"].set_visible(False)
    heights = sorted({height for track in tracks for height in track["height"]})
    names = {-1: "nothing"} | {height: f"{height}p" for height in HEIGHTS if height > 0}
    handles = [Patch(color=HEIGHTS.get(height, FAINT), label=names.get(height, str(height))) for height in heights]
    if series["freezes"]:
        handles.append(Patch(color=QUEUE, label="frozen"))
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 0.97), ncols=6, borderaxespad=0.1)


def wait_of(axes: Axes, series: dict[str, Any]) -> None:
    """Time in the link's queue."""
    axes.fill_between(series["t"], series["queue_ms"], color=QUEUE, alpha=0.25, linewidth=0)
    axes.plot(series["t"], series["queue_ms"], color=QUEUE, linewidth=0.8)
    axes.set_ylim(0, max(60.0, 1.1 * max(series["queue_ms"], default=0.0)))
    axes.set_ylabel("queue ms")
