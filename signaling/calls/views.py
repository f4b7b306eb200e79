"""How the calls system's values look in JSON: the shapes of the API and of events.

Empty fields are present; capability lists are sorted. Not here: who may see what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from signaling.calls import model
from signaling.calls.cursors import encode
from signaling.calls.gate import opens_at
from signaling.calls.identifiers import rfc3339
from signaling.calls.state import CallState, Turn

Json = dict[str, Any]
MEMBERS_PAGE = 25


def _aged(value: Any, shown: Json) -> Json:
    return {**shown, "created_at": rfc3339(value.created_at), "updated_at": rfc3339(value.updated_at)}


def user(value: model.User) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "name": value.name,
            "image": value.image,
            "role": value.role,
            "teams": list(value.teams),
            "custom": value.custom,
        },
    )


def person(user_id: str | None, users: Mapping[str, model.User]) -> Json | None:
    """Return the short form of a user; None for the server."""
    if user_id is None:
        return None
    known = users.get(user_id)
    return {"id": user_id, "name": known.name if known else None, "image": known.image if known else None}


def call(turn: Turn) -> Json:
    return call_of(turn.state, turn.settings, len(turn.state.seen()))


def call_of(state: CallState, settings: dict[str, Any], participant_count: int) -> Json:
    value, session = state.call, state.running
    return _aged(
        value,
        {
            "cid": value.cid,
            "type": value.type,
            "id": value.id,
            "team": value.team,
            "created_by": value.created_by,
            "version": value.version,
            "custom": value.custom,
            "settings": settings,
            "settings_overrides": value.settings_overrides,
            "starts_at": rfc3339(value.starts_at),
            "opens_at": rfc3339(opens_at(value, settings)),
            "backstage": settings["backstage"]["enabled"] and not value.live,
            "live": value.live,
            "live_started_at": rfc3339(value.live_started_at),
            "live_ended_at": rfc3339(value.live_ended_at),
            "ended_at": rfc3339(value.ended_at),
            "ended_by": value.ended_by,
            "ongoing": session is not None,
            "session_id": session.id if session else None,
            "participant_count": participant_count if session else 0,
        },
    )


def member(value: model.Member, users: Mapping[str, model.User]) -> Json:
    return _aged(
        value,
        {
            "user_id": value.user_id,
            "user": person(value.user_id, users),
            "role": value.role,
            "custom": value.custom,
        },
    )


def session(value: model.Session | None) -> Json | None:
    return None if value is None else session_of(value, {})


def session_of(value: model.Session, more: Json) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "started_at": rfc3339(value.started_at),
            "ended_at": rfc3339(value.ended_at),
            "end_reason": value.end_reason,
            "expires_at": rfc3339(value.expires_at),
            "participant_count": value.participant_count,
            **more,
        },
    )


def running_session(turn: Turn) -> Json | None:
    running = turn.state.running
    return session_of(running, {"cid": turn.call.cid}) if running else None


def visible(present: Iterable[model.Participant], user_id: str | None, *, decider: bool) -> list[model.Participant]:
    """Return whom a user is shown: hidden ones only if he is one of them, or decides on rights."""
    return [one for one in present if decider or not one.hidden or one.user_id == user_id]


def participant(value: model.Participant, *, with_capabilities: bool) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "session_id": value.session_id,
            "user_id": value.user_id,
            "device_id": value.device_id,
            "identity": value.identity,
            "name": value.name,
            "role": value.role,
            "state": value.state,
            "hidden": value.hidden,
            "joined_at": rfc3339(value.joined_at),
            "left_at": rfc3339(value.left_at),
            "left_reason": value.left_reason,
            "capabilities": list(value.capabilities) if with_capabilities else None,
        },
    )


def ring(value: model.Ring, cid: str, users: Mapping[str, model.User]) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "cid": cid,
            "caller": person(value.caller_id, users),
            "video": value.video,
            "custom": value.custom,
            "state": value.state,
            "expires_at": rfc3339(value.expires_at),
            "ended_at": rfc3339(value.ended_at),
            "callees": [
                {
                    "user_id": callee.user_id,
                    "state": callee.state,
                    "reason": callee.reason,
                    "device_id": callee.device_id,
                    "updated_at": rfc3339(callee.updated_at),
                }
                for callee in value.callees
            ],
        },
    )


def request(value: model.Request) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "user_id": value.user_id,
            "capabilities": sorted(value.capabilities),
            "state": value.state,
            "expires_at": rfc3339(value.expires_at),
            "resolved_at": rfc3339(value.resolved_at),
            "resolved_by": value.resolved_by,
        },
    )


def lobby(value: model.LobbyEntry) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "user_id": value.user_id,
            "device_id": value.device_id,
            "state": value.state,
            "expires_at": rfc3339(value.expires_at),
            "resolved_by": value.resolved_by,
        },
    )


def block(value: model.Block) -> Json:
    return _aged(
        value,
        {
            "user_id": value.user_id,
            "reason": value.reason,
            "expires_at": rfc3339(value.expires_at),
            "blocked_by": value.blocked_by,
        },
    )


def ban(value: model.Ban) -> Json:
    return _aged(
        value,
        {
            "user_id": value.user_id,
            "reason": value.reason,
            "expires_at": rfc3339(value.expires_at),
            "ip": value.ip,
            "banned_by": value.banned_by,
        },
    )


def capture(value: model.Capture) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "session_id": value.session_id,
            "kind": value.kind,
            "layout": value.layout,
            "state": value.state,
            "failure_reason": value.failure_reason,
            "started_by": value.started_by,
            "started_at": rfc3339(value.started_at),
            "ended_at": rfc3339(value.ended_at),
            "files": list(value.files),
        },
    )


def capability_set(value: model.Rights) -> Json:
    return {"user_id": value.user_id, "capabilities": sorted(value.capabilities), "version": value.version}


def call_type(value: model.CallType) -> Json:
    return _aged(
        value,
        {
            "name": value.name,
            "built_in": value.built_in,
            "version": value.version,
            "settings": value.settings,
            "grants": {role: sorted(held) for role, held in sorted(value.grants.items())},
            "requestable": {role: sorted(asked) for role, asked in sorted(value.requestable.items())},
            "default_member_role": value.default_member_role,
            "notifications": value.notifications,
        },
    )


def role(value: model.Role) -> Json:
    return _aged(value, {"name": value.name, "built_in": value.built_in})


def app(value: model.App) -> Json:
    return _aged(
        value,
        {
            "name": value.name,
            "multi_tenant_enabled": value.multi_tenant_enabled,
            "development_type_enabled": value.development_type_enabled,
            "guests_enabled": value.guests_enabled,
        },
    )


def device(value: model.Device) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "user_id": value.user_id,
            "provider": value.provider,
            "token": value.token,
            "push_provider": value.push_provider,
        },
    )


def webhook(value: model.Webhook, *, with_secret: bool = False) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "url": value.url,
            "events": list(value.events),
            "call_types": None if value.call_types is None else list(value.call_types),
            "enabled": value.enabled,
            "secret": value.secrets[0][0] if with_secret else None,
        },
    )


def delivery(value: model.Delivery) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "event_id": value.event_id,
            "type": value.type,
            "cid": value.cid,
            "state": value.state,
            "attempts": value.attempts,
            "last_status": value.last_status,
            "last_error": value.last_error,
            "next_attempt_at": rfc3339(value.next_attempt_at),
            "delivered_at": rfc3339(value.delivered_at),
        },
    )


def push_job(value: model.PushJob) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "device_id": value.device_id,
            "user_id": value.user_id,
            "kind": value.kind,
            "type": value.payload.get("type"),
            "cid": value.payload.get("cid"),
            "state": value.state,
            "attempts": value.attempts,
            "last_status": value.last_status,
            "last_error": value.last_error,
            "next_attempt_at": rfc3339(value.next_attempt_at),
            "expires_at": rfc3339(value.expires_at),
        },
    )


def push_provider(value: model.PushProvider) -> Json:
    """Return a provider without its keys: they are write-only."""
    secret = {"auth_key", "private_key", "service_account"}
    public = {key: item for key, item in value.config.items() if key not in secret}
    account = value.config.get("service_account")
    if isinstance(account, dict):
        public["service_account"] = {key: item for key, item in account.items() if key not in secret}
    return _aged(value, {"name": value.name, "type": value.type, "base_url": value.base_url, value.type: public})


def storage(value: model.Storage) -> Json:
    """Return a storage without its secret key: it is write-only."""
    public = {key: item for key, item in value.config.items() if key != "secret_access_key"}
    return _aged(value, {"name": value.name, "type": value.type, value.type: public})


def task(value: model.Task) -> Json:
    return _aged(value, {"id": value.id, "status": value.status, "result": value.result, "error": value.error})


def audit_entry(value: model.AuditEntry) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "actor": value.actor,
            "action": value.action,
            "target": value.target,
            "before": value.before,
            "after": value.after,
        },
    )


def feedback(value: model.Feedback) -> Json:
    return _aged(
        value,
        {
            "id": value.id,
            "session_id": value.session_id,
            "user_id": value.user_id,
            "rating": value.rating,
            "reason": value.reason,
            "custom": value.custom,
        },
    )


def members_page(turn: Turn, limit: int = MEMBERS_PAGE) -> Json:
    """Return the first page of members, oldest first; its cursor is one of GET …/members."""
    ordered = sorted(turn.state.members.values(), key=lambda m: (m.created_at, m.user_id))
    return {
        "items": [member(value, turn.facts.users) for value in ordered[:limit]],
        "next": cursor_after(ordered[limit - 1]) if len(ordered) > limit else None,
        "prev": None,
    }


def cursor_after(value: model.Member) -> str:
    return encode("next", [round(value.created_at.timestamp() * 1000), value.user_id])
