"""Workers as real processes: started, lost, adopted, replaced, drained."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfu import border, control
from sfu.node import (
    Node,
    NodeError,
    WorkerHandle,
    announced_addresses,
    backoff_seconds,
    configuration_digest,
    place,
    prepare_run_directory,
)
from sfu.settings import NodeSettings


class Watched:
    """A node with all it reports."""

    def __init__(self, settings: NodeSettings) -> None:
        self.events: list[tuple[str, border.AnyEvent]] = []
        self.lost: list[str] = []
        self.started: list[str] = []
        self.changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self.node = Node(settings, self._on_event, self._on_lost, self._on_started)

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(condition)

    def _on_event(self, worker: WorkerHandle, event: border.AnyEvent) -> None:
        self.events.append((worker.id, event))
        self._notify()

    def _on_lost(self, worker: WorkerHandle) -> None:
        assert not worker.alive
        self.lost.append(worker.id)
        self._notify()

    def _on_started(self, worker: WorkerHandle) -> None:
        self.started.append(worker.id)
        self._notify()

    def _notify(self) -> None:
        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def settings_in(directory: Path, **changes: Any) -> NodeSettings:
    return NodeSettings(**{"workers": 2, "udp_port": 0, "run_directory": directory, **changes})


def modes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


@asynccontextmanager
async def running(settings: NodeSettings) -> AsyncIterator[Watched]:
    watched = Watched(settings)
    await watched.node.start()
    try:
        yield watched
    finally:
        await watched.node.stop(0)


async def ended(worker: WorkerHandle) -> None:
    """Killed, and gone."""
    process = os.pidfd_open(worker.info.pid)
    os.kill(worker.info.pid, signal.SIGKILL)
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(process, gone.set)
    await gone.wait()
    asyncio.get_running_loop().remove_reader(process)
    os.close(process)


def test_there_is_a_worker_for_each_core_unless_said_otherwise(run_directory: Path) -> None:
    assert Watched(settings_in(run_directory, workers=None)).node.count == len(os.sched_getaffinity(0))
    assert Watched(settings_in(run_directory, workers=3)).node.count == 3


async def test_each_worker_has_its_own_process_port_and_certificate(run_directory: Path) -> None:
    """F-33"""
    async with running(settings_in(run_directory)) as watched:
        first, second = watched.node.workers
        assert (first.index, second.index) == (0, 1)
        assert first.info.pid != second.info.pid
        assert first.info.udp_port != second.info.udp_port
        assert first.info.fingerprint != second.info.fingerprint
        assert first.info.fingerprint.value.count(":") == 31
        assert os.getsid(first.info.pid) == first.info.pid, "a session of its own"
        assert {port for _, _, port in first.candidates} == {first.info.udp_port}
        sockets = {name: mode for name, mode in modes(run_directory).items() if name.endswith(".sock")}
        assert set(sockets.values()) == {0o600}
        assert len(sockets) == 2
    assert modes(run_directory) == {}


async def test_commands_go_down_and_events_come_up(run_directory: Path) -> None:
    async with running(settings_in(run_directory, workers=1)) as watched:
        [worker] = watched.node.workers
        worker.send(border.RemoveTransport(transport=77), border.TakeSnapshot())
        await watched.until(lambda: len(watched.events) >= 3)
        rejected, overload, snapshot = (event for _, event in watched.events)
        assert isinstance(rejected, border.Rejected)
        assert overload == border.NO_OVERLOAD
        assert snapshot == border.Snapshot()


async def test_bytes_that_are_no_command_are_rejected_and_cost_nothing_else(run_directory: Path) -> None:
    async with running(settings_in(run_directory, workers=1)) as watched:
        [worker] = watched.node.workers

        class Strange(border.Command, frozen=True, kw_only=True, tag="remove_transport"):
            transport: str

        worker._controller.send([Strange(transport="one"), border.TakeSnapshot()])
        await watched.until(lambda: len(watched.events) >= 3)
        by_kind = {type(event): event for _, event in watched.events}
        rejected = by_kind[border.Rejected]
        assert isinstance(rejected, border.Rejected)
        assert (rejected.command, rejected.code) == ("remove_transport", "malformed")
        assert border.Snapshot in by_kind


async def test_a_killed_worker_is_noticed_and_replaced_and_the_other_never_knows(run_directory: Path) -> None:
    """F-15"""
    async with running(settings_in(run_directory)) as watched:
        victim, other = watched.node.workers
        os.kill(victim.info.pid, signal.SIGKILL)
        await watched.until(lambda: watched.lost)
        assert watched.lost == [victim.id]
        with pytest.raises(NodeError):
            await victim.counters()
        await watched.until(lambda: watched.started)
        replacement, same = watched.node.workers
        assert replacement.index == victim.index
        assert replacement.id != victim.id
        assert same is other
        assert (await other.counters()).process["uptime_seconds"] > 0
        assert watched.lost == [victim.id]


async def test_a_worker_that_hangs_is_lost_and_cannot_come_back(run_directory: Path) -> None:
    """F-20"""
    settings = settings_in(run_directory, workers=1, heartbeat_interval_seconds=0.1, heartbeat_timeout_seconds=0.5)
    async with running(settings) as watched:
        [worker] = watched.node.workers
        os.kill(worker.info.pid, signal.SIGSTOP)
        await watched.until(lambda: watched.lost)
        await watched.until(lambda: watched.started)
        with pytest.raises(ProcessLookupError):
            os.kill(worker.info.pid, 0)


async def test_a_new_node_finds_the_old_workers_with_their_memory(run_directory: Path) -> None:
    settings = settings_in(run_directory)
    before = Watched(settings)
    workers = await before.node.start()
    workers[0].remember("room/1", b"one")
    workers[0].remember("room/2", bytes(5 * 1024 * 1024))
    workers[0].remember("room/3", b"gone")
    workers[0].forget("room/3")
    # An answer proves that all before it has been taken.
    await workers[0].counters()
    await before.node.detach()
    assert before.lost == []

    async with running(settings) as after:
        assert [worker.info for worker in after.node.workers] == [worker.info for worker in workers]
        assert await after.node.workers[0].recall() == {"room/1": b"one", "room/2": bytes(5 * 1024 * 1024)}
        assert await after.node.workers[1].recall() == {}


async def one_left_of_two(settings: NodeSettings) -> WorkerHandle:
    """What a successor finds where signaling has ended, and one of its two workers after it."""
    before = Watched(settings)
    alive, victim = await before.node.start()
    await before.node.detach()
    await ended(victim)
    return alive


@pytest.mark.parametrize("program", ["/bin/false", "/not/there"])
async def test_a_worker_that_cannot_be_started_again_costs_those_that_live_nothing(
    program: str, run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-14"""
    settings = settings_in(run_directory)
    alive = await one_left_of_two(settings)
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", program)
        after = Watched(settings)
        assert [worker.info for worker in await after.node.start()] == [alive.info]
    try:
        await after.until(lambda: after.started)
        assert [worker.index for worker in after.node.workers] == [0, 1]
        assert after.node.workers[0].info == alive.info
        assert not after.lost
    finally:
        await after.node.stop(0)


async def test_a_start_that_fails_leaves_those_that_live_to_the_next(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-14"""
    settings = settings_in(run_directory)
    alive = await one_left_of_two(settings)
    with monkeypatch.context() as broken:
        broken.setattr(os, "environ", None)
        with pytest.raises(TypeError):
            await Watched(settings).node.start()
    async with running(settings) as after:
        assert after.node.workers[0].info == alive.info


async def test_workers_of_other_settings_are_drained_not_adopted(run_directory: Path) -> None:
    """F-19"""
    before = Watched(settings_in(run_directory, workers=1))
    [old] = await before.node.start()
    old_process = os.pidfd_open(old.info.pid)
    await before.node.detach()
    async with running(settings_in(run_directory, workers=1, tick_microseconds=0)) as after:
        [new] = after.node.workers
        assert new.id != old.id
        exited = asyncio.Event()
        asyncio.get_running_loop().add_reader(old_process, exited.set)
        async with asyncio.timeout(20):
            await exited.wait()
        asyncio.get_running_loop().remove_reader(old_process)
    os.close(old_process)


async def test_memory_beyond_its_bound_is_refused(run_directory: Path) -> None:
    async with running(settings_in(run_directory, workers=1, memory_max_bytes=1024 * 1024)) as watched:
        [worker] = watched.node.workers
        worker.remember("fits", bytes(900_000))
        worker.remember("does not", bytes(900_000))
        assert set(await worker.recall()) == {"fits"}
        worker.remember("fits", b"")
        worker.remember("does not", bytes(900_000))
        assert set(await worker.recall()) == {"fits", "does not"}
        worker.remember("fits", bytes(900_000))
        assert await worker.recall() == {"fits": b"", "does not": bytes(900_000)}
        worker.remember("fits", bytes(900_000), or_none=True)
        assert set(await worker.recall()) == {"does not"}


async def test_what_is_too_long_to_be_remembered_is_left_out_and_costs_nothing_else(run_directory: Path) -> None:
    """S-44"""
    async with running(settings_in(run_directory, workers=1)) as watched:
        [worker] = watched.node.workers
        worker.remember("grows", b"short")
        worker.remember("stays", bytes(control.MAX_VALUE_BYTES))
        worker.remember("grows", bytes(control.MAX_VALUE_BYTES + 1))
        worker.remember("gone", b"short", or_none=True)
        worker.remember("gone", bytes(control.MAX_VALUE_BYTES + 1), or_none=True)
        worker.remember("other", b"one")
        remembered = {"grows": b"short", "stays": bytes(control.MAX_VALUE_BYTES), "other": b"one"}
        assert await worker.recall() == remembered


async def test_a_newer_controller_takes_the_place_of_the_older(run_directory: Path) -> None:
    """F-23"""
    async with running(settings_in(run_directory, workers=1)) as watched:
        [worker] = watched.node.workers
        loop = asyncio.get_running_loop()
        path = run_directory / f"{worker.id}.sock"
        second, _ = await control.attach(path, "second", 1 << 20)
        reason: asyncio.Future[str] = loop.create_future()
        faults: list[control.Upward] = []
        second.listen(faults.append, reason.set_result)
        await control.attach(path, "third", 1 << 20)
        await reason
        assert [fault.code for fault in faults if isinstance(fault, control.Fault)] == ["replaced"]
        await watched.until(lambda: watched.started)
        await ended(worker)


async def test_a_worker_that_another_controller_has_taken_is_left_to_it(run_directory: Path) -> None:
    async with running(settings_in(run_directory, workers=1)) as watched:
        [worker] = watched.node.workers
        path = run_directory / f"{worker.id}.sock"
        other, _ = await control.attach(path, "other", 1 << 20)
        answered = asyncio.Event()
        lost: list[str] = []
        other.listen(lambda message: answered.set() if isinstance(message, control.Pong) else None, lost.append)
        await watched.until(lambda: watched.started)
        assert watched.lost == [worker.id]
        [successor] = watched.node.workers
        assert (successor.index, successor.id != worker.id) == (worker.index, True)
        other.send([control.Ping(request=7)])
        async with asyncio.timeout(20):
            await answered.wait()
        assert not lost
        assert path.exists()
        await ended(worker)


async def test_a_run_directory_is_one_nodes_alone(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfu.node._PREDECESSOR_SECONDS", 0.3)
    # Other settings would drain the workers, the same ones take them.
    for changes in ({}, {"tick_microseconds": 0}):
        async with running(settings_in(run_directory, workers=1)) as watched:
            [worker] = watched.node.workers
            with pytest.raises(NodeError, match="another server uses the run directory"):
                await Watched(settings_in(run_directory, workers=1, **changes)).node.start()
            assert not (await worker.counters()).process["draining"]
            assert not watched.lost
    assert modes(run_directory) == {}


async def test_a_successor_waits_for_the_one_before_it(run_directory: Path) -> None:
    settings = settings_in(run_directory, workers=1)
    before, after = Watched(settings), Watched(settings)
    [worker] = await before.node.start()
    starting = asyncio.create_task(after.node.start())
    await asyncio.sleep(0.3)
    assert not starting.done()
    await before.node.detach()
    try:
        assert [found.info for found in await starting] == [worker.info]
    finally:
        await after.node.stop(0)


async def test_a_controller_that_does_not_say_hello_first_is_sent_away(run_directory: Path) -> None:
    async with running(settings_in(run_directory, workers=1)) as watched:
        [worker] = watched.node.workers
        reader, writer = await asyncio.open_unix_connection(run_directory / f"{worker.id}.sock")
        writer.writelines(control.frames([control.encode(border.TakeSnapshot())]))
        [body] = control.FrameReader().feed(await reader.read())
        fault = control.decode_upward(control.split(body)[0])
        assert isinstance(fault, control.Fault)
        assert fault.code == "malformed"
        writer.close()
        assert worker.alive


async def test_a_taken_port_is_passed_over(run_directory: Path) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.bind(("::", 0))
        port = taken.getsockname()[1]
        if port > 60_000:
            pytest.skip("no room above the port")
        async with running(settings_in(run_directory, workers=1, udp_port=port)) as watched:
            assert watched.node.workers[0].info.udp_port > port


async def test_a_worker_that_cannot_start_is_a_clear_error(run_directory: Path) -> None:
    watched = Watched(settings_in(run_directory, workers=1, bind="203.0.113.77"))
    with pytest.raises(NodeError, match="worker 0 did not start"):
        await watched.node.start()
    assert modes(run_directory) == {}


def test_a_run_directory_that_others_may_write_to_is_refused(run_directory: Path) -> None:
    """S-76"""
    path = run_directory / "open"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(NodeError, match="writable by, others"):
        prepare_run_directory(path)


def test_a_run_directory_that_cannot_be_made_is_a_clear_error(run_directory: Path) -> None:
    (run_directory / "file").touch()
    with pytest.raises(NodeError, match="cannot be made: Not a directory"):
        prepare_run_directory(run_directory / "file" / "callyard" / "7882")


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.floats(0, 100), min_size=1, max_size=9), st.text())
def test_the_least_loaded_worker_gets_the_room(loads: dict[str, float], room: str) -> None:
    chosen = place(room, loads)
    assert loads[chosen] == min(loads.values())
    assert place(room, dict(reversed(loads.items()))) == chosen


def test_equal_workers_share_the_rooms() -> None:
    chosen = {place(f"room-{number}", {"a": 0, "b": 0}) for number in range(50)}
    assert chosen == {"a", "b"}
    with pytest.raises(ValueError, match="no worker"):
        place("room", {})


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0.1), (1, 0.2), (5, 3.2), (20, 30.0), (10_000, 30.0)])
def test_restarts_are_held_back_more_and_more(failures: int, seconds: float) -> None:
    assert backoff_seconds(failures, 30.0) == seconds


INTERFACES = ["127.0.0.1", "::1", "fe80::1", "2001:db8::5", "192.0.2.5", "169.254.3.4", "10.0.0.5"]


@pytest.mark.parametrize(
    ("changes", "interfaces", "announced"),
    [
        ({}, INTERFACES, ("192.0.2.5", "10.0.0.5", "2001:db8::5")),
        ({"bind": "0.0.0.0"}, INTERFACES, ("192.0.2.5", "10.0.0.5")),
        ({"bind": "10.0.0.5"}, INTERFACES, ("10.0.0.5",)),
        ({"bind": "127.0.0.1"}, INTERFACES, ("127.0.0.1",)),
        ({"node_ip": ["203.0.113.9"]}, INTERFACES, ("203.0.113.9",)),
        ({}, ["127.0.0.1", "::1"], ("127.0.0.1",)),
    ],
)
def test_clients_are_told_addresses_they_may_reach(
    changes: dict[str, Any], interfaces: list[str], announced: tuple[str, ...]
) -> None:
    assert announced_addresses(NodeSettings(**changes), interfaces) == announced
    assert all(ip_address(text) for text in announced)


def test_the_digest_follows_what_workers_are_started_with() -> None:
    one = configuration_digest(NodeSettings(), 2, ["192.0.2.1"])
    assert one == configuration_digest(NodeSettings(run_directory=Path("/elsewhere")), 2, ["192.0.2.1"])
    assert one != configuration_digest(NodeSettings(), 3, ["192.0.2.1"])
    assert one != configuration_digest(NodeSettings(), 2, ["192.0.2.2"])
    assert one != configuration_digest(NodeSettings(tick_microseconds=0), 2, ["192.0.2.1"])
