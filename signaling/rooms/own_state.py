"""What participants change about themselves (name, metadata, attributes) and how administrators change it for them."""

from __future__ import annotations

from collections.abc import Mapping

from livekit.protocol import models, rtc

from signaling.errors import Refusal
from signaling.rooms import data, publishing, quality, subscribing
from signaling.rooms.core import Moment, RoomCore
from signaling.rooms.grants import Grants
from signaling.rooms.names import check_size, check_text, normal
from signaling.rooms.presence import check_attributes, counts_changed, keep_open
from signaling.rooms.state import Participant

_Reasons = rtc.RequestResponse.Reason
_HEARS_SUCCESS = 15
"""The client protocol from which an answer comes also when nothing was wrong."""


def update_metadata(
    room: RoomCore, participant: Participant, request: rtc.UpdateParticipantMetadata, now: Moment
) -> None:
    """The client's own wish."""
    reply = rtc.RequestResponse(request_id=request.request_id, reason=_Reasons.OK)
    if not participant.grants.can_update_own_metadata:
        reply.reason = _Reasons.NOT_ALLOWED
        reply.message = "The token does not allow to update one's own metadata."
        reply.update_metadata.CopyFrom(request)
    else:
        try:
            change(
                room,
                participant,
                name=request.name,
                metadata=request.metadata,
                attributes=request.attributes,
                now=now,
            )
        except Refusal as refusal:
            reply.reason = _Reasons.LIMIT_EXCEEDED
            reply.message = refusal.message
            reply.update_metadata.CopyFrom(request)
    if reply.reason != _Reasons.OK or participant.protocol >= _HEARS_SUCCESS:
        room.send(participant, rtc.SignalResponse(request_response=reply))


def change(
    room: RoomCore,
    participant: Participant,
    *,
    name: str = "",
    metadata: str = "",
    attributes: Mapping[str, str] | None = None,
    permission: models.ParticipantPermission | None = None,
    now: Moment,
) -> None:
    """Empty name and metadata change nothing; an attribute set to "" goes. Raises a `Refusal`, then nothing changed."""
    name = normal(name)
    check_text("name", name, room.settings.name_max_bytes)
    check_size("metadata", metadata.encode(), room.settings.metadata_max_bytes)
    merged = {**participant.attributes, **(attributes or {})}
    merged = {key: value for key, value in merged.items() if value}
    check_attributes(merged, room.settings)
    was_hidden, counted = participant.is_hidden, _counted(participant.grants)
    room.tell_waiting()
    participant.name = name or participant.name
    participant.metadata = metadata or participant.metadata
    participant.attributes = merged
    if permission is not None:
        participant.grants = participant.grants.with_permission(permission)
    if permission is not None:
        if not participant.grants.can_publish_data:
            data.end_tracks(room, participant, tuple(participant.data_tracks.values()))
        publishing.enforce_permission(room, participant)
        room.cut_off(participant, now.unix_ms / 1000, participant.grants)
    room.announce(participant)
    if permission is not None:
        keep_open(room, now)
        subscribing.consider_all(room, participant)
        data.consider_tracks(room, participant)
        if participant.is_hidden != was_hidden:
            _seen_otherwise(room, participant, now)
        if _counted(participant.grants) != counted:
            counts_changed(room, now)
    room.refresh_token(participant)


def _counted(grants: Grants) -> tuple[bool, bool]:
    """As what he is counted in what is told of the room."""
    return grants.takes_place, grants.is_recorder


def _seen_otherwise(room: RoomCore, participant: Participant, now: Moment) -> None:
    """One who shows himself comes with his tracks; to the others, one who hides has left."""
    subscribing.consider(room, participant, tuple(participant.tracks.values()))
    data.consider_publisher(room, participant)
    if not participant.is_hidden:
        return
    quality.silenced(room, participant)
    room.depart(participant, now)
    info = participant.info()
    info.state = models.ParticipantInfo.State.DISCONNECTED
    message = rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[info]))
    for other in room.others(participant):
        room.send(other, message)
