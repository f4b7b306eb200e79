"""The life of a ring as a state machine: whatever callers, callees and time do, in whatever order."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from signaling.calls.model import Ring
from signaling.calls.operations import calls, joining, members, rings
from signaling.calls.operations.joining import JoinWish
from signaling.calls.operations.members import NamedMember
from tests.signaling.calls.harness import Desk, check_numbers

CALLEES = ("bob", "carl", "dora")
CALLEE_STATES = {"ringing", "accepted", "rejected", "missed", "cancelled"}
RING_STATES = {"pending", "accepted", "rejected_by_all", "cancelled", "timed_out"}


class RingLife(RuleBasedStateMachine):
    @initialize(
        incoming=st.sampled_from([5_000, 30_000]),
        missed=st.sampled_from([10_000, 30_000]),
        online=st.sets(st.sampled_from(CALLEES)),
    )
    def begin(self, incoming: int, missed: int, online: set[str]) -> None:
        self.desk = Desk("alice", *CALLEES)
        self.desk.facts.online = frozenset(online)
        self.incoming, self.missed, self.online = incoming, missed, online
        self.desk.create(
            "alice", *CALLEES, ring={"incoming_call_timeout_ms": incoming, "missed_call_timeout_ms": missed}
        )
        self.last: Ring | None = None
        self.history: dict[tuple[str, str], list[str]] = {}
        self.rung: dict[str, Any] = {}

    def latest(self) -> Ring | None:
        return max(self.desk.state.rings.values(), key=lambda ring: ring.id, default=None)

    def ringing(self, user: str) -> list[tuple[str, str]]:
        """Return the rings in which a user is being rung, each with his id."""
        return [
            (ring.id, user)
            for ring in self.desk.state.rings.values()
            if any(one.user_id == user and one.state == "ringing" for one in ring.callees)
        ]

    @rule(who=st.sets(st.sampled_from(CALLEES), min_size=1), timeout=st.sampled_from([None, 5_000, 60_000]))
    def ring(self, who: set[str], timeout: int | None) -> None:
        pending = self.desk.state.pending_ring
        refused = self.desk.refused(
            "alice", lambda turn: rings.start(turn, user_ids=sorted(who), video=True, timeout_ms=timeout)
        )
        ended = self.desk.state.call.ended_at is not None
        assert refused == ("conflict" if pending else "call_ended" if ended else None)
        if refused is None:
            ring = self.latest()
            assert ring is not None
            self.rung[ring.id] = (self.desk.now, timeout or 30_000)

    @rule(callee=st.sampled_from(CALLEES), device=st.sampled_from(["phone", "tablet"]))
    def accept(self, callee: str, device: str) -> None:
        ring = self.latest()
        if ring is None:
            return
        was = {c.user_id: c for c in ring.callees}.get(callee)
        refused = self.desk.refused(callee, lambda turn: rings.accept(turn, ring.id, device))
        if was is None:
            assert refused == "not_found"
        elif was.state == "ringing" or (was.state == "accepted" and was.device_id == device):
            assert refused is None
        else:
            assert refused == "already_resolved"

    @rule(callee=st.sampled_from(CALLEES), reason=st.sampled_from(["decline", "busy", "later"]))
    def reject(self, callee: str, reason: str) -> None:
        ring = self.latest()
        if ring is None:
            return
        was = {c.user_id: c.state for c in ring.callees}.get(callee)
        refused = self.desk.refused(callee, lambda turn: rings.reject(turn, ring.id, reason, None))
        assert refused == ({"ringing": None, None: "not_found"}.get(was, "already_resolved"))

    @rule()
    def cancel(self) -> None:
        ring = self.latest()
        if ring is not None:
            refused = self.desk.refused("alice", lambda turn: rings.cancel(turn, ring.id))
            assert refused == (None if ring.state == "pending" else "already_resolved")

    @rule(callee=st.sampled_from(CALLEES))
    def remove_and_add(self, callee: str) -> None:
        named = NamedMember(callee, None, None, "/members/0")
        self.desk.do("alice", lambda turn: members.remove_one(turn, callee, force=False))
        self.desk.do("alice", lambda turn: members.change(turn, [named], [], force=False))
        assert not self.ringing(callee)

    @rule(seconds=st.sampled_from([0.001, 1, 4.999, 5, 10, 29, 61]))
    def wait(self, seconds: float) -> None:
        self.desk.advance(seconds)

    @rule()
    def join_and_connect(self) -> None:
        if self.desk.state.call.ended_at is None:
            joined = self.desk.do("alice", lambda turn: joining.join(turn, JoinWish("phone")))
            self.desk.do(None, lambda turn: joining.connected(turn, joined.identity))  # type: ignore[union-attr]

    @rule(callee=st.sampled_from(CALLEES), device=st.sampled_from(["phone", "tablet"]))
    def join_without_accepting(self, callee: str, device: str) -> None:
        if self.desk.state.call.ended_at is not None:
            return
        rung = self.ringing(callee)
        self.desk.do(callee, lambda turn: joining.join(turn, JoinWish(device)))
        told = [(e.data["ring_id"], e.data["user_id"], e.data["by_device"]) for e in self.desk.of("call.ring_accepted")]
        assert [one for one in told if one[:2] in rung] == [(*one, device) for one in rung]
        assert not self.ringing(callee)

    @rule()
    def end(self) -> None:
        self.desk.do("alice", calls.end)

    @rule()
    def reopen(self) -> None:
        self.desk.do("alice", calls.reopen)

    @invariant()
    def states_fit(self) -> None:
        ring = self.latest()
        if ring is None:
            return
        states = Counter(callee.state for callee in ring.callees)
        assert states.keys() <= CALLEE_STATES
        assert ring.state in RING_STATES
        assert (ring.ended_at is None) == (ring.state == "pending")
        if ring.state == "accepted":
            assert states["accepted"]
        else:
            assert not states["accepted"]
        if ring.state == "pending":
            assert states["ringing"]
        if ring.state == "rejected_by_all":
            assert set(states) == {"rejected"}
        if ring.state == "cancelled":
            assert states["cancelled"]
            assert not states["ringing"]
        if ring.state == "timed_out":
            assert states["missed"]
            assert not states["ringing"]
        assert sum(one.state == "pending" for one in self.desk.state.rings.values()) <= 1

    @invariant()
    def nobody_changes_his_answer(self) -> None:
        ring = self.latest()
        for callee in ring.callees if ring else ():
            seen = self.history.setdefault((ring.id if ring else "", callee.user_id), [])
            if not seen or seen[-1] != callee.state:
                seen.append(callee.state)
            assert len(seen) <= 2
            assert len(seen) == 1 or seen[0] == "ringing"

    @invariant()
    def nobody_rings_beyond_his_time(self) -> None:
        ring = self.latest()
        for callee in ring.callees if ring else ():
            since, lasts = self.rung[ring.id if ring else ""]
            patience = self.incoming if callee.user_id in self.online else self.missed
            deadline = since + timedelta(milliseconds=min(lasts, patience))
            assert callee.due_at == deadline
            if callee.state == "ringing":
                assert self.desk.now < deadline

    @invariant()
    def everybody_is_told_once(self) -> None:
        check_numbers(self.desk)
        told = Counter((e.data["ring_id"], e.data["user_id"]) for e in self.desk.of("call.ring_missed"))
        assert set(told.values()) <= {1}
        ring = self.latest()
        for callee in ring.callees if ring else ():
            key = (ring.id if ring else "", callee.user_id)
            assert (key in told) == (callee.state in ("missed", "cancelled"))
            accepted = [e for e in self.desk.of("call.ring_accepted") if (e.data["ring_id"], e.data["user_id"]) == key]
            rejected = [e for e in self.desk.of("call.ring_rejected") if (e.data["ring_id"], e.data["user_id"]) == key]
            assert (len(accepted), len(rejected)) == (callee.state == "accepted", callee.state == "rejected")


TestRingLife = RingLife.TestCase
TestRingLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
