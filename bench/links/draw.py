"""Plots of one scenario: a column a server, from its typical run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import msgspec

from bench.links.figures import Series
from bench.quality import draw


def compared(title: str, columns: list[tuple[str, Series]], path: Path, dpi: int = 100) -> None:
    """Draw (name, series) of each server into `path` (PNG), on the same scales."""
    plain = [(name, msgspec.to_builtins(series)) for name, series in columns]
    lanes = 0.5 + 0.16 * max(len(series["tracks"]) for _, series in plain)
    with plt.rc_context(draw.STYLE):
        figure, grid = plt.subplots(
            3,
            len(plain),
            sharex=True,
            sharey="row",
            squeeze=False,
            figsize=(5.4 * len(plain), 3.8 + lanes),
            height_ratios=[2.4, lanes, 0.9],
            layout="constrained",
        )
        figure.suptitle(title, weight="bold", x=0.01, ha="left")
        for index, (name, series) in enumerate(plain):
            rate, seen, wait = grid[:, index]
            draw.rate_of(rate, series)
            draw.seen_of(seen, series)
            draw.wait_of(wait, series)
            rate.set_title(name, pad=18)
            wait.set_xlabel("seconds since the viewer began to join")
        most = max(max(series["queue_ms"], default=0.0) for _, series in plain)
        grid[2, 0].set_ylim(0, max(60.0, 1.1 * most))
        offered = max(max(series["sent"]) for _, series in plain) / 1e6
        free = max(max(series["free"]) for _, series in plain) / 1e6
        # A flood of many times the capacity would leave the rest as a line on the ground.
        grid[0, 0].set_ylim(0, min(max(1.15 * free, 1.05 * offered), 3 * free))
        figure.savefig(path, dpi=dpi)
        plt.close(figure)
