"""Every acceptance test of the calls system is there, under its name."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[3]
WANTED = {
    "a": set(range(1, 85)),
    "g": set(range(1, 10)),
    "l": set(range(1, 13)),
    "w": set(range(1, 6)),
    "t": set(range(1, 12)),
}
BY_OTHER_MEANS = {("a", 1), ("a", 6), ("a", 81)}
"""The Python client's own (a call object is local, both access paths) and the dashboard's."""


def test_each_has_a_test_of_its_name() -> None:
    found: set[tuple[str, int]] = set()
    for file in (TESTS / "signaling" / "api").rglob("test_*.py"):
        for name in re.findall(r"^(?:async )?def test_(\w+)", file.read_text(), flags=re.MULTILINE):
            found |= {(letter, int(number)) for letter, number in re.findall(r"(?:^|_)([aglwt])_(\d+)(?=_)", name)}
    wanted = {(letter, number) for letter, numbers in WANTED.items() for number in numbers}
    assert wanted - found - BY_OTHER_MEANS == set()
