"""The shell of the calls system: loads a call, lets an operation decide, commits, and carries the effects out.

Order of one operation: decide on a draft; make the room if one is needed (no node, no session); commit state, events
and what is owed in one transaction; tell the media side; tell everybody else. One operation per call at a time, and a
revision check against other processes. Not here: any rule, any route.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.api.v1.addresses import SeenAddresses
from signaling.api.v1.nodes import Nodes
from signaling.api.v1.orders import Orders
from signaling.api.v1.presence import Presence
from signaling.api.v1.relay import Relay
from signaling.calls.identifiers import check_name, is_guest_id, uuid7, whole_milliseconds
from signaling.calls.media import MediaRooms, NoMediaNode, Permission
from signaling.calls.model import AuditEntry, Event, Order, Participant, PushProvider, User
from signaling.calls.operations import clock as call_clock
from signaling.calls.operations import sessions
from signaling.calls.operations.calls import blank, check_type
from signaling.calls.principal import Principal, Verifier
from signaling.calls.problems import Problem, not_found, unprocessable
from signaling.calls.rights import banned, check_reach, is_viewer, turned_away
from signaling.calls.settings import CallsSettings
from signaling.calls.state import (
    CallState,
    CloseRoom,
    CreateRoom,
    Facts,
    MediaEffect,
    MuteTracks,
    Push,
    Refresh,
    RemoveParticipant,
    RemoveUser,
    Turn,
    UpdateParticipant,
    Work,
)
from signaling.events.channel import Channel
from signaling.events.journal import record
from signaling.events.outbound import Outbound
from signaling.events.push import check_keys
from signaling.events.push_message import UnusableKey
from signaling.store.call_repository import (
    NOWHERE,
    CallRepository,
    Loaded,
    Stale,
    busy_users,
    differs,
    online_users,
    running_calls,
)
from signaling.store.database import Database, DatabaseAway, NotOnDisk, save
from signaling.store.directory_repository import Directory, found_installation, lock_realm, make_user

log = structlog.get_logger(__name__)

T = TypeVar("T")
Told = CloseRoom | UpdateParticipant | RemoveParticipant | MuteTracks

DIRECTORY_FRESH_SECONDS = 0.05
"""How long a user who was read is taken to be as he was: within this, another process's change of him is not seen."""
OPERATIONS_AT_ONCE = 20
"""How many calls are brought up to date at a time: the processes that have their media are waited for together."""
ATTEMPTS_MAX = 20
"""How often an operation is decided anew because another process changed the call; each time somebody got through."""
SOURCES = {"audio": ("microphone",), "video": ("camera",), "screen": ("screen_share", "screen_share_audio")}


@dataclass
class Wanted:
    """What an operation needs around it."""

    users: Iterable[str] = ()
    """Users that the request names."""
    also: Mapping[str, str] = field(default_factory=dict)
    """Finished things that it names, by table and id."""
    create: str = "never"
    """`never`: a call that is not there is 404. `blank`: the operation gets a blank one (`Turn.call.version` 0)."""
    members_shown: int = 0
    reach: bool = True
    """Whether token, team, existence and blocks are checked first."""
    nodes: bool = False
    """Whether a room may have to be placed."""
    members: bool = False
    """Whether all members may be rung or pushed to, so that it has to know who of them still is to be."""
    online: bool = False
    """Whether it has to know which members have an event socket."""
    from_memory: bool = False
    """Whether it may first be decided by what this process last saw: for what is frequent, and nearly always changes
    the call, so that the commit tells whether it was still so. It rings nobody."""


@dataclass
class _Turns:
    """Whose turn it is to work on one call."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    gone: DatabaseAway | None = None


@dataclass
class Outcome(Generic[T]):
    result: T
    turn: Turn
    created: bool


class CallsService:
    """One per process. `clock` gives aware datetimes; nothing else here knows the time."""

    def __init__(
        self,
        settings: CallsSettings,
        database: Database,
        media: MediaRooms,
        clock: Callable[[], datetime],
        keys: Mapping[str, str],
        *,
        outbound: Outbound,
        dev: bool = False,
        randomness: Callable[[int], bytes] = os.urandom,
        name_max_bytes: int = 256,
    ) -> None:
        self.settings = settings
        self.name_max_bytes = name_max_bytes
        self.database = database
        self.media = media
        self.keys = dict(keys)
        self._tokens = Verifier(self.keys)
        self.dev = dev
        self.randomness = randomness
        self.calls = CallRepository()
        self.directory = Directory()
        self.channel = Channel(settings, self.now)
        self.presence = Presence(
            database, self.channel, uuid7(whole_milliseconds(clock()), randomness(10), None), self.now
        )
        lost_after = timedelta(seconds=settings.node_lost_seconds)
        self.nodes = Nodes(database, media, self.now, lost_after=lost_after)
        self.orders = Orders(database, media.node, self.now, self.new_id, self._do)
        self.relay = Relay(database)
        self.addresses = SeenAddresses(database, keys, self.now, per_user=settings.addresses_per_user)
        self.outbound = outbound
        # Every join waits for it, and it for no webhook.
        self.join_hook_outbound = outbound.beside()
        self.deliveries_owed = asyncio.Event()
        self.push_owed = asyncio.Event()
        self.tasks_owed = asyncio.Event()
        self._clock = clock
        self._locks: weakref.WeakValueDictionary[str, _Turns] = weakref.WeakValueDictionary()
        self.timers_changed = asyncio.Event()
        self.timers_wait_until: datetime | None = None
        self._last_id: str | None = None
        self.put_off: str | None = None
        """Why nothing is taken yet, as a sentence; None: all is."""
        self._running: list[asyncio.Task[None]] = []
        self._on_start: list[Callable[[], Coroutine[Any, Any, None]]] = []

    def now(self) -> datetime:
        return whole_milliseconds(self._clock())

    def new_id(self) -> str:
        self._last_id = uuid7(self.now(), self.randomness(10), self._last_id)
        return self._last_id

    # Life

    def in_background(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have `work` run from `start` to `stop`."""
        self._on_start.append(work)

    async def prepare(self) -> None:
        """Bring the store up to date; no background work yet."""
        await self.database.migrate()
        async with self.database.write() as connection:
            await found_installation(connection, self.now(), dev=self.dev)
        async with self.database.read() as connection:
            await self.directory.refresh(connection)
            # The first use of a statement puts it together, for 20 ms: no request is to wait for that.
            await self.calls.load_each(connection, [NOWHERE])
            await busy_users(connection, [""], "")
        await self.nodes.look()
        self.warn_of_development()

    def warn_of_development(self) -> None:
        if self.directory.app.development_type_enabled:
            log.warning("development_type_enabled", hint="Everybody may do everything in calls of this type.")

    def check_started(self) -> None:
        """Raises `DatabaseAway` as long as the start waits for the database."""
        if self.put_off is not None:
            raise DatabaseAway("Calls are not served yet; try again.", self.put_off)

    def start(self) -> None:
        """Begin the background work; `prepare` came before."""
        self.put_off = None
        self._running = [asyncio.create_task(work()) for work in self._on_start]

    async def stop(self) -> None:
        await self.channel.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running = []
        await self.outbound.close()
        await self.join_hook_outbound.close()
        await self.database.close()

    def wake_senders(self) -> None:
        """Something is owed: do not wait for the next poll."""
        for event in (self.deliveries_owed, self.push_owed, self.tasks_owed):
            event.set()

    def check_push_keys(self, provider: PushProvider) -> None:
        try:
            check_keys(provider)
        except UnusableKey as wrong:
            raise unprocessable(f"/{provider.type}/{wrong.field}", str(wrong)) from None

    # Principals

    async def authenticate(self, token: str, on_behalf_of: str | None, address: str | None = None) -> Principal:
        """Return who asks; a user whom a token vouches for is made on his first request.

        address: where he asks from, if that is known. An application's server asks for many, from its own.
        """
        self.check_started()
        principal = await self._authenticate(token, on_behalf_of)
        if principal.kind == "server":
            return principal
        sources = self.addresses.sources(address)
        if principal.user_id is not None:
            self.addresses.note(principal.user_id, sources)
        return replace(principal, sources=sources)

    def check_banned(self, principal: Principal) -> None:
        """Refuse who is banned, or comes from a banned address, where no call is concerned; he was authenticated."""
        facts = self._facts(self.directory.remembered_users())
        if not principal.is_server and turned_away(facts, self.now(), principal.user_id, principal.sources):
            raise banned()

    async def _authenticate(self, token: str, on_behalf_of: str | None) -> Principal:
        principal = self._tokens.verify(token, self.now())
        if principal.name is not None:
            principal = replace(principal, name=self._name_of(principal.name))
        fresh = time.monotonic() - self.directory.refreshed_at < DIRECTORY_FRESH_SECONDS
        met = self.directory.known_user(principal.user_id) if fresh else None
        if principal.kind == "user" and met is not None and met.deleted_at is None:
            return principal
        async with self.database.read() as connection:
            await self.directory.refresh(connection)
            if principal.kind == "server" and on_behalf_of is not None:
                known = await self.directory.users(connection, [on_behalf_of])
                user = known.get(on_behalf_of)
                if user is None or user.deleted_at is not None:
                    raise unprocessable("/On-Behalf-Of", f"There is no user {on_behalf_of!r}.", code="unknown_user")
                return principal.on_behalf_of(on_behalf_of)
            if principal.kind != "user" or principal.user_id is None:
                return principal
            user = (await self.directory.users(connection, [principal.user_id])).get(principal.user_id)
        if user is None:
            if is_guest_id(principal.user_id):
                # Made anew he would be a user like any other.
                raise Problem("unauthenticated", "This guest is not known any more.")
            user = await self._first_seen(principal.user_id, principal.name)
        if user.deleted_at is not None:
            raise Problem("unauthenticated", "This user was deleted.")
        return principal

    def _name_of(self, claim: str) -> str:
        try:
            return check_name(claim, self.name_max_bytes, "/name")
        except Problem as problem:
            raise Problem("unauthenticated", f"The claim name: {problem.message}") from None

    async def _first_seen(self, user_id: str, name: str | None) -> User:
        now = self.now()
        user = User(id=user_id, name=name, created_at=now, updated_at=now)
        async with self.database.write() as connection:
            await make_user(connection, user)
        async with self.database.read() as connection:
            # Of two first requests at once, one made the user; and somebody may have changed him since.
            return (await self.directory.users(connection, [user_id]))[user_id]

    # Operations on calls

    async def operate(
        self,
        principal: Principal,
        type_: str,
        call_id: str,
        operation: Callable[[Turn], T],
        wanted: Wanted | None = None,
    ) -> Outcome[T]:
        """Run an operation on a call and everything that follows from it."""
        wanted = wanted or Wanted()
        async with self._in_turn(f"{type_}:{call_id}"):
            if wanted.from_memory:
                done = await self._operate_from_memory(principal, type_, call_id, operation, wanted)
                if done is not None:
                    return done
            for _ in range(ATTEMPTS_MAX):
                loaded, turn = await self._turn(principal, type_, call_id, wanted)
                if wanted.reach and loaded.revision:
                    check_reach(turn)
                result = operation(turn)
                if not differs(loaded.state, turn.state) and loaded.revision and not turn.stored:
                    orders = self._elsewhere(turn, loaded)
                    await self._commit_events(turn, orders)
                    await self._carry_out(turn, loaded, orders)
                    return Outcome(result, turn, created=False)
                try:
                    await self._carry_through(loaded, turn)
                except Stale:
                    continue
                return Outcome(result, turn, created=loaded.revision == 0)
        raise Problem("unavailable", "The call changes too fast; try again.", retry_after_ms=100)

    async def _operate_from_memory(
        self, principal: Principal, type_: str, call_id: str, operation: Callable[[Turn], T], wanted: Wanted
    ) -> Outcome[T] | None:
        """Decide by what was last seen here. None: nothing was done, for it has to be read first.

        Only what the commit finds to be still so counts: a refusal, or that nothing changes, is decided after reading.
        """
        remembered = await self._turn_from_memory(principal, type_, call_id, wanted)
        if remembered is None:
            return None
        loaded, turn, realm = remembered
        try:
            if wanted.reach:
                check_reach(turn)
            result = operation(turn)
            if not differs(loaded.state, turn.state):
                return None
            await self._carry_through(loaded, turn, realm)
        except (Problem, Stale):
            return None
        return Outcome(result, turn, created=False)

    async def _carry_through(self, loaded: Loaded, turn: Turn, realm: int | None = None) -> None:
        """Commit a turn and do what follows from it. Raises `Stale`; then nothing of it was done.

        realm: the revision of what concerns all calls by which it was decided, if that is to be checked too.
        """
        type_, call_id = turn.call.type, turn.call.id
        rooms = await self._make_rooms(turn)
        orders = self._elsewhere(turn, loaded)
        try:
            after = await self._commit(loaded, turn, orders, realm)
        except Stale:
            self.calls.forget(type_, call_id)
            await self._unmake(rooms)
            raise
        except NotOnDisk:
            # So it is for everybody who reads; only who asked for it is not told that it will last.
            self.calls.forget(type_, call_id)
            await self._carry_out(turn, loaded, orders)
            raise
        except BaseException:
            await self._unmake(rooms)
            raise
        self.calls.committed(after)
        await self._carry_out(turn, loaded, orders)

    async def look(
        self,
        principal: Principal,
        type_: str,
        call_id: str,
        view: Callable[[Turn], T],
        wanted: Wanted | None = None,
    ) -> T:
        """Read a call; what `view` does to the draft is forgotten."""
        wanted = wanted or Wanted()
        loaded, turn = await self._turn(principal, type_, call_id, wanted)
        if wanted.reach and loaded.revision:
            check_reach(turn)
        return view(turn)

    async def look_in_turn(self, type_: str, call_id: str, view: Callable[[Turn], T]) -> T:
        """Read a call for the system itself, while no operation of this process is on it."""
        async with self._in_turn(f"{type_}:{call_id}"):
            return await self.look(SYSTEM, type_, call_id, view, Wanted(reach=False))

    async def look_each(self, principal: Principal, keys: Sequence[str], view: Callable[[Turn], T]) -> list[T]:
        """Read several calls, by their rows' keys, with a few queries for all of them; checks no reach."""
        now = self.now()
        async with self.database.read(whole=True) as connection:
            await self.directory.refresh(connection)
            found = await self.calls.load_each(connection, await self.calls.whereabouts_of(connection, keys))
            people = {user_id for one in found for user_id in _people(principal, one.state, Wanted())}
            facts = self._facts(await self.directory.users(connection, people))
        return [view(Turn(principal, now, self.new_id, facts, one.state.draft())) for one in found]

    async def _turn(self, principal: Principal, type_: str, call_id: str, wanted: Wanted) -> tuple[Loaded, Turn]:
        now = self.now()
        async with self.database.read(whole=True) as connection:
            where = await self.calls.whereabouts(connection, type_, call_id)
            await self.directory.refresh(connection, where.realm)
            loaded = await self.calls.load(connection, type_, call_id, where)
            if loaded is None:
                if wanted.create == "never":
                    raise not_found()
                check_type(self._facts({}), type_)
                loaded = Loaded(blank(type_, call_id, self.new_id(), now), 0)
            draft = loaded.state.draft()
            if wanted.also and loaded.revision:
                # Into the base too, so that what merely was looked up does not count as new.
                base = loaded.state.draft()
                await self.calls.include(connection, base, wanted.also)
                loaded, draft = Loaded(base, loaded.revision, loaded.read_anew), base.draft()
            facts = self._facts(await self.directory.users(connection, _people(principal, draft, wanted)))
            facts.busy = await self._busy(connection, draft, facts)
            if wanted.online:
                elsewhere = await online_users(connection, [*draft.members, *wanted.users], now)
                facts.online = self.channel.online() | elsewhere
            session = draft.running
            if session is not None and session.node and not self.nodes.lives(session.node):
                # Perhaps it has come since the nodes were looked at.
                await self.nodes.read(connection)
        if wanted.nodes:
            facts.nodes, facts.own_node = await self.nodes.living(), self.nodes.own
        return loaded, Turn(principal, now, self.new_id, facts, draft)

    async def _turn_from_memory(
        self, principal: Principal, type_: str, call_id: str, wanted: Wanted
    ) -> tuple[Loaded, Turn, int] | None:
        """Return what `_turn` would, without the database, and the realm's revision; None if not all is in memory."""
        directory = self.directory
        realm, users = directory.revision, directory.remembered_users()
        loaded = self.calls.remembered(type_, call_id)
        if loaded is None or type_ not in directory.types:
            return None
        draft = loaded.state.draft()
        people = _people(principal, draft, wanted)
        if any(user_id not in users and not is_viewer(user_id) for user_id in people):
            return None
        session = draft.running
        if session is not None and session.node and not self.nodes.lives(session.node):
            return None
        facts = self._facts({user_id: users[user_id] for user_id in people if user_id in users})
        if wanted.nodes:
            facts.nodes, facts.own_node = await self.nodes.living(), self.nodes.own
        return loaded, Turn(principal, self.now(), self.new_id, facts, draft), realm

    def remembered(self, type_: str, call_id: str) -> Turn | None:
        """Return a turn of the system on the call as this process last saw it, without asking the database."""
        loaded = self.calls.remembered(type_, call_id)
        if loaded is None:
            return None
        facts = self._facts(self.directory.remembered_users())
        return Turn(SYSTEM, self.now(), self.new_id, facts, loaded.state.draft())

    def _facts(self, users: Mapping[str, User]) -> Facts:
        directory = self.directory
        return Facts(
            directory.app,
            directory.types,
            directory.roles,
            users,
            directory.bans,
            banned_addresses=directory.banned_addresses,
        )

    async def _busy(self, connection: AsyncConnection, draft: CallState, facts: Facts) -> frozenset[str]:
        type_ = facts.types.get(draft.call.type)
        overridden = draft.call.settings_overrides.get("ring", {}).get("auto_reject_when_busy")
        if type_ is None or not (
            overridden or (overridden is None and type_.settings["ring"]["auto_reject_when_busy"])
        ):
            return frozenset()
        return await busy_users(connection, [*draft.members, *facts.users], draft.call.key)

    async def _commit(self, loaded: Loaded, turn: Turn, orders: Sequence[Order], realm: int | None) -> Loaded:
        due = call_clock.next_due(turn)
        async with self.database.write() as connection:
            after = await self.calls.store(connection, loaded, turn.state, due, realm)
            await save(connection, turn.stored, call_key=turn.call.key)
            await save(connection, orders)
            owed = await self._record(connection, turn)
        if due is not None and (self.timers_wait_until is None or due < self.timers_wait_until):
            self.timers_changed.set()
        if owed or turn.stored:
            self.wake_senders()
        return after

    async def _commit_events(self, turn: Turn, orders: Sequence[Order]) -> None:
        """Write down what changed nothing of the call, as a line of captions does, for other processes and webhooks."""
        if orders or any(isinstance(effect, Event) for effect in turn.effects):
            async with self.database.write() as connection:
                await save(connection, orders)
                owed = await self._record(connection, turn)
            if owed:
                self.wake_senders()

    async def _record(self, connection: AsyncConnection, turn: Turn) -> bool:
        events = [effect for effect in turn.effects if isinstance(effect, Event)]
        pushes = [effect for effect in turn.effects if isinstance(effect, Push)]
        # Before others can see them: this process tells its sockets itself, after the media side.
        self.relay.told.add(event.id for event in events)
        most = self.settings.push_waiting_per_user
        return await record(connection, events, pushes, turn.type, turn.now, self.new_id, push_waiting_max=most)

    @contextlib.asynccontextmanager
    async def _in_turn(self, cid: str) -> AsyncIterator[None]:
        """One operation per call at a time: two would only make each other's commit stale.

        Who waits while the database goes away under the one before him is refused with him: waiting for it one after
        the other, the last would be told minutes later.
        """
        turns = self._locks.get(cid)
        if turns is None:
            turns = self._locks[cid] = _Turns()
        async with turns.lock:
            if turns.gone is not None:
                raise DatabaseAway(str(turns.gone), turns.gone.reason) from turns.gone
            try:
                yield
            except DatabaseAway as away:
                turns.gone = away
                # Who comes from now on finds out for himself.
                if self._locks.get(cid) is turns:
                    del self._locks[cid]
                raise

    # Effects

    async def _make_rooms(self, turn: Turn) -> list[str]:
        made = []
        for effect in turn.effects:
            if isinstance(effect, CreateRoom) and effect.node == self.nodes.own:
                try:
                    await self.create_room(effect)
                except NoMediaNode as refused:
                    raise Problem("no_media_node", str(refused) or "No media node can take the call.") from None
                made.append(effect.room)
        return made

    async def create_room(self, room: CreateRoom) -> None:
        """Have the media side make a room; raises `NoMediaNode`."""
        await self.media.create_room(
            room.room,
            metadata=room.metadata,
            empty_timeout_seconds=room.empty_timeout_seconds,
            regions=room.regions,
        )

    async def _unmake(self, rooms: Sequence[str]) -> None:
        for room in rooms:
            await self._apply(CloseRoom(room, "shutdown"))

    def _elsewhere(self, turn: Turn, loaded: Loaded) -> list[Order]:
        """Return what other processes have to do, for they have the media node."""
        placed = _placed(turn, loaded)
        return [
            self.orders.to(node, effect) for node, effect in placed if not self._is_own(node) and self.nodes.lives(node)
        ]

    def _is_own(self, node: str) -> bool:
        return node in ("", self.nodes.own)

    async def _carry_out(self, turn: Turn, loaded: Loaded, orders: Sequence[Order]) -> None:
        # The media side first: nobody is told of a right before it holds, nor that one is gone before it is.
        for node, effect in _placed(turn, loaded):
            if self._is_own(node):
                await self._apply(effect)
        await self.orders.done(orders)
        events = [effect for effect in turn.effects if isinstance(effect, Event)]
        if loaded.read_anew:
            # Another process may have had the call before: what it told comes first. Even if nothing is told now,
            # for the next operation finds the call as this one left it.
            first = next((event.seq for event in events if event.seq is not None), turn.call.seq + 1)
            missed = await self.relay.missed(turn.call.cid, first)
            if missed:
                await self.orders.do_ours()
                await self.orders.done_in({event.session_id for event in missed if event.session_id is not None})
            events = [*missed, *events]
        if events:
            self.channel.publish(turn, events)

    async def _apply(self, effect: MediaEffect) -> None:
        try:
            async with asyncio.timeout(self.settings.media_timeout_seconds):
                await self._tell_media(effect)
        except Exception as error:  # the state is committed: whatever the media side says, everybody is told
            log.warning("media_effect_failed", effect=type(effect).__name__, error=repr(error))

    async def _tell_media(self, effect: MediaEffect) -> None:
        match effect:
            case CloseRoom(room, reason):
                await self.media.close_room(room, reason)
            case UpdateParticipant(room, identity, capabilities, hidden, version):
                permission = Permission(frozenset(capabilities), hidden, version)
                await self.media.update_participant(room, identity, permission)
            case RemoveParticipant(room, identity, reason, version):
                await self.media.remove_participant(room, identity, reason, version)
            case MuteTracks(room, identity, kinds):
                sources = [source for kind in kinds for source in SOURCES[kind]]
                await self.media.mute_tracks(room, identity, sources)
            case CreateRoom():
                raise AssertionError("rooms are made before the commit")

    # Things that concern all calls

    @contextlib.asynccontextmanager
    async def realm(self) -> AsyncIterator[tuple[AsyncConnection, Directory]]:
        """Change types, roles, users, bans or the app's settings: one at a time, all others see it whole."""
        async with self.database.write() as connection:
            await lock_realm(connection)
            # Not the shared directory: nobody else is to see what is not committed.
            current = Directory()
            await current.refresh(connection)
            yield connection, current
        async with self.database.read() as connection:
            await self.directory.refresh(connection)

    async def note(
        self, connection: AsyncConnection, principal: Principal, action: str, target: str, before: Any, after: Any
    ) -> None:
        """Write an audit entry in the transaction of what it is about."""
        now = self.now()
        entry = AuditEntry(
            id=self.new_id(),
            actor=principal.user_id,
            action=action,
            target=target,
            before=before,
            after=after,
            created_at=now,
            updated_at=now,
        )
        await save(connection, [entry])

    async def announce(
        self, connection: AsyncConnection, principal: Principal, type_: str, data: dict[str, Any]
    ) -> None:
        """Owe an event of no call to the webhooks."""
        event = Event(
            id=self.new_id(),
            type=type_,
            cid=None,
            session_id=None,
            seq=None,
            at=self.now(),
            actor=principal.user_id,
            data=data,
            groups="S",
        )
        if await record(connection, [event], [], None, self.now(), self.new_id, push_waiting_max=0):
            self.wake_senders()

    async def _do(self, work: Work) -> None:
        """Carry out an order."""
        match work:
            case Refresh():
                await self._refresh_running(work)
            case RemoveUser(user_id):
                await self._remove_user(user_id)
            case _:
                await self._apply(work)

    async def _refresh_running(self, work: Refresh) -> None:
        only = None if work.user_id is None else frozenset([work.user_id])
        removal = "blocked" if work.reason == "blocked" else "lost_capability"

        def refresh(turn: Turn) -> None:
            sessions.refresh(turn, work.reason, removal=removal, only=only)

        await self._in_running(refresh, type_=work.type_, user_id=work.user_id)

    async def _in_running(
        self, operation: Callable[[Turn], None], *, type_: str | None = None, user_id: str | None = None
    ) -> None:
        """Do something in each running session, of one type or with one user in it."""
        async with self.database.read() as connection:
            await self.directory.refresh(connection)
            running = await running_calls(connection, type_=type_, user_id=user_id)
        some = asyncio.Semaphore(OPERATIONS_AT_ONCE)

        async def one(call: Any) -> None:
            async with some:
                try:
                    await self.operate(SYSTEM, call.type, call.id, operation, Wanted(reach=False))
                except Problem as problem:
                    if problem.code == "unavailable":
                        raise  # else it was deleted meanwhile

        # One call's fault must not keep it from the others; it is owed again.
        done = await asyncio.gather(*(one(call) for call in running), return_exceptions=True)
        for failure in done:
            if failure is not None:
                raise failure

    async def recheck_watchers(self, type_: str | None = None) -> None:
        """Have sockets stop watching calls that their users may not read any more."""
        for cid in self.channel.watched(type_):
            call_type, _, call_id = cid.partition(":")
            with contextlib.suppress(Problem):
                # Not while an operation has committed and not told: who loses the call by it is told of that first.
                await self.look_in_turn(call_type, call_id, self.channel.recheck)

    async def _remove_user(self, user_id: str) -> None:
        def removal(turn: Turn) -> None:
            for participant in turn.state.of_user(user_id):
                sessions.leave(turn, participant, "removed", remove=True)

        await self._in_running(removal, user_id=user_id)
        self.channel.drop_user(user_id)


SYSTEM = Principal("server", None, datetime.max.replace(tzinfo=UTC))
"""The server itself: timers and the media side's reports."""


def _placed(turn: Turn, loaded: Loaded) -> list[tuple[str, Told]]:
    """Return what the media side is to be told after the commit, each with the node at which it is ("": not known)."""
    sessions_known = [state.session for state in (loaded.state, turn.state) if state.session is not None]
    nodes = {session.id: session.node for session in sessions_known}
    told = [effect for effect in turn.effects if not isinstance(effect, Event | Push | CreateRoom)]
    return [(nodes.get(effect.room, ""), effect) for effect in told]


def permission_of(participant: Participant) -> Permission:
    return Permission(frozenset(participant.capabilities), participant.hidden, participant.permission_version)


def _people(principal: Principal, state: CallState, wanted: Wanted) -> set[str]:
    people = {participant.user_id for participant in state.participants.values()} | set(wanted.users)
    for ring in state.rings.values():
        people.update(callee.user_id for callee in ring.callees)
        people.update([ring.caller_id] if ring.caller_id else [])
    if principal.user_id is not None:
        people.add(principal.user_id)
    people.update(user_id for user_id, _ in zip(state.members, range(wanted.members_shown), strict=False))
    # A session that begins is pushed to all members.
    if wanted.members or (wanted.nodes and state.running is None):
        people.update(state.members)
    return people
