"""The four call types every installation has: settings and grants; comparing roles.

Kept in every type: `call_member` holds what `user` holds, `call.create` excepted (it is judged by the app role alone).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from signaling.calls import call_settings
from signaling.calls.capabilities import ALL, GROUPS
from signaling.calls.model import App, CallType, Role

BUILT_IN_ROLES = ("user", "moderator", "host", "admin", "call_member", "speaker", "listener", "guest", "anonymous")

DEFAULT_NOTIFICATIONS: dict[str, Any] = {
    "ring": {"title": "{caller}", "body": "is calling you"},
    "notification": {"title": "{caller}", "body": "invites you to a call"},
    "missed": {"title": "{caller}", "body": "tried to call you"},
}
NOTIFICATION_KINDS = ("ring", "notification", "missed", "live_started", "session_started")

_JOIN = ("call.read", "call.join")
_MEDIA = GROUPS["media"]
_SEND = GROUPS["in_call"]
_RING = ("call.ring", "call.notify")
_INSIGHT = GROUPS["insight"]
_HOST = (
    *_JOIN,
    "call.create",
    *_MEDIA,
    *_SEND,
    *GROUPS["moderation"],
    *GROUPS["members"],
    "call.update",
    "call.update_settings",
    "call.extend",
    "call.end",
    *GROUPS["capture"],
    *_INSIGHT,
)
_MODERATOR = (
    *_JOIN,
    *_MEDIA,
    *_SEND,
    *GROUPS["moderation"],
    "member.read",
    "member.add",
    *GROUPS["capture"],
    *_INSIGHT,
)
_PLAIN = (*_JOIN, *_SEND)

GRANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {
        "host": (*_HOST, *_RING),
        "moderator": (*_MODERATOR, "call.create", *_RING),
        "speaker": (*_PLAIN, *_MEDIA),
        "call_member": (*_PLAIN, *_MEDIA, "member.read", *_RING),
        "user": (*_PLAIN, *_MEDIA, "call.create", "member.read", *_RING),
        "listener": _PLAIN,
        "guest": (*_PLAIN, "media.audio", "media.video"),
        "anonymous": (),
    },
    "livestream": {
        "host": (*_HOST, *GROUPS["live"], "call.join_backstage"),
        "moderator": (*_MODERATOR, "call.join_backstage"),
        "speaker": (*_PLAIN, *_MEDIA, "call.join_backstage"),
        "call_member": (*_PLAIN, "member.read"),
        "user": (*_PLAIN, "call.create", "member.read"),
        "listener": _PLAIN,
        "guest": _PLAIN,
        "anonymous": _JOIN,
    },
    "development": {role: tuple(ALL) for role in BUILT_IN_ROLES if role not in ("anonymous", "admin")},
}
GRANTS["audio_room"] = GRANTS["livestream"]
GRANTS["development"]["anonymous"] = ()

REQUESTABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {"listener": _MEDIA, "guest": ("media.screen",)},
    "livestream": {
        "call_member": _MEDIA,
        "user": ("media.audio", "media.video"),
        "listener": ("media.audio", "media.video"),
    },
    "audio_room": {
        "call_member": _MEDIA,
        "user": ("media.audio", "media.video"),
        "listener": ("media.audio", "media.video"),
        "guest": ("media.audio",),
    },
    "development": {},
}

_STAGE: dict[str, Any] = {"audio": {"mic_default_on": False}, "backstage": {"enabled": True}}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "audio_room": {
        **_STAGE,
        "video": {"enabled": False, "access_request_enabled": False},
        "screenshare": {"enabled": False, "access_request_enabled": False},
    },
    "livestream": {
        **_STAGE,
        "broadcasting": {"mode": "available"},
        "ingress": {"mode": "available"},
        "session": {"inactivity_seconds": 60},
    },
    "development": {
        "broadcasting": {"mode": "available"},
        "ingress": {"mode": "available"},
        "limits": {"max_participants": 50, "max_duration_seconds": 3_600},
    },
}


def built_in_types(now: datetime) -> list[CallType]:
    """Return the types of a fresh installation."""
    return [
        CallType(
            name=name,
            built_in=True,
            version=1,
            settings=call_settings.effective(call_settings.DEFAULTS, SETTINGS[name]),
            grants={role: tuple(sorted(held)) for role, held in GRANTS[name].items()},
            requestable={role: tuple(sorted(asked)) for role, asked in REQUESTABLE[name].items()},
            default_member_role="admin",
            notifications=copy.deepcopy(DEFAULT_NOTIFICATIONS),
            created_at=now,
            updated_at=now,
        )
        for name in ("default", "audio_room", "livestream", "development")
    ]


def built_in_roles(now: datetime) -> list[Role]:
    return [Role(name=name, built_in=True, created_at=now, updated_at=now) for name in BUILT_IN_ROLES]


def fresh_app(now: datetime, *, dev: bool) -> App:
    """Return the app settings of a fresh installation; `dev` opens the development type and guests stay off."""
    return App(
        name="Callyard",
        multi_tenant_enabled=False,
        development_type_enabled=dev,
        guests_enabled=False,
        created_at=now,
        updated_at=now,
    )


def granted(call_type: CallType, role: str) -> frozenset[str]:
    """Return what a role holds in calls of the type; admin holds everything everywhere."""
    if role == "admin":
        return ALL
    return frozenset(call_type.grants.get(role, ()))


def is_above(call_type: CallType, role: str, own: frozenset[str], own_role: str) -> bool:
    """Tell whether `role` is above someone who holds `own` by his role `own_role`.

    `call.create` does not count: it belongs to the app role, and `user` has it where a moderator has not.
    """
    if own_role == "admin":
        return False
    if role == "admin":
        return True
    return not granted(call_type, role) - {"call.create"} <= own


def copied_grants(grants: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {role: tuple(held) for role, held in grants.items()}
