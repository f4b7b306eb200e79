"""The link emulator: moves packets between the two TUN devices of a lab as two `Direction`s say.

It runs in a process of its own, so that nobody else's work delays a packet (`Emulator`), and tells at its end what it
did with each packet and how late it was itself.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.links.lab import Lab
from bench.links.link import Direction, LinkSpec, Passage

_READS_AT_ONCE = 32
_BIGGEST_PACKET = 65_536
_IDLE_SECONDS = 0.5


class Orders(msgspec.Struct, frozen=True):
    """What the process is started with."""

    server_tun: int
    viewer_tun: int
    down: LinkSpec
    up: LinkSpec
    seed: int


class Log(msgspec.Struct, frozen=True):
    """What it leaves. Times are seconds since the start of the schedule."""

    #: Second 0 on the machine's monotonic clock.
    origin: float
    seconds: float
    down: list[Passage]
    up: list[Passage]
    #: How much later than due packets were handed on, seconds: what the machine did to the emulator.
    late_p50: float
    late_p99: float


class Second(msgspec.Struct, frozen=True):
    """One second of one direction."""

    second: int
    offered_bytes: int
    carried_bytes: int
    dropped: int
    lost: int
    longest_wait_ms: float


def by_second(passages: list[Passage], seconds: float) -> list[Second]:
    found: list[list[Passage]] = [[] for _ in range(math.ceil(seconds))]
    for passage in passages:
        if passage.at < seconds:
            found[int(passage.at)].append(passage)
    return [
        Second(
            second=second,
            offered_bytes=sum(p.bytes for p in of_second),
            carried_bytes=sum(p.bytes for p in of_second if p.wait is not None),
            dropped=sum(p.wait is None for p in of_second),
            lost=sum(p.lost for p in of_second),
            longest_wait_ms=max((p.wait or 0.0 for p in of_second), default=0.0) * 1e3,
        )
        for second, of_second in enumerate(found)
    ]


class Emulator:
    """The process, as whoever starts it sees it."""

    def __init__(self, lab: Lab, down: LinkSpec, *, up: LinkSpec | None = None, seed: int = 1) -> None:
        """`down`: towards the viewer. Packets flow from now on; the schedule waits for `start`."""
        orders = Orders(lab.server.tun, lab.viewer.tun, down, up or down.wide(), seed)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.links.emulator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            pass_fds=(lab.server.tun, lab.viewer.tun),
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(orders) + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the emulator ended at its start")

    def start(self) -> None:
        """Now is second 0 of the schedule."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"start\n")
        self._process.stdin.flush()

    def stop(self) -> Log:
        """Packets flow no more. Once only."""
        log, _ = self._process.communicate()
        return msgspec.json.decode(log, type=Log)

    def kill(self) -> None:
        """If it still runs."""
        self._process.kill()
        self._process.wait()


def run() -> None:
    """What the process does: orders on the first line, `start` on the second, until its input ends."""
    control = sys.stdin.fileno()
    orders = msgspec.json.decode(_line(control), type=Orders)
    passages: tuple[list[Passage], list[Passage]] = ([], [])
    down = Direction(orders.down, orders.seed, passages[0].append)
    up = Direction(orders.up, orders.seed + 1, passages[1].append)
    ways = ((orders.server_tun, down, orders.viewer_tun), (orders.viewer_tun, up, orders.server_tun))
    late: list[float] = []
    # Millions of seconds before anything happens: time before the schedule is negative.
    origin = math.inf
    began = time.monotonic()
    # Packets have no cycles, and a collection takes longer than a packet may.
    gc.freeze()
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    sys.stdout.write("ready\n")
    sys.stdout.flush()

    def now() -> float:
        clock = time.monotonic()
        return clock - origin if origin < math.inf else clock - began - 1e6

    while True:
        waiting = [at for _, direction, _ in ways if (at := direction.next_at()) is not None]
        timeout = max(0.0, min(waiting) - now()) if waiting else _IDLE_SECONDS
        readable, _, _ = select.select([orders.server_tun, orders.viewer_tun, control], [], [], timeout)
        if control in readable:
            if not _line(control):
                break
            # What is on its way arrives at once.
            origin = time.monotonic()
        for source, direction, _ in ways:
            if source in readable:
                _take(source, direction, now)
        t = now()
        for _, direction, sink in ways:
            for at, packet in direction.due(t):
                os.write(sink, packet)
                if at >= 0:
                    late.append(t - at)
    late.sort()
    log = Log(
        origin=origin,
        seconds=now() if origin < math.inf else 0.0,
        down=passages[0],
        up=passages[1],
        late_p50=late[len(late) // 2] if late else 0.0,
        late_p99=late[len(late) * 99 // 100] if late else 0.0,
    )
    sys.stdout.buffer.write(msgspec.json.encode(log))


def _take(tun: int, direction: Direction, now: Callable[[], float]) -> None:
    """Reads what waits; only IPv4 is carried."""
    for _ in range(_READS_AT_ONCE):
        try:
            packet = os.read(tun, _BIGGEST_PACKET)
        except BlockingIOError:
            return
        if packet and packet[0] >> 4 == 4:
            direction.offer(now(), packet)


def _line(descriptor: int) -> bytes:
    """Unbuffered, so that `select` sees what is left."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            break
        line += byte
    return line


if __name__ == "__main__":
    run()
