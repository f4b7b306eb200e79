"""The life of a call and its sessions as a state machine: people come, go and vanish, gates open, time passes."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from signaling.calls import gate
from signaling.calls.model import LobbyEntry, Participant
from signaling.calls.operations import calls, joining, live, lobby, members, moderation
from signaling.calls.operations.joining import JoinWish
from signaling.calls.operations.members import NamedMember
from signaling.calls.rights import holding
from tests.signaling.calls.harness import START, Desk, check_numbers

PEOPLE = ("alice", "bob", "carl", "dora")
GUESTS = PEOPLE[1:]
DEVICES = ("phone", "tablet")
people, guests, devices = st.sampled_from(PEOPLE), st.sampled_from(GUESTS), st.sampled_from(DEVICES)


class CallLife(RuleBasedStateMachine):
    @initialize(
        type_=st.sampled_from(["default", "livestream"]), longest=st.sampled_from([None, 60]), lobby=st.booleans()
    )
    def begin(self, type_: str, longest: int | None, lobby: bool) -> None:
        self.desk = Desk(*PEOPLE, type_=type_)
        self.desk.create(
            "alice",
            "bob",
            role="call_member",
            limits={"max_duration_seconds": longest, "max_participants": 4},
            lobby={"enabled": lobby},
        )

    def inside(self) -> list[Participant]:
        return self.desk.state.present()

    @property
    def alive(self) -> bool:
        return self.desk.state.call.deleted_at is None

    @precondition(lambda self: self.alive)
    @rule(who=people, device=devices, connects=st.booleans())
    def join(self, who: str, device: str, connects: bool) -> None:
        turn = self.desk.turn(who)
        held = holding(turn, who)
        reasons = {
            "missing_capability": "call.join" not in held.unmasked,
            "backstage": not gate.is_open(turn.call, turn.settings, self.desk.now),
            "call_ended": turn.call.ended_at is not None,
            "call_full": len(self.inside()) >= 4,
        }
        results: list[Participant | LobbyEntry] = []
        refused = self.desk.refused(who, lambda turn: results.append(joining.join(turn, JoinWish(device))))
        if refused is not None:
            assert reasons[refused]
            return
        (result,) = results
        if isinstance(result, LobbyEntry):
            assert result.state == "waiting"
            return
        assert "call.join" in held.capabilities
        if connects:
            self.connect(result)

    def connect(self, participant: Participant) -> None:
        answer = joining.admit(self.desk.turn(None), participant.identity)
        if isinstance(answer, Participant):
            self.desk.rooms[participant.session_id][participant.identity] = answer.permission_version
            self.desk.do(None, lambda turn: joining.connected(turn, participant.identity))

    @precondition(lambda self: self.inside())
    @rule(index=st.integers(0, 9), clean=st.booleans())
    def vanish(self, index: int, clean: bool) -> None:
        participant = self.inside()[index % len(self.inside())]
        self.desk.do(None, lambda turn: joining.disconnected(turn, participant.identity, clean=clean))

    @precondition(lambda self: self.inside())
    @rule(index=st.integers(0, 9))
    def reconnect(self, index: int) -> None:
        self.connect(self.inside()[index % len(self.inside())])

    @precondition(lambda self: self.alive)
    @rule(who=people)
    def leave(self, who: str) -> None:
        for participant in self.desk.state.of_user(who):
            self.desk.do(who, partial(joining.step_out, participant_id=participant.id))

    @precondition(lambda self: self.alive)
    @rule(starts=st.sampled_from([None, 10, 60, 600]), ahead=st.sampled_from([0, 5, 300]), on=st.booleans())
    def schedule(self, starts: int | None, ahead: int, on: bool) -> None:
        change = calls.CallChange(
            frozenset(["starts_at", "settings"]),
            settings={"backstage": {"enabled": on, "join_ahead_time_seconds": ahead}},
            starts_at=None if starts is None else self.desk.now + timedelta(seconds=starts),
        )
        self.desk.do("alice", lambda turn: calls.update(turn, change))

    @precondition(lambda self: self.alive)
    @rule(video=st.booleans(), longest=st.sampled_from([None, 60, 120]))
    def change_settings(self, video: bool, longest: int | None) -> None:
        patch = {"video": {"enabled": video}, "limits": {"max_duration_seconds": longest}}
        self.desk.do(
            "alice", lambda turn: calls.update(turn, calls.CallChange(frozenset(["settings"]), settings=patch))
        )

    @precondition(lambda self: self.alive)
    @rule()
    def go_live(self) -> None:
        refused = self.desk.refused("alice", lambda turn: live.start(turn, [], notify=False))
        assert refused == ("call_ended" if self.desk.state.call.ended_at else None)

    @precondition(lambda self: self.alive)
    @rule(remove=st.booleans())
    def stop_live(self, remove: bool) -> None:
        told = len(self.desk.events)
        self.desk.do("alice", lambda turn: live.stop(turn, remove_viewers=remove))
        if remove and any(event.type == "call.live_stopped" for event in self.desk.events[told:]):
            turn = self.desk.turn(None)
            for participant in self.inside():
                assert "call.join" in holding(turn, participant.user_id).capabilities

    @precondition(lambda self: self.alive)
    @rule(who=guests, role=st.sampled_from(["call_member", "listener", "host", None]))
    def change_member(self, who: str, role: str | None) -> None:
        if role is None:
            self.desk.do("alice", lambda turn: members.change(turn, [], [who], force=False))
        else:
            named = NamedMember(who, role, None, "/")
            self.desk.do("alice", lambda turn: members.change(turn, [named], [], force=False))

    @precondition(lambda self: self.alive)
    @rule(who=guests, seconds=st.sampled_from([None, 30]))
    def block(self, who: str, seconds: int | None) -> None:
        until = None if seconds is None else self.desk.now + timedelta(seconds=seconds)
        self.desk.do("alice", lambda turn: moderation.block(turn, who, None, until))
        assert not self.desk.state.of_user(who)

    @precondition(lambda self: self.alive)
    @rule(who=guests)
    def unblock(self, who: str) -> None:
        blocked = who in self.desk.state.blocks
        assert self.desk.refused("alice", lambda turn: moderation.unblock(turn, who)) == (
            None if blocked else "not_found"
        )

    @precondition(lambda self: self.alive)
    @rule()
    def admit_all(self) -> None:
        self.desk.do("alice", lobby.admit_all)

    @precondition(lambda self: self.alive)
    @rule()
    def extend(self) -> None:
        session = self.desk.state.running
        bounded = session is not None and session.expires_at is not None
        assert self.desk.refused("alice", lambda turn: calls.extend(turn, 30)) == (None if bounded else "conflict")

    @precondition(lambda self: self.alive)
    @rule()
    def end(self) -> None:
        self.desk.do("alice", calls.end)
        assert not self.inside()
        assert self.desk.state.running is None

    @precondition(lambda self: self.alive)
    @rule()
    def reopen(self) -> None:
        self.desk.do("alice", calls.reopen)

    @rule(seconds=st.sampled_from([0.5, 5, 15, 20, 31, 61, 700]))
    def wait(self, seconds: float) -> None:
        self.desk.advance(seconds)

    @precondition(lambda self: self.alive and self.desk.now > START + timedelta(minutes=2))
    @rule()
    def delete(self) -> None:
        self.desk.do("alice", calls.delete)

    @invariant()
    def numbers_have_no_gap(self) -> None:
        check_numbers(self.desk)

    @invariant()
    def the_media_side_has_the_session_and_nobody_else(self) -> None:
        running = self.desk.state.running
        assert list(self.desk.rooms) == ([running.id] if running else [])
        if running is None:
            assert not self.inside()
            return
        identities = [participant.identity for participant in self.inside()]
        assert len(set(identities)) == len(identities)
        assert {participant.session_id for participant in self.inside()} <= {running.id}
        assert running.participant_count == len(self.desk.state.seen())
        versions = {participant.identity: participant.permission_version for participant in self.inside()}
        for identity, version in self.desk.rooms[running.id].items():
            if identity in versions:
                assert version <= versions[identity]

    @invariant()
    def everybody_inside_holds_what_he_was_told(self) -> None:
        turn = self.desk.turn(None)
        told: dict[str, list[str]] = {}
        for event in self.desk.of("call.capabilities_updated"):
            told[event.data["user_id"]] = event.data["capabilities"]
        for participant in self.inside():
            held = holding(turn, participant.user_id, participant.scope)
            assert "call.join" in held.unmasked
            assert participant.capabilities == tuple(sorted(held.capabilities))
            assert participant.role == held.role
            rights = self.desk.state.rights[participant.user_id]
            assert rights.capabilities == participant.capabilities

    @invariant()
    def rights_are_kept_of_those_alone_who_are_there_or_were_given_or_denied_some(self) -> None:
        present = {participant.user_id for participant in self.inside()}
        for user_id, rights in self.desk.state.rights.items():
            assert user_id in present or rights.granted or rights.revoked

    @invariant()
    def coming_precedes_going_and_each_happens_once(self) -> None:
        moves: dict[str, list[str]] = defaultdict(list)
        for event in self.desk.of("participant.joined", "participant.left"):
            moves[event.data["participant"]["id"]].append(event.type)
        for order in moves.values():
            assert order in (["participant.joined"], ["participant.joined", "participant.left"])
        inside = {p.id for p in self.inside() if p.state != "connecting" and p.joined_at is not None}
        assert {one for one, order in moves.items() if len(order) == 1} == inside

    @invariant()
    def sessions_begin_and_end_in_turn(self) -> None:
        order = [event.type for event in self.desk.of("session.started", "session.ended")]
        assert order == ["session.started", "session.ended"] * (len(order) // 2) + ["session.started"] * (
            len(order) % 2
        )
        assert (len(order) % 2 == 1) == (self.desk.state.running is not None)
        counted = Counter(event.data["session"]["id"] for event in self.desk.of("session.ended"))
        assert set(counted.values()) <= {1}

    @invariant()
    def a_call_is_what_it_says(self) -> None:
        call: Any = self.desk.state.call
        assert not (call.live and call.live_ended_at is not None)
        assert not (call.live and call.ended_at is not None)
        if call.ended_at is not None and call.deleted_at is None:
            for participant in self.inside():
                assert participant.role == "admin"


TestCallLife = CallLife.TestCase
TestCallLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
