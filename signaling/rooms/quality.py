"""What people are shown of each other's connection and voice: connection quality, and who speaks.

A score between 1 and 5 follows from loss, delay and jitter as a simplified E-model (ITU-T G.107): R falls by the
effective delay and by two and a half points per per cent of loss; R becomes a mean opinion score. Levels are cut where
listeners notice.
"""

from __future__ import annotations

from collections.abc import Iterable

from livekit.protocol import models, rtc

from sfu import border
from sfu.border import TransportQuality, TransportStatus
from signaling.rooms.core import RoomCore
from signaling.rooms.state import Participant

_Quality = models.ConnectionQuality
_BEST = 93.2
_EXCELLENT_FROM = 4.1
_GOOD_FROM = 3.0
_LIMITED_AT_MOST = 4.0
"""A subscriber who gets less video than he asks for is not excellently connected, however clean his link."""


def reported(room: RoomCore, reports: Iterable[TransportQuality]) -> None:
    """Tell everybody of himself and of those he receives."""
    scores: dict[str, float] = {}
    for report in reports:
        participant = room.by_transport.get(report.transport)
        if participant is not None:
            scores[participant.sid] = min(scores.get(participant.sid, 5.0), score(report))
    for sid, value in scores.items():
        participant = room.participants[sid]
        participant.score = value
        participant.quality = _level(value)
    for participant in room.participants.values():
        if participant.session is not None:
            _tell(room, participant)


def _tell(room: RoomCore, participant: Participant) -> None:
    heard = {subscription.publisher_sid for subscription in participant.subscriptions.values()}
    about = [participant, *(room.participants[sid] for sid in heard if sid in room.participants)]
    updates = [
        rtc.ConnectionQualityInfo(participant_sid=one.sid, quality=one.quality, score=one.score)
        for one in about
        if one is participant or not one.is_hidden
    ]
    message = rtc.ConnectionQualityUpdate(updates=updates)
    room.send(participant, rtc.SignalResponse(connection_quality=message))


def lost(room: RoomCore, participant: Participant, status: TransportStatus) -> None:
    """Media has stopped, or is back: those who receive the participant are told at once."""
    is_lost = status in (TransportStatus.DISCONNECTED, TransportStatus.FAILED)
    quality = _Quality.LOST if is_lost else _Quality.GOOD
    if (participant.quality == _Quality.LOST) == is_lost:
        return
    participant.quality = quality
    participant.score = 0.0 if is_lost else _GOOD_FROM
    update = rtc.ConnectionQualityInfo(
        participant_sid=participant.sid, quality=participant.quality, score=participant.score
    )
    message = rtc.SignalResponse(connection_quality=rtc.ConnectionQualityUpdate(updates=[update]))
    for other in room.participants.values():
        heard = any(sid in other.subscriptions for sid in participant.tracks)
        if other is participant or (heard and not participant.is_hidden):
            room.send(other, message)


def score(report: TransportQuality) -> float:
    """1.0 (unusable) to 4.4 or so; 5.0 where nothing was measured."""
    if not report.has_media:
        return 5.0
    loss_percent = 100 * max(report.loss_up, report.loss_down)
    jitter = max(report.jitter_up_ms, report.jitter_down_ms)
    delay = report.rtt_ms / 2 + 2 * jitter + 10
    rating = _BEST - (delay / 40 if delay < 160 else (delay - 120) / 10) - 2.5 * loss_percent
    rating = min(max(rating, 0.0), 100.0)
    opinion = 1 + 0.035 * rating + rating * (rating - 60) * (100 - rating) * 7e-6
    return min(max(opinion, 1.0), _LIMITED_AT_MOST if report.limited else 5.0)


def _level(value: float) -> models.ConnectionQuality:
    if value >= _EXCELLENT_FROM:
        return _Quality.EXCELLENT
    return _Quality.GOOD if value >= _GOOD_FROM else _Quality.POOR


def speakers(room: RoomCore, event: border.Speakers) -> None:
    """Only changes are told; one who has gone silent is told as not active."""
    told = {}
    for speaker in event.speakers:
        found = room.by_uptrack.get(speaker.uptrack)
        if found is None or found[0].is_hidden:
            continue
        sid = found[0].sid
        told[sid] = models.SpeakerInfo(sid=sid, level=speaker.level, active=speaker.active)
        if speaker.active:
            room.speaking[sid] = speaker.level
        else:
            room.speaking.pop(sid, None)
    if told:
        message = rtc.SpeakersChanged(speakers=list(told.values()))
        room.broadcast(rtc.SignalResponse(speakers_changed=message))


def tell_speakers(room: RoomCore, listener: Participant, *, and_silence: bool = False) -> None:
    """Tell one who cannot know; `and_silence`: also of everybody who is silent, whatever the listener believes."""
    told = [
        models.SpeakerInfo(sid=one.sid, level=room.speaking.get(one.sid, 0.0), active=one.sid in room.speaking)
        for one in room.participants.values()
        if (and_silence or one.sid in room.speaking) and (one is listener or not one.is_hidden)
    ]
    if told:
        message = rtc.SpeakersChanged(speakers=told)
        room.send(listener, rtc.SignalResponse(speakers_changed=message))


def silenced(room: RoomCore, participant: Participant) -> None:
    """A participant's audio has ended, perhaps in the middle of a word."""
    if room.speaking.pop(participant.sid, None) is not None:
        silent = models.SpeakerInfo(sid=participant.sid, level=0.0, active=False)
        room.broadcast(rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=[silent])))
