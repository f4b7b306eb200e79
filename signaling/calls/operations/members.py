"""Who belongs to a call: adding, changing, removing, in one atomic step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from signaling.calls import custom, views
from signaling.calls.call_types import is_above
from signaling.calls.model import Member
from signaling.calls.operations import rings, sessions
from signaling.calls.problems import Fault, Problem, missing, not_found
from signaling.calls.rights import Holding, app_role, own
from signaling.calls.state import Turn


@dataclass(frozen=True)
class NamedMember:
    """A member as a request names him; `pointer`: where in the body his id stands."""

    user_id: str
    role: str | None
    custom: dict[str, Any] | None
    pointer: str


def checked(turn: Turn, named: Sequence[NamedMember]) -> list[NamedMember]:
    """Return the members named, the last of several wins; 422 for unknown users and roles and foreign teams."""
    faults = []
    for one in named:
        user = turn.facts.users.get(one.user_id)
        if user is None or user.deleted_at is not None:
            faults.append(Fault(one.pointer, "unknown_user", f"There is no user {one.user_id!r}."))
        elif turn.facts.app.multi_tenant_enabled and turn.call.team is not None and turn.call.team not in user.teams:
            faults.append(Fault(one.pointer, "team_mismatch", f"{one.user_id!r} is not in the call's team."))
        if one.role is not None and one.role not in turn.facts.roles:
            pointer = one.pointer.removesuffix("/user_id") + "/role"
            faults.append(Fault(pointer, "unknown_role", f"There is no role {one.role!r}."))
        if one.custom is not None:
            custom.checked(one.custom, one.pointer.removesuffix("/user_id") + "/custom")
    if faults:
        raise Problem(faults[0].code, faults[0].detail, errors=faults)
    latest: dict[str, NamedMember] = {}
    for one in named:
        latest.pop(one.user_id, None)
        latest[one.user_id] = one
    return list(latest.values())


def change(turn: Turn, upsert: Sequence[NamedMember], remove: Sequence[str], *, force: bool) -> None:
    """Add, change and remove members together, or nothing."""
    held = own(turn)
    _check_capabilities(turn, held, upsert, remove)
    named = checked(turn, upsert)
    for one in named:
        _check_not_above(turn, held, one)
    gone = [turn.state.members[user_id] for user_id in dict.fromkeys(remove) if user_id in turn.state.members]
    for member in gone:
        _check_below(turn, held, member.role)
    had_admin = any(member.role == "admin" for member in turn.state.members.values())
    for member in gone:
        del turn.state.members[member.user_id]
    told = [_upsert(turn, one) for one in named]
    has_admin = any(member.role == "admin" for member in turn.state.members.values())
    if had_admin and not has_admin and not turn.principal.is_server:
        if not force:
            raise Problem("last_admin", "This would leave the call without an admin.")
        if "member.remove" not in held.capabilities:
            raise missing("member.remove")
    concerned = frozenset([member.user_id for member in gone] + [one.user_id for one in named])
    if not concerned:
        return
    turn.change_call()
    _refresh(turn, concerned, frozenset(member.user_id for member in gone))
    for type_, shown in told:
        if type_:
            turn.emit(type_, {"member": shown}, "MPWS")
    for member in gone:
        turn.emit("member.removed", {"member": views.member(member, turn.facts.users)}, "MPWS", users=(member.user_id,))
        rings.withdraw(turn, member.user_id)


def _refresh(turn: Turn, concerned: frozenset[str], gone: frozenset[str]) -> None:
    # A removed member who is cut off for it leaves as `removed`; who merely changed and lost the right, as such.
    sessions.refresh(turn, "member_changed", removal="removed", only=gone)
    sessions.refresh(turn, "member_changed", only=concerned - gone)


def _check_capabilities(turn: Turn, held: Holding, upsert: Sequence[NamedMember], remove: Sequence[str]) -> None:
    needed = set()
    for one in upsert:
        needed.add("member.update" if one.user_id in turn.state.members else "member.add")
    if remove:
        needed.add("member.remove")
    if not needed and not held.capabilities & {"member.add", "member.update", "member.remove"}:
        needed.add("member.update")
    for capability in sorted(needed):
        if capability not in held.capabilities:
            raise missing(capability)


def _check_not_above(turn: Turn, held: Holding, one: NamedMember) -> None:
    existing = turn.state.members.get(one.user_id)
    if existing is not None:
        _check_below(turn, held, existing.role)
    role = one.role or (existing.role if existing else "call_member")
    if is_above(turn.type, role, held.base, _own_role(turn, held)):
        raise Problem("role_escalation", f"The role {role} is above your own.")


def _check_below(turn: Turn, held: Holding, role: str) -> None:
    if is_above(turn.type, role, held.base, _own_role(turn, held)):
        raise Problem("role_escalation", "You cannot change or remove someone above you.")


def check_not_above_me(turn: Turn, user_id: str) -> None:
    """Refuse an act of moderation against someone whose role is above the caller's."""
    member = turn.state.members.get(user_id)
    role = "admin" if app_role(turn.facts, user_id) == "admin" else member.role if member else None
    if role is not None:
        _check_below(turn, own(turn), role)


def _own_role(turn: Turn, held: Holding) -> str:
    return "admin" if turn.principal.is_server or app_role(turn.facts, turn.actor) == "admin" else held.role


def _upsert(turn: Turn, one: NamedMember) -> tuple[str, dict[str, Any]]:
    existing = turn.state.members.get(one.user_id)
    if existing is None:
        member = Member(
            user_id=one.user_id,
            role=one.role or "call_member",
            custom=one.custom or {},
            created_at=turn.now,
            updated_at=turn.now,
        )
        turn.state.members[one.user_id] = member
        return "member.added", views.member(member, turn.facts.users)
    role = one.role or existing.role
    merged = existing.custom if one.custom is None else custom.merge_patch(existing.custom, one.custom)
    custom.checked(merged, one.pointer.removesuffix("/user_id") + "/custom")
    if role == existing.role and merged == existing.custom:
        return "", {}
    changed: Member = turn.put("members", one.user_id, existing, role=role, custom=merged)
    return "member.updated", views.member(changed, turn.facts.users)


def remove_one(turn: Turn, user_id: str, *, force: bool) -> None:
    held = own(turn)
    if "member.remove" not in held.capabilities:
        raise missing("member.remove")
    if user_id not in turn.state.members:
        raise not_found("member")
    change(turn, [], [user_id], force=force)
