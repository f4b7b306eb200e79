"""A call in memory, for tests of the rules alone: no store, no clock, no HTTP. Time is a number that tests move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from signaling.calls.call_types import built_in_roles, built_in_types, fresh_app
from signaling.calls.identifiers import uuid7
from signaling.calls.model import CallType, Event, NodeFacts, User
from signaling.calls.operations import calls, clock
from signaling.calls.operations.members import NamedMember
from signaling.calls.principal import Principal
from signaling.calls.problems import Problem
from signaling.calls.state import (
    CallState,
    CloseRoom,
    CreateRoom,
    Facts,
    MuteTracks,
    RemoveParticipant,
    Turn,
    UpdateParticipant,
)
from signaling.store.call_repository import without_finished

START = datetime(2026, 1, 1, 9, 0, tzinfo=UTC)
SERVER = Principal("server", None, START + timedelta(days=3_650))
Result = TypeVar("Result")


class Desk:
    """One call and everything that was told about it. `do` is what the service does around an operation."""

    def __init__(self, *users: str, type_: str = "default", call_type: CallType | None = None) -> None:
        self.now = START
        self.last_id: str | None = None
        types = {one.name: one for one in built_in_types(START)}
        if call_type is not None:
            types[call_type.name] = call_type
        people = {name: User(id=name, name=name.title(), created_at=START, updated_at=START) for name in users}
        roles = frozenset(role.name for role in built_in_roles(START))
        nodes = {"media": NodeFacts(id="media", url="wss://media.example.com", regions=("eu",))}
        self.facts = Facts(fresh_app(START, dev=True), types, roles, people, {}, nodes=nodes, own_node="media")
        self.state: CallState = calls.blank(type_, "x", self.new_id(), self.now)
        self.events: list[Event] = []
        self.media: list[Any] = []
        self.rooms: dict[str, dict[str, int]] = {}
        """What a media side knows: rooms, and in each the version of everybody's permission."""

    def new_id(self) -> str:
        self.last_id = uuid7(self.now, b"0123456789", self.last_id)
        return self.last_id

    def turn(self, user: str | None) -> Turn:
        principal = SERVER if user is None else Principal("user", user, SERVER.expires_at)
        return Turn(principal, self.now, self.new_id, self.facts, self.state.draft())

    def do(self, user: str | None, operation: Callable[[Turn], Result]) -> Result:
        """Run an operation as a user (None: the server); what it raises leaves everything as it was."""
        turn = self.turn(user)
        result = operation(turn)
        self.state = without_finished(turn.state)
        for effect in turn.effects:
            if isinstance(effect, Event):
                self.events.append(effect)
            else:
                self._media(effect)
        return result

    def refused(self, user: str | None, operation: Callable[[Turn], Any]) -> str | None:
        """Run an operation that may be refused; return the code if it was."""
        before = self.state
        try:
            self.do(user, operation)
        except Problem as problem:
            assert self.state is before
            return str(problem.code)
        return None

    def _media(self, effect: Any) -> None:
        self.media.append(effect)
        match effect:
            case CreateRoom(room):
                assert room not in self.rooms
                self.rooms[room] = {}
            case CloseRoom(room, _):
                del self.rooms[room]
            case UpdateParticipant(room, identity, _, _, version):
                assert version > self.rooms[room].get(identity, 0)
                self.rooms[room][identity] = version
            case RemoveParticipant(room, identity, _):
                self.rooms[room].pop(identity, None)
            case MuteTracks(room, _, _):
                assert room in self.rooms

    def create(self, by: str, *members: str, role: str | None = None, **settings: Any) -> None:
        named = [NamedMember(name, role, None, f"/members/{i}") for i, name in enumerate(members)]
        self.do(by, lambda turn: calls.create(turn, calls.NewCall(named, settings=settings)))

    def advance(self, seconds: float) -> None:
        """Move time and do what is due, again at each instant at which something is, as the timers do."""
        end = self.now + timedelta(seconds=seconds)
        for _ in range(1_000):
            due = clock.next_due(self.turn(None))
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.do(None, clock.tick)
            after = clock.next_due(self.turn(None))
            assert after is None or after > self.now, "a timer that was run is due again: the loop would spin"
        else:
            raise AssertionError("timers without end")
        self.now = end
        self.do(None, clock.tick)

    def of(self, *types: str) -> list[Event]:
        return [event for event in self.events if event.type in types]


def check_numbers(desk: Desk) -> None:
    """Every numbered event follows the one before without a gap."""
    numbers = [event.seq for event in desk.events if event.seq is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert desk.state.call.seq == len(numbers)
