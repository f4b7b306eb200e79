"""How fine a publisher must send: which layers of which codecs anybody may get (dynacast), and what to fall back on."""

from __future__ import annotations

from livekit.protocol import models, rtc

from sfu import border
from sfu.border import Kind
from signaling.rooms.core import RoomCore
from signaling.rooms.state import Participant, Track, Uplink

_QUALITIES = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)


def demand_changed(room: RoomCore, event: border.UptrackDemand) -> None:
    found = room.by_uptrack.get(event.uptrack)
    if found is None:
        return
    participant, track, uplink = found
    uplink.max_spatial = event.max_spatial
    room.touch(participant)
    tell_demand(room, participant, track)


def tell_demand(room: RoomCore, participant: Participant, track: Track) -> None:
    """Tell the publisher which qualities of which codecs anybody may get."""
    if track.kind is not Kind.VIDEO:
        return
    codecs = [
        rtc.SubscribedCodec(codec=_short(uplink.mime), qualities=_qualities(track, uplink)) for uplink in track.uplinks
    ]
    asked = track.backup_asked
    if asked and not any(uplink.mime.lower() == asked.lower() for uplink in track.uplinks):
        qualities = [rtc.SubscribedQuality(quality=quality, enabled=True) for quality in _QUALITIES]
        codecs.append(rtc.SubscribedCodec(codec=_short(asked), qualities=qualities))
    if not codecs:
        return
    update = rtc.SubscribedQualityUpdate(
        track_sid=track.sid, subscribed_qualities=codecs[0].qualities, subscribed_codecs=codecs
    )
    room.send(participant, rtc.SignalResponse(subscribed_quality_update=update))


def _short(mime: str) -> str:
    return mime.rpartition("/")[2].lower()


def _qualities(track: Track, uplink: Uplink) -> list[rtc.SubscribedQuality]:
    """Qualities map to the layers there are: with two of them both medium and high are the upper one."""
    top = max(len(layers_of(track, uplink)) - 1, 0)
    needed = -1 if uplink.max_spatial is None else uplink.max_spatial
    return [rtc.SubscribedQuality(quality=quality, enabled=min(int(quality), top) <= needed) for quality in _QUALITIES]


def backup_wanted(room: RoomCore, participant: Participant, track: Track) -> bool:
    """A subscriber takes none of the track's codecs: ask for one that was announced. False if there is none left."""
    used = {uplink.mime.lower() for uplink in track.uplinks}
    if track.backup_asked and track.backup_asked.lower() not in used:
        if ("backup", track.sid) not in room.timers:
            # It did not come in its time; for who is here only now it gets that once more.
            room.backups_asked.add(track.sid)
            tell_demand(room, participant, track)
        return True
    spare = [codec.mime_type for codec in track.info.codecs if codec.mime_type and codec.mime_type.lower() not in used]
    if not spare:
        return False
    track.backup_asked = spare[0]
    room.backups_asked.add(track.sid)
    room.touch(participant)
    tell_demand(room, participant, track)
    return True


def layers_of(track: Track, uplink: Uplink) -> list[models.VideoLayer]:
    """Return the layers that an uplink brings, lowest first; one for what has none."""
    codec = next((codec for codec in track.info.codecs if codec.cid == uplink.section.cid and codec.layers), None)
    layers = list(codec.layers if codec is not None else track.info.layers)
    if not layers and track.kind is Kind.VIDEO:
        layers = [models.VideoLayer(quality=models.VideoQuality.HIGH, width=track.info.width, height=track.info.height)]
    encodings = len(uplink.section.rids) or 0
    # Fewer streams than layers announced: the highest ones are not sent.
    return layers[:encodings] if 1 < encodings < len(layers) else layers
