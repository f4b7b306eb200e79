"""Call types and roles: made, changed and taken away. Pure: values in, new values out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec import structs

from signaling.calls import call_settings
from signaling.calls.call_types import DEFAULT_NOTIFICATIONS, NOTIFICATION_KINDS
from signaling.calls.capabilities import REQUESTABLE, normalise
from signaling.calls.model import CallType
from signaling.calls.problems import Problem, unprocessable

TEXT_MAX_CHARACTERS = 256


def new_type(name: str, base: CallType, change: Mapping[str, Any], roles: frozenset[str], now: datetime) -> CallType:
    """Return a custom type: a copy of `base` with the changes."""
    blank = structs.replace(base, name=name, built_in=False, version=0, created_at=now, updated_at=now)
    return changed_type(blank, change, roles, now)


def changed_type(current: CallType, change: Mapping[str, Any], roles: frozenset[str], now: datetime) -> CallType:
    """Return the type after a PATCH: settings merge deep, each named role of grants and requestable is replaced."""
    changes: dict[str, Any] = {}
    if change.get("settings") is not None:
        patch = call_settings.check_patch(change["settings"], "/settings")
        changes["settings"] = call_settings.merge_type_settings(current.settings, patch)
    for field in ("grants", "requestable"):
        if change.get(field) is not None:
            changes[field] = _replaced(getattr(current, field), change[field], roles, field)
    role = change.get("default_member_role")
    if role is not None:
        check_role(role, roles, "/default_member_role")
        changes["default_member_role"] = role
    if change.get("notifications") is not None:
        changes["notifications"] = _notifications(current.notifications, change["notifications"])
    return structs.replace(current, **changes, version=current.version + 1, updated_at=now)


def _replaced(
    current: Mapping[str, Sequence[str]], named: Mapping[str, Sequence[str] | None], roles: frozenset[str], field: str
) -> dict[str, tuple[str, ...]]:
    result = {role: tuple(held) for role, held in current.items()}
    for role, names in named.items():
        check_grantable(role, roles, f"/{field}/{role}")
        if names is None:
            result.pop(role, None)
            continue
        held = normalise(names, f"/{field}/{role}")
        if field == "requestable" and not held <= REQUESTABLE:
            raise unprocessable(f"/{field}/{role}", "Only media capabilities can be asked for.")
        result[role] = tuple(sorted(held))
    return result


def granted_delta(
    current: CallType,
    delta: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    roles: frozenset[str],
    now: datetime,
) -> CallType:
    """Return the type after adding and removing capabilities of roles."""
    grants = dict(current.grants)
    for role, (add, remove) in delta.items():
        check_grantable(role, roles, f"/{role}")
        added, removed = normalise(add, f"/{role}/add"), normalise(remove, f"/{role}/remove")
        if added & removed:
            raise unprocessable(f"/{role}/remove", "A capability is added and removed at once.")
        grants[role] = tuple(sorted((frozenset(grants.get(role, ())) - removed) | added))
    return structs.replace(current, grants=grants, version=current.version + 1, updated_at=now)


def check_role(role: str, roles: frozenset[str], pointer: str) -> None:
    if role not in roles:
        raise unprocessable(pointer, f"There is no role {role!r}.", code="unknown_role")


def check_grantable(role: str, roles: frozenset[str], pointer: str) -> None:
    check_role(role, roles, pointer)
    if role == "admin":
        raise unprocessable(pointer, "admin holds everything in every type.")


def _notifications(current: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(current)
    for kind, template in patch.items():
        pointer = f"/notifications/{kind}"
        if kind not in NOTIFICATION_KINDS:
            raise unprocessable(pointer, f"Notifications are {', '.join(NOTIFICATION_KINDS)}.")
        if template is None:
            result.pop(kind, None)
            continue
        if not isinstance(template, dict) or not template.keys() <= {"title", "body"}:
            raise unprocessable(pointer, "A template has a title and a body.")
        if not all(isinstance(text, str) and len(text) <= TEXT_MAX_CHARACTERS for text in template.values()):
            raise unprocessable(pointer, f"Title and body are text of at most {TEXT_MAX_CHARACTERS} characters.")
        default = DEFAULT_NOTIFICATIONS.get(kind, {"title": "", "body": ""})
        result[kind] = {**default, **result.get(kind, {}), **template}
    return result


def uses_role(types: Mapping[str, CallType], role: str) -> bool:
    """Tell whether a type grants the role anything, or gives it to its members."""
    return any(t.grants.get(role) or t.default_member_role == role for t in types.values())


def refuse_built_in(built_in: bool, what: str) -> None:
    if built_in:
        raise Problem("conflict", f"A built-in {what} cannot be deleted.")
