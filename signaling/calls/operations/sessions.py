"""A session's life: start, who comes and goes, draining, its end; and keeping everybody's rights up to date.

Who closes whom: the end of a call ends its session; the end of a session makes everybody leave, expires what was
asked in it, and closes the room. Not here: who may do any of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cached_property

from msgspec import structs

from signaling.calls import placement, views
from signaling.calls.model import Participant, Rights, Session
from signaling.calls.operations import captures
from signaling.calls.problems import Problem
from signaling.calls.rights import Holding, deciders, holding, others_to_reach
from signaling.calls.state import CloseRoom, CreateRoom, RemoveParticipant, Turn, UpdateParticipant

COUNTS_INSTEAD_ABOVE = 100
"""From more participants than this on, clients hear counts instead of every arrival."""
RING_REMEMBERED_SECONDS = 60
"""A ring that was resolved this long before a session began belongs to it."""


class Deciding:
    """Who decides on rights: found out once for all whom an operation tells of, and only if it tells of somebody."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    @cached_property
    def users(self) -> tuple[str, ...]:
        return deciders(self._turn, "permission.grant")


def start(turn: Turn, region_hint: str | None) -> Session:
    """Begin a session. The room is made before anything is committed: without a node there is no session."""
    recent = turn.now - timedelta(seconds=RING_REMEMBERED_SECONDS)
    session_id = turn.new_id()
    session = Session(
        id=session_id,
        node=_node_for(turn, session_id, region_hint),
        started_at=turn.now,
        empty_since=turn.now,
        ring_resolved=any(ring.ended_at is not None and ring.ended_at >= recent for ring in turn.state.rings.values()),
        created_at=turn.now,
        updated_at=turn.now,
    )
    turn.state.session = session
    set_deadline(turn)
    session = turn.state.session
    turn.media(room(turn, session, region_hint))
    turn.emit("session.started", {"session": views.running_session(turn)}, "MPWS")
    for user_id in others_to_reach(turn):
        turn.push(user_id, "session_started", {"type": "session.started", "cid": turn.call.cid}, _alert_deadline(turn))
    captures.start_automatic(turn)
    return session


def move(turn: Turn, session: Session, region_hint: str | None) -> Session:
    """Have another node take the room of a session whose node is dead."""
    moved: Session = structs.replace(session, node=_node_for(turn, session.id, region_hint), updated_at=turn.now)
    turn.state.session = moved
    turn.media(room(turn, moved, region_hint))
    return moved


def _node_for(turn: Turn, session_id: str, region_hint: str | None) -> str:
    facts, regions = turn.facts, turn.settings["geofencing"]["names"]
    node = placement.choose(facts.nodes, session_id, regions, region_hint, facts.own_node)
    if node is None:
        raise Problem("no_media_node", f"No media node serves {', '.join(regions) or 'calls now'}.")
    return node.id


def set_deadline(turn: Turn) -> None:
    """Bring the session's end up to date: its start, the longest duration, and what it was extended by."""
    session, limit = turn.state.running, turn.settings["limits"]["max_duration_seconds"]
    if session is None:
        return
    lasts = None if limit is None else timedelta(seconds=limit + session.extended_seconds)
    expires_at = None if lasts is None else session.started_at + lasts
    if expires_at != session.expires_at:
        turn.change_session(expires_at=expires_at)


def room(turn: Turn, session: Session, region_hint: str | None) -> CreateRoom:
    settings = turn.settings
    return CreateRoom(
        session.id,
        session.node,
        turn.call.cid,
        settings["session"]["inactivity_seconds"],
        tuple(settings["geofencing"]["names"]),
        region_hint,
    )


def _alert_deadline(turn: Turn) -> datetime:
    return turn.now + timedelta(hours=1)


def end(turn: Turn, reason: str, left_reason: str) -> None:
    """End the running session, if there is one; everybody in it leaves for `left_reason`."""
    session = turn.state.running
    if session is None:
        return
    for participant in turn.state.present():
        leave(turn, participant, left_reason)
    for request in list(turn.state.requests.values()):
        if request.state == "pending":
            turn.put("requests", request.id, request, state="expired", resolved_at=turn.now)
            tell_request(turn, request.id)
    captures.stop_all(turn)
    turn.state.rights.clear()
    turn.media(CloseRoom(session.id, reason))
    turn.change_session(ended_at=turn.now, end_reason=reason, participant_count=0, empty_since=None, alone_since=None)
    ended = turn.state.session
    # `change_session` keeps a session that is there.
    shown = views.session_of(ended, {"cid": turn.call.cid}) if ended else None
    turn.emit("session.ended", {"session": shown}, "MPWS")
    # Everybody has left in this very transaction, so the session's figures are final.
    turn.emit("stats.ready", {"session": shown}, "S")
    for entry in list(turn.state.lobby.values()):
        if entry.state == "admitted":
            turn.put("lobby", entry.id, entry, state="expired")


def tell_request(turn: Turn, request_id: str) -> None:
    request = turn.state.requests[request_id]
    turn.emit(
        "permission.resolved",
        {"request": views.request(request)},
        "S",
        users=(request.user_id, *deciders(turn, "permission.grant")),
    )


def arrive(turn: Turn, participant: Participant, deciding: Deciding | None = None) -> Participant:
    """Note that the SFU answered this participant's signaling join."""
    first = participant.joined_at is None
    arrived: Participant = turn.put(
        "participants",
        participant.id,
        participant,
        state="joined",
        due_at=None,
        joined_at=participant.joined_at or turn.now,
    )
    _recount(turn)
    if not first:
        _tell_contact(turn, arrived, deciding)
        return arrived
    _tell_coming_or_going(turn, "participant.joined", arrived, _shown(turn, arrived))
    return arrived


def lose_contact(turn: Turn, participant: Participant, due_at: datetime, deciding: Deciding | None = None) -> None:
    """Wait until `due_at` for a participant to come back."""
    lost: Participant = turn.put("participants", participant.id, participant, state="reconnecting", due_at=due_at)
    _tell_contact(turn, lost, deciding)


def leave(turn: Turn, participant: Participant, reason: str, *, remove: bool = False) -> None:
    """Make a participant leave; `remove`: his connection is still up and has to be cut."""
    if participant.state == "left":
        return
    if remove:
        version = participant.permission_version
        turn.media(RemoveParticipant(participant.session_id, participant.identity, reason, version))
    gone: Participant = turn.put(
        "participants", participant.id, participant, state="left", left_at=turn.now, left_reason=reason, due_at=None
    )
    if participant.id in turn.call.pins:
        turn.change_call(pins=tuple(pin for pin in turn.call.pins if pin != participant.id))
    _recount(turn)
    _forget_rights(turn, participant.user_id)
    # Who never arrived is not announced as gone: `joined` always precedes `left`.
    if participant.joined_at is not None:
        _tell_coming_or_going(turn, "participant.left", gone, {**_shown(turn, gone), "reason": reason})


def tell_changed(turn: Turn, participant: Participant) -> None:
    _tell(turn, "participant.updated", participant, _shown(turn, participant))


def _tell_contact(turn: Turn, participant: Participant, deciding: Deciding | None) -> None:
    """Tell that a participant's connection is gone, or back. Where there are counts, not all are told of each."""
    data, users = _shown(turn, participant), (participant.user_id,)
    if participant.hidden or len(turn.state.seen()) > COUNTS_INSTEAD_ABOVE:
        turn.emit("participant.updated", data, "S", users=users, deciders=(deciding or Deciding(turn)).users)
    else:
        turn.emit("participant.updated", data, "PWS")


def _shown(turn: Turn, participant: Participant) -> dict[str, object]:
    return {
        "participant": views.participant(participant, with_capabilities=True),
        "participant_count": len(turn.state.seen()),
    }


def _tell(turn: Turn, type_: str, participant: Participant, data: dict[str, object]) -> None:
    if participant.hidden:
        turn.emit(type_, data, "S", users=(participant.user_id,), deciders=deciders(turn, "permission.grant"))
    else:
        turn.emit(type_, data, "PWS")


def _tell_coming_or_going(turn: Turn, type_: str, participant: Participant, data: dict[str, object]) -> None:
    seen = turn.state.seen()
    if participant.hidden or len(seen) <= COUNTS_INSTEAD_ABOVE:
        _tell(turn, type_, participant, data)
        return
    turn.emit(type_, data, "S")
    by_role: dict[str, int] = {}
    for one in seen:
        by_role[one.role] = by_role.get(one.role, 0) + 1
    turn.emit("session.counts", {"participant_count": len(seen), "by_role": by_role}, "PW", numbered=False)


def _recount(turn: Turn) -> None:
    """Bring the session's counts and its two idle clocks (empty, alone after a ring) up to date."""
    session = turn.state.running
    if session is None:
        return
    present = turn.state.present()
    turn.change_session(
        participant_count=len(turn.state.seen()),
        empty_since=None if present else session.empty_since or turn.now,
        alone_since=(session.alone_since or turn.now) if len(present) == 1 and session.ring_resolved else None,
    )


def note_ring_resolved(turn: Turn) -> None:
    """From now on being alone in the session is a reason to end it."""
    if turn.state.running is not None:
        turn.change_session(ring_resolved=True)
        _recount(turn)


def come_in(turn: Turn, participant: Participant) -> None:
    """Count a participant who was let in and is about to connect."""
    turn.state.participants[participant.id] = participant
    _recount(turn)


def refresh(turn: Turn, reason: str, *, removal: str = "lost_capability", only: frozenset[str] | None = None) -> None:
    """Recompute what everybody in the session holds; tell whose set changed; remove who lost `call.join`.

    A gate that closed removes nobody by itself: see `live.stop`. `only`: the users that can be concerned.
    """
    set_deadline(turn)
    deciding = Deciding(turn)
    seen = set()
    for participant in turn.state.present():
        if only is not None and participant.user_id not in only:
            continue
        user_id = participant.user_id
        held = holding(turn, None if participant.app_role == "anonymous" else user_id, participant.scope)
        told = _tell_rights(turn, user_id, held, reason, deciding) if user_id not in seen else None
        seen.add(user_id)
        capabilities = tuple(sorted(held.capabilities))
        if "call.join" not in held.unmasked:
            leave(turn, participant, removal, remove=True)
        elif capabilities != participant.capabilities or held.role != participant.role or told:
            _change_participant(turn, participant, held.role, capabilities, told or next_permission_version(turn))


def _change_participant(
    turn: Turn, participant: Participant, role: str, capabilities: tuple[str, ...], version: int
) -> None:
    changed: Participant = turn.put(
        "participants",
        participant.id,
        participant,
        role=role,
        capabilities=capabilities,
        permission_version=version,
    )
    if capabilities != participant.capabilities:
        turn.media(
            UpdateParticipant(
                changed.session_id, changed.identity, capabilities, changed.hidden, changed.permission_version
            )
        )
    if role != participant.role and changed.joined_at is not None:
        tell_changed(turn, changed)


def remember_rights(turn: Turn, user_id: str, capabilities: tuple[str, ...]) -> Rights:
    """Keep the set a user starts with, so that a later change is told once."""
    known = turn.state.rights.get(user_id)
    if known is None:
        # What he is told from now on has a higher version than what he was told on an earlier visit.
        version = _permissions_given(turn)
        known = Rights(
            user_id=user_id, capabilities=capabilities, version=version, created_at=turn.now, updated_at=turn.now
        )
        turn.state.rights[user_id] = known
        return known
    kept: Rights = turn.put("rights", user_id, known, capabilities=capabilities)
    return kept


def _forget_rights(turn: Turn, user_id: str) -> None:
    """Forget the rights of who has left: a session has many visitors. What was granted or denied he finds again."""
    known = turn.state.rights.get(user_id)
    if known is None or known.granted or known.revoked or turn.state.of_user(user_id):
        return
    given = _permissions_given(turn)
    del turn.state.rights[user_id]
    turn.change_session(permissions=given)


def next_permission_version(turn: Turn) -> int:
    """Count up the version of permissions in the session: the media side never sees one of anybody fall."""
    version = 1 + _permissions_given(turn)
    turn.change_session(permissions=version)
    return version


def _permissions_given(turn: Turn) -> int:
    state = turn.state
    counted = state.session.permissions if state.session is not None else 0
    if counted:
        return counted
    # Nobody has come yet; or the session began before it counted them.
    of_users = (known.permission_version for known in state.rights.values())
    return max([0, *of_users, *(participant.permission_version for participant in state.participants.values())])


def capabilities_of(turn: Turn, user_id: str) -> tuple[str, ...]:
    return tuple(sorted(holding(turn, user_id).capabilities))


def _tell_rights(turn: Turn, user_id: str, held: Holding, reason: str, deciding: Deciding) -> int | None:
    """Tell what a user holds now if that has changed; return the version, None if it has not."""
    known = turn.state.rights.get(user_id) or remember_rights(turn, user_id, ())
    after = tuple(sorted(held.capabilities))
    if after == known.capabilities:
        return None
    before = frozenset(known.capabilities)
    version = next_permission_version(turn)
    turn.put("rights", user_id, known, capabilities=after, version=version)
    turn.emit(
        "call.capabilities_updated",
        {
            "user_id": user_id,
            "capabilities": list(after),
            "added": sorted(held.capabilities - before),
            "removed": sorted(before - held.capabilities),
            "reason": reason,
            "version": version,
        },
        "S",
        users=(user_id,),
        deciders=tuple(user for user in deciding.users if user != user_id),
    )
    return version
