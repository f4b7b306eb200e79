"""The event channel: which sockets there are, what each watches, and what each was last sent.

Publishing encodes an event once per variant and never waits for a socket. Not here: frames and authentication
(`api/v1/socket.py`), what is kept for later (`journal.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any

import msgspec

from signaling.calls.identifiers import rfc3339
from signaling.calls.model import Event, User
from signaling.calls.principal import Principal
from signaling.calls.problems import Problem
from signaling.calls.rights import active_ban, active_block, address_banned, check_reach, holding
from signaling.calls.settings import CallsSettings
from signaling.calls.state import Turn
from signaling.events.audience import audience, deciding_users, shown_to
from signaling.wire.websocket import framed

COALESCED = frozenset({"session.counts", "captions.text"})
COUNTS_SECONDS = 1.0
CLOSE_SLOW = 4410
CLOSE_GOING_AWAY = 1001
CLOSE_UNAUTHENTICATED = 4401
# Events after which a watcher may no longer be allowed to read the call.
_CHANGES_READING = (
    "call.capabilities_updated",
    "member.",
    "participant.blocked",
    "call.deleted",
    "call.live_",
    "call.updated",
)


class Frame:
    """A text for sockets; `wire` is the whole WebSocket frame (RFC 6455 §5.2), encoded once however many get it."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @cached_property
    def wire(self) -> bytes:
        return framed(self.text, is_text=True)


@dataclass(eq=False)
class Socket:
    """One connection. `outgoing` is drained by the connection's own task, `wake` tells it that there is something.

    `transmit` writes a frame past that task, if the client keeps up, and tells whether it did; used while nothing
    waits in `outgoing` nor is being sent from there (`sending`). `user`: as he is now, None for who has no account.
    `held`: events that wait until it is known, or answered, what of earlier ones the client has missed. `refusals`: how
    many frames in a row asked for calls too soon. `rings_owed`: it was not told yet of what rings since before it came.
    """

    connection_id: str
    principal: Principal
    user_id: str | None
    device_id: str | None
    queue_max: int
    watching: set[str] = field(default_factory=set)
    sent: dict[str, int] = field(default_factory=dict)
    outgoing: deque[tuple[str, Frame]] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    user: User | None = None
    close_code: int | None = None
    transmit: Callable[[bytes], bool] | None = None
    sending: bool = False
    held: list[tuple[Event, Any]] | None = None
    refusals: int = 0
    rings_owed: bool = False

    def hold(self) -> None:
        """Keep events back until `let_through`."""
        if self.held is None:
            self.held = []

    def hold_earlier(self, event: Event, data: Any) -> None:
        """Hold what happened before the socket came, ahead of what has happened in the call since."""
        held = [] if self.held is None else self.held
        later = (n for n, (one, _) in enumerate(held) if one.cid == event.cid and (one.seq or 0) > (event.seq or 0))
        held.insert(next(later, len(held)), (event, data))
        self.held = held

    def let_through(self) -> None:
        """Send what was held, as far as it was not sent meanwhile as missed."""
        held, self.held = self.held, None
        for event, data in held or ():
            if event.seq is None or self.sent.get(event.cid or "", -1) < event.seq:
                self.send(event.type, _frame(_follow(event, self), _tail(event, data)))

    def send(self, kind: str, frame: Frame) -> None:
        """Send a frame or queue it; a socket that is too slow loses what can be lost, else the connection."""
        if self.close_code is not None:
            return
        if self.transmit is not None and not self.outgoing and not self.sending and self.transmit(frame.wire):
            return
        if len(self.outgoing) >= self.queue_max:
            if kind in COALESCED:
                return
            kept = [(k, f) for k, f in self.outgoing if k not in COALESCED]
            if len(kept) >= self.queue_max:
                self.close(CLOSE_SLOW)
                return
            self.outgoing = deque(kept)
        self.outgoing.append((kind, frame))
        self.wake.set()

    def control(self, frame: dict[str, Any]) -> None:
        self.send("control", Frame(msgspec.json.encode(frame)))

    def close(self, code: int) -> None:
        if self.close_code is None:
            self.close_code = code
        self.wake.set()

    def may_hear(self, event: Event, *, tenants: bool) -> bool:
        """Tell whether the token, and the team if `tenants` are kept apart, let this socket know of the call at all."""
        calls = self.principal.calls
        if event.cid is not None and calls is not None and event.cid not in calls:
            return False
        if not tenants or self.principal.is_server or self.principal.kind == "anonymous":
            return True
        teams = frozenset(self.user.teams if self.user else ())
        if self.principal.teams is not None:
            teams &= self.principal.teams
        return event.team in teams if event.team is not None else not teams


@dataclass
class _Counts:
    """A call whose counts were sent less than `COUNTS_SECONDS` ago. `newer`: those that wait for the end of that."""

    turn: Turn
    newer: Event | None = None


def _in_loop(seconds: float, what: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, what)


class Channel:
    """`later` does something in so many seconds."""

    def __init__(self, settings: CallsSettings, now: Callable[[], datetime]) -> None:
        self.later: Callable[[float, Callable[[], None]], None] = _in_loop
        self._settings = settings
        self._now = now
        self._by_user: dict[str, set[Socket]] = defaultdict(set)
        self._by_cid: dict[str, set[Socket]] = defaultdict(set)
        self._by_connection: dict[str, Socket] = {}
        self._counts: dict[str, _Counts] = {}

    def online(self) -> frozenset[str]:
        return frozenset(self._by_user)

    def of_user(self, user_id: str) -> Collection[Socket]:
        return self._by_user.get(user_id, ())

    def add(self, socket: Socket) -> None:
        self._by_connection[socket.connection_id] = socket
        if socket.user_id is not None:
            self._by_user[socket.user_id].add(socket)

    def remove(self, socket: Socket) -> None:
        self._by_connection.pop(socket.connection_id, None)
        for index, name in ((self._by_user, socket.user_id), *((self._by_cid, cid) for cid in socket.watching)):
            if name is not None and name in index:
                index[name].discard(socket)
                if not index[name]:
                    del index[name]

    def watch(self, socket: Socket, turn: Turn) -> None:
        cid = turn.call.cid
        socket.watching.add(cid)
        socket.sent.setdefault(cid, turn.call.seq)
        self._by_cid[cid].add(socket)

    def unwatch(self, socket: Socket, cid: str) -> None:
        socket.watching.discard(cid)
        watchers = self._by_cid.get(cid)
        if watchers is not None:
            watchers.discard(socket)
            if not watchers:
                del self._by_cid[cid]

    def watch_over(self, connection_id: str, principal: Principal, turn: Turn) -> None:
        """Have the caller's own socket watch a call he just asked for; somebody else's connection is ignored."""
        socket = self._by_connection.get(connection_id)
        if socket is not None and socket.user_id is not None and socket.user_id == principal.user_id:
            self.watch(socket, turn)

    def watched(self, type_: str | None = None) -> list[str]:
        return [cid for cid in self._by_cid if type_ is None or cid.partition(":")[0] == type_]

    def publish(self, turn: Turn, events: Iterable[Event]) -> None:
        """Send events of one call to everybody who is to hear them."""
        recheck = False
        deciding: frozenset[str] | None = None
        online = self.online()
        for event in events:
            if not self._is_due(turn, event):
                continue
            receivers = self._receivers(turn, event, online)
            if deciding is None and receivers and event.type.startswith("participant."):
                deciding = deciding_users(turn)
            self._send(event, receivers, deciding or frozenset())
            recheck = recheck or event.type.startswith(_CHANGES_READING)
            if event.type == "call.deleted":
                self._forget(turn.call.cid)
        if recheck:
            self.recheck(turn)

    def _forget(self, cid: str) -> None:
        """A call made anew under this id begins to count anew."""
        for socket in self._by_connection.values():
            socket.sent.pop(cid, None)

    def recheck(self, turn: Turn) -> None:
        """Stop watching for whoever may not read the call any more."""
        judged: dict[Hashable, bool] = {}
        for socket in list(self._by_cid.get(turn.call.cid, ())):
            alike = _standing(turn, socket)
            if alike not in judged:
                judged[alike] = may_watch(turn, socket)
            if not judged[alike]:
                self.unwatch(socket, turn.call.cid)
                socket.control({"type": "unsubscribed", "cids": [turn.call.cid], "reason": "missing_capability"})

    def _is_due(self, turn: Turn, event: Event) -> bool:
        """Tell whether an event is sent now. Of counts that come too soon the newest wait for the end of the second."""
        cid = turn.call.cid
        counts = self._counts.get(cid)
        if counts is not None:
            counts.turn = turn
            if event.type == "session.counts":
                counts.newer = event
                return False
            if event.type == "session.ended" or ("W" in event.groups and "participant_count" in event.data):
                counts.newer = None
        elif event.type == "session.counts":
            self._begin_second(cid, turn)
        return True

    def _begin_second(self, cid: str, turn: Turn) -> None:
        self._counts[cid] = _Counts(turn)
        self.later(COUNTS_SECONDS, partial(self._end_second, cid))

    def _end_second(self, cid: str) -> None:
        counts = self._counts.pop(cid)
        if counts.newer is not None:
            self._begin_second(cid, counts.turn)
            self._send(counts.newer, self._receivers(counts.turn, counts.newer, self.online()), frozenset())

    def _receivers(self, turn: Turn, event: Event, online: frozenset[str]) -> set[Socket]:
        heard = audience(turn, event, online)
        receivers: set[Socket] = set()
        for user_id in heard.groups | heard.meant:
            receivers |= self._by_user.get(user_id, set())
        if heard.watchers and event.cid is not None:
            receivers |= self._by_cid.get(event.cid, set())
        tenants = turn.facts.app.multi_tenant_enabled
        return {socket for socket in receivers if socket.may_hear(event, tenants=tenants)}

    def _send(self, event: Event, receivers: set[Socket], deciding: frozenset[str]) -> None:
        tails: dict[str, bytes] = {}
        frames: dict[tuple[str, int | None], Frame] = {}
        for socket in receivers:
            if event.seq is not None and socket.sent.get(event.cid or "", -1) >= event.seq:
                continue  # it began to watch after this happened in another process
            variant, data = shown_to(event, socket.user_id, socket.device_id, deciding)
            if socket.held is not None:
                socket.held.append((event, data))
                if len(socket.held) >= socket.queue_max:
                    socket.let_through()
                continue
            alike = (variant, _follow(event, socket))
            frame = frames.get(alike)
            if frame is None:
                if variant not in tails:
                    tails[variant] = _tail(event, data)
                frame = frames[alike] = _frame(alike[1], tails[variant])
            socket.send(event.type, frame)

    def change_user(self, user: User) -> None:
        """Note what a user is now: what his sockets may hear follows his role and teams."""
        for socket in self._by_user.get(user.id, ()):
            socket.user = user

    def close_expired(self, now: datetime) -> float | None:
        """Close the sockets whose token has expired; return in how many seconds to look again, None without sockets.

        At most one: a token that is renewed moves the deadline.
        """
        if not self._by_connection:
            return None
        soonest = now + timedelta(seconds=1)
        for socket in self._by_connection.values():
            if socket.principal.expires_at <= now:
                socket.close(CLOSE_UNAUTHENTICATED)
            else:
                soonest = min(soonest, socket.principal.expires_at)
        return (soonest - now).total_seconds()

    def drop_user(self, user_id: str) -> None:
        """Close the sockets of a user who no longer exists."""
        for socket in list(self._by_user.get(user_id, ())):
            socket.close(CLOSE_UNAUTHENTICATED)

    async def close(self) -> None:
        for socket in list(self._by_connection.values()):
            socket.close(CLOSE_GOING_AWAY)


def may_watch(turn: Turn, socket: Socket) -> bool:
    """Tell whether a socket's user may read the call."""
    # Who merely watches is not among the people that were loaded with the call.
    facts = turn.facts if socket.user is None else replace(turn.facts, users={socket.user.id: socket.user})
    own = Turn(socket.principal, turn.now, turn.new_id, facts, turn.state)
    if socket.principal.is_server:
        return turn.call.deleted_at is None
    try:
        check_reach(own)
    except Problem:
        return False
    return "call.read" in holding(own, socket.user_id, socket.principal.scope).capabilities


def _standing(turn: Turn, socket: Socket) -> Hashable:
    """Return all that `may_watch` depends on: who has the same may do the same."""
    principal, user_id = socket.principal, socket.user_id or ""
    user, member, rights = socket.user, turn.state.members.get(user_id), turn.state.rights.get(user_id)
    return (
        principal.kind,
        principal.acting,
        principal.calls is None or turn.call.cid in principal.calls,
        principal.teams,
        principal.scope.role,
        principal.scope.ceiling,
        (user.role, user.teams) if user else None,
        (member.role, member.granted, member.revoked) if member else None,
        (rights.granted, rights.revoked) if rights else None,
        active_ban(turn, user_id) or active_block(turn, user_id),
        address_banned(turn.facts, turn.now, principal.sources),
    )


def _tail(event: Event, data: Any) -> bytes:
    rest = {
        "id": event.id,
        "type": event.type,
        "cid": event.cid,
        "session_id": event.session_id,
        "seq": event.seq,
        "at": rfc3339(event.at),
        "actor": event.actor,
        "data": data,
    }
    return msgspec.json.encode(rest)[1:]


def _follow(event: Event, socket: Socket) -> int | None:
    """Return `prev_seq` for this socket, and note that the event is the last one it was sent."""
    if event.cid is None or event.seq is None:
        return None
    prev = socket.sent.get(event.cid, 0)
    socket.sent[event.cid] = event.seq
    return prev


def _frame(prev_seq: int | None, tail: bytes) -> Frame:
    return Frame(b'{"prev_seq":' + (b"null" if prev_seq is None else b"%d" % prev_seq) + b"," + tail)


def replay(turn: Turn, socket: Socket, events: Sequence[Event]) -> None:
    """Send a socket what it missed of a call, in order, as far as it may hear it."""
    for event, data in _heard(turn, socket, events):
        socket.send(event.type, _frame(_follow(event, socket), _tail(event, data)))


def remind(turn: Turn, socket: Socket, event: Event) -> None:
    """Hold for a socket what happened before it came, if it may hear it; what was sent by then is not sent again."""
    for earlier, data in _heard(turn, socket, [event]):
        socket.hold_earlier(earlier, data)


def _heard(turn: Turn, socket: Socket, events: Sequence[Event]) -> Iterator[tuple[Event, Any]]:
    """Return those events that a socket may hear, as they are shown to it."""
    deciding = deciding_users(turn)
    tenants = turn.facts.app.multi_tenant_enabled
    for event in events:
        if not socket.may_hear(event, tenants=tenants):
            continue
        heard = audience(turn, event, frozenset([socket.user_id]) if socket.user_id else frozenset())
        mine = socket.user_id in heard.groups | heard.meant
        if mine or (heard.watchers and turn.call.cid in socket.watching):
            _, data = shown_to(event, socket.user_id, socket.device_id, deciding)
            yield event, data
