"""The load generator: a process of its own that is thousands of light WebRTC clients, driven from asyncio.

`python -m sfu.load` obeys commands on its standard input (`sfu/core/load/src/protocol.rs` has the same types) and
reports on its standard output, framed as on a worker's control socket. It knows addresses, credentials, payload types
and rates; whoever drives it speaks the server's signaling. Not here: rooms, tokens, SDP, scenarios.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, cast

import msgspec

from sfu import control, open_files
from sfu.border import DtlsRole, Fingerprint, IceCredentials, Value

_ANSWER_TIMEOUT_SECONDS = 30.0


class LoadError(Exception):
    """The generator is gone, or a command made no sense to it."""


class Codec(StrEnum):
    VP8 = "vp8"
    VP9 = "vp9"
    H264 = "h264"
    OPUS = "opus"

    @property
    def mime(self) -> str:
        return "audio/opus" if self is Codec.OPUS else f"video/{self.value.upper()}"


class ExtensionIds(Value, frozen=True, kw_only=True):
    """Header extension ids; None: not negotiated."""

    mid: int | None = None
    rid: int | None = None
    repaired_rid: int | None = None
    transport_seq: int | None = None
    abs_send_time: int | None = None
    audio_level: int | None = None


# --- commands --------------------------------------------------------------------------------------------------------


class Command(Value, frozen=True, kw_only=True, tag_field="type"):
    """Base of all commands; they are obeyed in order, and what makes no sense comes back as `Refused`."""


class Setup(Command, frozen=True, kw_only=True, tag="setup"):
    certificate_der: bytes
    key_der: bytes
    tick_us: int = 500
    """The generator looks at its sockets this often, and never waits for them."""
    gro: bool = False
    """Take runs of datagrams from the kernel unsegmented: the sender's kernel is then spared cutting them."""
    feedback_ms: int = 100
    receive_buffer_bytes: int = 1024 * 1024
    loss: float = 0.0
    """Share of media packets, in each direction, that never arrive: 0 to less than 1."""


class Open(Command, frozen=True, kw_only=True, tag="open"):
    transport: int
    local: IceCredentials
    remote: IceCredentials
    fingerprints: tuple[Fingerprint, ...]
    role: DtlsRole
    """The generator's."""
    address: str
    """`ip:port`."""
    controlling: bool = True
    """The generator's role in ICE: true unless a full agent made the offer (RFC 8445 §6.1.1)."""
    external_dtls: bool = False
    """The handshake is made elsewhere: its datagrams come up as `DtlsDatagram`."""


class SendDtls(Command, frozen=True, kw_only=True, tag="send_dtls"):
    transport: int
    datagram: bytes


class SetKeys(Command, frozen=True, kw_only=True, tag="set_keys"):
    """The outcome of a handshake made elsewhere; `profile` is the number of RFC 5764 §4.1.2."""

    transport: int
    profile: int
    local_key: bytes
    local_salt: bytes
    remote_key: bytes
    remote_salt: bytes


class Encoding(Value, frozen=True, kw_only=True):
    ssrc: int
    packets_per_second: float
    payload_bytes: int
    """Of an RTP payload, its descriptor included."""
    rid: str | None = None
    rtx_ssrc: int | None = None


class Publish(Command, frozen=True, kw_only=True, tag="publish"):
    transport: int
    stream: int
    codec: Codec
    pt: int
    mid: str
    extensions: ExtensionIds
    frames_per_second: float
    """Video: pictures; audio: packets."""
    encodings: tuple[Encoding, ...]
    """Lowest layer first."""
    rtx_pt: int | None = None
    phase_us: int = 0


class SetEncodings(Command, frozen=True, kw_only=True, tag="set_encodings"):
    """Which encodings are sent, lowest first; one that is resumed begins with a key frame."""

    stream: int
    active: tuple[bool, ...]


class ReceiveCodec(Value, frozen=True, kw_only=True):
    pt: int
    codec: Codec
    rtx_pt: int | None = None


class Repair(Value, frozen=True, kw_only=True):
    rtx_ssrc: int
    ssrc: int


class Receive(Command, frozen=True, kw_only=True, tag="receive"):
    """What the server may send; replaces what was said before."""

    transport: int
    codecs: tuple[ReceiveCodec, ...]
    extensions: ExtensionIds
    repairs: tuple[Repair, ...] = ()
    nack: bool = True


class Close(Command, frozen=True, kw_only=True, tag="close"):
    transport: int
    abrupt: bool = False
    """Without a word to the server."""


class GetStats(Command, frozen=True, kw_only=True, tag="get_stats"):
    request: int
    reset: bool


class OpenSinks(Command, frozen=True, kw_only=True, tag="open_sinks"):
    request: int
    count: int


# --- reports ---------------------------------------------------------------------------------------------------------


class State(StrEnum):
    CHECKED = "checked"
    """An ICE check was answered: an external handshake may begin."""
    CONNECTED = "connected"
    FAILED = "failed"
    CLOSED = "closed"


class Report(Value, frozen=True, kw_only=True, tag_field="type"):
    """Base of all reports."""


class TransportState(Report, frozen=True, kw_only=True, tag="transport_state"):
    transport: int
    state: State
    reason: str
    cipher: str
    ice_us: int
    """From `Open` to the first answered check; `dtls_us`: to the keys."""
    dtls_us: int


class FirstMedia(Report, frozen=True, kw_only=True, tag="first_media"):
    """Audio's first packet, or the end of video's first picture."""

    transport: int
    video: bool
    after_us: int


class DtlsDatagram(Report, frozen=True, kw_only=True, tag="dtls_datagram"):
    transport: int
    datagram: bytes


class Summary(Value, frozen=True, kw_only=True):
    count: int
    mean_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int


class MediaStats(Value, frozen=True, kw_only=True):
    sent_packets: int
    sent_bytes: int
    streams: int
    received_packets: int
    received_bytes: int
    expected: int
    lost: int
    recovered: int
    duplicates: int
    reordered: int
    latency: Summary
    """From just before the publisher's send call to the kernel's time stamp at the receiver."""


class Stats(Report, frozen=True, kw_only=True, tag="stats"):
    """Since the last reset; see `protocol.rs` for each field."""

    request: int
    elapsed_us: int
    transports: int
    connected: int
    audio: MediaStats
    video: MediaStats
    nacks_sent: int
    nacked_received: int
    resent: int
    keyframes_asked: int
    twcc_sent: int
    twcc_received: int
    srtp_refused: int
    rtx_unknown: int
    socket_overflows: int
    """Packets that the generator, not the server, lost."""
    send_failed: int
    send_lateness: Summary
    """How late the generator sent: high figures mean that it was the bottleneck."""
    sink_datagrams: int
    ice_time: Summary
    dtls_time: Summary
    first_media_time: Summary

    @property
    def received_packets(self) -> int:
        return self.audio.received_packets + self.video.received_packets


class Sinks(Report, frozen=True, kw_only=True, tag="sinks"):
    request: int
    addresses: tuple[str, ...]


class Refused(Report, frozen=True, kw_only=True, tag="refused"):
    command: str
    subject: int
    message: str


AnyReport: TypeAlias = TransportState | FirstMedia | DtlsDatagram | Stats | Sinks | Refused
ReportCallback: TypeAlias = Callable[[TransportState | FirstMedia | DtlsDatagram | Refused], None]

_reports = msgspec.msgpack.Decoder(list[AnyReport])


class Generator:
    """A generator process, as an async context manager.

    `on_report` is called on the event loop for whatever is no answer, until the context is left. `cpu`: pin it to this
    core.
    """

    def __init__(self, setup: Setup, on_report: ReportCallback, cpu: int | None = None) -> None:
        self._setup = setup
        self._on_report = on_report
        self._cpu = cpu
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._requests = 0
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._is_left = False

    async def __aenter__(self) -> Generator:
        arguments = [] if self._cpu is None else ["--cpu", str(self._cpu)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sfu.load",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._reading = asyncio.create_task(self._read_forever())
        self.send(self._setup)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._running()
        self._is_left = True
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading

    @property
    def pid(self) -> int:
        return self._running().pid

    def send(self, *commands: Command) -> None:
        """In order, without waiting."""
        stdin = self._running().stdin
        if stdin is None or stdin.is_closing():
            raise LoadError("the generator has ended")
        for frame in control.frames(map(control.encode, commands)):
            stdin.write(frame)

    async def stats(self, *, reset: bool = False) -> Stats:
        """What was counted since the last reset. `LoadError` if the generator does not answer."""
        return cast(Stats, await self._ask(lambda request: GetStats(request=request, reset=reset)))

    async def open_sinks(self, count: int) -> tuple[str, ...]:
        """Addresses of fresh sockets that only count what they get."""
        sinks = cast(Sinks, await self._ask(lambda request: OpenSinks(request=request, count=count)))
        return sinks.addresses

    async def _ask(self, command: Callable[[int], Command]) -> Any:
        self._requests += 1
        request = self._requests
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[request] = future
        self.send(command(request))
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
                return await future
        except TimeoutError:
            raise LoadError(f"the generator did not answer in {_ANSWER_TIMEOUT_SECONDS:g} s") from None
        finally:
            self._pending.pop(request, None)

    async def _read_forever(self) -> None:
        stdout = self._running().stdout
        frames = control.FrameReader()
        while stdout is not None and (data := await stdout.read(1 << 16)):
            for body in frames.feed(data):
                for report in _reports.decode(body):
                    self._take(report)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(LoadError("the generator has ended"))

    def _take(self, report: AnyReport) -> None:
        match report:
            case Stats(request=request) | Sinks(request=request):
                future = self._pending.get(request)
                if future is not None and not future.done():
                    future.set_result(report)
            case Refused(command="get_stats" | "open_sinks", subject=request, message=message):
                future = self._pending.get(request)
                if future is not None and not future.done():
                    future.set_exception(LoadError(message))
            case TransportState() | FirstMedia() | DtlsDatagram() | Refused():
                # Who is driven by these, as by a goodbye to be passed on, could not send any more.
                if not self._is_left:
                    self._on_report(report)

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise LoadError("the generator was not started")
        return self._process


class LimitSpec(Value, frozen=True, kw_only=True):
    """A measurement of the fan-out without protocol, or of a bare `sendto`."""

    destinations: tuple[str, ...]
    bursts_per_second: float
    packets_per_second: float
    payload_bytes: int
    profile: int
    max_segments: int
    bare: bool
    seconds: float


class LimitResult(Value, frozen=True, kw_only=True):
    packets: int
    cpu_ns: int
    failed: int


def measure_limit(spec: LimitSpec) -> LimitResult:
    """Takes `spec.seconds` in the calling thread. `ValueError` if the specification makes no sense."""
    from sfu import _core  # whoever only drives generators needs no compiled core

    return msgspec.msgpack.decode(_core.measure_limit(msgspec.msgpack.encode(spec)), type=LimitResult)


def main(arguments: Sequence[str]) -> int:
    from sfu import _core  # as in measure_limit

    match list(arguments):
        case []:
            pass
        case ["--cpu", number] if number.isdecimal():
            os.sched_setaffinity(0, {int(number)})
        case ["--limit", path]:
            spec = msgspec.json.decode(Path(path).read_bytes(), type=LimitSpec)
            sys.stdout.buffer.write(msgspec.json.encode(measure_limit(spec)))
            return 0
        case _:
            sys.stderr.write("usage: python -m sfu.load [--cpu N | --limit SPECIFICATION]\n")
            return 2
    # A socket for each client.
    open_files.raise_limit()
    _core.run_load(sys.stdin.fileno(), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
