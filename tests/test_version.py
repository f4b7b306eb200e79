from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

from signaling import __version__

ROOT = Path(__file__).parent.parent


def test_every_place_that_names_the_version_agrees() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    core = tomllib.loads((ROOT / "sfu/core/Cargo.toml").read_text(encoding="utf-8"))["workspace"]["package"]["version"]
    chart = yaml.safe_load((ROOT / "deploy/helm/callyard/Chart.yaml").read_text(encoding="utf-8"))
    assert __version__ == project == core == chart["version"] == chart["appVersion"]
