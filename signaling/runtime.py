"""The edge around rooms: which room lives where, who is connected, and the carrying out of effects in order.

Everything happens on one event loop and without waiting, so a room's effects leave in the order in which it decided
them. What a signaling process knows is left with the workers after every change; a successor finds it there. Not here:
any rule of a room, any route.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog
from livekit.protocol import models, rtc
from livekit.protocol.webhook import WebhookEvent

from sfu import border
from sfu.border import AnyCommand, AnyEvent, IceCredentials
from sfu.node import Node, NodeError, WorkerHandle, place
from signaling import structured_logs, tokens
from signaling.errors import (
    CallFailed,
    InvalidRequest,
    LimitExceeded,
    NotFound,
    Overloaded,
    PermissionDenied,
    Refusal,
    TimedOut,
    Unavailable,
)
from signaling.kept_cutoffs import KeptCutoffs
from signaling.rooms import memory, presence
from signaling.rooms.core import Moment, Reason, RoomCore, ServerFacts, Sources, WorkerSide
from signaling.rooms.data import RpcCode
from signaling.rooms.effects import (
    CloseSignal,
    Dropped,
    Effect,
    Ended,
    Notify,
    ParticipantConnected,
    ParticipantJoined,
    ParticipantLeft,
    RefreshToken,
    RpcEnded,
    Send,
    SessionId,
    TokensCutOff,
    ToWorker,
    TrackChanged,
    Welcome,
)
from signaling.rooms.grants import Grants
from signaling.rooms.names import check_size, check_text
from signaling.rooms.presence import JoinParameters
from signaling.rooms.room import Room
from signaling.rooms.state import Cutoff, Participant, RoomRecord
from signaling.rooms.transport import Address
from signaling.runtime_metrics import RoomMetrics
from signaling.settings import Settings
from signaling.wire.livekit.frames import Frame, JoinFrame

log = structlog.get_logger(__name__)

PROTOCOL = 17
LIVEKIT_VERSION = "1.13.5"
"""The LiveKit server whose behaviour ours follows. SDKs compare it to know what a server can (RPC: 1.8.0)."""
"""The version of the LiveKit protocol that we answer with."""
_ID_BITS = 30
"""Border ids carry their room: room number above, a count below."""
_REVIVED_GAP = 1 << 16
"""Ids skipped after a restart: some may have been used and not remembered."""
_SNAPSHOT_SECONDS = 5.0
_LAZY_SECONDS = 0.2
_SHED_SECONDS = 0.2
_ROOM_KEY = "room/"
_PARTICIPANT_KEY = "participant/"
_RPC_REFUSALS: dict[int, type[Refusal]] = {
    RpcCode.UNSUPPORTED_METHOD: InvalidRequest,
    RpcCode.CONNECTION_TIMEOUT: TimedOut,
    RpcCode.RESPONSE_TIMEOUT: TimedOut,
    RpcCode.RECIPIENT_DISCONNECTED: Unavailable,
}
_SID_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"


class Session(Protocol):
    """One signal connection."""

    def send(self, frame: Frame) -> None:
        """Queue a message; in order, without waiting."""

    def close(self, reason: str) -> None:
        """Close after what was queued."""


class Telling(NamedTuple):
    """How much of one request others are told; the one who asked is left out."""

    most_bytes: int = 0
    """To the one who is told most."""
    messages: int = 0
    """To all of them together."""


class Feed(Protocol):
    """Who else is told what happens in managed rooms, and asked who may come (`calls/media.py`)."""

    async def admit(self, grants: Grants, address: str | None) -> Grants:
        """Return the grants that hold now; raises a `Refusal`. address: where the client comes from, if known."""

    def entered(self, hosted: Hosted, effect: Effect) -> None: ...

    def lost(self, hosted: Hosted) -> None:
        """The room's worker has died."""


@dataclass
class Hosted:
    """A room and what the edge keeps for it."""

    room: Room
    worker: WorkerHandle | None
    timer: asyncio.TimerHandle | None = None
    timer_at: float | None = None
    """What `timer` waits for."""
    lazy_timer: asyncio.TimerHandle | None = None
    count: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    """Of managed rooms: the last version of each identity's permission."""

    @property
    def record(self) -> RoomRecord:
        return self.room.core.record

    def next_id(self) -> int:
        self.count += 1
        return (self.record.number << _ID_BITS) + self.count


class Rooms:
    """All rooms of this process. `start` attaches to the workers and revives what a predecessor left."""

    def __init__(
        self,
        settings: Settings,
        metrics: RoomMetrics,
        publish: Callable[[WebhookEvent], None],
        *,
        cutoffs: KeptCutoffs | None = None,
        unix_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self.feed: Feed | None = None
        self.asked: Counter[tuple[str, str]] = Counter()
        """Whom `feed` is being asked about, by room and identity."""
        self.is_draining = False
        self.hosted: dict[str, Hosted] = {}
        self._by_number: dict[int, Hosted] = {}
        self._sessions: dict[SessionId, Session] = {}
        self._session_rooms: dict[SessionId, Hosted] = {}
        self._cutoffs = cutoffs or KeptCutoffs(None, settings.rooms)
        self._frame: Frame | None = None
        self._shedding: set[str] = set()
        """Workers that send idle participants away."""
        self._last_session = 0
        self._last_number = 0
        self._publish = publish
        self._unix_ms = unix_ms
        self._rpc: dict[str, asyncio.Future[RpcEnded]] = {}
        self._gone = asyncio.Event()
        """Set when a participant or a signal connection is gone; while starting, when a worker says something."""
        self._early: deque[tuple[WorkerHandle, AnyEvent]] | None = deque()
        self.node = Node(
            settings.node, self._event, self._worker_lost, log_style=structured_logs.style_of_workers(settings.log)
        )
        info = models.ServerInfo(
            edition=models.ServerInfo.Edition.Standard,
            version=LIVEKIT_VERSION,
            protocol=PROTOCOL,
            region=settings.region,
            node_id=f"ND_{secrets.token_hex(6)}",
        )
        self.server = ServerFacts(info, _ice_servers(settings), secrets.token_bytes(16))
        metrics.watch(self)

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises `NodeError` if no worker comes up."""
        workers = await self.node.start()
        for worker in workers:
            await self._revive(worker)
        # Nobody may join before the snapshots are there: they would not show him.
        await self._until(lambda: self._have_all_snapshots(workers), _SNAPSHOT_SECONDS)
        early, self._early = self._early or deque(), None
        for worker, event in early:
            self._event(worker, event)

    def _have_all_snapshots(self, workers: Iterable[WorkerHandle]) -> bool:
        told = {worker.id for worker, event in self._early or () if isinstance(event, border.Snapshot)}
        return all(worker.id in told or not worker.alive for worker in workers)

    async def drain(self, deadline_seconds: float) -> None:
        """Take no new rooms, and wait until nobody is left or the deadline passes."""
        self.is_draining = True
        await self._until(lambda: not self.participant_count(), deadline_seconds)

    async def dismiss(self) -> None:
        """Tell everybody to come back, elsewhere or later, and give them a moment to read it."""
        self.is_draining = True
        for hosted in tuple(self.hosted.values()):
            effects = hosted.room.close(Reason.SERVER_SHUTDOWN, self.now(), rtc.LeaveRequest.Action.RECONNECT)
            self.apply(hosted, effects)
        await self._until(lambda: not self._sessions, self.settings.drain.leave_seconds)

    async def _until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until it holds, looking at every event of a start and whenever somebody is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not holds():
                    self._gone.clear()
                    await self._gone.wait()

    def now(self) -> Moment:
        return Moment(asyncio.get_running_loop().time(), self._unix_ms())

    # --- rooms -------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Hosted:
        """Raises `NotFound`."""
        hosted = self.hosted.get(name)
        if hosted is None:
            raise NotFound("requested room does not exist")
        return hosted

    def create(
        self,
        name: str,
        *,
        empty_timeout_seconds: float = 0,
        departure_timeout_seconds: float = 0,
        participants_max: int = 0,
        metadata: str = "",
        is_managed: bool = False,
        unmet: Collection[str] = (),
    ) -> Hosted:
        """Return the room of that name, making it if there is none; 0 and "" are the settings' values.

        unmet: what the room was to have besides and is not offered, for the log.
        """
        existing = self.hosted.get(name)
        if existing is not None:
            return existing
        settings = self.settings.rooms
        check_text("room name", name, settings.name_max_bytes)
        check_size("metadata", metadata.encode(), settings.metadata_max_bytes)
        if self.is_draining:
            raise Unavailable("The server is about to stop and takes no new rooms.")
        if len(self.hosted) >= settings.rooms_max:
            raise LimitExceeded(f"This node has {settings.rooms_max} rooms, as many as it may.")
        worker = self._place(name)
        now = self.now()
        self._last_number = max(self._last_number + 1, now.unix_ms // 1000)
        record = RoomRecord(
            sid=_sid("RM_"),
            name=name,
            number=self._last_number,
            metadata=metadata,
            created_at_ms=now.unix_ms,
            empty_timeout_seconds=empty_timeout_seconds or settings.empty_timeout_seconds,
            departure_timeout_seconds=departure_timeout_seconds or settings.departure_timeout_seconds,
            participants_max=participants_max,
            is_managed=is_managed,
            cutoffs=self._cutoffs_of(name),
        )
        hosted = self._host(record, worker)
        log.info("room_created", room=name, worker=worker.id)
        if unmet:
            log.warning("room_not_as_asked", room=name, not_offered=", ".join(unmet))
        self.apply(hosted, hosted.room.open(now))
        return hosted

    def _cutoffs_of(self, name: str) -> dict[str, Cutoff]:
        """Return what a new room of that name is to remember."""
        settings = self.settings.rooms
        if not settings.removal_revokes_tokens:
            return {}
        return dict(list(self._cutoffs.of(name).items())[-settings.cutoffs_max :])

    @property
    def takes_rooms(self) -> bool:
        """Whether `create` would make a new one."""
        is_full = len(self.hosted) >= self.settings.rooms.rooms_max
        return not self.is_draining and not is_full and bool(self._open_workers())

    def _host(self, record: RoomRecord, worker: WorkerHandle) -> Hosted:
        def number() -> int:
            return hosted.next_id()

        sources = Sources(number=number, sid=_sid, ssrc=_ssrc, credentials=_credentials)
        room = Room(record, self.settings.rooms, self.server, _side(worker), sources)
        room.core.overload = worker.overload
        hosted = Hosted(room, worker)
        self.hosted[record.name] = hosted
        self._by_number[record.number] = hosted
        return hosted

    def _place(self, name: str) -> WorkerHandle:
        self._check_workers()
        workers = {worker.id: worker for worker in self._open_workers()}
        loads = dict.fromkeys(workers, 0.0)
        for hosted in self.hosted.values():
            if hosted.worker is not None and hosted.worker.id in loads:
                loads[hosted.worker.id] += 1 + len(hosted.room.core.participants)
        return workers[place(name, loads)]

    def _open_workers(self) -> list[WorkerHandle]:
        return [worker for worker in self.node.workers if worker.overload.takes_joins]

    def _check_workers(self) -> None:
        """Raises `Unavailable` unless some worker takes a new room."""
        if not self.node.workers:
            raise Unavailable("No worker is up; one is being started.")
        if not self._open_workers():
            raise Overloaded("The server is overloaded and takes no new rooms; try again in a few seconds.")

    def _settle(self, hosted: Hosted) -> None:
        """A room whose worker has died goes to another one before somebody comes."""
        if hosted.worker is None or not hosted.worker.alive:
            hosted.worker = self._place(hosted.record.name)
            hosted.room.move(_side(hosted.worker))
            hosted.room.core.overload = hosted.worker.overload
            hosted.room.core.changed.add(hosted.record.sid)

    # --- signal connections ------------------------------------------------------------------------------------------

    async def admit(self, parameters: JoinParameters, address: str | None = None) -> JoinParameters:
        """Return what this client may connect with now; raises a `Refusal`. Nothing is made yet.

        address: where he comes from, if that is known.
        """
        presence.check(parameters, self.settings.rooms)
        grants = parameters.grants
        hosted = self.hosted.get(grants.room)
        if grants.managed or (hosted is not None and hosted.record.is_managed):
            if self.feed is None:
                raise PermissionDenied("This room is not open.")
            who = grants.room, grants.identity
            self.asked[who] += 1
            try:
                grants = await self.feed.admit(replace(grants, managed=True), address)
            finally:
                self.asked[who] -= 1
                if not self.asked[who]:
                    del self.asked[who]
            parameters = replace(parameters, grants=grants)
            hosted = self.hosted.get(grants.room)
        self._check_room(hosted, parameters)
        return parameters

    def _check_room(self, hosted: Hosted | None, parameters: JoinParameters) -> None:
        grants = parameters.grants
        if parameters.is_reconnect and parameters.participant_sid:
            return
        if hosted is not None:
            presence.check_place(hosted.room.core, grants, self.now())
            return
        presence.check_cutoff(self._cutoffs_of(grants.room), grants)
        if grants.managed or not (self.settings.rooms.auto_create or grants.room_create):
            raise NotFound("requested room does not exist")
        if self.is_draining:
            raise Unavailable("The server is about to stop and takes no new rooms.")
        self._check_workers()

    def connect(self, session: Session, parameters: JoinParameters) -> SessionId:
        """Join or resume, after `admit`; the first messages are queued when this returns. Raises a `Refusal`."""
        grants = parameters.grants
        self._last_session += 1
        number = self._last_session
        is_resume = parameters.is_reconnect and bool(parameters.participant_sid)
        hosted = self.hosted.get(grants.room)
        if hosted is None and not is_resume:
            hosted = self.create(grants.room, **_room_config(grants))
        self._sessions[number] = session
        if hosted is None:
            for effect in presence.mismatch(number):
                self._tell(effect)
            return number
        self._session_rooms[number] = hosted
        try:
            if is_resume:
                effects = hosted.room.resume(number, parameters, self.now())
            else:
                self._settle(hosted)
                effects = hosted.room.join(number, parameters, self.now())
        except BaseException:
            self.disconnected(number)
            raise
        self.apply(hosted, effects)
        return number

    def request(self, session: SessionId, request: rtc.SignalRequest) -> Telling:
        hosted = self._session_rooms.get(session)
        if hosted is None:
            return Telling()
        effects = hosted.room.request(session, request, self.now())
        self.apply(hosted, effects)
        return _telling(effects, session)

    def disconnected(self, session: SessionId) -> None:
        """The signal connection is gone, whoever ended it."""
        self._sessions.pop(session, None)
        self._gone.set()
        hosted = self._session_rooms.pop(session, None)
        if hosted is not None:
            self.apply(hosted, hosted.room.signal_closed(session, self.now()))

    # --- calls made by the server ------------------------------------------------------------------------------------

    async def call(self, hosted: Hosted, request: Any) -> str:
        """Call a participant's method; returns its payload, raises a `Refusal` with its error."""
        request_id = secrets.token_hex(16)
        future: asyncio.Future[RpcEnded] = asyncio.get_running_loop().create_future()
        self._rpc[request_id] = future
        try:
            self.apply(hosted, hosted.room.call(request, request_id, self.now()))
            ended = await future
        finally:
            self._rpc.pop(request_id, None)
        if ended.error:
            raise _RPC_REFUSALS.get(ended.code, CallFailed)(ended.error)
        return ended.payload

    # --- workers -----------------------------------------------------------------------------------------------------

    def _event(self, worker: WorkerHandle, event: AnyEvent) -> None:
        if self._early is not None:
            self._early.append((worker, event))
            self._gone.set()
            return
        now = self.now()
        match event:
            case border.Quality(reports=reports):
                by_room: dict[int, list[border.TransportQuality]] = {}
                for report in reports:
                    by_room.setdefault(report.transport >> _ID_BITS, []).append(report)
                for number, those in by_room.items():
                    hosted = self._by_number.get(number)
                    if hosted is not None:
                        self.apply(hosted, hosted.room.quality(those))
            case border.Snapshot():
                self._attach(worker, event, now)
            case border.Overload():
                self._strained(worker, event)
            case border.Rejected(command=command) if command.startswith("remove_"):
                # The worker was quicker: a client that leaves closes its transports by itself.
                pass
            case border.Rejected():
                self.metrics.rejected.labels(event.code).inc()
                log.warning("command_rejected", command=event.command, code=event.code, reason=event.message)
            case _:
                hosted = self._by_number.get(_room_number(event))
                if hosted is not None and hosted.worker is worker:
                    self.apply(hosted, hosted.room.event(event, now))

    def _strained(self, worker: WorkerHandle, overload: border.Overload) -> None:
        for hosted in self.hosted.values():
            if hosted.worker is worker:
                hosted.room.core.overload = overload
        is_well = overload == border.NO_OVERLOAD
        (log.info if is_well else log.warning)(
            "worker_load", worker=worker.id, gives_up=overload.level, gives_up_of_memory=overload.memory
        )
        if not overload.keeps_idlers and worker.id not in self._shedding:
            self._shedding.add(worker.id)
            asyncio.get_running_loop().call_soon(self._send_idlers_away, worker)

    def _send_idlers_away(self, worker: WorkerHandle) -> None:
        """One after the other while memory stays scarce: first the one who came first."""
        if worker.overload.keeps_idlers or not worker.alive:
            self._shedding.discard(worker.id)
            return
        rooms = [hosted for hosted in self.hosted.values() if hosted.worker is worker]
        idlers = [(idler, hosted) for hosted in rooms if (idler := hosted.room.oldest_idle()) is not None]
        if idlers:
            idler, hosted = min(idlers, key=lambda one: one[0].joined_at_ms)
            self.apply(hosted, hosted.room.send_away(idler.identity, self.now()))
        asyncio.get_running_loop().call_later(_SHED_SECONDS, self._send_idlers_away, worker)

    def _attach(self, worker: WorkerHandle, snapshot: border.Snapshot, now: Moment) -> None:
        """What lives on a worker and belongs to nobody goes; the rest is taken for true."""
        unshown = worker.unshown.end()
        orphans = []
        for summary in snapshot.transports:
            hosted = self._by_number.get(summary.room)
            is_ours = hosted is not None and summary.transport in hosted.room.core.by_transport
            if not is_ours and summary.transport not in unshown:
                orphans.append(border.RemoveTransport(transport=summary.transport))
        worker.send(*orphans)
        for hosted in tuple(self.hosted.values()):
            if hosted.worker is worker:
                self.apply(hosted, hosted.room.attach(snapshot, unshown, now))

    def _worker_lost(self, worker: WorkerHandle) -> None:
        for hosted in tuple(self.hosted.values()):
            if hosted.worker is worker:
                hosted.worker = None
                hosted.room.core.overload = border.NO_OVERLOAD
                self.apply(hosted, hosted.room.worker_lost(self.now()))
                if self.feed is not None and hosted.record.is_managed:
                    self.feed.lost(hosted)

    async def _revive(self, worker: WorkerHandle) -> None:
        try:
            items = await worker.recall()
        except NodeError as error:
            log.error("worker_memory_lost", worker=worker.id, reason=str(error))
            return
        unpacker = memory.Unpacker(_credentials)
        participants: dict[int, list[Participant]] = {}
        records = []
        for key, packed in items.items():
            try:
                if key.startswith(_ROOM_KEY):
                    records.append(unpacker.room(packed))
                elif key.startswith(_PARTICIPANT_KEY):
                    number = int(key.split("/")[1])
                    participants.setdefault(number, []).append(unpacker.participant(packed))
            except (msgspec.MsgspecError, ValueError) as error:
                log.error("memory_unreadable", worker=worker.id, key=key.split("/")[0], reason=str(error))
                worker.forget(key)
        revived = {str(record.number): record for record in records if record.name not in self.hosted}
        for key in items:
            # A room that another worker has by now, or people of a room that is not there any more.
            if key.startswith((_ROOM_KEY, _PARTICIPANT_KEY)) and key.split("/")[1] not in revived:
                worker.forget(key)
        for record in revived.values():
            self._last_number = max(self._last_number, record.number)
            hosted = self._host(record, worker)
            people = sorted(participants.get(record.number, []), key=lambda participant: participant.joined_at_ms)
            hosted.count = _highest_id(people) + _REVIVED_GAP
            self.apply(hosted, hosted.room.revive(people, self.now()))
            log.info("room_revived", room=record.name, participants=len(people))
        worker.send(border.TakeSnapshot())

    # --- effects -----------------------------------------------------------------------------------------------------

    def apply(self, hosted: Hosted, effects: Iterable[Effect]) -> None:
        """Carry out what a room has decided: the worker first, so that it knows what clients are told."""
        commands: list[AnyCommand] = []
        rest = []
        for effect in effects:
            if isinstance(effect, ToWorker):
                commands.append(effect.command)
            else:
                rest.append(effect)
        if commands and hosted.worker is not None:
            hosted.worker.send(*commands)
        self._remember(hosted)
        for effect in rest:
            self._carry_out(hosted, effect)
        if not hosted.room.core.is_over:
            self._schedule(hosted)

    def _carry_out(self, hosted: Hosted, effect: Effect) -> None:
        match effect:
            case Send() | CloseSignal() | Welcome():
                self._tell(effect)
            case RefreshToken():
                token = tokens.sign(effect.grants, self.settings.keyring, self._unix_ms() / 1000)
                self._tell(Send(effect.session, rtc.SignalResponse(refresh_token=token)))
            case Notify():
                self._publish(effect.event)
            case Dropped():
                self.metrics.dropped.labels(effect.reason).inc()
            case RpcEnded():
                future = self._rpc.get(effect.request_id)
                if future is not None and not future.done():
                    future.set_result(effect)
            case ParticipantConnected():
                self.metrics.join_seconds.observe(effect.seconds)
            case ParticipantJoined() | ParticipantLeft() | TrackChanged():
                if self.feed is not None and hosted.record.is_managed:
                    self.feed.entered(hosted, effect)
                if isinstance(effect, ParticipantLeft):
                    self._gone.set()
                    reason = models.DisconnectReason.Name(effect.reason).lower()
                    self.metrics.left.labels(reason).inc()
                    log.info("participant_left", room=hosted.record.name, participant=effect.identity, reason=reason)
                elif isinstance(effect, ParticipantJoined):
                    log.info("participant_joined", room=hosted.record.name, participant=effect.identity)
            case TokensCutOff():
                # Who was removed does not wait for the end of the room, or of the server, to come back.
                record = hosted.record
                cutoff = record.cutoffs[effect.identity]
                self._cutoffs.keep(record.name, effect.identity, cutoff, self._unix_ms() / 1000)
            case Ended():
                self._forget(hosted)
            case ToWorker():
                pass

    def _tell(self, effect: Send | CloseSignal | Welcome) -> None:
        session = self._sessions.get(effect.session)
        if session is None:
            return
        if isinstance(effect, Send):
            # One message to many is one frame.
            if self._frame is None or self._frame.message is not effect.message:
                self._frame = Frame(effect.message)
            session.send(self._frame)
        elif isinstance(effect, Welcome):
            session.send(JoinFrame(effect.response, effect.others))
        else:
            self._session_rooms.pop(effect.session, None)
            session.close(effect.reason)

    def _remember(self, hosted: Hosted) -> None:
        core, worker = hosted.room.core, hosted.worker
        if worker is None:
            return
        for sid in core.changed:
            if sid == core.record.sid:
                worker.remember(f"{_ROOM_KEY}{core.record.number}", memory.pack(core.record))
            elif sid in core.participants:
                key = _participant_key(core.record.number, sid)
                # Better none than an older one, which would have SSRCs for unused that are in use.
                worker.remember(key, memory.pack(core.participants[sid]), or_none=True)
            else:
                worker.forget(_participant_key(core.record.number, sid))
        core.changed.clear()
        if core.changed_little and hosted.lazy_timer is None:
            hosted.lazy_timer = asyncio.get_running_loop().call_later(_LAZY_SECONDS, self._remember_lazily, hosted)

    def _remember_lazily(self, hosted: Hosted) -> None:
        hosted.lazy_timer = None
        core = hosted.room.core
        core.changed |= core.changed_little & core.participants.keys()
        core.changed_little.clear()
        self._remember(hosted)

    def _forget(self, hosted: Hosted) -> None:
        record = hosted.record
        for timer in (hosted.timer, hosted.lazy_timer):
            if timer is not None:
                timer.cancel()
        if self.hosted.get(record.name) is hosted:
            del self.hosted[record.name]
        self._by_number.pop(record.number, None)
        if hosted.worker is not None:
            hosted.worker.forget(f"{_ROOM_KEY}{record.number}")
        log.info("room_finished", room=record.name)

    def _schedule(self, hosted: Hosted) -> None:
        deadline = hosted.room.deadline()
        if hosted.timer is not None:
            # The timer itself is not asked: one that is due already has no time in uvloop.
            if hosted.timer_at == deadline:
                return
            hosted.timer.cancel()
        hosted.timer, hosted.timer_at = None, deadline
        if deadline is not None:
            hosted.timer = asyncio.get_running_loop().call_at(deadline, self._timeout, hosted)

    def _timeout(self, hosted: Hosted) -> None:
        hosted.timer = None
        self.apply(hosted, hosted.room.timeout(self.now()))

    # --- counts ------------------------------------------------------------------------------------------------------

    @property
    def cores(self) -> Iterator[RoomCore]:
        return (hosted.room.core for hosted in self.hosted.values())

    def participant_count(self) -> int:
        return sum(len(hosted.room.core.participants) for hosted in self.hosted.values())

    def not_ready(self) -> Mapping[str, str]:
        """What stands against new work, by name."""
        if len(self.node.workers) < self.node.count:
            return {"workers": f"{len(self.node.workers)} of {self.node.count} workers are up."}
        return {}


# --- pure -----------------------------------------------------------------------------------------------------------


def _room_number(event: AnyEvent) -> int:
    match event:
        case border.Speakers(room=room):
            return room
        case (
            border.TransportState(transport=number)
            | border.Unanswered(transport=number)
            | border.TransportPath(transport=number)
            | border.DataChannelOpen(transport=number)
            | border.DataMessage(transport=number)
            | border.DataChannelStalled(transport=number)
            | border.UptrackMedia(uptrack=number)
            | border.UptrackDemand(uptrack=number)
            | border.DowntrackState(downtrack=number)
            | border.DowntrackStarted(downtrack=number)
        ):
            return number >> _ID_BITS
        case _:
            return -1


def _highest_id(participants: Iterable[Participant]) -> int:
    ids = [0]
    for participant in participants:
        ids += [c.transport for c in (participant.publisher, participant.subscriber) if c is not None]
        ids += [uplink.uptrack for track in participant.tracks.values() for uplink in track.uplinks]
        ids += [subscription.downtrack for subscription in participant.subscriptions.values()]
        ids += [track.data_uptrack for track in participant.data_tracks.values()]
    return max(ids) & ((1 << _ID_BITS) - 1)


def _telling(effects: Iterable[Effect], speaker: SessionId) -> Telling:
    told: dict[SessionId, int] = {}
    message, size, count = None, 0, 0
    for effect in effects:
        if isinstance(effect, Send) and effect.session != speaker:
            # One message to many is measured once.
            if effect.message is not message:
                message, size = effect.message, effect.message.ByteSize()
            told[effect.session] = told.get(effect.session, 0) + size
            count += 1
    return Telling(max(told.values(), default=0), count)


def _participant_key(room: int, sid: str) -> str:
    return f"{_PARTICIPANT_KEY}{room}/{sid}"


def _side(worker: WorkerHandle) -> WorkerSide:
    addresses = tuple(Address(ip, port, protocol) for protocol, ip, port in worker.candidates)
    return WorkerSide(worker.info.fingerprint, addresses)


def _room_config(grants: Grants) -> dict[str, Any]:
    """Read a token's `roomConfig`; what is not a usable value counts as not said."""
    config = grants.room_config or {}

    def number(*names: str) -> int:
        for name in names:
            value = config.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
                return value
        return 0

    metadata = config.get("metadata")
    return {
        "empty_timeout_seconds": number("emptyTimeout", "empty_timeout"),
        "departure_timeout_seconds": number("departureTimeout", "departure_timeout"),
        "participants_max": number("maxParticipants", "max_participants"),
        "metadata": metadata if isinstance(metadata, str) else "",
        "unmet": [name for name in ("agents", "egress") if config.get(name)] + ["preset"] * bool(grants.room_preset),
    }


def _ice_servers(settings: Settings) -> tuple[rtc.ICEServer, ...]:
    ice = settings.ice
    servers = []
    if ice.stun_urls:
        servers.append(rtc.ICEServer(urls=ice.stun_urls))
    if ice.turn_urls:
        credential = ice.turn_credential.get_secret_value()
        servers.append(rtc.ICEServer(urls=ice.turn_urls, username=ice.turn_username, credential=credential))
    return tuple(servers)


def _sid(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_SID_ALPHABET) for _ in range(12))


def _ssrc() -> int:
    return secrets.randbelow(0xFFFF_FFFE) + 1


def _credentials() -> IceCredentials:
    """RFC 8839 §5.4: at least 24 bits in the fragment, 128 in the password; ours have 96 and 192."""
    return IceCredentials(ufrag=secrets.token_hex(12), pwd=secrets.token_hex(24))
