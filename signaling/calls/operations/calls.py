"""Making, reading, changing, ending, reopening and deleting a call."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from signaling.calls import call_settings, views
from signaling.calls.call_types import granted
from signaling.calls.custom import checked, merge_patch
from signaling.calls.model import Call, Member
from signaling.calls.operations import members, rings, sessions
from signaling.calls.operations.members import NamedMember
from signaling.calls.problems import Problem, missing, unprocessable
from signaling.calls.rights import app_role, check_standing, own, own_team, require, scope_mask
from signaling.calls.state import CallState, Facts, Turn


@dataclass(frozen=True)
class NewCall:
    """What a request says about a call that may not exist yet. `None`: not said."""

    members: list[NamedMember] = field(default_factory=list)
    custom: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    team: str | None = None
    starts_at: datetime | None = None


def blank(type_: str, call_id: str, key: str, now: datetime) -> CallState:
    """Return the state of a call that is about to be made."""
    return CallState(
        Call(
            key=key,
            type=type_,
            id=call_id,
            team=None,
            created_by=None,
            version=0,
            custom={},
            settings_overrides={},
            starts_at=None,
            live=False,
            live_started_at=None,
            live_ended_at=None,
            ended_at=None,
            ended_by=None,
            deleted_at=None,
            created_at=now,
            updated_at=now,
        )
    )


def check_type(facts: Facts, name: str) -> None:
    if name not in facts.types:
        raise Problem("call_type_not_found", f"There is no call type {name!r}.")


def check_may_create(turn: Turn) -> None:
    """Refuse who may not make calls of this type: judged by the app role alone, narrowed by the token."""
    if turn.principal.calls is not None and turn.call.cid not in turn.principal.calls:
        raise Problem("not_found", "There is no such call.")
    check_standing(turn)
    if turn.principal.is_server:
        return
    held = granted(turn.type, app_role(turn.facts, turn.actor)) & scope_mask(turn, turn.principal.scope)
    if turn.principal.kind == "anonymous" or "call.create" not in held:
        raise missing("call.create")


def create(turn: Turn, new: NewCall) -> None:
    """Fill in the blank call. The creator is always an admin member."""
    check_may_create(turn)
    team = _team(turn, new.team)
    custom = checked(merge_patch({}, new.custom), "/custom")
    overrides = call_settings.merge_overrides({}, call_settings.check_patch(new.settings, "/settings"))
    if turn.call.type == "development" and not turn.facts.app.development_type_enabled:
        raise Problem("feature_disabled", "Calls of the type development are not enabled here.")
    turn.change_call(
        team=team,
        created_by=turn.actor,
        custom=custom,
        settings_overrides=overrides,
        starts_at=new.starts_at,
    )
    named = members.checked(turn, new.members)
    if turn.actor is not None:
        named = [*(one for one in named if one.user_id != turn.actor), NamedMember(turn.actor, "admin", None, "/")]
        named.insert(0, named.pop())
    for one in named:
        turn.state.members[one.user_id] = Member(
            user_id=one.user_id,
            role=one.role or turn.type.default_member_role,
            custom=one.custom or {},
            created_at=turn.now,
            updated_at=turn.now,
        )
    turn.emit("call.created", {"call": views.call(turn), "members": views.members_page(turn)}, "MPWS")


def _team(turn: Turn, team: str | None) -> str | None:
    if turn.principal.is_server or not turn.facts.app.multi_tenant_enabled:
        return team
    teams = own_team(turn)
    if team is None:
        if len(teams) > 1:
            raise unprocessable("/team", "You are in several teams; name the call's.")
        return next(iter(teams), None)
    if team not in teams:
        raise Problem("team_forbidden", f"You are not in the team {team!r}.")
    return team


@dataclass(frozen=True)
class CallChange:
    """A PATCH: only what is in `said` is changed."""

    said: frozenset[str]
    custom: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    starts_at: datetime | None = None


def update(turn: Turn, change: CallChange) -> None:
    held = own(turn).capabilities
    if change.said - {"settings"} and "call.update" not in held:
        raise missing("call.update")
    if "settings" in change.said and "call.update_settings" not in held:
        raise missing("call.update_settings")
    if not change.said and not held & {"call.update", "call.update_settings"}:
        raise missing("call.update")
    before, old_settings = turn.call, turn.settings
    changes: dict[str, Any] = {}
    if "custom" in change.said:
        changes["custom"] = checked(merge_patch(before.custom, change.custom), "/custom")
    if "settings" in change.said:
        patch = {} if change.settings is None else call_settings.check_patch(change.settings, "/settings")
        changes["settings_overrides"] = (
            {} if change.settings is None else call_settings.merge_overrides(before.settings_overrides, patch)
        )
    if "starts_at" in change.said:
        changes["starts_at"] = change.starts_at
        stopped = before.live_ended_at
        if stopped is not None and change.starts_at is not None and change.starts_at > stopped:
            changes["live_ended_at"] = None
    if all(getattr(before, name) == value for name, value in changes.items()):
        return
    turn.change_call(**changes)
    paths = call_settings.changed_paths(before.custom, turn.call.custom, "custom")
    paths += call_settings.changed_paths(old_settings, turn.settings, "settings")
    paths += [name for name in ("starts_at", "live_ended_at") if getattr(before, name) != getattr(turn.call, name)]
    sessions.refresh(turn, "settings_changed" if "settings" in change.said else "state_changed")
    tell_updated(turn, paths)


def tell_updated(turn: Turn, paths: list[str]) -> None:
    turn.emit("call.updated", {"call": views.call(turn), "paths": paths}, "MPWS")


def end(turn: Turn) -> None:
    """End the call for everybody; idempotent. Who joined after its end, by `call.join_ended`, leaves too.

    It is not live any more: reopened, it is in backstage.
    """
    require(turn, "call.end")
    if turn.call.ended_at is not None:
        _close_down(turn, "ended_by", "call_ended")
        return
    was_live = turn.call.live
    stopped = {"live": False, "live_ended_at": turn.now} if was_live else {}
    turn.change_call(ended_at=turn.now, ended_by=turn.actor, **stopped)
    _close_down(turn, "ended_by", "call_ended")
    if was_live:
        turn.emit("call.live_stopped", {"call": views.call(turn)}, "MPWS")
    turn.emit("call.ended", {"call": views.call(turn)}, "MPWS")


def _close_down(turn: Turn, end_reason: str, left_reason: str) -> None:
    for ring in list(turn.state.rings.values()):
        rings.call_off(turn, ring, "call_ended")
    sessions.end(turn, end_reason, left_reason)
    for entry in list(turn.state.lobby.values()):
        if entry.state == "waiting":
            turn.put("lobby", entry.id, entry, state="expired")


def reopen(turn: Turn) -> None:
    require(turn, "call.join_ended")
    if turn.call.ended_at is None:
        return
    turn.change_call(ended_at=None, ended_by=None)
    sessions.refresh(turn, "state_changed")
    tell_updated(turn, ["ended_at", "ended_by"])


def extend(turn: Turn, additional_seconds: int) -> None:
    require(turn, "call.extend")
    session = turn.state.running
    if session is None:
        raise Problem("conflict", "The call has no running session.")
    if session.expires_at is None:
        raise Problem("conflict", "The session has no end to move.")
    turn.change_session(extended_seconds=session.extended_seconds + additional_seconds)
    sessions.set_deadline(turn)


def delete(turn: Turn) -> None:
    """Hide the call; everybody in it leaves. Its id stays taken until a hard deletion."""
    require(turn, "call.delete")
    turn.change_call(deleted_at=turn.now)
    _close_down(turn, "deleted", "call_deleted")
    turn.emit("call.deleted", {"call": views.call(turn)}, "MPWS")
