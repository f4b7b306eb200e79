"""The edge around rooms without HTTP: with workers in memory, which note what they are sent, or with real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from livekit.protocol import models, rtc
from livekit.protocol.webhook import WebhookEvent
from prometheus_client import CollectorRegistry

from sfu import border
from sfu.border import AnyCommand, AnyEvent, Fingerprint, TransportStatus
from sfu.node import Node, Unshown, WorkerHandle
from sfu.sdp import Direction
from signaling.kept_cutoffs import KeptCutoffs
from signaling.rooms.effects import SessionId
from signaling.rooms.grants import Grants
from signaling.rooms.presence import JoinParameters
from signaling.runtime import Hosted, Rooms
from signaling.runtime_metrics import RoomMetrics
from signaling.settings import Settings
from signaling.wire.livekit.frames import Frame
from tests.signaling.rooms.world import Section, offer_of

SECRET = "a secret of thirty-two bytes or so"


# --- a worker in memory ---------------------------------------------------------------------------------------------


@dataclass
class Info:
    fingerprint: Fingerprint = field(default_factory=lambda: Fingerprint(algorithm="sha-256", value="AA"))


@dataclass(eq=False)
class MemoryWorker:
    """What `WorkerHandle` offers, without a process. `log`: everything that was sent, in order."""

    id: str
    events: Callable[[Any, AnyEvent], None] | None = None
    alive: bool = True
    info: Info = field(default_factory=Info)
    log: list[Any] = field(default_factory=list)
    memory: dict[str, bytes] = field(default_factory=dict)
    transports: dict[int, border.AddTransport] = field(default_factory=dict)
    candidates: list[tuple[str, str, int]] = field(default_factory=lambda: [("udp", "192.0.2.7", 7882)])
    unshown: Unshown = field(default_factory=Unshown)
    overload: border.Overload = border.NO_OVERLOAD
    value_max_bytes: int = 1 << 20

    def send(self, *commands: AnyCommand) -> None:
        self.unshown.sent(commands)
        for command in commands:
            self.log.append(command)
            match command:
                case border.AddTransport():
                    self.transports[command.transport] = command
                case border.RemoveTransport():
                    self.transports.pop(command.transport, None)
                case border.TakeSnapshot():
                    assert self.events is not None
                    asyncio.get_running_loop().call_soon(self.events, self, self.snapshot())
                case _:
                    pass

    def snapshot(self) -> border.Snapshot:
        return border.Snapshot(
            transports=tuple(
                border.TransportSummary(transport=n, room=one.room, state=TransportStatus.CONNECTED, channels=())
                for n, one in self.transports.items()
            )
        )

    def remember(self, key: str, value: bytes, *, or_none: bool = False) -> None:
        self.log.append(("remember", key))
        if len(value) <= self.value_max_bytes:
            self.memory[key] = value
        elif or_none:
            self.memory.pop(key, None)

    def forget(self, key: str) -> None:
        self.log.append(("forget", key))
        self.memory.pop(key, None)

    async def recall(self) -> dict[str, bytes]:
        return dict(self.memory)


@dataclass
class MemoryNode:
    workers: list[MemoryWorker]
    count: int = 2

    async def start(self) -> list[MemoryWorker]:
        return self.workers


# --- connections, and the edge --------------------------------------------------------------------------------------


@dataclass(eq=False)
class Signal:
    """One signal connection; notes what it is sent, and where that stands among the worker's commands."""

    worker_log: list[Any] = field(default_factory=list)
    messages: list[rtc.SignalResponse] = field(default_factory=list)
    closed: str | None = None
    number: SessionId = 0

    def send(self, frame: Frame) -> None:
        self.messages.append(rtc.SignalResponse.FromString(frame.binary))
        self.worker_log.append(("told", frame.message.WhichOneof("message")))

    def close(self, reason: str) -> None:
        self.closed = reason

    def kinds(self) -> list[str]:
        return [message.WhichOneof("message") or "" for message in self.messages]

    @property
    def sid(self) -> str:
        return str(self.messages[0].join.participant.sid)

    @property
    def leave(self) -> rtc.LeaveRequest:
        assert self.messages[-1].WhichOneof("message") == "leave"
        return self.messages[-1].leave


@dataclass
class Edge:
    rooms: Rooms
    workers: list[MemoryWorker]
    events: list[WebhookEvent]
    metrics: CollectorRegistry

    @classmethod
    async def start(
        cls, workers: list[MemoryWorker] | None = None, *, cutoffs: Path | None = None, **settings: Any
    ) -> Edge:
        events: list[WebhookEvent] = []
        registry = CollectorRegistry()
        made = Settings(key="devkey", secret=SECRET, **settings)
        rooms = Rooms(made, RoomMetrics(registry), events.append, cutoffs=KeptCutoffs(cutoffs, made.rooms))
        there = [MemoryWorker("0-a"), MemoryWorker("1-b")] if workers is None else workers
        rooms.node = cast(Node, MemoryNode(there))
        for worker in there:
            worker.events = rooms._event
        await rooms.start()
        return cls(rooms, there, events, registry)

    def grants(self, identity: str = "alice", room: str = "lobby", **more: Any) -> Grants:
        key = next(iter(self.rooms.settings.keyring))
        return Grants(key=key, identity=identity, room=room, room_join=True, **more)

    def parameters(self, identity: str = "alice", room: str = "lobby", **more: Any) -> JoinParameters:
        grants = more.pop("grants", None) or self.grants(identity, room)
        sections = [Section(str(n), "audio" if n < 2 else "video", Direction.RECVONLY) for n in range(4)]
        offer = rtc.SessionDescription(type="offer", sdp=offer_of(sections), id=1)
        client = models.ClientInfo(protocol=17)
        return JoinParameters(grants=grants, client=client, is_single=True, offer=offer, **more)

    async def join(self, identity: str = "alice", room: str = "lobby", **more: Any) -> Signal:
        parameters = await self.rooms.admit(self.parameters(identity, room, **more))
        hosted = self.rooms.hosted.get(room)
        log: list[Any] = getattr(hosted.worker, "log", []) if hosted is not None else []
        signal = Signal(log)
        signal.number = self.rooms.connect(signal, parameters)
        return signal

    def hosted(self, room: str = "lobby") -> Hosted:
        return self.rooms.find(room)

    def worker_of(self, room: str = "lobby") -> MemoryWorker:
        return cast(MemoryWorker, self.hosted(room).worker)

    def says(self, worker: MemoryWorker, event: AnyEvent) -> None:
        if isinstance(event, border.Overload):
            worker.overload = event
        self.rooms._event(cast(WorkerHandle, worker), event)

    def connect(self, signal: Signal, room: str = "lobby") -> None:
        participant = self.hosted(room).room.core.participants[signal.sid]
        state = TransportStatus.CONNECTED
        self.says(
            self.worker_of(room),
            border.TransportState(transport=participant.publisher.transport, state=state, reason=""),
        )

    def lose(self, worker: MemoryWorker) -> None:
        worker.alive = False
        self.workers.remove(worker)
        self.rooms._worker_lost(cast(WorkerHandle, worker))

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def real(run_directory: Path) -> AsyncIterator[Edge]:
    settings = Settings(
        key="devkey",
        secret=SECRET,
        node={"workers": 1, "udp_port": 0, "run_directory": run_directory},
    )
    registry = CollectorRegistry()
    rooms = Rooms(settings, RoomMetrics(registry), lambda _: None)
    await rooms.start()
    try:
        yield Edge(rooms, [], [], registry)
    finally:
        if not rooms.node._stopping:
            await rooms.node.stop(0)


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it does not come to hold")
