"""Joining: every check, the lobby in front, the participant that results; and what the SFU asks and reports.

A media token alone opens nothing: `admit` is asked at every connect and reconnect (T-1).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from signaling.calls import gate
from signaling.calls.identifiers import rfc3339
from signaling.calls.model import LobbyEntry, Participant
from signaling.calls.operations import lobby, rings, sessions
from signaling.calls.problems import Problem, missing, not_found, unprocessable
from signaling.calls.rights import (
    ANONYMOUS_PREFIX,
    Holding,
    active_block,
    app_role,
    banned,
    holding,
    is_viewer,
    own,
    require_app_admin,
    scope_mask,
    turned_away,
)
from signaling.calls.state import CreateRoom, RemoveParticipant, Turn, UpdateParticipant

CONNECTING_TIMEOUT = timedelta(seconds=20)
"""From the reply to a join until the SFU reports the participant; generous for a cold start of a phone's app."""


@dataclass(frozen=True)
class JoinWish:
    """`resume`: the caller's own participant; of a viewer without an account, his entry in the lobby."""

    device_id: str
    hidden: bool = False
    region_hint: str | None = None
    resume: str | None = None


def check_may_join(turn: Turn) -> Holding:
    """Refuse who may not join now, naming what is missing: the right, or the open gate."""
    held = own(turn)
    if "call.join" not in held.unmasked:
        raise missing("call.join")
    opens = gate.opens_at(turn.call, turn.settings)
    if not gate.is_open(turn.call, turn.settings, turn.now) and "call.join_backstage" not in held.unmasked:
        raise Problem(
            "backstage", "The call is not live yet.", capability="call.join_backstage", opens_at=rfc3339(opens)
        )
    if turn.call.ended_at is not None and "call.join_ended" not in held.unmasked:
        raise Problem("call_ended", "The call has ended.")
    return held


def join(turn: Turn, wish: JoinWish) -> Participant | LobbyEntry:
    """Let the caller in, or into the lobby."""
    if turn.principal.is_server:
        raise unprocessable("/", "A server token joins on behalf of a user: send On-Behalf-Of.")
    held = check_may_join(turn)
    if wish.hidden:
        require_app_admin(turn)
    user_id = turn.actor or _viewer(turn, wish)
    if wish.resume is not None:
        resumed = turn.state.participants.get(wish.resume)
        if resumed is not None and resumed.state != "left" and resumed.user_id == turn.actor:
            _check_covers(turn, resumed)
            return resumed
    mine = [p for p in turn.state.of_user(user_id) if p.device_id == wish.device_id]
    limit = turn.settings["limits"]["max_participants"]
    # Who comes anew takes his own place, also after the limit was lowered.
    if limit is not None and not mine and len(turn.state.present()) >= limit:
        raise Problem("call_full", f"The call has its {limit} participants.")
    if not lobby.may_pass(turn, held, user_id):
        return lobby.wait(turn, user_id, wish.device_id)
    _check_regions(turn)
    session = turn.state.running
    if session is None:
        session = sessions.start(turn, wish.region_hint)
    elif session.node not in turn.facts.nodes:
        session = sessions.move(turn, session, wish.region_hint)
    # Session grants of an earlier visit of this session count again.
    held = own(turn)
    for earlier in mine:
        sessions.leave(turn, earlier, "replaced", remove=True)
    user = turn.facts.users.get(user_id)
    capabilities = tuple(sorted(held.capabilities))
    sessions.remember_rights(turn, user_id, capabilities)
    participant = Participant(
        id=turn.new_id(),
        session_id=session.id,
        user_id=user_id,
        device_id=wish.device_id,
        name=(user.name if user and user.name else user_id),
        role=held.role,
        app_role=app_role(turn.facts, turn.actor),
        state="connecting",
        hidden=wish.hidden,
        scope=turn.principal.scope,
        capabilities=capabilities,
        # Above what the media side saw of any earlier visit.
        permission_version=sessions.next_permission_version(turn),
        due_at=turn.now + CONNECTING_TIMEOUT,
        created_at=turn.now,
        updated_at=turn.now,
    )
    sessions.come_in(turn, participant)
    if not wish.hidden:  # whom nobody is to see, the caller is not told of either
        rings.accept_by_joining(turn, user_id, wish.device_id)
    return participant


def _viewer(turn: Turn, wish: JoinWish) -> str:
    """Return the user id of a viewer without an account: a new one, unless he names the entry with which he waits.

    That one only he and those who decide know, while everybody is shown the ids of participants.
    """
    entry = turn.state.lobby.get(wish.resume or "")
    return entry.user_id if entry is not None and is_viewer(entry.user_id) else f"{ANONYMOUS_PREFIX}{turn.new_id()}"


def _check_regions(turn: Turn) -> None:
    wanted = turn.settings["geofencing"]["names"]
    if wanted and not any(set(wanted) & set(node.regions) for node in turn.facts.nodes.values()):
        raise Problem("no_media_node", f"No media node serves {', '.join(wanted)}.")


def renew(turn: Turn, participant_id: str) -> Participant:
    """Return the caller's participant for a new media token; checks everything again."""
    participant = own_participant(turn, participant_id)
    held = own(turn)
    if "call.join" not in held.unmasked:
        raise missing("call.join")
    _check_covers(turn, participant)
    return participant


def _check_covers(turn: Turn, participant: Participant) -> None:
    """Refuse a token that is narrower than the one with which a participant came: his media would be past it.

    By what the tokens allow, not by what he holds now: that may be more again in a minute.
    """
    past = scope_mask(turn, participant.scope) - scope_mask(turn, turn.principal.scope)
    if past:
        raise missing(min(past.intersection(participant.capabilities) or past))


def own_participant(turn: Turn, participant_id: str) -> Participant:
    participant = turn.state.participants.get(participant_id)
    if participant is None or participant.state == "left":
        raise not_found("participant")
    if not turn.principal.is_server and participant.user_id != turn.actor:
        raise not_found("participant")
    return participant


def step_out(turn: Turn, participant_id: str) -> None:
    """Leave by one's own will; having left already is fine."""
    participant = turn.state.participants.get(participant_id)
    if participant is None or (not turn.principal.is_server and participant.user_id != turn.actor):
        raise not_found("participant")
    sessions.leave(turn, participant, "left", remove=True)


def admit(turn: Turn, identity: str, sources: Sequence[str] = ()) -> Participant | Problem:
    """Answer the SFU's question whether this identity may connect now, from the address of these hashes."""
    participant = next((p for p in turn.state.present() if p.identity == identity), None)
    if participant is None or turn.state.running is None:
        return Problem("not_found", "Nobody of this identity is in the session; join again.")
    user_id = participant.user_id
    if turned_away(turn.facts, turn.now, user_id, sources):
        return banned()
    if active_block(turn, user_id):
        return Problem("blocked", "You are blocked in this call.")
    held = holding(turn, None if participant.app_role == "anonymous" else user_id, participant.scope)
    if "call.join" not in held.unmasked:
        return missing("call.join")
    return participant


def connected(turn: Turn, identity: str) -> None:
    for participant in turn.state.present():
        if participant.identity == identity and participant.state in ("connecting", "reconnecting"):
            sessions.arrive(turn, participant)


def disconnected(turn: Turn, identity: str, *, clean: bool) -> None:
    """Note that a participant is gone from the SFU: at once if he said goodbye, after a grace if he vanished.

    Who is `connecting` is not meant: that is the old connection of somebody who has joined anew.
    """
    for participant in turn.state.present():
        if participant.identity != identity or participant.state == "connecting":
            continue
        if clean:
            sessions.leave(turn, participant, "left")
        elif participant.state == "joined":
            sessions.lose_contact(turn, participant, turn.now + _grace(turn))


def _grace(turn: Turn) -> timedelta:
    return timedelta(seconds=turn.settings["session"]["reconnect_grace_seconds"])


def room_of(turn: Turn) -> CreateRoom | None:
    """Return the room of the running session, as it would have to be made; None without a session."""
    session = turn.state.running
    return sessions.room(turn, session, None) if session is not None else None


def take_stock(turn: Turn, room: CreateRoom, connected: Collection[str]) -> None:
    """Compare with who is really connected, when reports may have been lost; repeat everybody's rights.

    room: as `room_of` has told it, at the node that was asked.
    """
    session = turn.state.running
    if session is None or session.id != room.room or session.node not in ("", room.node):
        return
    if session.node != room.node:
        turn.change_session(node=room.node)
    sessions.refresh(turn, "state_changed")
    present = turn.state.present()
    # Who was made to leave while the media side could not be told.
    for identity in sorted(set(connected) - {participant.identity for participant in present}):
        turn.media(RemoveParticipant(session.id, identity, "left"))
    deciding = sessions.Deciding(turn)
    for participant in present:
        if participant.identity in connected:
            if participant.state != "joined":
                sessions.arrive(turn, participant, deciding)
            turn.media(
                UpdateParticipant(
                    participant.session_id,
                    participant.identity,
                    participant.capabilities,
                    participant.hidden,
                    participant.permission_version,
                )
            )
        elif participant.state == "joined":
            sessions.lose_contact(turn, participant, turn.now + _grace(turn), deciding)
