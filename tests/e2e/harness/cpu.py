"""How much CPU a process gets: measured, and bounded by a control group of its own (needs root)."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000
"""Short, so that a bound is felt as a slow core and not as a machine that stands still."""
_LEAST_US = 1_000


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured_share(pid: int, seconds: float) -> float:
    """Of one core, over the next seconds; blocks."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds


@contextlib.contextmanager
def bounded(pid: int, share: float) -> Iterator[None]:
    """The process gets at most `share` of one core; the test is skipped where that cannot be had."""
    quota = max(_LEAST_US, round(share * _PERIOD_US))
    name = f"callyard-test-{secrets.token_hex(4)}"
    v1 = _ROOT / "cpu"
    group = (v1 if v1.is_dir() else _ROOT) / name
    try:
        before = _group_of(pid, "cpu" if v1.is_dir() else "")
        group.mkdir()
        try:
            if v1.is_dir():
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(quota))
            else:
                (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            group.rmdir()
            raise
    except OSError as error:
        pytest.skip(f"no control group for CPU: {error}")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            (group.parent / before.lstrip("/") / "cgroup.procs").write_text(str(pid))
        with contextlib.suppress(OSError):
            group.rmdir()


def _group_of(pid: int, controller: str) -> str:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"
