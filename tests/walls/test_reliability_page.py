"""The page of attacks and faults names tests that are there, and they bear the number of their row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from signaling.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/reliability.md"
ROW = re.compile(r"^\| ([SF]-\d\d) \|[^|]*\|[^|]*\| ([^|]*) \|$", re.MULTILINE)
NOT_SHOWN = re.compile(r"^\* ([SF]-\d\d): .+\.$", re.MULTILINE)
LIMIT = re.compile(r"^\| (S-\d\d) \| `([\w.]+)` \| ([\d.]+) \| [^|]+ \| `([^`|]+)` \|$", re.MULTILINE)
NAMED = re.compile(r"`([^`]+)`")


def rows() -> dict[str, list[str]]:
    return {number: NAMED.findall(shown) for number, shown in ROW.findall(PAGE.read_text())}


def test_every_attack_and_fault_has_one_row() -> None:
    text = PAGE.read_text()
    numbers = [number for number, _ in ROW.findall(text)] + NOT_SHOWN.findall(text)
    wanted = [*range(1, 33), *range(40, 56), *range(60, 81)]
    assert sorted(numbers) == sorted(
        [f"S-{number:02}" for number in wanted] + [f"F-{number:02}" for number in range(1, 46)]
    )


@pytest.mark.parametrize("number", sorted(rows()))
def test_what_shows_a_row_is_there_and_bears_its_number(number: str) -> None:
    named = rows()[number]
    assert named
    for one in named:
        path, _, name = one.partition("::")
        assert (ROOT / path).is_file(), one
        if name:
            assert number in what_is_said_of(ROOT / path, name), f"{one} does not say that it shows {number}"


@pytest.mark.parametrize(("number", "setting", "default", "shown"), LIMIT.findall(PAGE.read_text()))
def test_a_limit_is_a_setting_of_that_default_and_its_test_is_there(
    number: str, setting: str, default: str, shown: str
) -> None:
    value: object = Settings(key="key", secret="s" * 32)
    for name in setting.split("."):
        value = getattr(value, name)
    assert str(value) == default
    path, _, name = shown.partition("::")
    assert number in rows()
    assert re.search(rf"\b(def|fn) {name}\b", (ROOT / path).read_text())


def test_each_limit_of_the_page_is_read() -> None:
    section = PAGE.read_text().partition("## Limits")[2].partition("\n## ")[0]
    assert len(LIMIT.findall(section)) == len(re.findall(r"^\| S-", section, re.MULTILINE)) > 20


def what_is_said_of(path: Path, name: str) -> str:
    """A test's docstring, or the comment above it."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                return ast.get_docstring(node) or ""
        raise AssertionError(f"{path} has no {name}")
    found = re.search(rf"((?:^[ \t]*(?:///|#\[).*\n)+)^[ \t]*fn {name}\b", text, re.MULTILINE)
    assert found, f"{path} has no {name}"
    return found[1]
