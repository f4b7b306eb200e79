"""What somebody may do in a call now, and why: the rule of one place.

base = grants of the member's role, else of the app role (an app admin has all besides); plus session grants, minus
session revocations; within the settings mask, the state mask and the token's scope; nothing if blocked or banned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from signaling.calls import gate
from signaling.calls.call_types import granted
from signaling.calls.capabilities import ALL, REQUESTABLE
from signaling.calls.model import UNNARROWED, Ban, Member, TokenScope
from signaling.calls.problems import Problem, missing, not_found
from signaling.calls.state import Facts, Turn

ANONYMOUS_PREFIX = "anonymous-"
"""User ids of viewers without an account begin with it; `PUT /users` refuses it."""

_MASKED_BY_STATE = REQUESTABLE | {"call.join"}


@dataclass(frozen=True)
class Holding:
    """`unmasked`: the set before the state mask, which tells a closed gate from a missing right."""

    role: str
    base: frozenset[str]
    capabilities: frozenset[str]
    unmasked: frozenset[str]
    steps: tuple[tuple[str, frozenset[str]], ...] = ()


def is_viewer(user_id: str) -> bool:
    """Tell whether this is a viewer without an account."""
    return user_id.startswith(ANONYMOUS_PREFIX)


def app_role(facts: Facts, user_id: str | None) -> str:
    if user_id is None or is_viewer(user_id):
        return "anonymous"
    user = facts.users.get(user_id)
    return user.role if user else "user"


def active_ban(turn: Turn, user_id: str | None) -> bool:
    return _user_banned(turn.facts, turn.now, user_id)


def _user_banned(facts: Facts, now: datetime, user_id: str | None) -> bool:
    ban = facts.bans.get(user_id or "")
    return ban is not None and in_force(ban, now)


def in_force(ban: Ban, now: datetime) -> bool:
    return ban.expires_at is None or ban.expires_at > now


def address_banned(facts: Facts, now: datetime, sources: Sequence[str]) -> bool:
    """Tell whether a ban in force covers the address of these hashes."""
    return any(in_force(ban, now) for source in sources for ban in facts.banned_addresses.get(source, ()))


def turned_away(facts: Facts, now: datetime, user_id: str | None, sources: Sequence[str]) -> bool:
    """Tell whether a user is banned, or the address he comes from; app admins may come from everywhere."""
    if _user_banned(facts, now, user_id):
        return True
    return address_banned(facts, now, sources) and app_role(facts, user_id) != "admin"


def active_block(turn: Turn, user_id: str | None) -> bool:
    block = turn.state.blocks.get(user_id or "")
    return block is not None and (block.expires_at is None or block.expires_at > turn.now)


def holding(turn: Turn, user_id: str | None, scope: TokenScope = UNNARROWED) -> Holding:
    """Return what the user (None: an anonymous viewer) holds in the call now."""
    call_type, call = turn.type, turn.call
    member: Member | None = turn.state.members.get(user_id or "")
    of_app = app_role(turn.facts, user_id)
    role = member.role if member else of_app
    base = granted(call_type, role)
    if of_app == "admin":
        base = ALL
    steps = [(f"grants of the role {role} in {call_type.name}", base)]
    held = base
    if member is not None:
        held = (held | member.granted) - member.revoked
    rights = turn.state.rights.get(user_id or "")
    if rights is not None:
        held = (held | rights.granted) - rights.revoked
    steps.append(("session grants and revocations", held))
    settings = turn.settings
    held -= settings_mask(settings)
    steps.append(("settings of the call", held))
    held &= scope_mask(turn, scope)
    steps.append(("scope of the token", held))
    unmasked = held
    if (call.ended_at is not None and "call.join_ended" not in held) or (
        not gate.is_open(call, settings, turn.now) and "call.join_backstage" not in held
    ):
        held -= _MASKED_BY_STATE
    steps.append(("state of the call", held))
    if active_ban(turn, user_id) or active_block(turn, user_id):
        held = unmasked = frozenset()
        steps.append(("blocked or banned", held))
    if _of_another_team(turn, user_id):
        held = unmasked = frozenset()
        steps.append(("of another team", held))
    return Holding(role, base, held, unmasked, tuple(steps))


def _of_another_team(turn: Turn, user_id: str | None) -> bool:
    user = turn.facts.users.get(user_id or "")
    if user is None or not turn.facts.app.multi_tenant_enabled:
        return False
    return bool(user.teams) if turn.call.team is None else turn.call.team not in user.teams


def kept_out(turn: Turn, user_id: str) -> bool:
    """Tell whether a user is to hear nothing of the call: blocked, banned, deleted, or of another team.

    Of who was not loaded with the call only the first two are known.
    """
    user = turn.facts.users.get(user_id)
    is_deleted = user is not None and user.deleted_at is not None
    return is_deleted or active_block(turn, user_id) or active_ban(turn, user_id) or _of_another_team(turn, user_id)


def others_to_reach(turn: Turn) -> list[str]:
    """Return the members who are rung and pushed to: all but the caller and those who are kept out."""
    return [user_id for user_id in turn.state.members if user_id != turn.actor and not kept_out(turn, user_id)]


def settings_mask(settings: dict[str, Any]) -> frozenset[str]:
    """Return what the settings take from everybody."""
    taken = set()
    if not settings["video"]["enabled"]:
        taken.add("media.video")
    if not settings["screenshare"]["enabled"]:
        taken.add("media.screen")
    return frozenset(taken)


def scope_mask(turn: Turn, scope: TokenScope) -> frozenset[str]:
    most = ALL
    if scope.role is not None:
        most = granted(turn.type, scope.role)
    if scope.ceiling is not None:
        most &= scope.ceiling
    return most


def own(turn: Turn) -> Holding:
    """Return what the caller holds; a server token holds everything."""
    if turn.principal.is_server:
        return Holding("admin", ALL, ALL, ALL)
    held = holding(turn, turn.actor, turn.principal.scope)
    if turned_away(turn.facts, turn.now, turn.actor, turn.principal.sources):
        return replace(held, capabilities=frozenset(), unmasked=frozenset())
    return held


def own_team(turn: Turn) -> frozenset[str]:
    """Return the teams the caller belongs to, as far as his token lets him."""
    user = turn.facts.users.get(turn.actor or "")
    teams = frozenset(user.teams if user else ())
    return teams if turn.principal.teams is None else teams & turn.principal.teams


def check_reach(turn: Turn) -> None:
    """Raise what comes before any capability: the token's calls and team (404), existence (404), bans (403)."""
    principal = turn.principal
    if principal.calls is not None and turn.call.cid not in principal.calls:
        raise not_found()
    if not principal.is_server and turn.facts.app.multi_tenant_enabled and principal.kind != "anonymous":
        teams = own_team(turn)
        if (turn.call.team is None and teams) or (turn.call.team is not None and turn.call.team not in teams):
            raise not_found()
    if turn.call.deleted_at is not None:
        raise not_found()
    check_standing(turn)


def banned() -> Problem:
    """Return the refusal of who is banned; it does not tell whether he is, or his address."""
    return Problem("banned", "You are banned.")


def check_standing(turn: Turn) -> None:
    if turn.principal.is_server:
        return
    if turned_away(turn.facts, turn.now, turn.actor, turn.principal.sources):
        raise banned()
    if active_block(turn, turn.actor):
        raise Problem("blocked", "You are blocked in this call.")


def require(turn: Turn, capability: str) -> Holding:
    """Return the caller's holding, or refuse him for lacking `capability`."""
    held = own(turn)
    if capability not in held.capabilities:
        raise missing(capability)
    return held


def require_app_admin(turn: Turn) -> None:
    if not turn.principal.is_server and app_role(turn.facts, turn.actor) != "admin":
        raise missing("app.admin")


def deciders(turn: Turn, capability: str) -> tuple[str, ...]:
    """Return the users in the session, and members outside it, who hold `capability`."""
    users = dict.fromkeys([p.user_id for p in turn.state.present()] + list(turn.state.members))
    return tuple(user for user in users if capability in holding(turn, user).capabilities)
