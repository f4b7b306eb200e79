"""What is missing on a machine is named, with the way to get it, before anything is built."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("bash", "dirname", "cut", "sort", "head")
"""Of the machine, by the script itself."""


class Machine:
    """A search path with nothing on it but what is put there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in NEEDED:
            found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
            (directory / name).symlink_to(found)

    def has(self, name: str, script: str) -> None:
        program = self.directory / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)

    def prerequisites(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.directory / "bash", ROOT / "tools/prerequisites"],
            env={"PATH": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that has everything."""
    made = Machine(tmp_path)
    made.has("python3", "exit 0")
    made.has("rustc", "echo 'rustc 1.89.0 (29483883e 2025-08-04)'")
    made.has("cargo", "exit 0")
    made.has("cc", "exit 0")
    return made


def test_with_everything_nothing_is_said(machine: Machine) -> None:
    result = machine.prerequisites()
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("program", "script", "missing", "way"),
    [
        ("python3", None, "Python 3.11 or newer", "apt install python3 python3-venv"),
        ("python3", "exit 1", "Python 3.11 or newer", "https://www.python.org"),
        ("python3", '[[ "$2" != *venv* ]]', "the venv module of", "apt install python3-venv"),
        ("cargo", None, "Rust 1.89 or newer with cargo", "https://rustup.rs"),
        ("rustc", None, "Rust 1.89 or newer with cargo", "https://rustup.rs"),
        ("rustc", "echo 'rustc 1.88.2 (x 2025-06-26)'", "(here is 1.88.2)", "rustup update stable"),
        ("cc", None, "a C compiler", "apt install build-essential"),
    ],
)
def test_what_is_missing_is_named_with_the_way_to_get_it(
    machine: Machine, program: str, script: str | None, missing: str, way: str
) -> None:
    (machine.directory / program).unlink()
    if script is not None:
        machine.has(program, script)
    result = machine.prerequisites()
    assert result.returncode == 1
    said, get = result.stderr.splitlines()
    assert said.startswith("Missing: ")
    assert missing in said
    assert get.startswith("  Get it: ")
    assert way in get


def test_all_that_is_missing_is_said_at_once(machine: Machine) -> None:
    for program in ("python3", "cargo", "cc"):
        (machine.directory / program).unlink()
    assert machine.prerequisites().stderr.count("Missing: ") == 3


def test_every_way_to_begin_asks_first() -> None:
    dry = subprocess.run(
        ["make", "--dry-run", "--always-make", "serve"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    steps = [dry.index(step) for step in ("tools/prerequisites", "-m venv", "maturin develop", "serve --dev")]
    assert steps == sorted(steps)
