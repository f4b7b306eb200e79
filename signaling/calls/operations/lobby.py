"""The lobby: who waits outside until somebody with `lobby.admit` decides."""

from __future__ import annotations

from datetime import timedelta

from signaling.calls import views
from signaling.calls.model import LobbyEntry
from signaling.calls.operations import sessions
from signaling.calls.operations.members import check_not_above_me
from signaling.calls.problems import Problem, not_found
from signaling.calls.rights import Holding, deciders, is_viewer, own, require
from signaling.calls.state import Turn


def may_pass(turn: Turn, held: Holding, user_id: str) -> bool:
    """Tell whether someone enters directly: no lobby, one who could admit himself, or one who was admitted."""
    if "lobby.admit" in held.capabilities:
        return True
    mine = [entry for entry in turn.state.lobby.values() if entry.user_id == user_id]
    if any(entry.state == "admitted" for entry in mine):
        return True
    # Who was sent to the lobby waits there, whether or not the call has one for newcomers.
    return not turn.settings["lobby"]["enabled"] and not any(entry.state == "waiting" for entry in mine)


def wait(turn: Turn, user_id: str, device_id: str) -> LobbyEntry:
    """Put someone into the lobby; who waits already keeps his place."""
    for entry in turn.state.lobby.values():
        if entry.user_id == user_id and entry.state == "waiting":
            return entry
    entry = LobbyEntry(
        id=turn.new_id(),
        user_id=user_id,
        device_id=device_id,
        state="waiting",
        expires_at=turn.now + timedelta(seconds=turn.settings["lobby"]["timeout_seconds"]),
        resolved_by=None,
        created_at=turn.now,
        updated_at=turn.now,
    )
    turn.state.lobby[entry.id] = entry
    turn.emit("lobby.waiting", {"lobby": views.lobby(entry)}, "", users=deciders(turn, "lobby.admit"))
    return entry


def waiting(turn: Turn) -> list[LobbyEntry]:
    require(turn, "lobby.admit")
    return [entry for entry in turn.state.lobby.values() if entry.state == "waiting"]


def read(turn: Turn, entry_id: str) -> LobbyEntry:
    """Return an entry, decided ones too, to whom it is about and to those who decide."""
    entry = turn.state.lobby.get(entry_id)
    if entry is None or not (_is_mine(turn, entry) or "lobby.admit" in own(turn).capabilities):
        raise not_found("lobby entry")
    return entry


def _is_mine(turn: Turn, entry: LobbyEntry) -> bool:
    if turn.principal.kind == "anonymous":
        return is_viewer(entry.user_id)  # whoever knows the entry's id waits with it
    return turn.actor is not None and entry.user_id == turn.actor


def resolve(turn: Turn, entry_id: str, state: str) -> LobbyEntry:
    """Admit or deny one; the second decider gets 409 with what the first decided."""
    require(turn, "lobby.admit")
    entry = turn.state.lobby.get(entry_id)
    if entry is None:
        raise not_found("lobby entry")
    if entry.state != "waiting":
        raise Problem("already_resolved", "This has been decided already.", lobby=views.lobby(entry))
    return _resolve(turn, entry, state)


def _resolve(turn: Turn, entry: LobbyEntry, state: str) -> LobbyEntry:
    resolved: LobbyEntry = turn.put("lobby", entry.id, entry, state=state, resolved_by=turn.actor)
    turn.emit(f"lobby.{state}", {"lobby": views.lobby(resolved)}, "", users=(entry.user_id,))
    return resolved


def admit_all(turn: Turn) -> list[LobbyEntry]:
    return [_resolve(turn, entry, "admitted") for entry in waiting(turn)]


def send_back(turn: Turn, participant_id: str) -> LobbyEntry:
    """Send a participant out into the lobby."""
    require(turn, "lobby.admit")
    participant = turn.state.participants.get(participant_id)
    if participant is None or participant.state == "left":
        raise not_found("participant")
    check_not_above_me(turn, participant.user_id)
    for entry in list(turn.state.lobby.values()):
        if entry.user_id == participant.user_id and entry.state == "admitted":
            turn.put("lobby", entry.id, entry, state="expired")
    sessions.leave(turn, participant, "removed", remove=True)
    return wait(turn, participant.user_id, participant.device_id)


def expire(turn: Turn) -> None:
    for entry in list(turn.state.lobby.values()):
        if entry.state == "waiting" and entry.expires_at <= turn.now:
            turn.put("lobby", entry.id, entry, state="expired")
