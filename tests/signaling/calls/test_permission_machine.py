"""The life of permission requests and session grants as a state machine, against a model of a few lines."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from signaling.calls.operations import calls, joining, permissions
from signaling.calls.operations.joining import JoinWish
from signaling.calls.rights import holding
from tests.signaling.calls.harness import Desk, check_numbers

MEDIA = ("media.audio", "media.video", "media.screen")
ROLE = {"dave": {"media.audio", "media.video"}, "mona": set(MEDIA)}
"""What each may ask for in a livestream: a user two of them, a member all."""
who_asks, one_media = st.sampled_from(sorted(ROLE)), st.sampled_from(MEDIA)


class PermissionLife(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.desk = Desk("alice", "erin", *ROLE, type_="livestream")
        self.desk.create("alice", "mona", role="call_member", backstage={"enabled": False})
        self.granted: dict[str, set[str]] = {name: set() for name in ROLE}
        self.revoked: dict[str, set[str]] = {name: set() for name in ROLE}
        self.masked: set[str] = set()
        self.requests: dict[str, tuple[str, str, str]] = {}
        for name in ("alice", *ROLE):
            self.join(name)

    def join(self, name: str) -> None:
        participant: Any = self.desk.do(name, lambda turn: joining.join(turn, JoinWish("phone")))
        self.desk.rooms[participant.session_id][participant.identity] = participant.permission_version
        self.desk.do(None, lambda turn: joining.connected(turn, participant.identity))

    def held(self, name: str) -> set[str]:
        return (self.granted[name] - self.revoked[name]) - self.masked

    def inside(self, name: str) -> bool:
        return bool(self.desk.state.of_user(name))

    @rule(name=who_asks, capability=one_media)
    def ask(self, name: str, capability: str) -> None:
        pending = any(r == (name, capability, "pending") for r in self.requests.values())
        refused = self.desk.refused(name, lambda turn: permissions.ask(turn, [capability]))
        if not self.inside(name):
            assert refused == "conflict"
        elif capability in self.held(name):
            assert refused == "already_held"
        elif capability in self.masked or capability not in ROLE[name]:
            assert refused == "requests_disabled"
        else:
            assert refused == ("conflict" if pending else None)
        if refused is None:
            request = max(self.desk.state.requests)
            self.requests[request] = (name, capability, "pending")

    @rule(
        index=st.integers(0, 20), way=st.sampled_from(["granted", "denied"]), decider=st.sampled_from(["alice", "erin"])
    )
    def decide(self, index: int, way: str, decider: str) -> None:
        if not self.requests:
            return
        request = sorted(self.requests)[index % len(self.requests)]
        name, capability, state = self.requests[request]
        if state != "pending":
            return
        refused = self.desk.refused(decider, lambda turn: permissions.decide(turn, request, way))
        if decider == "erin" or (way == "granted" and capability in self.masked):
            assert refused == "missing_capability"
            return
        assert refused is None
        self.requests[request] = (name, capability, way)
        if way == "granted":
            self.granted[name].add(capability)
            self.revoked[name].discard(capability)

    @rule(name=who_asks, index=st.integers(0, 20))
    def withdraw(self, name: str, index: int) -> None:
        mine = [
            request for request, (who, _, state) in sorted(self.requests.items()) if who == name and state == "pending"
        ]
        if mine:
            request = mine[index % len(mine)]
            self.desk.do(name, lambda turn: permissions.cancel(turn, request))
            self.requests[request] = (*self.requests[request][:2], "cancelled")

    @rule(name=who_asks, capability=one_media, give=st.booleans())
    def change(self, name: str, capability: str, give: bool) -> None:
        grant, revoke = ([capability], []) if give else ([], [capability])
        refused = self.desk.refused("alice", lambda turn: permissions.change(turn, name, grant, revoke, persist=False))
        assert refused == ("missing_capability" if capability in self.masked else None)
        if refused is None:
            (self.granted if give else self.revoked)[name].add(capability)
            (self.revoked if give else self.granted)[name].discard(capability)

    @rule(video=st.booleans())
    def switch_video(self, video: bool) -> None:
        change = calls.CallChange(frozenset(["settings"]), settings={"video": {"enabled": video}})
        self.desk.do("alice", lambda turn: calls.update(turn, change))
        self.masked = set() if video else {"media.video"}

    @rule(name=who_asks)
    def leave_and_return(self, name: str) -> None:
        for participant in self.desk.state.of_user(name):
            self.desk.do(name, partial(joining.step_out, participant_id=participant.id))
        self.join(name)

    @rule(seconds=st.sampled_from([1, 60, 119, 121]))
    def wait(self, seconds: int) -> None:
        self.desk.advance(seconds)
        for request, (name, capability, state) in list(self.requests.items()):
            if state == "pending" and request not in self.desk.state.requests:
                self.requests[request] = (name, capability, "expired")

    @rule()
    def new_session(self) -> None:
        self.desk.do("alice", calls.end)
        self.desk.do("alice", calls.reopen)
        for name in ROLE:
            self.granted[name], self.revoked[name] = set(), set()
        for request, (name, capability, state) in list(self.requests.items()):
            if state == "pending":
                self.requests[request] = (name, capability, "expired")
        for name in ("alice", *ROLE):
            self.join(name)

    @invariant()
    def rights_are_those_of_the_model(self) -> None:
        turn = self.desk.turn(None)
        for name in ROLE:
            held = holding(turn, name).capabilities
            assert set(MEDIA) & held == self.held(name)
            for participant in self.desk.state.of_user(name):
                assert set(participant.capabilities) == held

    @invariant()
    def each_request_is_resolved_once_and_as_said(self) -> None:
        check_numbers(self.desk)
        told = Counter(event.data["request"]["id"] for event in self.desk.of("permission.resolved"))
        assert set(told.values()) <= {1}
        states = {e.data["request"]["id"]: e.data["request"]["state"] for e in self.desk.of("permission.resolved")}
        assert states == {request: state for request, (_, _, state) in self.requests.items() if state != "pending"}
        pending = {request for request, (_, _, state) in self.requests.items() if state == "pending"}
        assert {id_ for id_, r in self.desk.state.requests.items() if r.state == "pending"} == pending


TestPermissionLife = PermissionLife.TestCase
TestPermissionLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
