"""What a token allows, as a value. Reading and signing tokens is `signaling/tokens.py`; no clock, no keys here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from livekit.protocol import models

from signaling.errors import Unauthenticated
from signaling.rooms.names import normal

SOURCES: dict[str, models.TrackSource] = {
    "camera": models.TrackSource.CAMERA,
    "microphone": models.TrackSource.MICROPHONE,
    "screen_share": models.TrackSource.SCREEN_SHARE,
    "screen_share_audio": models.TrackSource.SCREEN_SHARE_AUDIO,
}
"""Names in tokens."""
_SOURCE_NAMES: dict[int, str] = {number: name for name, number in SOURCES.items()}

_KINDS = {
    "": models.ParticipantInfo.Kind.STANDARD,
    "standard": models.ParticipantInfo.Kind.STANDARD,
    "ingress": models.ParticipantInfo.Kind.INGRESS,
    "egress": models.ParticipantInfo.Kind.EGRESS,
    "sip": models.ParticipantInfo.Kind.SIP,
    "agent": models.ParticipantInfo.Kind.AGENT,
    "connector": models.ParticipantInfo.Kind.CONNECTOR,
    "bridge": models.ParticipantInfo.Kind.BRIDGE,
}

_FLAGS = {
    "roomJoin": "room_join",
    "roomCreate": "room_create",
    "roomList": "room_list",
    "roomAdmin": "room_admin",
    "roomRecord": "room_record",
    "hidden": "hidden",
    "recorder": "recorder",
    "agent": "agent",
    "canUpdateOwnMetadata": "can_update_own_metadata",
    "canSubscribeMetrics": "can_subscribe_metrics",
}
_OPTIONAL = {
    "canPublish": "can_publish",
    "canSubscribe": "can_subscribe",
    "canPublishData": "can_publish_data",
}


@dataclass(frozen=True)
class Grants:
    """A verified token. `managed`: it opens a room of the calls system and nothing else."""

    key: str
    identity: str = ""
    name: str = ""
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    room: str = ""
    room_join: bool = False
    room_create: bool = False
    room_list: bool = False
    room_admin: bool = False
    room_record: bool = False
    can_publish: bool = True
    can_subscribe: bool = True
    can_publish_data: bool = True
    can_publish_sources: tuple[str, ...] = ()
    """Empty: every source, if `can_publish`."""
    can_update_own_metadata: bool = False
    can_subscribe_metrics: bool = False
    hidden: bool = False
    recorder: bool = False
    agent: bool = False
    room_config: Mapping[str, Any] | None = None
    room_preset: str = ""
    managed: bool = False
    lifetime_seconds: int = 600
    """How long the token was made out for; refreshed ones get the same, at least ten minutes."""
    issued_at: float = field(default=0.0, compare=False)
    """Unix seconds; 0 where the token does not say."""
    expires_at: float = field(default=0.0, compare=False)
    """Unix seconds; of a refreshed token, when the one that the application made out does."""

    def may_publish(self, source: int) -> bool:
        if not self.can_publish:
            return False
        return not self.can_publish_sources or _SOURCE_NAMES.get(source, "") in self.can_publish_sources

    @property
    def participant_kind(self) -> models.ParticipantInfo.Kind:
        kind = self.kind.lower()
        return models.ParticipantInfo.Kind.AGENT if self.agent and not kind else _KINDS.get(kind, _KINDS[""])

    @property
    def is_recorder(self) -> bool:
        return self.recorder or self.kind.lower() == "egress"

    @property
    def is_dependent(self) -> bool:
        """Whether it is there for others only, as agents and recorders are. The calls system decides about its own."""
        return not self.managed and (self.agent or self.is_recorder or self.kind.lower() == "agent")

    @property
    def takes_place(self) -> bool:
        return not self.hidden and not self.recorder and not self.is_dependent

    def permission(self) -> models.ParticipantPermission:
        return models.ParticipantPermission(
            can_subscribe=self.can_subscribe,
            can_publish=self.can_publish,
            can_publish_data=self.can_publish_data,
            can_publish_sources=[SOURCES[name] for name in self.can_publish_sources],
            hidden=self.hidden,
            recorder=self.recorder,
            can_update_metadata=self.can_update_own_metadata,
            agent=self.agent,
            can_subscribe_metrics=self.can_subscribe_metrics,
        )

    def with_permission(self, permission: models.ParticipantPermission) -> Grants:
        """Return the grants after an administrator replaced the permission."""
        sources = tuple(_SOURCE_NAMES[source] for source in permission.can_publish_sources if source in _SOURCE_NAMES)
        return replace(
            self,
            can_subscribe=permission.can_subscribe,
            can_publish=permission.can_publish,
            can_publish_data=permission.can_publish_data,
            can_publish_sources=sources,
            hidden=permission.hidden,
            recorder=permission.recorder,
            can_update_own_metadata=permission.can_update_metadata,
            can_subscribe_metrics=permission.can_subscribe_metrics,
        )

    def within(self, bound: Grants) -> Grants:
        """Return what both allow; who is hidden, or a recorder, stays so."""
        allowed, bounds = set(self.can_publish_sources), set(bound.can_publish_sources)
        shared = allowed & bounds if allowed and bounds else allowed | bounds
        return replace(
            self,
            can_publish=self.can_publish and bound.can_publish and (bool(shared) or not (allowed and bounds)),
            can_subscribe=self.can_subscribe and bound.can_subscribe,
            can_publish_data=self.can_publish_data and bound.can_publish_data,
            can_publish_sources=tuple(name for name in SOURCES if name in shared),
            can_update_own_metadata=self.can_update_own_metadata and bound.can_update_own_metadata,
            can_subscribe_metrics=self.can_subscribe_metrics and bound.can_subscribe_metrics,
        )

    def claims(self) -> dict[str, Any]:
        """Return the claims of a token with these grants; who signs it adds `iss` and times."""
        video: dict[str, Any] = {name: True for name, attribute in _FLAGS.items() if getattr(self, attribute)}
        video |= {name: getattr(self, attribute) for name, attribute in _OPTIONAL.items()}
        video |= {"room": self.room} if self.room else {}
        video |= {"canPublishSources": list(self.can_publish_sources)} if self.can_publish_sources else {}
        claims: dict[str, Any] = {"sub": self.identity, "identity": self.identity, "video": video}
        claims |= {"scope": MANAGED_SCOPE} if self.managed else {}
        for name in ("name", "metadata", "kind"):
            claims |= {name: getattr(self, name)} if getattr(self, name) else {}
        return claims | ({"attributes": dict(self.attributes)} if self.attributes else {})


MANAGED_SCOPE = "media"
"""`scope` of tokens that the calls system hands out: they never make a room (a stale one must not revive its call)."""


def grants_of(
    claims: Mapping[str, Any], *, lifetime_seconds: int, issued_at: float = 0.0, expires_at: float = 0.0
) -> Grants:
    """Read verified claims; raises `Unauthenticated` where one has the wrong type."""
    video = claims.get("video", {})
    if not isinstance(video, Mapping):
        raise Unauthenticated("invalid token: `video` is not an object")
    values: dict[str, Any] = {}
    for name, attribute in (_FLAGS | _OPTIONAL).items():
        value = video.get(name)
        if value is None:
            continue
        if not isinstance(value, bool):
            raise Unauthenticated(f"invalid token: `{name}` is not a boolean")
        values[attribute] = value
    # Who does not say may send data if he may publish: LiveKit's `VideoGrant.GetCanPublishData`, and tokens for viewers
    # leave it out.
    values.setdefault("can_publish_data", values.get("can_publish", True))
    sources = video.get("canPublishSources") or ()
    if not isinstance(sources, (list, tuple)) or not all(isinstance(name, str) and name in SOURCES for name in sources):
        raise Unauthenticated("invalid token: `canPublishSources` names an unknown source")
    attributes = claims.get("attributes") or {}
    if not isinstance(attributes, Mapping) or any(not isinstance(value, str) for value in attributes.values()):
        raise Unauthenticated("invalid token: `attributes` are not strings")
    room_config = claims.get("roomConfig")
    if room_config is not None and not isinstance(room_config, Mapping):
        raise Unauthenticated("invalid token: `roomConfig` is not an object")
    return Grants(
        key=_text(claims, "iss"),
        identity=normal(_text(claims, "sub")),
        name=normal(_text(claims, "name")),
        metadata=_text(claims, "metadata"),
        kind=_text(claims, "kind"),
        attributes=dict(attributes),
        room=normal(_text(video, "room")),
        can_publish_sources=tuple(sources),
        room_config=room_config,
        room_preset=_text(claims, "roomPreset"),
        managed=claims.get("scope") == MANAGED_SCOPE,
        lifetime_seconds=max(600, lifetime_seconds),
        issued_at=issued_at,
        expires_at=expires_at,
        **values,
    )


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unauthenticated(f"invalid token: `{name}` is not a string")
    return value
