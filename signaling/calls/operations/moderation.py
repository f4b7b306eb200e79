"""Muting, kicking, blocking, pinning."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from signaling.calls.model import Block, Participant
from signaling.calls.operations import rings, sessions
from signaling.calls.operations.members import check_not_above_me
from signaling.calls.problems import not_found, unprocessable
from signaling.calls.rights import require
from signaling.calls.state import MuteTracks, Turn


def mute(
    turn: Turn, user_ids: Sequence[str] | None, kinds: Sequence[str], except_: Sequence[str]
) -> list[dict[str, Any]]:
    """Mute tracks of participants (None: of all but the caller); nobody is ever unmuted by another."""
    require(turn, "participant.mute")
    present = {participant.user_id for participant in turn.state.present()}
    if user_ids is None:
        concerned = sorted(present - {turn.actor})
    else:
        concerned = [user_id for user_id in dict.fromkeys(user_ids) if user_id in present]
    muted: list[dict[str, Any]] = []
    wanted = tuple(sorted(set(kinds)))
    for user_id in concerned:
        if user_id in except_:
            continue
        for participant in turn.state.of_user(user_id):
            turn.media(MuteTracks(participant.session_id, participant.identity, wanted))
        muted.append({"user_id": user_id, "kinds": list(wanted)})
        turn.emit("participant.muted", {"user_id": user_id, "kinds": list(wanted)}, "PS", users=(user_id,))
    return muted


def kick(turn: Turn, user_id: str, *, and_block: bool) -> None:
    require(turn, "participant.kick")
    if and_block:
        require(turn, "participant.block")
    present = turn.state.of_user(user_id)
    if not present:
        raise not_found("participant")
    check_not_above_me(turn, user_id)
    turn.emit("participant.kicked", {"user_id": user_id, "reason": None}, "PS", users=(user_id,))
    for participant in present:
        sessions.leave(turn, participant, "kicked", remove=True)
    if and_block:
        block(turn, user_id, None, None)


def block(turn: Turn, user_id: str, reason: str | None, expires_at: datetime | None) -> Block:
    """Keep a user out of the call, now and later. Blocking again changes reason and expiry."""
    require(turn, "participant.block")
    if user_id not in turn.facts.users:
        raise not_found("user")
    if user_id == turn.actor:
        raise unprocessable("/user", "You cannot block yourself.")
    if expires_at is not None and expires_at <= turn.now:
        raise unprocessable("/expires_at", "This is past.")
    check_not_above_me(turn, user_id)
    known = turn.state.blocks.get(user_id)
    entry = Block(
        user_id=user_id,
        reason=reason,
        expires_at=expires_at,
        blocked_by=turn.actor,
        created_at=known.created_at if known else turn.now,
        updated_at=turn.now,
    )
    turn.state.blocks[user_id] = entry
    sessions.refresh(turn, "blocked", removal="blocked", only=frozenset([user_id]))
    if known is None:
        turn.emit("participant.blocked", {"user_id": user_id, "reason": reason}, "PS", users=(user_id,))
    rings.withdraw(turn, user_id)
    return entry


def unblock(turn: Turn, user_id: str) -> None:
    require(turn, "participant.block")
    if user_id not in turn.state.blocks:
        raise not_found("block")
    _lift(turn, user_id)


def _lift(turn: Turn, user_id: str) -> None:
    del turn.state.blocks[user_id]
    sessions.refresh(turn, "unblocked", only=frozenset([user_id]))
    turn.emit("participant.unblocked", {"user_id": user_id, "reason": None}, "PS", users=(user_id,))


def expire(turn: Turn) -> None:
    for entry in list(turn.state.blocks.values()):
        if entry.expires_at is not None and entry.expires_at <= turn.now:
            _lift(turn, entry.user_id)


def pin(turn: Turn, participant_id: str) -> Participant:
    """Pin a participant for everybody."""
    participant = _pinnable(turn, participant_id)
    if participant_id not in turn.call.pins:
        turn.change_call(pins=(*turn.call.pins, participant_id))
        sessions.tell_changed(turn, participant)
    return participant


def unpin(turn: Turn, participant_id: str) -> None:
    participant = _pinnable(turn, participant_id)
    if participant_id in turn.call.pins:
        turn.change_call(pins=tuple(pin for pin in turn.call.pins if pin != participant_id))
        sessions.tell_changed(turn, participant)


def _pinnable(turn: Turn, participant_id: str) -> Participant:
    require(turn, "participant.pin_for_all")
    participant = turn.state.participants.get(participant_id)
    if participant is None or participant.state == "left":
        raise not_found("participant")
    return participant
