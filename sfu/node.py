"""The workers of one node: started, watched, re-attached after a restart of signaling, replaced when they die.

Workers are processes of their own session: they survive this one, and the run directory holds what is needed to find
them again. Which room goes where is decided by `place`, a pure function; what a room is, nobody here knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import ipaddress
import logging
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import ifaddr
import msgspec

from sfu import border, control
from sfu.settings import NodeSettings
from sfu.worker import JSON_FROM_INFO, Launch, LogStyle

log = logging.getLogger("sfu.node")

_ATTACH_TIMEOUT_SECONDS = 2.0
_START_POLL_SECONDS = 0.02
_REPLY_TIMEOUT_SECONDS = 5.0
_BACKOFF_FIRST_SECONDS = 0.1
_OLD_WORKER_DRAIN_SECONDS = 3600.0
_SETTLED_SECONDS = 60.0
"""A worker that lived this long did not die at its start: the next one is not held back."""
_MAX_SOCKET_PATH_BYTES = 107
_PREDECESSOR_SECONDS = 15.0
"""How long a node waits for the one before it, whose port may be free some seconds before its workers are."""


class NodeError(Exception):
    """A worker could not be started or does not answer."""


class TraceRefused(NodeError):
    """A worker does not begin a trace, and why."""

    def __init__(self, reason: border.TraceEnd) -> None:
        super().__init__(f"the trace did not begin: {reason}")
        self.reason = reason


class Trace:
    """What a worker writes down of one subscriber: chunks of whole lines, each ended by a line feed, until it is over.

    What waits here is bounded by the worker's own `trace_max_bytes`.
    """

    def __init__(self, worker: WorkerHandle, seconds: float) -> None:
        self.id = secrets.randbits(53)
        self.end: border.TraceEnd | None = None
        self._worker = worker
        self._patience_seconds = seconds + _REPLY_TIMEOUT_SECONDS
        self._chunks: asyncio.Queue[border.Trace | None] = asyncio.Queue()

    def __aiter__(self) -> Trace:
        return self

    async def __anext__(self) -> bytes:
        if self.end is not None:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._patience_seconds):
                chunk = await self._chunks.get()
        except TimeoutError:
            raise NodeError(f"worker {self._worker.id} has stopped writing its trace") from None
        if chunk is None:
            raise NodeError(f"worker {self._worker.id} is gone")
        self.end = chunk.end
        return chunk.lines

    def stop(self) -> None:
        """Lets the worker forget it, if it goes on."""
        self._worker._traces.pop(self.id, None)
        if self.end is None:
            self._worker.send(border.StopTrace(trace=self.id))


class WorkerHandle:
    """One live worker. `alive` turns false once, just before `on_lost`; what is sent after that goes nowhere."""

    def __init__(self, node: Node, controller: control.Controller, info: control.Welcome, process: Process) -> None:
        self.info = info
        self.alive = True
        self.loop_lag_seconds = 0.0
        self.overload = border.NO_OVERLOAD
        self.unshown = Unshown()
        self._node = node
        self._controller = controller
        self._process = process
        self._requests = 0
        self._pending: dict[tuple[str, int], asyncio.Future[Any]] = {}
        self._traces: dict[int, Trace] = {}
        self._recalls: list[tuple[asyncio.Future[dict[str, bytes]], dict[str, bytes]]] = []
        self._is_taken = False
        self._attached_at = self._last_pong = asyncio.get_running_loop().time()

    @property
    def id(self) -> str:
        """Unique for the process: a worker started in its place has another."""
        return self.info.worker

    @property
    def index(self) -> int:
        return self.info.index

    @property
    def candidates(self) -> list[tuple[str, str, int]]:
        """(protocol, ip, port), the preferred first."""
        return [(candidate.protocol, candidate.ip, candidate.port) for candidate in self.info.candidates]

    def send(self, *commands: border.AnyCommand) -> None:
        """In order, without waiting; a refusal comes back as a `Rejected` event."""
        self.unshown.sent(commands)
        self._controller.send(commands)

    def remember(self, key: str, value: bytes, *, or_none: bool = False) -> None:
        """Leaves `value` with the worker, so that a restarted signaling process finds it.

        or_none: where it is too long, or the worker has no room for it, what was remembered before is forgotten.
        """
        if len(value) > control.MAX_VALUE_BYTES:
            log.error("memory_too_long", extra={"worker": self.id, "key": key, "bytes": len(value)})
            if or_none:
                self.forget(key)
            return
        self._controller.send([control.Remember(key=key, value=value, or_none=or_none)])

    def forget(self, key: str) -> None:
        self._controller.send([control.Forget(key=key)])

    async def recall(self) -> dict[str, bytes]:
        """All that is remembered. `NodeError` if the worker does not answer."""
        future: asyncio.Future[dict[str, bytes]] = asyncio.get_running_loop().create_future()
        self._recalls.append((future, {}))
        self._controller.send([control.Recall()])
        memory: dict[str, bytes] = await self._answer(future)
        return memory

    async def counters(self) -> control.Counters:
        """`NodeError` if the worker does not answer."""
        request, future = self._request("counters")
        self._controller.send([control.GetCounters(request=request)])
        counters: control.Counters = await self._answer(future)
        return counters

    async def room_stats(self, room: int) -> border.RoomStats:
        """`NodeError` if the worker does not answer."""
        request, future = self._request("room_stats")
        self._controller.send([border.GetRoomStats(request=request, room=room)])
        stats: border.RoomStats = await self._answer(future)
        return stats

    async def trace(self, transport: int, seconds: float) -> tuple[Trace, bytes]:
        """Begins a trace; with its first lines. `TraceRefused`, or `NodeError` if the worker does not answer."""
        if not self.alive:
            raise NodeError(f"worker {self.id} is gone")
        trace = Trace(self, seconds)
        self._traces[trace.id] = trace
        self._controller.send([border.StartTrace(trace=trace.id, transport=transport, seconds=seconds)])
        try:
            async with asyncio.timeout(_REPLY_TIMEOUT_SECONDS):
                lines = await anext(trace)
        except TimeoutError:
            trace.stop()
            raise NodeError(f"worker {self.id} did not answer in {_REPLY_TIMEOUT_SECONDS:g} s") from None
        except BaseException:
            trace.stop()
            raise
        if trace.end in (border.TraceEnd.UNKNOWN_TRANSPORT, border.TraceEnd.TOO_MANY):
            trace.stop()
            raise TraceRefused(trace.end)
        return trace, lines

    def drain(self, deadline_seconds: float) -> None:
        """Exit when empty, or at the deadline."""
        self._controller.send([control.Drain(deadline_seconds=deadline_seconds)])

    def _request(self, kind: str) -> tuple[int, asyncio.Future[Any]]:
        self._requests += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[kind, self._requests] = future
        return self._requests, future

    async def _answer(self, future: asyncio.Future[Any]) -> Any:
        if not self.alive:
            raise NodeError(f"worker {self.id} is gone")
        try:
            async with asyncio.timeout(_REPLY_TIMEOUT_SECONDS):
                return await future
        except TimeoutError:
            raise NodeError(f"worker {self.id} did not answer in {_REPLY_TIMEOUT_SECONDS:g} s") from None

    def _received(self, message: control.Upward) -> None:
        match message:
            case control.Pong(loop_lag_seconds=lag):
                self._last_pong = asyncio.get_running_loop().time()
                self.loop_lag_seconds = lag
            case control.Counters(request=request):
                self._resolve("counters", request, message)
            case border.RoomStats(request=request):
                self._resolve("room_stats", request, message)
            case border.Trace():
                self._take_trace(message)
            case control.Memory(items=items, last=last):
                self._take_memory(items, last)
            case control.Fault(code=code, message=text):
                log.warning("worker_fault", extra={"worker": self.id, "code": code, "reason": text})
                self._is_taken = self._is_taken or code == "replaced"
            case control.Welcome():
                pass
            case event:
                if isinstance(event, border.Overload):
                    self.overload = event
                self._node._event(self, event)

    def _take_memory(self, items: Sequence[control.MemoryItem], last: bool) -> None:
        if not self._recalls:
            return
        future, gathered = self._recalls[0]
        gathered.update({item.key: item.value for item in items})
        if last:
            del self._recalls[0]
            if not future.done():
                future.set_result(gathered)

    def _take_trace(self, chunk: border.Trace) -> None:
        trace = self._traces.get(chunk.trace)
        if trace is not None:
            trace._chunks.put_nowait(chunk)
        elif chunk.end is None:
            # Of a predecessor, or given up: nobody reads it.
            self.send(border.StopTrace(trace=chunk.trace))

    def _resolve(self, kind: str, request: int, message: object) -> None:
        future = self._pending.pop((kind, request), None)
        if future is not None and not future.done():
            future.set_result(message)

    def _fail_pending(self) -> None:
        for trace in self._traces.values():
            trace._chunks.put_nowait(None)
        futures = [*self._pending.values(), *(future for future, _ in self._recalls)]
        self._pending.clear()
        self._recalls.clear()
        for future in futures:
            if not future.done():
                future.set_exception(NodeError(f"worker {self.id} is gone"))
                # Whoever asked may have stopped waiting.
                future.exception()


EventCallback: TypeAlias = Callable[[WorkerHandle, border.AnyEvent], None]
LostCallback: TypeAlias = Callable[[WorkerHandle], None]


class Process:
    """A worker's process, ours or one left by a predecessor: watched and signalled by pidfd, so never a stranger."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._child = child
        self._fd = os.pidfd_open(pid)

    def watch(self, exited: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def readable() -> None:
            loop.remove_reader(self._fd)
            if self._child is not None:
                self._child.poll()
            exited()

        loop.add_reader(self._fd, readable)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def kill_and_reap(self) -> None:
        """For a process that nobody waits for: what is left of it goes when it is gone."""
        self.kill()
        self.watch(self.close)

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    async def wait(self) -> None:
        """Until the process is gone and, if it was our child, reaped."""
        exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.watch(lambda: None if exited.done() else exited.set_result(None))
        await exited


class Node:
    """All workers of this machine that belong to this signaling process.

    Callbacks run on the event loop and must not block. `on_lost` is called once per worker, and after it no event of
    that worker; a replacement is started by itself and announced by `on_started`.
    """

    def __init__(
        self,
        settings: NodeSettings,
        on_event: EventCallback,
        on_lost: LostCallback,
        on_started: Callable[[WorkerHandle], None] | None = None,
        log_style: LogStyle = JSON_FROM_INFO,
    ) -> None:
        self.settings = settings
        self._log_style = log_style
        self.count = settings.workers or len(os.sched_getaffinity(0))
        self._on_event = on_event
        self._on_lost = on_lost
        self._on_started = on_started
        self._workers: dict[int, WorkerHandle] = {}
        self._failures: dict[int, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._claim: int | None = None
        self._run_directory = settings.run_directory or default_run_directory(settings.udp_port)
        addresses = own_addresses()
        self._addresses = announced_addresses(settings, addresses)
        self._core_config = core_config(settings, pin_source=len(addresses) > 1)
        self._digest = configuration_digest(settings, self.count, self._addresses)

    @property
    def workers(self) -> list[WorkerHandle]:
        """Those alive now, by index."""
        return [self._workers[index] for index in sorted(self._workers)]

    async def start(self) -> list[WorkerHandle]:
        """Attaches to workers that a predecessor left, starts the rest. `NodeError` if there is none then.

        A predecessor that has not ended yet is waited for; one that does not end is a `NodeError` as well. A worker
        that does not come up costs the others nothing, as they may have calls: it is tried again and again.
        """
        prepare_run_directory(self._run_directory)
        self._claim = await _claimed(self._run_directory)
        await self._adopt()
        missing = [index for index in range(self.count) if index not in self._workers]
        results = await asyncio.gather(*map(self._launch, missing), return_exceptions=True)
        failures = {
            index: result for index, result in zip(missing, results, strict=True) if isinstance(result, BaseException)
        }
        for failure in failures.values():
            if not self._workers or not isinstance(failure, NodeError):
                await self.detach()
                raise failure
        for index, failure in failures.items():
            log.error("worker_start_failed", extra={"index": index, "reason": str(failure)})
            self._spawn(self._replace(index))
        self._spawn(self._heartbeat_forever())
        return self.workers

    async def stop(self, deadline_seconds: float) -> None:
        """Drains every worker and kills those that are not empty at the deadline."""
        self._stopping = True
        self._cancel_tasks()
        workers = self.workers
        for worker in workers:
            worker.drain(deadline_seconds)
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(self._await_exit(worker, deadline_seconds))
        self._give_way()

    async def detach(self) -> None:
        """Lets go of the workers: they forward on, and the next node with these settings finds them."""
        self._stopping = True
        self._cancel_tasks()
        for worker in self.workers:
            self._drop(worker, "detached")
            worker._process.close()
        self._give_way()

    def _give_way(self) -> None:
        """The next node may have the run directory."""
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _adopt(self) -> None:
        for path in sorted(self._run_directory.glob("*.sock")):
            try:
                async with asyncio.timeout(_ATTACH_TIMEOUT_SECONDS):
                    controller, info = await self._attach(path)
                process = Process(info.pid, None)
            except (OSError, control.ControlError, TimeoutError) as error:
                log.info("stale_worker_socket", extra={"path": path.name, "reason": str(error)})
                _remove_traces(path)
                continue
            if info.configuration == self._digest and info.index < self.count and info.index not in self._workers:
                self._take(controller, info, process)
                log.info("worker_adopted", extra={"worker": info.worker, "pid": info.pid})
            else:
                # It serves its rooms to their end under the old settings; new ones go to its successor.
                controller.send([control.Drain(deadline_seconds=_OLD_WORKER_DRAIN_SECONDS)])
                controller.listen(lambda _: None, lambda _: None)
                process.close()
                log.info("worker_outdated", extra={"worker": info.worker, "pid": info.pid})

    async def _launch(self, index: int) -> WorkerHandle:
        worker = f"{index}-{secrets.token_hex(4)}"
        socket = self._run_directory / f"{worker}.sock"
        cores = sorted(os.sched_getaffinity(0))
        launch = Launch(
            worker=worker,
            index=index,
            socket=str(socket),
            configuration=self._digest,
            addresses=self._addresses,
            udp_port=self.settings.udp_port + index if self.settings.udp_port else 0,
            port_step=self.count,
            core=self._core_config,
            cpu=cores[index % len(cores)] if self.settings.pin_cpu else None,
            memory_max_bytes=self.settings.memory_max_bytes,
            memory_shares=(
                self.settings.memory_no_joins,
                self.settings.memory_no_caches,
                self.settings.memory_no_idlers,
            ),
            controller_max_queue_bytes=self.settings.controller_max_queue_bytes,
            orphan_timeout_seconds=self.settings.orphan_timeout_seconds,
            idle_orphan_timeout_seconds=self.settings.idle_orphan_timeout_seconds,
            log=self._log_style,
        )
        launch_file = socket.with_suffix(".json")
        try:
            launch_file.write_bytes(msgspec.json.encode(launch))
            # ASYNC220: it returns at once, and the exit is watched by pidfd. S603: the arguments are all ours.
            child = subprocess.Popen(  # noqa: ASYNC220, S603
                [sys.executable, "-m", "sfu.worker", str(launch_file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
            socket.with_suffix(".pid").write_text(f"{child.pid}\n", encoding="ascii")
            process = Process(child.pid, child)
        except OSError as error:
            # No memory, no process, no room on the disk: what did begin ends by itself, as nobody attaches to it.
            _remove_traces(socket)
            raise NodeError(f"worker {index} did not start: {error}") from error
        try:
            async with asyncio.timeout(self.settings.start_timeout_seconds):
                controller, info = await self._attach_when_up(socket, child)
        except (OSError, control.ControlError, NodeError) as error:
            process.kill_and_reap()
            _remove_traces(socket)
            reason = str(error) or f"no answer in {self.settings.start_timeout_seconds:g} s"
            raise NodeError(f"worker {index} did not start: {reason}") from error
        return self._take(controller, info, process)

    async def _attach_when_up(
        self, path: Path, child: subprocess.Popen[bytes]
    ) -> tuple[control.Controller, control.Welcome]:
        while True:
            status = child.poll()
            if status is not None:
                raise NodeError(f"its process ended with status {status}, see its log")
            try:
                return await self._attach(path)
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(_START_POLL_SECONDS)

    async def _attach(self, path: Path) -> tuple[control.Controller, control.Welcome]:
        return await control.attach(path, f"signaling {os.getpid()}", self.settings.controller_max_queue_bytes)

    def _take(self, controller: control.Controller, info: control.Welcome, process: Process) -> WorkerHandle:
        worker = WorkerHandle(self, controller, info, process)
        self._workers[info.index] = worker
        process.watch(lambda: self._lose(worker, "its process ended"))
        controller.listen(worker._received, lambda reason: self._disconnected(worker, controller, reason))
        return worker

    # --- watching ----------------------------------------------------------------------------------------------------

    def _event(self, worker: WorkerHandle, event: border.AnyEvent) -> None:
        if worker.alive:
            self._on_event(worker, event)

    def _disconnected(self, worker: WorkerHandle, controller: control.Controller, reason: str) -> None:
        if not worker.alive or self._stopping or worker._controller is not controller:
            return
        if worker._is_taken:
            self._lose(worker, "another controller has taken it")
        else:
            self._spawn(self._reattach(worker, reason))

    async def _reattach(self, worker: WorkerHandle, reason: str) -> None:
        """The connection broke; if the process lives, so do its calls. A snapshot makes good what was missed."""
        path = self._run_directory / f"{worker.id}.sock"
        try:
            async with asyncio.timeout(_ATTACH_TIMEOUT_SECONDS):
                controller, _ = await self._attach(path)
        except (OSError, control.ControlError, TimeoutError):
            self._lose(worker, reason)
            return
        if not worker.alive:
            controller.close("the worker is gone")
            return
        log.warning("worker_reattached", extra={"worker": worker.id, "reason": reason})
        worker._controller = controller
        controller.listen(worker._received, lambda reason: self._disconnected(worker, controller, reason))
        worker.send(border.TakeSnapshot())

    def _lose(self, worker: WorkerHandle, reason: str) -> None:
        """Once per worker. Killed for good measure: a worker that comes back to life must not forward as well.

        One that was taken is left to whoever has it: two that take it from each other would do so without end.
        """
        if not worker.alive:
            return
        log.error("worker_lost", extra={"worker": worker.id, "pid": worker.info.pid, "reason": reason})
        if worker._is_taken:
            worker._process.close()
        else:
            worker._process.kill_and_reap()
            _remove_traces(self._run_directory / f"{worker.id}.sock")
        self._drop(worker, reason)
        if not self._stopping:
            self._on_lost(worker)
            if asyncio.get_running_loop().time() - worker._attached_at >= _SETTLED_SECONDS:
                self._failures.pop(worker.index, None)
            self._spawn(self._replace(worker.index))

    def _drop(self, worker: WorkerHandle, reason: str) -> None:
        worker.alive = False
        worker._controller.close(reason)
        worker._fail_pending()
        if self._workers.get(worker.index) is worker:
            del self._workers[worker.index]

    async def _replace(self, index: int) -> None:
        while not self._stopping and index not in self._workers:
            failures = self._failures.get(index, 0)
            self._failures[index] = failures + 1
            await asyncio.sleep(backoff_seconds(failures, self.settings.restart_backoff_max_seconds))
            try:
                worker = await self._launch(index)
            except NodeError as error:
                log.error("worker_restart_failed", extra={"index": index, "reason": str(error)})
            else:
                if self._on_started is not None:
                    self._on_started(worker)

    async def _heartbeat_forever(self) -> None:
        loop = asyncio.get_running_loop()
        request = 0
        while True:
            before = loop.time()
            await asyncio.sleep(self.settings.heartbeat_interval_seconds)
            now = loop.time()
            # If this loop was held up, unread answers are waiting: that is no silence of the worker's.
            own_lag = now - before - self.settings.heartbeat_interval_seconds
            request += 1
            for worker in self.workers:
                if own_lag > self.settings.heartbeat_interval_seconds:
                    worker._last_pong = max(worker._last_pong, now - self.settings.heartbeat_interval_seconds)
                elif now - worker._last_pong > self.settings.heartbeat_timeout_seconds:
                    self._lose(worker, "it does not answer")
                    continue
                worker._controller.send([control.Ping(request=request)])

    # --- stopping ----------------------------------------------------------------------------------------------------

    async def _await_exit(self, worker: WorkerHandle, deadline_seconds: float) -> None:
        process = worker._process
        try:
            async with asyncio.timeout(deadline_seconds + 2 * _START_POLL_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._drop(worker, "stopped")
        process.close()
        _remove_traces(self._run_directory / f"{worker.id}.sock")

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()


# --- pure --------------------------------------------------------------------------------------------------------


class Unshown:
    """Numbers of what is added or removed after a snapshot was asked for: a worker acts in order, so it misses the
    one and has the other still. Those of the last snapshot that was asked for."""

    def __init__(self) -> None:
        self._numbers: set[int] | None = None

    def sent(self, commands: Iterable[border.AnyCommand]) -> None:
        for command in commands:
            match command:
                case border.TakeSnapshot():
                    self._numbers = set()
                case border.AddTransport(transport=number) | border.RemoveTransport(transport=number):
                    self._add(number)
                case border.AddUptrack(uptrack=number) | border.RemoveUptrack(uptrack=number):
                    self._add(number)
                case border.AddDowntrack(downtrack=number) | border.RemoveDowntrack(downtrack=number):
                    self._add(number)
                case _:
                    pass

    def end(self) -> frozenset[int]:
        """Of the snapshot that is looked at now."""
        numbers, self._numbers = frozenset(self._numbers or ()), None
        return numbers

    def _add(self, number: int) -> None:
        if self._numbers is not None:
            self._numbers.add(number)


def place(room: str, loads: Mapping[str, float]) -> str:
    """The worker for a new room: the least loaded; among equals one that follows from the room's name.

    loads: by worker id; any measure that grows with use, the same for all. `ValueError` if there is no worker.
    """
    if not loads:
        raise ValueError("no worker is alive")
    return min(loads, key=lambda worker: (loads[worker], hashlib.sha256(f"{worker}/{room}".encode()).digest()))


def backoff_seconds(failures: int, limit_seconds: float) -> float:
    """0.1 s doubled for each failure before, up to the limit."""
    return float(min(_BACKOFF_FIRST_SECONDS * 2 ** min(failures, 32), limit_seconds))


def announced_addresses(settings: NodeSettings, interfaces: Sequence[str]) -> tuple[str, ...]:
    """What clients are told: the setting, or the address bound to, or those of the interfaces that they may reach.

    Loopback stands in only where nothing else would: clients never offer it, but reach it from their own addresses.
    """
    if settings.node_ip:
        return tuple(map(str, settings.node_ip))
    if not settings.bind.is_unspecified:
        return (str(settings.bind),)
    families = {4} if settings.bind.version == 4 else {4, 6}
    usable = [
        text
        for text in interfaces
        if (ip := ipaddress.ip_address(text)).version in families and not ip.is_loopback and not ip.is_link_local
    ]
    # IPv4 first: the more of clients can use it.
    return tuple(sorted(usable, key=lambda text: ipaddress.ip_address(text).version)) or ("127.0.0.1",)


def core_config(settings: NodeSettings, *, pin_source: bool) -> dict[str, Any]:
    """The core's configuration map (`sfu/core/py/src/config.rs`), without the port."""
    return {
        "bind": str(settings.bind),
        "receive_buffer_bytes": settings.receive_buffer_bytes,
        "send_buffer_bytes": settings.send_buffer_bytes,
        "pin_source": pin_source and settings.bind.is_unspecified,
        "tick_microseconds": settings.tick_microseconds,
        "queue_capacity": settings.queue_capacity,
        "tcp": settings.tcp,
        "tcp_max_connections": settings.tcp_max_connections,
        "tcp_unauthenticated_timeout_ms": round(settings.tcp_unauthenticated_timeout_seconds * 1000),
        "tcp_max_queue_bytes": settings.tcp_max_queue_bytes,
        "engine": settings.engine.model_dump(),
    }


def configuration_digest(settings: NodeSettings, count: int, addresses: Sequence[str]) -> str:
    """Equal for two nodes exactly if they would start the same workers."""
    described = [settings.model_dump_json(exclude={"run_directory"}), str(count), *addresses, _build()]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()


# --- the machine -------------------------------------------------------------------------------------------------


def own_addresses() -> list[str]:
    """Addresses of this machine's interfaces, in their order, without scopes."""
    found = [ip.ip if isinstance(ip.ip, str) else ip.ip[0] for adapter in ifaddr.get_adapters() for ip in adapter.ips]
    return list(dict.fromkeys(found))


def default_run_directory(udp_port: int) -> Path:
    """Of this user and media port. Without a fixed port nothing tells nodes apart: then of this process."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    name = f"callyard-{os.getuid()}" if "XDG_RUNTIME_DIR" not in os.environ else "callyard"
    return base / name / (str(udp_port) if udp_port else f"process-{os.getpid()}")


def run_directory(settings: NodeSettings) -> Path | None:
    """Where a node with these settings leaves what its successor must find; None if there can be no successor."""
    if settings.run_directory is None and not settings.udp_port:
        return None
    return settings.run_directory or default_run_directory(settings.udp_port)


def prepare_run_directory(path: Path) -> None:
    """Makes it ours alone. `NodeError` if it is not: whoever can write there commands the workers."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise NodeError(f"the run directory {path} cannot be made: {error.strerror}") from error
    parent, about = path.parent.stat(), path.lstat()
    if parent.st_uid not in {os.getuid(), 0} or parent.st_mode & 0o1002 == 0o0002:
        raise NodeError(f"{path.parent}, where the run directory lies, belongs to, or is writable by, others")
    if about.st_uid != os.getuid() or about.st_mode & 0o022 or path.is_symlink():
        raise NodeError(f"the run directory {path} belongs to, or is writable by, others")
    if len(os.fsencode(path)) + len("/999-01234567.sock") > _MAX_SOCKET_PATH_BYTES:
        raise NodeError(f"the run directory {path} is too long for a socket's path; set a shorter one")


async def _claimed(directory: Path) -> int:
    """Return a descriptor that stands for the right to a directory's workers; the kernel takes it from the dead.

    Two nodes would take the workers from each other, or drain those of the other. `NodeError` if another one stays.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        async with asyncio.timeout(_PREDECESSOR_SECONDS):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_START_POLL_SECONDS)
                else:
                    return descriptor
    except TimeoutError:
        os.close(descriptor)
        raise NodeError(
            f"another server uses the run directory {directory}; give this one a media port (CALLYARD_NODE_UDP_PORT) "
            "or a run directory (CALLYARD_NODE_RUN_DIRECTORY) of its own"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise NodeError(f"the run directory {directory} cannot be locked: {error}") from error


def _remove_traces(socket: Path) -> None:
    for suffix in (".sock", ".json", ".pid"):
        socket.with_suffix(suffix).unlink(missing_ok=True)


def _build() -> str:
    from sfu import _core  # placement and settings must be usable without the compiled core

    return _core.__version__
