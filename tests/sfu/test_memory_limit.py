"""What memory a process may use, and which level follows: control groups of both versions as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfu.memory_limit import ControlGroup, Pressure, Usage, own_group

SHARES = (0.85, 0.9, 0.95)
MIB = 1024 * 1024


def group_v2(directory: Path, *, limit: str, used: int, cache: int = 0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(
        f"anon 1\ninactive_file {cache // 2}\nactive_file {cache - cache // 2 + 70}\nfile_mapped 70\n"
    )
    return directory


def group_v1(directory: Path, *, limit: int, used: int, cache: int = 0) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (directory / "memory.usage_in_bytes").write_text(f"{used}\n")
    few, many = cache // 3, cache - cache // 3
    (directory / "memory.stat").write_text(
        f"cache 1\ntotal_inactive_file {few}\ntotal_active_file {many + 70}\ntotal_mapped_file 70\n"
    )
    return directory


def test_usage_is_what_the_kernel_cannot_take_back(tmp_path: Path) -> None:
    assert ControlGroup(group_v2(tmp_path / "2", limit="1000", used=900, cache=300)).usage() == Usage(600, 1000)
    assert ControlGroup(group_v1(tmp_path / "1", limit=1000, used=900, cache=300)).usage() == Usage(600, 1000)


def test_no_limit_and_no_files_are_no_usage(tmp_path: Path) -> None:
    assert ControlGroup(group_v2(tmp_path / "2", limit="max", used=900)).usage() is None
    assert ControlGroup(group_v1(tmp_path / "1", limit=9223372036854771712, used=900)).usage() is None
    assert ControlGroup(tmp_path / "nowhere").usage() is None


def test_the_nearest_group_with_a_limit_is_found(tmp_path: Path) -> None:
    proc, root = tmp_path / "cgroup", tmp_path / "fs"
    group_v2(root / "pod" / "inner", limit="max", used=5)
    group_v2(root / "pod", limit="100", used=50)
    proc.write_text("0::/pod/inner\n")
    found = own_group(proc, root)
    assert found is not None
    assert found.usage() == Usage(50, 100)
    # Version 1, seen from inside a container: the path of the host leads nowhere.
    root = tmp_path / "fs1"
    group_v1(root / "memory", limit=200, used=20)
    proc.write_text("3:cpuset:/docker/1\n2:memory:/docker/1\n0::/\n")
    found = own_group(proc, root)
    assert found is not None
    assert found.usage() == Usage(20, 200)
    assert own_group(tmp_path / "none", root) is None


@pytest.mark.parametrize(
    ("shares", "levels"),
    [
        ((0.5, 0.84, 0.85, 0.9, 0.95, 1.2), (0, 0, 1, 2, 3, 3)),
        ((0.96, 0.92, 0.9, 0.86, 0.85, 0.81, 0.8), (3, 3, 2, 2, 1, 1, 0)),
        ((0.99, 0.1), (3, 0)),
    ],
)
def test_levels_rise_at_once_and_fall_well_below(shares: tuple[float, ...], levels: tuple[int, ...]) -> None:
    pressure = Pressure(SHARES)
    seen = []
    for share in shares:
        pressure.note(Usage(round(share * 1_000 * MIB), 1_000 * MIB))
        seen.append(pressure.level)
    assert tuple(seen) == levels


@given(st.lists(st.floats(0, 2), min_size=1))
def test_a_change_is_told_exactly_when_there_is_one(shares: list[float]) -> None:
    pressure = Pressure(SHARES)
    for share in shares:
        before = pressure.level
        assert pressure.note(Usage(int(share * MIB), MIB)) == (pressure.level != before)
        assert pressure.level >= sum(int(share * MIB) / MIB >= one for one in SHARES)
