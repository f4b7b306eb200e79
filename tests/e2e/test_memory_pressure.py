"""A worker whose control group has little memory: newcomers are refused, calls go on, nothing is killed (F-31)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness.media import GREEN, RED, Picture, Tone, hear_tone, see
from tests.e2e.harness.people import Party
from tests.e2e.harness.server import ServerProcess
from tests.e2e.test_overload import crowd, refused

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]

Start = Callable[..., Awaitable[ServerProcess]]
LIMIT_BYTES = 64 * 1024 * 1024
CROWD = (
    "--publishers",
    "1",
    "--subscribers",
    "900",
    "--no-simulcast",
    "--video-bitrate",
    "150000",
    "--join-rate",
    "20",
)
HELD_SECONDS = 20
_ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group of memory, of version 1 or 2."""

    def __init__(self) -> None:
        v1 = _ROOT / "memory"
        self._is_v1 = v1.is_dir()
        self.directory = (v1 if self._is_v1 else _ROOT) / f"callyard-test-{secrets.token_hex(4)}"
        self.directory.mkdir()

    def hold(self, pid: int) -> None:
        (self.directory / "cgroup.procs").write_text(str(pid))

    def limit(self, limit_bytes: int) -> None:
        name = "memory.limit_in_bytes" if self._is_v1 else "memory.max"
        (self.directory / name).write_text(str(limit_bytes))

    @property
    def killed(self) -> int:
        name = "memory.oom_control" if self._is_v1 else "memory.events"
        counts = dict(line.split() for line in (self.directory / name).read_text().splitlines())
        return int(counts["oom_kill"])

    def close(self, pids: list[int]) -> None:
        for pid in pids:
            with contextlib.suppress(OSError):
                (self.directory.parent / "cgroup.procs").write_text(str(pid))
        with contextlib.suppress(OSError):
            self.directory.rmdir()


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    try:
        made = MemoryGroup()
    except OSError as error:
        pytest.skip(f"no control group for memory: {error}")
    yield made
    made.close([])


async def test_a_worker_short_of_memory_takes_nobody_else_and_is_not_killed(
    own_server: Start, room: str, group: MemoryGroup
) -> None:
    """F-31"""
    # In so small a group what comes between two looks, or with many who leave at once, is more than the usual 15 %.
    shares = {"NO_JOINS": "0.6", "NO_CACHES": "0.7", "NO_IDLERS": "0.8"}
    environment = {f"CALLYARD_NODE_MEMORY_{name}": share for name, share in shares.items()}
    server = await own_server(workers=1, environment=environment)
    pids = server.worker_pids()
    party = Party(server, room)
    tone, picture = Tone(440), Picture(RED, GREEN)
    # What the worker has so far counts elsewhere: the limit is one on what comes now.
    group.limit(LIMIT_BYTES)
    group.hold(pids[0])
    try:
        alice, bob = await party.join("alice"), await party.join("bob")
        await party.sends(alice, tone, picture)
        sound = await bob.track("alice", "audio")
        await hear_tone(sound, 440)
        async with crowd(server, *CROWD) as leaves:
            await becomes(server, room, 503, 90)
            status, sentence, seconds = await refused(server, room)
            assert (status, "overloaded" in sentence) == (503, True)
            assert seconds < 0.2
            await asyncio.sleep(HELD_SECONDS)
            assert group.killed == 0, server.tail()
            await hear_tone(sound, 440)
            await see(await bob.track("alice", "video"), picture)
            assert server.worker_pids() == pids
            leaves()
            await becomes(server, room, 200, 40)
        carol = await party.join("carol")
        await hear_tone(await carol.track("alice", "audio"), 440)
        assert not bob.events("reconnecting")
    finally:
        await party.close()
        group.close(pids)


async def becomes(server: ServerProcess, room: str, status: int, seconds: float) -> None:
    """Until one who would join is answered so."""
    began = time.monotonic()
    while (answer := (await refused(server, room))[0]) != status:
        assert time.monotonic() < began + seconds, f"{answer} after {seconds:g} s:\n{server.tail(3000)}"
        await asyncio.sleep(0.5)
