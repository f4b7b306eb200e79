"""Asking for a right, deciding on it, and granting or revoking directly.

A grant permits; it unmutes nobody. Session grants belong to the user in the session and die with it, unless they were
made to persist.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from signaling.calls import views
from signaling.calls.capabilities import REQUESTABLE, normalise, ordered
from signaling.calls.model import Request, Rights
from signaling.calls.operations import sessions
from signaling.calls.operations.members import check_not_above_me
from signaling.calls.problems import Problem, missing, not_found, unprocessable
from signaling.calls.rights import deciders, own, require, settings_mask
from signaling.calls.state import Turn

REQUEST_LIFETIME = timedelta(minutes=2)
_GROUP = {"media.audio": "audio", "media.video": "video", "media.screen": "screenshare"}


def ask(turn: Turn, names: Sequence[str]) -> Request:
    """Ask for capabilities on one's own behalf."""
    wanted = ordered(names, "/capabilities")
    for index, capability in enumerate(wanted):
        if capability not in REQUESTABLE:
            raise unprocessable(f"/capabilities/{index}", f"{capability} cannot be asked for.")
    session = turn.state.running
    if turn.actor is None or session is None or not turn.state.of_user(turn.actor):
        raise Problem("conflict", "Only participants may ask.", request=None)
    held = own(turn)
    requestable = turn.type.requestable.get(held.role, ())
    masked = settings_mask(turn.settings)
    for capability in wanted:
        if capability in held.capabilities:
            raise Problem("already_held", f"You hold {capability} already.")
        enabled = turn.settings[_GROUP[capability]]["access_request_enabled"]
        # Who had it by his role, or by an earlier grant, and lost it may ask for it again.
        once_held = capability in held.base
        if not enabled or capability in masked or (capability not in requestable and not once_held):
            raise Problem("requests_disabled", f"{capability} is not given on request here.")
    for pending in turn.state.requests.values():
        if pending.user_id == turn.actor and pending.state == "pending" and set(pending.capabilities) & set(wanted):
            raise Problem("conflict", "You have asked already.", request=views.request(pending))
    request = Request(
        id=turn.new_id(),
        session_id=session.id,
        user_id=turn.actor,
        capabilities=tuple(sorted(wanted)),
        state="pending",
        expires_at=turn.now + REQUEST_LIFETIME,
        resolved_at=None,
        resolved_by=None,
        created_at=turn.now,
        updated_at=turn.now,
    )
    turn.state.requests[request.id] = request
    users = tuple(dict.fromkeys([*deciders(turn, "permission.grant"), turn.actor]))
    turn.emit("permission.requested", {"request": views.request(request)}, "S", users=users)
    return request


def pending(turn: Turn) -> list[Request]:
    """Return what waits for a decision: all of it to deciders, one's own to others."""
    everything = "permission.grant" in own(turn).capabilities
    return [
        request
        for request in turn.state.requests.values()
        if request.state == "pending" and (everything or request.user_id == turn.actor)
    ]


def decide(turn: Turn, request_id: str, state: str) -> Request:
    """Grant or deny; the second decider gets 409 with what the first decided."""
    held = require(turn, "permission.grant")
    request = _found(turn, request_id)
    if state == "granted":
        for capability in request.capabilities:
            if capability not in held.capabilities:
                raise missing(capability)
    _must_pend(request)
    if state == "granted":
        _add(turn, request.user_id, frozenset(request.capabilities), frozenset())
    return _resolve(turn, request, state)


def cancel(turn: Turn, request_id: str) -> None:
    request = _found(turn, request_id)
    if request.user_id != turn.actor and not turn.principal.is_server:
        raise not_found("permission request")
    _must_pend(request)
    _resolve(turn, request, "cancelled")


def _found(turn: Turn, request_id: str) -> Request:
    request = turn.state.requests.get(request_id)
    if request is None:
        raise not_found("permission request")
    return request


def _must_pend(request: Request) -> None:
    if request.state != "pending":
        raise Problem("already_resolved", "This has been decided already.", request=views.request(request))


def _resolve(turn: Turn, request: Request, state: str) -> Request:
    resolved: Request = turn.put(
        "requests", request.id, request, state=state, resolved_at=turn.now, resolved_by=turn.actor
    )
    sessions.tell_request(turn, request.id)
    return resolved


def expire(turn: Turn) -> None:
    for request in list(turn.state.requests.values()):
        if request.state == "pending" and request.expires_at <= turn.now:
            _resolve(turn, request, "expired")


def change(turn: Turn, user_id: str, grant: Sequence[str], revoke: Sequence[str], *, persist: bool) -> Rights:
    """Grant and revoke directly; only what the caller holds himself, and not of someone above him."""
    held = require(turn, "permission.grant")
    added, taken = normalise(grant, "/grant"), normalise(revoke, "/revoke")
    if added & taken:
        raise unprocessable("/revoke", "A capability is granted and revoked at once.")
    for capability in sorted(added | taken):
        if capability not in held.capabilities:
            raise missing(capability)
    check_not_above_me(turn, user_id)
    if user_id not in turn.facts.users:
        raise not_found("user")
    if turn.state.running is None and not (persist and user_id in turn.state.members):
        raise Problem("conflict", "The call has no running session.")
    if persist:
        _persist(turn, user_id, added, taken)
    if turn.state.running is None:
        # Session grants die with their session; without one he has it as a member, and as long as he is one.
        capabilities = sessions.capabilities_of(turn, user_id)
        return Rights(user_id=user_id, capabilities=capabilities, created_at=turn.now, updated_at=turn.now)
    return _add(turn, user_id, added, taken)


def _persist(turn: Turn, user_id: str, added: frozenset[str], taken: frozenset[str]) -> None:
    member = turn.state.members.get(user_id)
    if member is None:
        raise Problem("conflict", "Only a member's rights persist.")
    turn.put(
        "members",
        user_id,
        member,
        granted=(member.granted - taken) | added,
        revoked=(member.revoked - added) | taken,
    )


def _add(turn: Turn, user_id: str, added: frozenset[str], taken: frozenset[str]) -> Rights:
    known = turn.state.rights.get(user_id)
    if known is None:
        known = sessions.remember_rights(turn, user_id, ())
    turn.put(
        "rights",
        user_id,
        known,
        granted=(known.granted - taken) | added,
        revoked=(known.revoked - added) | taken,
    )
    if turn.state.of_user(user_id):
        sessions.refresh(turn, "revoked" if taken and not added else "granted", only=frozenset([user_id]))
        return turn.state.rights[user_id]
    return sessions.remember_rights(turn, user_id, sessions.capabilities_of(turn, user_id))
