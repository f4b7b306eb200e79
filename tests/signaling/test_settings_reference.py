from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from signaling.settings import Settings
from signaling.settings_reference import REFERENCE, SAMPLE, reference, sample
from signaling.settings_sources import leaves, load


def test_the_written_files_are_current() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == reference(), "run `make docs`"
    assert SAMPLE.read_text(encoding="utf-8") == sample(), "run `make docs`"


@pytest.mark.parametrize("path", [leaf.path for leaf in leaves()])
def test_every_setting_has_a_sentence_and_bounds(path: str) -> None:
    leaf = next(leaf for leaf in leaves() if leaf.path == path)
    assert leaf.field.description is not None
    assert leaf.field.description.endswith(".")
    if leaf.field.annotation in (int, float):
        bounds = [name for part in leaf.field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(part, name)]
        assert len(bounds) >= 2, "a number needs a lower and an upper bound"


def test_no_two_settings_share_a_variable() -> None:
    variables = [leaf.variable for leaf in leaves()]
    assert len(set(variables)) == len(variables)


def test_the_sample_with_its_marks_removed_is_the_defaults(tmp_path: Path) -> None:
    lines = sample().splitlines()[2:]
    plain = [re.sub(r"^# ?", "", line) for line in lines if not re.match(r"^# +#|^# #", line)]
    file = tmp_path / "callyard.yaml"
    file.write_text("\n".join(plain), encoding="utf-8")
    assert set(yaml.safe_load(file.read_text())) == set(Settings.model_fields)
    loaded = load(options={"key": "k", "secret": "s" * 32}, environ={}, file=file)
    assert loaded.settings == load(options={"key": "k", "secret": "s" * 32}, environ={}).settings
