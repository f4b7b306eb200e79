"""How much of the memory that it may use a process has left: read from its control group, judged in values.

What is judged is what the kernel cannot take back by itself: usage without the file cache, which grows until it fills
whatever limit there is, but with the part of it that is mapped and in use, such as the program. Not here: what is given
up (`sfu/core/proto/src/engine/relief.rs`, `signaling/runtime.py`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_CALM = 0.95
"""A level is left below this share of what it is reached at."""
_UNLIMITED = 1 << 60
"""Version 1 says "none" by a number near 2**63."""


class Usage(NamedTuple):
    """Bytes."""

    used: int
    limit: int


class Pressure:
    """The level that follows from usage: up at once, down where it is well below. 0: enough."""

    def __init__(self, thresholds: Sequence[float]) -> None:
        """thresholds: shares of the limit from which levels 1, 2 … are reached, each with those before it."""
        self._thresholds = tuple(thresholds)
        self.level = 0

    def note(self, usage: Usage) -> bool:
        """Whether the level has changed."""
        share = usage.used / max(usage.limit, 1)
        level = self.level
        while level < len(self._thresholds) and share >= self._thresholds[level]:
            level += 1
        while level > 0 and share < self._thresholds[level - 1] * _CALM:
            level -= 1
        changed = level != self.level
        self.level = level
        return changed


class ControlGroup:
    """The directory of one memory controller, of version 1 or 2."""

    def __init__(self, directory: Path) -> None:
        is_v2 = (directory / "memory.max").exists()
        self._limit = directory / ("memory.max" if is_v2 else "memory.limit_in_bytes")
        self._used = directory / ("memory.current" if is_v2 else "memory.usage_in_bytes")
        self._stat = directory / "memory.stat"
        prefix = "" if is_v2 else "total_"
        self._idle, self._active = f"{prefix}inactive_file", f"{prefix}active_file"
        self._mapped = "file_mapped" if is_v2 else "total_mapped_file"

    def usage(self) -> Usage | None:
        """None: there is no limit, or it cannot be read."""
        try:
            limit = self._limit.read_text().strip()
            if limit == "max" or int(limit) >= _UNLIMITED:
                return None
            used = int(self._used.read_text())
            stat = dict(line.split() for line in self._stat.read_text().splitlines())
            idle, active, mapped = (int(stat.get(name, 0)) for name in (self._idle, self._active, self._mapped))
            cache = idle + max(0, active - mapped)
            return Usage(max(0, used - cache), int(limit))
        except (OSError, ValueError):
            return None


def own_group(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> ControlGroup | None:
    """The control group that limits this process's memory, the nearest that has a limit; None without one."""
    try:
        lines = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except OSError:
        return None
    for _, controllers, path in lines:
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = root / "memory" if controllers else root
        # In a container's own namespace the path may lead nowhere; what is mounted is then the group itself.
        inside = [mount / path.lstrip("/"), *(mount / path.lstrip("/")).parents]
        for directory in inside:
            if not directory.is_relative_to(mount):
                break
            group = ControlGroup(directory)
            if group.usage() is not None:
                return group
    return None


def return_to_system() -> None:
    """Gives back what was freed; the allocator keeps it otherwise. Nothing where the C library has no `malloc_trim`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
