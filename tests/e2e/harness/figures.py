"""Figures for `docs/reference/reliability.md`: one JSON object a line, in the file that `E2E_FIGURES` names."""

from __future__ import annotations

import json
import os
from pathlib import Path


def note(what: str, **figures: float) -> None:
    if path := os.environ.get("E2E_FIGURES"):
        with Path(path).open("a") as lines:
            lines.write(json.dumps({"what": what, **figures}) + "\n")
