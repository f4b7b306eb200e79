"""Who may what, as the specification says it: one row a route, one set of capabilities a role.

A row: the capabilities of which one is needed in the call; or `reach` (whoever may know of the call), `create`,
`server`, `admin` (server or app admin), `self` (the user in the path, or admin), `moderator` (app role, admin,
server), `anybody`, `public`. Not here: anything taken from the code under test.
"""

from __future__ import annotations

CALL = "/v1/calls/{type}/{id}"

ROWS: dict[tuple[str, str], str] = {
    ("POST", "/v1/calls/query"): "anybody",
    ("POST", "/v1/calls/{type}"): "create",
    ("PUT", CALL): "call.read",
    ("GET", CALL): "call.read",
    ("PATCH", CALL): "call.update",
    ("DELETE", CALL): "call.delete",
    ("POST", f"{CALL}/end"): "call.end",
    ("POST", f"{CALL}/reopen"): "call.join_ended",
    ("POST", f"{CALL}/extend"): "call.extend",
    ("GET", f"{CALL}/members"): "member.read",
    ("POST", f"{CALL}/members/query"): "member.read",
    ("PATCH", f"{CALL}/members"): "member.add",
    ("DELETE", f"{CALL}/members/{{user}}"): "member.remove",
    ("POST", f"{CALL}/rings"): "call.ring",
    ("GET", f"{CALL}/rings/{{rid}}"): "reach",
    ("POST", f"{CALL}/rings/{{rid}}/accept"): "reach",
    ("POST", f"{CALL}/rings/{{rid}}/reject"): "reach",
    ("POST", f"{CALL}/rings/{{rid}}/cancel"): "reach",
    ("POST", f"{CALL}/notify"): "call.notify",
    ("POST", f"{CALL}/join"): "call.join",
    ("POST", f"{CALL}/media-token"): "reach",
    ("POST", f"{CALL}/leave"): "reach",
    ("PUT", f"{CALL}/live"): "live.start",
    ("DELETE", f"{CALL}/live"): "live.stop",
    ("GET", f"{CALL}/lobby"): "lobby.admit",
    ("GET", f"{CALL}/lobby/{{entry}}"): "reach",
    ("POST", f"{CALL}/lobby/admit-all"): "lobby.admit",
    ("POST", f"{CALL}/lobby/{{entry}}/admit"): "lobby.admit",
    ("POST", f"{CALL}/lobby/{{entry}}/deny"): "lobby.admit",
    ("POST", f"{CALL}/participants/{{participant}}/to-lobby"): "lobby.admit",
    ("GET", f"{CALL}/participants"): "call.read",
    ("POST", f"{CALL}/participants/mute"): "participant.mute",
    ("POST", f"{CALL}/participants/{{user}}/kick"): "participant.kick",
    ("PATCH", f"{CALL}/participants/{{user}}/capabilities"): "permission.grant",
    ("GET", f"{CALL}/blocks"): "participant.block",
    ("PUT", f"{CALL}/blocks/{{user}}"): "participant.block",
    ("DELETE", f"{CALL}/blocks/{{user}}"): "participant.block",
    ("PUT", f"{CALL}/pins/{{participant}}"): "participant.pin_for_all",
    ("DELETE", f"{CALL}/pins/{{participant}}"): "participant.pin_for_all",
    ("POST", f"{CALL}/permission-requests"): "reach",
    ("GET", f"{CALL}/permission-requests"): "reach",
    ("POST", f"{CALL}/permission-requests/{{request}}/grant"): "permission.grant",
    ("POST", f"{CALL}/permission-requests/{{request}}/deny"): "permission.grant",
    ("DELETE", f"{CALL}/permission-requests/{{request}}"): "reach",
    ("GET", f"{CALL}/capabilities/explain"): "reach",
    ("POST", f"{CALL}/reactions"): "reaction.send",
    ("POST", f"{CALL}/events"): "event.send",
    ("GET", f"{CALL}/sessions"): "session.read",
    ("GET", f"{CALL}/sessions/{{sid}}"): "session.read",
    ("GET", f"{CALL}/sessions/{{sid}}/attendance"): "session.read",
    ("GET", f"{CALL}/sessions/{{sid}}/stats"): "stats.read",
    ("POST", f"{CALL}/feedback"): "call.read",
    ("POST", f"{CALL}/recordings"): "recording.start",
    ("GET", f"{CALL}/recordings"): "recording.read",
    ("DELETE", f"{CALL}/recordings/{{capture}}/active"): "recording.stop",
    ("DELETE", f"{CALL}/recordings/{{capture}}"): "recording.delete",
    ("POST", f"{CALL}/transcriptions"): "transcription.start",
    ("GET", f"{CALL}/transcriptions"): "transcription.read",
    ("DELETE", f"{CALL}/transcriptions/{{capture}}/active"): "transcription.stop",
    ("DELETE", f"{CALL}/transcriptions/{{capture}}"): "transcription.stop",
    ("POST", f"{CALL}/captions"): "captions.start",
    ("POST", f"{CALL}/captions/text"): "captions.send",
    ("GET", f"{CALL}/captions"): "call.read",
    ("DELETE", f"{CALL}/captions/{{capture}}/active"): "captions.stop",
    ("DELETE", f"{CALL}/captions/{{capture}}"): "captions.stop",
    ("POST", f"{CALL}/broadcasts"): "broadcast.start",
    ("GET", f"{CALL}/broadcasts"): "call.read",
    ("DELETE", f"{CALL}/broadcasts/{{capture}}/active"): "broadcast.stop",
    ("DELETE", f"{CALL}/broadcasts/{{capture}}"): "broadcast.stop",
    ("POST", f"{CALL}/frames"): "frames.start",
    ("GET", f"{CALL}/frames"): "frames.start",
    ("DELETE", f"{CALL}/frames/{{capture}}/active"): "frames.stop",
    ("DELETE", f"{CALL}/frames/{{capture}}"): "frames.stop",
    ("POST", f"{CALL}/ingests"): "ingest.manage",
    ("GET", f"{CALL}/ingests"): "ingest.manage",
    ("DELETE", f"{CALL}/ingests/{{capture}}/active"): "ingest.manage",
    ("DELETE", f"{CALL}/ingests/{{capture}}"): "ingest.manage",
    ("GET", "/v1/call-types"): "admin",
    ("POST", "/v1/call-types"): "admin",
    ("GET", "/v1/call-types/{name}"): "admin",
    ("PATCH", "/v1/call-types/{name}"): "admin",
    ("DELETE", "/v1/call-types/{name}"): "admin",
    ("PATCH", "/v1/call-types/{name}/grants"): "admin",
    ("GET", "/v1/roles"): "admin",
    ("POST", "/v1/roles"): "admin",
    ("DELETE", "/v1/roles/{name}"): "admin",
    ("GET", "/v1/capabilities"): "admin",
    ("PUT", "/v1/users/{user}"): "server",
    ("PATCH", "/v1/users/{user}"): "server",
    ("GET", "/v1/users/{user}"): "self",
    ("DELETE", "/v1/users/{user}"): "server",
    ("POST", "/v1/users/query"): "server",
    ("POST", "/v1/guests"): "public",
    ("POST", "/v1/tokens"): "server",
    ("POST", "/v1/users/{user}/devices"): "self",
    ("GET", "/v1/users/{user}/devices"): "self",
    ("DELETE", "/v1/users/{user}/devices/{device}"): "self",
    ("GET", "/v1/users/{user}/devices/{device}/deliveries"): "self",
    ("PUT", "/v1/bans/{user}"): "moderator",
    ("DELETE", "/v1/bans/{user}"): "moderator",
    ("POST", "/v1/webhooks"): "server",
    ("GET", "/v1/webhooks"): "server",
    ("GET", "/v1/webhooks/{webhook}"): "server",
    ("PATCH", "/v1/webhooks/{webhook}"): "server",
    ("DELETE", "/v1/webhooks/{webhook}"): "server",
    ("GET", "/v1/webhooks/{webhook}/deliveries"): "server",
    ("POST", "/v1/webhooks/{webhook}/redeliver"): "server",
    ("POST", "/v1/webhooks/{webhook}/rotate-secret"): "server",
    ("POST", "/v1/push-providers"): "server",
    ("GET", "/v1/push-providers"): "server",
    ("DELETE", "/v1/push-providers/{name}"): "server",
    ("POST", "/v1/storages"): "server",
    ("GET", "/v1/storages"): "server",
    ("DELETE", "/v1/storages/{name}"): "server",
    ("GET", "/v1/app"): "server",
    ("PATCH", "/v1/app"): "server",
    ("GET", "/v1/audit"): "server",
    ("GET", "/v1/tasks/{task}"): "anybody",
}

_READ_JOIN = {"call.read", "call.join"}
_SEND = {"reaction.send", "event.send"}
_MEDIA = {"media.audio", "media.video", "media.screen"}
_MODERATION = {
    "participant.mute", "participant.kick", "participant.block", "participant.pin_for_all", "permission.grant",
    "lobby.admit",
}  # fmt: skip
_MEMBERS = {"member.read", "member.add", "member.update", "member.remove"}
_CAPTURE = {
    "recording.start", "recording.stop", "recording.read", "recording.delete", "transcription.start",
    "transcription.stop", "transcription.read", "captions.start", "captions.stop", "captions.send", "broadcast.start",
    "broadcast.stop", "ingest.manage", "frames.start", "frames.stop",
}  # fmt: skip
_INSIGHT = {"stats.read", "session.read"}
_UPDATE = {"call.update", "call.update_settings", "call.extend", "call.end"}
_RING = {"call.ring", "call.notify"}
_LIVE = {"live.start", "live.stop"}
ALL = (
    _READ_JOIN | _SEND | _MEDIA | _MODERATION | _MEMBERS | _CAPTURE | _INSIGHT | _UPDATE | _RING | _LIVE
    | {"call.create", "call.delete", "call.join_ended", "call.join_backstage"}
)  # fmt: skip

_HOST = _READ_JOIN | {"call.create"} | _MEDIA | _SEND | _MODERATION | _MEMBERS | _UPDATE | _CAPTURE | _INSIGHT
_MODERATOR = _READ_JOIN | _MEDIA | _SEND | _MODERATION | {"member.read", "member.add"} | _CAPTURE | _INSIGHT
_STAGE = {
    "host": _HOST | _LIVE | {"call.join_backstage"},
    "moderator": _MODERATOR | {"call.join_backstage"},
    "speaker": _READ_JOIN | _MEDIA | _SEND | {"call.join_backstage"},
    "call_member": _READ_JOIN | _SEND | {"member.read"},
    "user": _READ_JOIN | {"call.create"} | _SEND | {"member.read"},
    "listener": _READ_JOIN | _SEND,
    "guest": _READ_JOIN | _SEND,
    "anonymous": _READ_JOIN,
}
GRANTS: dict[str, dict[str, set[str]]] = {
    "default": {
        "host": _HOST | _RING,
        "moderator": _MODERATOR | {"call.create"} | _RING,
        "speaker": _READ_JOIN | _MEDIA | _SEND,
        "call_member": _READ_JOIN | _MEDIA | _SEND | {"member.read"} | _RING,
        "user": _READ_JOIN | {"call.create"} | _MEDIA | _SEND | {"member.read"} | _RING,
        "listener": _READ_JOIN | _SEND,
        "guest": _READ_JOIN | {"media.audio", "media.video"} | _SEND,
        "anonymous": set(),
    },
    "audio_room": _STAGE,
    "livestream": _STAGE,
    "development": {
        **dict.fromkeys(("host", "moderator", "speaker", "call_member", "user", "listener", "guest"), ALL),
        "anonymous": set(),
    },
}
REQUESTABLE: dict[str, dict[str, set[str]]] = {
    "default": {"listener": _MEDIA, "guest": {"media.screen"}},
    "livestream": {
        "call_member": _MEDIA,
        "user": {"media.audio", "media.video"},
        "listener": {"media.audio", "media.video"},
    },
    "audio_room": {
        "call_member": _MEDIA,
        "user": {"media.audio", "media.video"},
        "listener": {"media.audio", "media.video"},
        "guest": {"media.audio"},
    },
    "development": {},
}
