"""The worker process: uvloop hosting the core, and the worker's end of the control socket.

Started by `sfu/node.py` as `python -m sfu.worker LAUNCH_FILE`. Border commands and events pass through unread; only the
messages of `sfu/control.py` are answered here. The process outlives signaling: without a controller it forwards on,
until the orphan timeout. Packets never touch Python.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import resource
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sfu import _core, border, control, memory_limit, open_files

log = logging.getLogger("sfu.worker")

_HELLO_TIMEOUT_SECONDS = 5.0
_BEAT_SECONDS = 0.5
"""All that happens by the clock here happens at once: each wake costs an idle worker more than some packets do."""
_RECV_BYTES = 4 * 1024 * 1024
_QUEUE_RETRY_SECONDS = 0.001
_SIGTERM_DEADLINE_SECONDS = 30.0
_PORT_ATTEMPTS = 32
_PAGE_BYTES = resource.getpagesize()
_BEATS_TO_RARE = 8
"""What is looked for and freed every few seconds only."""


class LogStyle(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker writes its log to stderr."""

    level: str = "info"
    """The least severe that is written: debug, info, warning or error."""
    json: bool = True
    """One JSON object a line; else a line for people."""


JSON_FROM_INFO = LogStyle()


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """All a worker is told at its start; written by the node as the JSON launch file."""

    worker: str
    index: int
    socket: str
    configuration: str
    addresses: tuple[str, ...]
    udp_port: int
    port_step: int
    """Distance of the ports tried when the first is taken: the number of workers, so that they do not collide."""
    core: dict[str, Any]
    cpu: int | None
    memory_max_bytes: int
    memory_shares: tuple[float, float, float] = (0.85, 0.9, 0.95)
    controller_max_queue_bytes: int
    orphan_timeout_seconds: float
    idle_orphan_timeout_seconds: float
    log: LogStyle = JSON_FROM_INFO


class Memory:
    """What signaling leaves with the worker; opaque, bounded."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: dict[str, bytes] = {}
        self.size_bytes = 0

    def remember(self, key: str, value: bytes) -> bool:
        """False, and nothing changes, if it does not fit."""
        old = self._items.get(key)
        freed = len(key) + len(old) if old is not None else 0
        size = self.size_bytes - freed + len(key) + len(value)
        if size > self._max_bytes:
            return False
        self._items[key] = value
        self.size_bytes = size
        return True

    def forget(self, key: str) -> None:
        old = self._items.pop(key, None)
        if old is not None:
            self.size_bytes -= len(key) + len(old)

    def parts(self, part_bytes: int) -> list[control.Memory]:
        """Everything, in messages of about `part_bytes`; at least one."""
        parts: list[list[control.MemoryItem]] = [[]]
        size = 0
        for key, value in self._items.items():
            if parts[-1] and size + len(key) + len(value) > part_bytes:
                parts.append([])
                size = 0
            parts[-1].append(control.MemoryItem(key=key, value=value))
            size += len(key) + len(value)
        last = len(parts) - 1
        return [control.Memory(items=tuple(items), last=number == last) for number, items in enumerate(parts)]


class WorkerProcess:
    """One worker: its core, its controller if there is one, its reasons to exit."""

    def __init__(self, launch: Launch, core: _core.Worker, welcome: control.Welcome) -> None:
        self.launch = launch
        self.welcome = welcome
        self.memory = Memory(launch.memory_max_bytes)
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._core = core
        self._link: Link | None = None
        self._orphan_since = time.monotonic()
        self._drain_deadline: float | None = None
        self._lag = LagMeter()
        self._group: memory_limit.ControlGroup | None = None
        self._pressure = memory_limit.Pressure(launch.memory_shares)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        # The run directory is ours alone; the mode is a second lock.
        os.umask(0o177)
        server = await loop.create_unix_server(lambda: Link(self), self.launch.socket)
        loop.add_reader(self._core.fileno(), self._forward_events)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_terminate)
        self._core.start()
        beat = asyncio.create_task(self._beat_forever())
        log.info("worker_started", extra={"worker": self.launch.worker, "udp_port": self.welcome.udp_port})
        try:
            reason = await self.done
        finally:
            beat.cancel()
            loop.remove_reader(self._core.fileno())
            self._core.stop()
            server.close()
            if self._link is not None:
                self._link.close("exiting", "the worker exits")
        log.info("worker_stopped", extra={"worker": self.launch.worker, "reason": reason})

    def attach(self, link: Link, controller: str) -> None:
        if self._link is not None and self._link is not link:
            self._link.close("replaced", "another controller has attached")
        self._link = link
        log.info("controller_attached", extra={"worker": self.launch.worker, "controller": controller})

    def detach(self, link: Link) -> None:
        if self._link is link:
            self._link = None
            self._orphan_since = time.monotonic()
            log.info("controller_detached", extra={"worker": self.launch.worker})

    def send(self, commands: list[bytes]) -> int:
        """Passes commands to the core; how many it took."""
        taken, refused = self._core.send(commands)
        for index, sentence in refused:
            self._reject(commands[index], sentence)
        return taken

    def drain(self, deadline_seconds: float) -> None:
        self._drain_deadline = time.monotonic() + deadline_seconds
        log.info("worker_draining", extra={"worker": self.launch.worker, "deadline_seconds": deadline_seconds})

    def counters(self, request: int) -> control.Counters:
        counters = msgspec.msgpack.decode(self._core.counters())
        usage = resource.getrusage(resource.RUSAGE_SELF)
        process = {
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "resident_bytes": _resident_bytes(),
            "loop_lag_seconds": self._lag.longest_seconds,
            "memory_bytes": self.memory.size_bytes,
            "uptime_seconds": time.time() - self.welcome.started_at,
            "draining": self._drain_deadline is not None,
        }
        return control.Counters(request=request, net=counters["net"], engine=counters["engine"], process=process)

    def pong(self, request: int) -> control.Pong:
        return control.Pong(request=request, loop_lag_seconds=self._lag.take_longest_seconds())

    def _reject(self, command: bytes, sentence: str) -> None:
        try:
            kind = control.type_of(command)
        except control.ControlError:
            kind = ""
        if self._link is not None:
            self._link.reply(border.Rejected(command=kind, subject=0, code="malformed", message=sentence))

    def _forward_events(self) -> None:
        while events := self._core.recv(_RECV_BYTES):
            if self._link is None:
                continue
            try:
                self._link.pass_on(events)
            except control.ControlError as error:
                # One event may be longer than a batch; those that came with it are lost with it.
                log.error("events_too_long", extra={"worker": self.launch.worker, "reason": str(error)})
                self._link.close("events_lost", "events were lost, take a snapshot")
        failure = self._core.failure()
        if failure is not None and not self.done.done():
            log.error("core_failed", extra={"worker": self.launch.worker, "reason": failure})
            self.done.set_result("the packet thread failed")

    def _on_terminate(self) -> None:
        if self._drain_deadline is None:
            self.drain(_SIGTERM_DEADLINE_SECONDS)
        elif not self.done.done():
            self.done.set_result("terminated twice")

    async def _beat_forever(self) -> None:
        loop = asyncio.get_running_loop()
        beat = 0
        while not self.done.done():
            due = loop.time() + _BEAT_SECONDS
            await asyncio.sleep(_BEAT_SECONDS)
            self._lag.measured(loop.time() - due)
            beat += 1
            self._look_at_memory(beat)
            reason = self._reason_to_exit(time.monotonic())
            if reason is not None and not self.done.done():
                self.done.set_result(reason)

    def _look_at_memory(self, beat: int) -> None:
        is_rare = beat % _BEATS_TO_RARE == 0
        if self._group is None:
            # A limit may be set, or the process moved to a group that has one, at any time.
            self._group = memory_limit.own_group() if is_rare else None
        usage = self._group.usage() if self._group is not None else None
        if usage is None:
            return
        if self._pressure.note(usage):
            level = self._pressure.level
            log.warning("worker_memory", extra={"worker": self.launch.worker, "gives_up": level, **usage._asdict()})
            self.send([control.encode(border.SetMemoryPressure(level=level))])
        if self._pressure.level and is_rare:
            memory_limit.return_to_system()

    def _reason_to_exit(self, now: float) -> str | None:
        if self._core.take_lost_events() and self._link is not None:
            # What was lost can only be made good by a snapshot: let the controller attach anew.
            self._link.close("events_lost", "events were lost, take a snapshot")
        if self._link is not None and self._drain_deadline is None:
            # The counters would wake the packet thread.
            return None
        counters = msgspec.msgpack.decode(self._core.counters())
        transports = sum(counters["engine"]["transports"].values())
        if self._drain_deadline is not None:
            if transports == 0:
                return "drained"
            return "drain deadline" if now >= self._drain_deadline else None
        orphaned = now - self._orphan_since
        limit = self.launch.orphan_timeout_seconds if transports else self.launch.idle_orphan_timeout_seconds
        return "no controller" if orphaned >= limit else None


class Link(asyncio.Protocol):
    """The worker's end of one control connection."""

    def __init__(self, worker: WorkerProcess) -> None:
        self._worker = worker
        self._reader = control.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._greeted = False
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop has its own classes: no isinstance here.
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(
            _HELLO_TIMEOUT_SECONDS, lambda: self.close("hello_missing", "no hello came in time")
        )

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None
        self._worker.detach(self)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._reader.feed(data):
                self._waiting += control.split(body)
            self._work_off()
        except control.ControlError as error:
            self.close("malformed", str(error))

    def reply(self, message: msgspec.Struct) -> None:
        if self._transport is not None and isinstance(message, border.Value):
            for frame in control.frames([control.encode(message)]):
                self._write(frame)

    def pass_on(self, events: bytes) -> None:
        """A msgpack array of events, as the core gives it."""
        if self._greeted:
            self._write(control.frame_array(events))

    def close(self, code: str, message: str) -> None:
        if self._transport is None:
            return
        self.reply(control.Fault(code=code, message=message))
        if self._transport is not None:
            self._transport.close()
        self._worker.detach(self)

    def _write(self, frame: bytes) -> None:
        if self._transport is None:
            return
        self._transport.write(frame)
        if self._transport.get_write_buffer_size() > self._worker.launch.controller_max_queue_bytes:
            log.warning("controller_too_slow", extra={"worker": self._worker.launch.worker})
            self._transport.abort()

    def _work_off(self) -> None:
        """Requests here, commands to the core, in the order they came."""
        waiting, self._waiting = self._waiting, []
        commands: list[bytes] = []
        for position, message in enumerate(waiting):
            if control.type_of(message) not in control.REQUEST_TYPES:
                if not self._greeted:
                    raise control.ControlError("the first message must be hello")
                commands.append(message)
                continue
            if not self._pass_down(commands, waiting[position:]):
                return
            commands = []
            self._obey(control.decode_request(message))
        self._pass_down(commands, [])

    def _pass_down(self, commands: list[bytes], behind: list[bytes]) -> bool:
        """False if the core's queue is full: reading stops until there is room, nothing is lost."""
        if not commands:
            return True
        taken = self._worker.send(commands)
        if taken == len(commands):
            return True
        self._waiting = commands[taken:] + behind
        if self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_QUEUE_RETRY_SECONDS, self._resume)
        return False

    def _resume(self) -> None:
        if self._transport is None:
            return
        self._transport.resume_reading()
        self.data_received(b"")

    def _obey(self, request: control.AnyRequest) -> None:
        worker = self._worker
        if isinstance(request, control.Hello):
            if self._timer is not None:
                self._timer.cancel()
            self._greeted = True
            worker.attach(self, request.controller)
            self.reply(worker.welcome)
            return
        if not self._greeted:
            raise control.ControlError("the first message must be hello")
        match request:
            case control.Remember(key=key, value=value, or_none=or_none):
                if not worker.memory.remember(key, value):
                    if or_none:
                        worker.memory.forget(key)
                    self.reply(control.Fault(code="memory_full", message=f"the memory has no room for {key!r}"))
            case control.Forget(key=key):
                worker.memory.forget(key)
            case control.Recall():
                for part in worker.memory.parts(_RECV_BYTES):
                    self.reply(part)
            case control.GetCounters(request=number):
                self.reply(worker.counters(number))
            case control.Ping(request=number):
                self.reply(worker.pong(number))
            case control.Drain(deadline_seconds=seconds):
                worker.drain(seconds)


class LagMeter:
    """How late the event loop runs its timers: the longest seen."""

    def __init__(self) -> None:
        self.longest_seconds = 0.0

    def measured(self, late_seconds: float) -> None:
        self.longest_seconds = max(self.longest_seconds, late_seconds)

    def take_longest_seconds(self) -> float:
        longest, self.longest_seconds = self.longest_seconds, 0.0
        return longest


class Certificate:
    """A self-signed ECDSA P-256 certificate (RFC 8827 §6.5), made anew for each process and kept in memory only."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "callyard")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=365))
            .sign(key, hashes.SHA256())
        )
        self.certificate_der = certificate.public_bytes(serialization.Encoding.DER)
        self.key_der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.fingerprint = border.Fingerprint(
            algorithm="sha-256", value=certificate.fingerprint(hashes.SHA256()).hex(":").upper()
        )


def bind_core(launch: Launch, certificate: Certificate) -> _core.Worker:
    """The core on the first free port of this worker's row; of any, which TCP may have, if it is 0.

    The last `OSError` if there is none.
    """
    binds = [launch.core["bind"]]
    if binds == ["::"]:
        # A machine without IPv6 still has a "::" in its settings.
        binds.append("0.0.0.0")  # noqa: S104  # media is for everybody; what is accepted, ICE decides
    step = launch.port_step if launch.udp_port else 0
    attempts = [launch.udp_port + step * number for number in range(_PORT_ATTEMPTS)]
    refusal: OSError | None = None
    for port in (port for port in attempts if port < 1 << 16):
        for bind in binds:
            config = msgspec.msgpack.encode({**launch.core, "bind": bind, "udp_port": port})
            try:
                return _core.Worker(config, certificate.certificate_der, certificate.key_der, os.urandom(32))
            except OSError as error:
                refusal = error
                if error.errno == errno.EADDRINUSE:
                    log.warning("port_taken", extra={"worker": launch.worker, "udp_port": port})
                    break
    raise refusal or OSError(errno.EADDRINUSE, "no port is left below 65536")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m sfu.worker LAUNCH_FILE\n")
        return 2
    launch = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Launch)
    _configure_log(launch.log)
    if launch.cpu is not None:
        os.sched_setaffinity(0, {launch.cpu})
    open_files.raise_limit()
    certificate = Certificate()
    try:
        core = bind_core(launch, certificate)
    except OSError as error:
        log.error("bind_failed", extra={"worker": launch.worker, "reason": str(error)})
        return 1
    welcome = control.Welcome(
        version=control.PROTOCOL_VERSION,
        worker=launch.worker,
        index=launch.index,
        pid=os.getpid(),
        build=_core.__version__,
        configuration=launch.configuration,
        udp_port=core.port,
        tcp_port=core.port if launch.core["tcp"] else None,
        addresses=launch.addresses,
        fingerprint=certificate.fingerprint,
        started_at=time.time(),
    )

    async def run() -> None:
        await WorkerProcess(launch, core, welcome).run()

    uvloop.run(run())
    return 0


class LogLines(logging.Formatter):
    """One line a record, as signaling writes its own: event, what the call site adds, level, time."""

    _standard = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        event, level = record.getMessage(), record.levelname.lower()
        timestamp = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        added = {key: value for key, value in vars(record).items() if key not in self._standard}
        if record.exc_info:
            added["exception"] = self.formatException(record.exc_info)
        if self._as_json:
            return json.dumps({**added, "event": event, "level": level, "timestamp": timestamp}, default=str)
        pairs = " ".join(f"{key}={value!r}" for key, value in added.items())
        return f"{timestamp} [{level:<9}] {event:<30} {pairs}"


def _configure_log(style: LogStyle) -> None:
    # Signaling may have died with the other end of our stderr: a log line is not worth an exception.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogLines(as_json=style.json))
    logging.basicConfig(level=style.level.upper(), handlers=[handler])


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
