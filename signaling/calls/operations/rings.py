"""Ringing: one object with the server's own timers.

A ring is pending → accepted | rejected_by_all | cancelled | timed_out; a callee ringing → accepted | rejected |
missed | cancelled. An answer is a compare-and-set: the loser gets 409 with the ring as it stands. Each ring of a call
is a new object.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from msgspec import structs

from signaling.calls import views
from signaling.calls.custom import checked
from signaling.calls.identifiers import rfc3339
from signaling.calls.model import Callee, Ring
from signaling.calls.operations import sessions
from signaling.calls.problems import Fault, Problem, not_found
from signaling.calls.rights import kept_out, others_to_reach, own, require
from signaling.calls.state import Turn

ALERT_LIFETIME = timedelta(hours=1)
"""How long a push that rings nobody is worth delivering."""


def start(
    turn: Turn,
    *,
    user_ids: Sequence[str] | None,
    video: bool,
    timeout_ms: int | None = None,
    custom: dict[str, Any] | None = None,
) -> Ring:
    """Ring members; all but the caller if none are named."""
    require(turn, "call.ring")
    pending = turn.state.pending_ring
    callees = _named(turn, user_ids)
    data = checked(custom or {}, "/custom")
    if pending is not None:
        raise Problem("conflict", "The call is ringing already.", ring=shown(turn, pending))
    if turn.call.ended_at is not None:
        raise Problem("call_ended", "The call has ended.")
    if not callees:
        raise Problem("conflict", "There is nobody to ring.", ring=None)
    settings = turn.settings["ring"]
    expires = turn.now + timedelta(milliseconds=timeout_ms or settings["auto_cancel_timeout_ms"])
    ring = Ring(
        id=turn.new_id(),
        caller_id=turn.actor,
        video=video,
        custom=data,
        state="pending",
        expires_at=expires,
        ended_at=None,
        callees=tuple(_callee(turn, user_id, settings, expires) for user_id in callees),
        created_at=turn.now,
        updated_at=turn.now,
    )
    turn.state.rings[ring.id] = ring
    _deliver(turn, ring)
    busy = [callee for callee in ring.callees if callee.state == "rejected"]
    for callee in busy:
        _tell(turn, "call.ring_rejected", ring, callee.user_id, callee.device_id, "busy", to=())
    return _settle(turn, ring)


def _callee(turn: Turn, user_id: str, settings: dict[str, Any], expires: Any) -> Callee:
    online = user_id in turn.facts.online
    patience = settings["incoming_call_timeout_ms" if online else "missed_call_timeout_ms"]
    busy = settings["auto_reject_when_busy"] and user_id in turn.facts.busy
    return Callee(
        user_id=user_id,
        state="rejected" if busy else "ringing",
        reason="busy" if busy else None,
        device_id=None,
        due_at=min(expires, turn.now + timedelta(milliseconds=patience)),
        updated_at=turn.now,
    )


def _named(turn: Turn, user_ids: Sequence[str] | None) -> list[str]:
    if user_ids is None:
        return others_to_reach(turn)
    faults = []
    for index, user_id in enumerate(user_ids):
        user = turn.facts.users.get(user_id)
        if user is None or user.deleted_at is not None:
            faults.append(Fault(f"/user_ids/{index}", "unknown_user", f"There is no user {user_id!r}."))
        elif user_id not in turn.state.members:
            faults.append(Fault(f"/user_ids/{index}", "unprocessable", f"{user_id!r} is not a member of the call."))
        elif user_id == turn.actor:
            faults.append(Fault(f"/user_ids/{index}", "unprocessable", "You cannot ring yourself."))
        elif kept_out(turn, user_id):
            faults.append(Fault(f"/user_ids/{index}", "unprocessable", f"{user_id!r} is kept out of the call."))
    if faults:
        raise Problem(faults[0].code, faults[0].detail, errors=faults)
    return list(dict.fromkeys(user_ids))


def _deliver(turn: Turn, ring: Ring) -> None:
    ringing = tuple(callee.user_id for callee in ring.callees if callee.state == "ringing")
    if not ringing:
        return
    turn.emit("call.ring", {"ring": shown(turn, ring), "call": views.call(turn)}, "S", users=ringing)
    caller = views.person(ring.caller_id, turn.facts.users) or {"id": None, "name": None}
    for user_id in ringing:
        turn.push(
            user_id,
            "ring",
            {
                "type": "call.ring",
                "cid": turn.call.cid,
                "ring_id": ring.id,
                "caller_id": caller["id"],
                "caller_name": caller["name"],
                "video": ring.video,
                "expires_at": rfc3339(ring.expires_at),
                "custom": ring.custom,
            },
            ring.expires_at,
        )


def notify(turn: Turn, *, user_ids: Sequence[str] | None, title: str | None, body: str | None) -> None:
    """Send members a plain notification: no ring, no timer."""
    require(turn, "call.notify")
    alert(turn, _named(turn, user_ids), title, body)


def alert(turn: Turn, user_ids: Sequence[str], title: str | None, body: str | None) -> None:
    template = turn.type.notifications.get("notification") or {}
    caller = _caller(turn)
    name = str(caller.get("caller_name") or caller.get("caller_id") or "")
    said = {
        part: given if given is not None else str(template.get(part, "")).replace("{caller}", name)
        for part, given in (("title", title), ("body", body))
    }
    turn.emit("call.notification", {"call": views.call(turn), **said}, "S", users=tuple(user_ids))
    for user_id in user_ids:
        payload = {"type": "call.notification", "cid": turn.call.cid, **said, **caller}
        turn.push(user_id, "notification", payload, turn.now + ALERT_LIFETIME)


def _caller(turn: Turn) -> dict[str, Any]:
    caller = views.person(turn.actor, turn.facts.users)
    return {"caller_id": caller["id"], "caller_name": caller["name"]} if caller else {}


def found(turn: Turn, ring_id: str) -> Ring:
    ring = turn.state.rings.get(ring_id)
    if ring is None:
        raise not_found("ring")
    return ring


def read(turn: Turn, ring_id: str) -> Ring:
    """Return a ring to a member, its caller or a callee."""
    ring = found(turn, ring_id)
    concerned = {ring.caller_id, *(callee.user_id for callee in ring.callees), *turn.state.members}
    if not turn.principal.is_server and turn.actor not in concerned:
        raise not_found("ring")
    return ring


def accept(turn: Turn, ring_id: str, device_id: str) -> Ring:
    """Accept for one device; the same device may say it again."""
    ring, callee = _own_callee(turn, ring_id)
    if callee.state == "accepted" and callee.device_id == device_id:
        return ring
    _must_ring(turn, ring, callee)
    return _accept(turn, ring, callee.user_id, device_id)


def accept_by_joining(turn: Turn, user_id: str, device_id: str) -> None:
    """Accept for who came into the call with this device and had not said so before: he misses nothing."""
    for ring in list(turn.state.rings.values()):
        if ring.rings(user_id):
            _accept(turn, ring, user_id, device_id)


def _accept(turn: Turn, ring: Ring, user_id: str, device_id: str) -> Ring:
    ring = _answer(turn, ring, user_id, "accepted", None, device_id)
    if ring.state == "pending":
        ring = turn.put("rings", ring.id, ring, state="accepted", ended_at=turn.now)
        sessions.note_ring_resolved(turn)
    _tell(turn, "call.ring_accepted", ring, user_id, device_id, None, to=(user_id,))
    return ring


def reject(turn: Turn, ring_id: str, reason: str, device_id: str | None) -> Ring:
    ring, callee = _own_callee(turn, ring_id)
    _must_ring(turn, ring, callee)
    ring = _answer(turn, ring, callee.user_id, "rejected", reason, device_id)
    settled = _settle(turn, ring, quietly=True)
    _tell(turn, "call.ring_rejected", settled, callee.user_id, device_id, reason, to=(callee.user_id,))
    _end_session_of_lonely_caller(turn, settled)
    return settled


def cancel(turn: Turn, ring_id: str) -> Ring:
    ring = found(turn, ring_id)
    mine = ring.caller_id is not None and ring.caller_id == turn.actor
    if not mine and "call.end" not in own(turn).capabilities:
        raise Problem("missing_capability", "Only the caller cancels a ring.", capability="call.end")
    if ring.state != "pending":
        raise _resolved(turn, ring)
    return call_off(turn, ring, "cancelled")


def call_off(turn: Turn, ring: Ring, reason: str) -> Ring:
    """Stop a ring; each callee who was ringing is told once that he missed it."""
    ringing = [callee.user_id for callee in ring.callees if callee.state == "ringing"]
    if not ringing and ring.state != "pending":
        return ring
    callees = tuple(
        structs.replace(callee, state="cancelled", updated_at=turn.now) if callee.state == "ringing" else callee
        for callee in ring.callees
    )
    state = "cancelled" if ring.state == "pending" else ring.state
    ring = turn.put("rings", ring.id, ring, state=state, callees=callees, ended_at=ring.ended_at or turn.now)
    users = tuple(dict.fromkeys([*ringing, *([ring.caller_id] if ring.caller_id else [])]))
    turn.emit(
        "call.ring_cancelled", {"ring_id": ring.id, "reason": reason, "ring": shown(turn, ring)}, "S", users=users
    )
    for user_id in ringing:
        _missed(turn, ring, user_id, "cancelled")
    sessions.note_ring_resolved(turn)
    return ring


def withdraw(turn: Turn, user_id: str) -> None:
    """Stop ringing somebody who is not to come any more; the others ring on."""
    for ring in list(turn.state.rings.values()):
        if not ring.rings(user_id):
            continue
        ring = _settle(turn, _answer(turn, ring, user_id, "cancelled", None, None), quietly=True)
        # Named, he hears of it though he may be kept out by now. The caller is told that this one has missed it: to him
        # the ring itself may go on.
        data = {"ring_id": ring.id, "user_id": user_id, "reason": "cancelled", "ring": shown(turn, ring)}
        turn.emit("call.ring_cancelled", data, "S", users=(user_id,))
        _missed(turn, ring, user_id, "cancelled")


def expire(turn: Turn) -> None:
    """Let every callee whose time is up miss the ring."""
    for ring in list(turn.state.rings.values()):
        late = [callee.user_id for callee in ring.callees if callee.state == "ringing" and callee.due_at <= turn.now]
        if not late:
            continue
        for user_id in late:
            ring = _answer(turn, ring, user_id, "missed", None, None)
        ring = _settle(turn, ring, quietly=True)
        for user_id in late:
            _missed(turn, ring, user_id, "timeout")
        _end_session_of_lonely_caller(turn, ring)


def shown(turn: Turn, ring: Ring) -> dict[str, Any]:
    return views.ring(ring, turn.call.cid, turn.facts.users)


def _own_callee(turn: Turn, ring_id: str) -> tuple[Ring, Callee]:
    ring = found(turn, ring_id)
    for callee in ring.callees:
        if callee.user_id == turn.actor:
            return ring, callee
    raise not_found("ring")


def _must_ring(turn: Turn, ring: Ring, callee: Callee) -> None:
    if callee.state != "ringing":
        raise _resolved(turn, ring)


def _resolved(turn: Turn, ring: Ring) -> Problem:
    return Problem("already_resolved", "The ring is resolved already.", ring=shown(turn, ring))


def _answer(turn: Turn, ring: Ring, user_id: str, state: str, reason: str | None, device_id: str | None) -> Ring:
    callees = tuple(
        structs.replace(callee, state=state, reason=reason, device_id=device_id, updated_at=turn.now)
        if callee.user_id == user_id
        else callee
        for callee in ring.callees
    )
    changed: Ring = turn.put("rings", ring.id, ring, callees=callees)
    return changed


def _settle(turn: Turn, ring: Ring, *, quietly: bool = False) -> Ring:
    """Resolve a pending ring in which nobody rings any more."""
    if ring.state == "pending" and ring.settled:
        states = {callee.state for callee in ring.callees}
        state = "rejected_by_all" if states == {"rejected"} else "timed_out" if "missed" in states else "cancelled"
        ring = turn.put("rings", ring.id, ring, state=state, ended_at=turn.now)
        sessions.note_ring_resolved(turn)
        if not quietly:
            _end_session_of_lonely_caller(turn, ring)
    return ring


def _end_session_of_lonely_caller(turn: Turn, ring: Ring) -> None:
    present = turn.state.present()
    if ring.state == "rejected_by_all" and present and all(p.user_id == ring.caller_id for p in present):
        sessions.end(turn, "rejected", "rejected")


def _missed(turn: Turn, ring: Ring, user_id: str, reason: str) -> None:
    users = tuple(dict.fromkeys([user_id, *([ring.caller_id] if ring.caller_id else [])]))
    data = {"ring_id": ring.id, "user_id": user_id, "reason": reason, "ring": shown(turn, ring)}
    turn.emit("call.ring_missed", data, "S", users=users)
    if kept_out(turn, user_id):
        return
    caller = views.person(ring.caller_id, turn.facts.users) or {"id": None, "name": None}
    turn.push(
        user_id,
        "missed",
        {
            "type": "call.ring_missed",
            "cid": turn.call.cid,
            "ring_id": ring.id,
            "caller_id": caller["id"],
            "caller_name": caller["name"],
        },
        turn.now + ALERT_LIFETIME,
    )


def _tell(
    turn: Turn, type_: str, ring: Ring, user_id: str, device_id: str | None, reason: str | None, to: tuple[str, ...]
) -> None:
    users = tuple(dict.fromkeys([*to, *([ring.caller_id] if ring.caller_id else [])]))
    data = {
        "ring_id": ring.id,
        "user_id": user_id,
        "by_device": device_id,
        "reason": reason,
        "ring": shown(turn, ring),
    }
    turn.emit(type_, data, "S", users=users)
