"""A room's records and their indices, and the few things that everything else in this folder does with them.

`room.py` is the front; `publishing.py`, `subscribing.py`, … have the rules, each as functions over a `RoomCore`. They
append effects to `out`. No I/O, no clock: `Moment` is an argument, ids and random numbers come from `Sources`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from livekit.protocol import models, rtc
from livekit.protocol.webhook import WebhookEvent

from sfu import sdp
from sfu.border import NO_OVERLOAD, AnyCommand, Fingerprint, IceCredentials, Overload
from signaling.rooms.effects import (
    CloseSignal,
    Dropped,
    Effect,
    Notify,
    RefreshToken,
    Send,
    SessionId,
    TokensCutOff,
    ToWorker,
)
from signaling.rooms.grants import Grants
from signaling.rooms.settings import RoomSettings
from signaling.rooms.state import Cutoff, DataTrack, Departed, Participant, RoomRecord, Subscription, Track, Uplink
from signaling.rooms.timers import Timers
from signaling.rooms.told import Told
from signaling.rooms.transport import Address, LocalTransport

State = models.ParticipantInfo.State
Reason = models.DisconnectReason
TimerKey: TypeAlias = tuple[str, str]
"""What is due, and for whom (a participant's sid, or empty)."""


@dataclass(frozen=True)
class Moment:
    """`seconds`: a clock that never jumps. `unix_ms`: the time that people are told."""

    seconds: float
    unix_ms: int


@dataclass(frozen=True)
class Sources:
    """Where numbers come from that must not repeat. `number`: ids of the border. `sid`: prefix in, whole id out."""

    number: Callable[[], int]
    sid: Callable[[str], str]
    ssrc: Callable[[], int]
    credentials: Callable[[], IceCredentials]


@dataclass(frozen=True)
class WorkerSide:
    """What clients must know of the worker that serves the room."""

    fingerprint: Fingerprint
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class ServerFacts:
    """What every client is told of the server. `ice_servers`: STUN and TURN of the operator's choice."""

    info: models.ServerInfo
    ice_servers: tuple[rtc.ICEServer, ...] = ()
    sif_trailer: bytes = b""


@dataclass
class RoomCore:
    record: RoomRecord
    settings: RoomSettings
    server: ServerFacts
    worker: WorkerSide
    sources: Sources
    participants: dict[str, Participant] = field(default_factory=dict)
    """By sid, in order of arrival."""
    by_identity: dict[str, Participant] = field(default_factory=dict)
    by_session: dict[SessionId, Participant] = field(default_factory=dict)
    by_transport: dict[int, Participant] = field(default_factory=dict)
    by_uptrack: dict[int, tuple[Participant, Track, Uplink]] = field(default_factory=dict)
    by_downtrack: dict[int, tuple[Participant, Subscription]] = field(default_factory=dict)
    by_track: dict[str, tuple[Participant, Track]] = field(default_factory=dict)
    by_data_track: dict[str, tuple[Participant, DataTrack]] = field(default_factory=dict)
    timers: Timers[TimerKey] = field(default_factory=Timers)
    out: list[Effect] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    """Sids of participants, and of the room, whose records differ from what was remembered."""
    changed_little: set[str] = field(default_factory=set)
    """Those of which only a count or a wish has changed, many times a second perhaps: remembered a little later."""
    server_calls: dict[str, str] = field(default_factory=dict)
    """RPC made by the server and not answered yet: request id → identity that was called."""
    speaking: dict[str, float] = field(default_factory=dict)
    """Participants who were told as active speakers, and their last level."""
    backups_asked: set[str] = field(default_factory=set)
    """Tracks whose publishers were just asked for a further codec."""
    offers_made: set[str] = field(default_factory=set)
    """Participants who were just made an offer."""
    publishers_changed: bool = False
    """Somebody has begun to publish or has ended it, and the new count is not on its way yet."""
    waiting: dict[str, Participant] = field(default_factory=dict)
    """Who has come, connected or gone and was not told yet: in large rooms that is told together."""
    told_until: float = 0.0
    """Where the room would stand had it told one thing every `_UPDATES_SECONDS`; on its clock."""
    permitted: dict[str, dict[str, frozenset[str] | None]] = field(default_factory=dict)
    """By publisher who lets only some subscribe: identity or sid → the tracks, or None for all of them."""
    tellings: dict[str, Told] = field(default_factory=dict)
    """How everybody was told last, by sid."""
    overload: Overload = NO_OVERLOAD
    """What the room's worker gives up."""
    is_over: bool = False

    # --- out ---------------------------------------------------------------------------------------------------------

    @property
    def description_limits(self) -> sdp.Limits:
        settings = self.settings
        return sdp.Limits(
            settings.description_max_bytes, settings.description_lines_max, settings.description_sections_max
        )

    def send(self, participant: Participant, message: rtc.SignalResponse) -> None:
        """To one client; nothing if its signal connection is gone, as a resume tells it everything anew."""
        if participant.session is not None and participant.understands(message):
            self.out.append(Send(participant.session, message))

    def command(self, command: AnyCommand) -> None:
        self.out.append(ToWorker(command))

    def drop(self, reason: str) -> None:
        self.out.append(Dropped(reason))

    def notify(self, event: str, participant: Participant | None = None, track: models.TrackInfo | None = None) -> None:
        """Tell the operator's webhooks, of hidden participants too: they are hidden from people, not from him."""
        message = WebhookEvent(event=event, room=self.info())
        if participant is not None:
            message.participant.CopyFrom(participant.info())
        if track is not None:
            message.track.CopyFrom(track)
        self.out.append(Notify(message))

    def cut_off(self, participant: Participant, before: float, grants: Grants | None) -> None:
        """Tokens of this one that were issued by `before`, in Unix seconds, allow no more than `grants`."""
        if self.settings.removal_revokes_tokens and not participant.grants.managed:
            cutoffs = self.record.cutoffs
            cutoffs.pop(participant.identity, None)
            if participant.grants.issued_at == math.floor(before):
                # The token that he came with is of this very second, and cannot be told from one made out just after.
                before = participant.grants.issued_at + 1
            if grants is not None:
                # All that `Grants.within` reads; the rest may be long.
                grants = replace(grants, name="", metadata="", attributes={}, room_config=None, room_preset="")
            cutoffs[participant.identity] = Cutoff(before, participant.grants.expires_at, grants)
            while len(cutoffs) > self.settings.cutoffs_max:
                del cutoffs[next(iter(cutoffs))]
            self.changed.add(self.record.sid)
            self.out.append(TokensCutOff(participant.identity))

    def refresh_token(self, participant: Participant) -> None:
        if participant.session is not None:
            grants = replace(
                participant.grants,
                name=participant.name,
                metadata=participant.metadata,
                attributes=dict(participant.attributes),
                room_config=None,
                room_preset="",
            )
            self.out.append(RefreshToken(participant.session, grants))

    def hang_up(self, participant: Participant, reason: str) -> None:
        """Close the signal connection after what has been sent."""
        if participant.session is not None:
            self.out.append(CloseSignal(participant.session, reason))
            self.by_session.pop(participant.session, None)
            participant.session = None

    # --- reading -----------------------------------------------------------------------------------------------------

    def info(self) -> models.Room:
        participants, publishers, is_recorded = 0, 0, False
        for one in self.participants.values():
            grants = one.grants
            participants += grants.takes_place
            publishers += one.is_publisher and not grants.hidden
            is_recorded = is_recorded or grants.is_recorder
        return models.Room(
            sid=self.record.sid,
            name=self.record.name,
            empty_timeout=int(self.record.empty_timeout_seconds),
            departure_timeout=int(self.record.departure_timeout_seconds),
            max_participants=self.record.participants_max,
            creation_time=self.record.created_at_ms // 1000,
            creation_time_ms=self.record.created_at_ms,
            enabled_codecs=self.codecs(),
            metadata=self.record.metadata,
            num_participants=participants,
            num_publishers=publishers,
            active_recording=is_recorded,
        )

    def excess_of(self, info: models.TrackInfo | models.DataTrackInfo) -> str:
        """Return what is too much of a track, or "": everybody is told of it, and of all other tracks, at each change.

        With the default settings a participant's name and identity, metadata, attributes (which on the wire may have
        three times their size), tracks and data tracks have 0.8 MB at most: a fifth of `signal_queue_max_bytes`.
        """
        size, most = info.ByteSize(), self.settings.track_max_bytes
        return f"What is to be told of the track has {size} bytes; at most {most} are taken." if size > most else ""

    @property
    def is_kept(self) -> bool:
        """Whether anybody is there whom the room waits for."""
        return any(not one.is_dependent for one in self.participants.values())

    def counted(self) -> list[Participant]:
        """Return those who take a place."""
        return [one for one in self.participants.values() if one.is_counted]

    def codecs(self) -> list[models.Codec]:
        return [models.Codec(mime=mime) for mime in self.settings.codecs]

    def others(self, participant: Participant) -> Iterator[Participant]:
        return (other for other in self.participants.values() if other is not participant)

    def visible_to(self, participant: Participant) -> list[models.ParticipantInfo]:
        """Return everybody else, as far as they are to be seen."""
        return [self.told(other) for other in self.others(participant) if not other.grants.hidden]

    def entries(self, participant: Participant) -> list[bytes]:
        """Return the same as `visible_to`, as a join response has it on the wire."""
        return [self._telling(other).entry for other in self.others(participant) if not other.grants.hidden]

    def told(self, participant: Participant) -> models.ParticipantInfo:
        """Return how a participant was told last. Not to be changed."""
        return self._telling(participant).info

    def _telling(self, participant: Participant) -> Told:
        telling = self.tellings.get(participant.sid)
        if telling is None:
            telling = self.tellings[participant.sid] = Told(participant.info())
        return telling

    def by_downtrack_moved(self, subscription: Subscription, downtrack: int) -> None:
        """Give a subscription another id: what the worker says of the old one is of no interest any more."""
        found = self.by_downtrack.pop(subscription.downtrack, None)
        subscription.downtrack = downtrack
        if found is not None:
            self.by_downtrack[downtrack] = found

    # --- telling -----------------------------------------------------------------------------------------------------

    def touch(self, participant: Participant) -> None:
        """Something of the participant's record has changed."""
        self.changed.add(participant.sid)

    def announce(self, participant: Participant) -> None:
        """Tell everybody who may know how the participant is now, himself included."""
        self._renew(participant)
        if participant.is_hidden:
            self._tell(participant, [participant])
            return
        self.waiting.pop(participant.sid, None)
        self.waiting[participant.sid] = participant
        self.tell_waiting()

    def announce_soon(self, participant: Participant, now: Moment) -> None:
        """As `announce`; in a large room, or after many in a short time, together with whatever else happens meanwhile.

        Only for coming and going: whoever publishes must be known before his media is offered.
        """
        may_be_told = len(self.participants) <= LARGE_ROOM and self.told_until <= now.seconds + _UPDATES_AHEAD_SECONDS
        if participant.is_hidden or may_be_told:
            self.told_until = max(self.told_until, now.seconds) + _UPDATES_SECONDS
            self.announce(participant)
            return
        self._renew(participant)
        self.waiting.pop(participant.sid, None)
        self.waiting[participant.sid] = participant
        if _UPDATES not in self.timers:
            wait = len(self.participants) / self.settings.announcements_per_second
            self.timers.set(_UPDATES, now.seconds + max(_UPDATES_SECONDS, wait))

    def tell_waiting(self) -> None:
        if self.waiting:
            waiting, self.waiting = list(self.waiting.values()), {}
            self.timers.clear(_UPDATES)
            self._tell(None, waiting)

    def _renew(self, participant: Participant) -> None:
        participant.version += 1
        self.touch(participant)
        self.tellings[participant.sid] = Told(participant.info())

    def _tell(self, listener: Participant | None, about: list[Participant]) -> None:
        """`listener`: None is everybody."""
        infos = [self.told(one) for one in about]
        gone = [one for one in about if one.state == State.DISCONNECTED]
        present = [self.told(one) for one in about if one.state != State.DISCONNECTED] if gone else infos
        for one in gone:
            self.tellings.pop(one.sid, None)
        message = rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=infos))
        shorter = rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=present)) if gone else message
        former = {one.identity for one in gone}
        for other in self.participants.values() if listener is None else (listener,):
            if other.session is None:
                continue
            if other.identity in former and other.protocol >= HEARS_DISCONNECTED:
                # Clients keep people by identity: news of his former self he would take for his own.
                rest = [info for info in infos if info.identity != other.identity or info.sid == other.sid]
                if rest:
                    self.send(other, rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=rest)))
            elif not gone or other.protocol >= HEARS_DISCONNECTED:
                self.send(other, message)
            elif present:
                self.send(other, shorter)

    def depart(self, participant: Participant, now: Moment) -> None:
        """Note who is gone: whoever resumes may have missed it, and we cannot know since when he has."""
        departed = self.record.departed
        oldest = now.seconds - self.settings.signal_absence_seconds
        kept = next((index for index, one in enumerate(departed) if one.at >= oldest), len(departed))
        del departed[: max(kept, len(departed) - _DEPARTED_MAX)]
        reason = int(participant.disconnect_reason)
        departed.append(Departed(now.seconds, participant.sid, participant.identity, participant.version + 1, reason))
        self.changed.add(self.record.sid)

    def broadcast(self, message: rtc.SignalResponse) -> None:
        for participant in self.participants.values():
            self.send(participant, message)

    def room_changed(self) -> None:
        self.changed.add(self.record.sid)
        self.broadcast(rtc.SignalResponse(room_update=rtc.RoomUpdate(room=self.info())))

    def local_transport(self, identity: str) -> LocalTransport:
        """Our side of a new connection."""
        addresses = self.worker.addresses
        if identity in self.record.prefers_tcp:
            addresses = tuple(address for address in addresses if address.protocol == "tcp") or addresses
        return LocalTransport(ice=self.sources.credentials(), fingerprint=self.worker.fingerprint, addresses=addresses)


LARGE_ROOM = 50
"""Participants from which on what concerns everybody is told together, a little later."""
_DEPARTED_MAX = 1_000
_UPDATES: TimerKey = ("updates", "")
_UPDATES_SECONDS = 0.25
"""Between two tellings of who has come and gone."""
_UPDATES_AHEAD_SECONDS = 5.0
"""Smaller rooms tell each at once until they have told so much that it should have taken this much longer."""
HEARS_DISCONNECTED = 9
"""Protocol version from which clients take updates of participants who have left."""
