"""What the kernel says about a process: CPU time, context switches, memory. And what machine this is.

CPU time comes from the scheduler's nanoseconds (`/proc/PID/task/TID/schedstat`): the 250 Hz ticks of `/proc/PID/stat`
are too coarse for a server that works for microseconds, and only say how the time splits into user and system.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Totals since the process began."""

    cpu_ns: int
    user_ticks: int
    system_ticks: int
    switches: int
    resident_bytes: int

    @staticmethod
    def of(pids: tuple[int, ...]) -> Usage:
        """Of all their threads together. A thread that ends between two readings takes its time along."""
        cpu_ns = user = system = switches = resident = 0
        for pid in pids:
            root = Path(f"/proc/{pid}")
            for task in (root / "task").iterdir():
                try:
                    cpu_ns += int((task / "schedstat").read_text().split()[0])
                    status = (task / "status").read_text()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                switches += sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)
            # The command's name may hold spaces; fields are counted behind its closing bracket.
            fields = (root / "stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            system += int(fields[12])
            resident += int((root / "statm").read_text().split()[1]) * _PAGE
        return Usage(cpu_ns, user, system, switches, resident)

    def since(self, before: Usage) -> Usage:
        return Usage(
            self.cpu_ns - before.cpu_ns,
            self.user_ticks - before.user_ticks,
            self.system_ticks - before.system_ticks,
            self.switches - before.switches,
            self.resident_bytes - before.resident_bytes,
        )

    @property
    def user_share(self) -> float:
        ticks = self.user_ticks + self.system_ticks
        return self.user_ticks / ticks if ticks else 0.0


def family(pid: int) -> list[int]:
    """A process and all its descendants, those in sessions of their own among them."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for member in found:
        found += parents.get(member, [])
    return found


def kill(pid: int) -> None:
    """Ends a process of ours that may have ended already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def pin(pid: int, cpu: int) -> None:
    """All threads of a process, and those they start later."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def cores() -> tuple[int, int]:
    """One for the server, one for the clients. `SystemExit` on a machine that has one only."""
    available = sorted(os.sched_getaffinity(0))
    if len(available) < 2:
        raise SystemExit("The benchmark needs two cores: one for the server, one for its clients.")
    return available[0], available[-1]


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    kernel: str
    python: str

    @staticmethod
    def this() -> Machine:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return Machine(
            cpu=models[0] if models else platform.machine(),
            cores=os.cpu_count() or 1,
            kernel=platform.release(),
            python=platform.python_version(),
        )


def load_average() -> float:
    """Of the last minute: what else the machine was doing."""
    return os.getloadavg()[0]
