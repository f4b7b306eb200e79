"""What a room knows, as plain data: what a restarted signaling process must find again (`memory.py` packs it).

Ids of transports, uptracks and downtracks are the border's. No behaviour beyond what follows from one record alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from livekit.protocol import models, rtc

from sfu.border import CodecSpec, Kind, Want
from signaling.rooms.effects import SessionId
from signaling.rooms.grants import Grants
from signaling.rooms.negotiation import ClientOffered, ServerOffered
from signaling.rooms.transport import ReceivedSection, SendParameters

if TYPE_CHECKING:
    ParticipantState: TypeAlias = models.ParticipantInfo.State
    Quality: TypeAlias = models.ConnectionQuality
    DisconnectReason: TypeAlias = models.DisconnectReason
else:
    # Protobuf's enums are numbers at run time, and so they are remembered.
    ParticipantState = Quality = DisconnectReason = int

_PASSES_OVER_UNKNOWN = 10
"""The Rust SDK's protocol from which it ignores messages that it does not know."""
_LAST_KNOWN_TO_OLD_RUST = rtc.SignalResponse.SUBSCRIPTION_RESPONSE_FIELD_NUMBER
_RESPONSES = rtc.SignalResponse.DESCRIPTOR.fields_by_name


@dataclass
class Uplink:
    """One media section on which a track arrives: one codec of it."""

    uptrack: int
    section: ReceivedSection
    mime: str
    """What is expected until media tells."""
    max_spatial: int | None = None
    """The highest layer that anybody needs; None: nobody needs any."""
    has_media: bool = False

    @property
    def mid(self) -> str:
        return self.section.mid

    @property
    def codecs(self) -> tuple[CodecSpec, ...]:
        return self.section.codecs


@dataclass
class Track:
    """A track that a participant announced. It is published once it has an uplink."""

    info: models.TrackInfo
    request: rtc.AddTrackRequest
    kind: Kind
    cids: dict[str, str] = field(default_factory=dict)
    """Client ids of the sections that carry it, each with the codec's mime, or "" where any will do."""
    uplinks: list[Uplink] = field(default_factory=list)
    told_subscribed: bool = False
    muted_by_server: bool = False
    """An administrator muted it, and its client has said nothing of it since."""
    backup_asked: str = ""
    """Mime of a codec that the publisher was asked for in addition."""

    @property
    def sid(self) -> str:
        return self.info.sid

    @property
    def is_published(self) -> bool:
        return bool(self.uplinks)


@dataclass
class DataTrack:
    info: models.DataTrackInfo
    data_uptrack: int


@dataclass
class Subscription:
    """One subscriber's copy of a track."""

    track_sid: str
    publisher_sid: str
    kind: Kind
    downtrack: int
    ssrc: int
    rtx_ssrc: int | None
    uptrack: int
    stream_id: str
    codecs: tuple[CodecSpec, ...]
    want: Want
    sent: SendParameters | None = None
    """How it is sent, once it is negotiated."""
    refused: set[int] = field(default_factory=set)
    """Uptracks whose codec this client does not take."""
    is_refused: bool = False
    """No uptrack is left that it takes."""
    is_unmade: bool = False
    """The client's descriptions have no room for it: it waits until they have."""
    is_active: bool | None = None
    """Whether the worker sends it, by what it said last."""


@dataclass
class Connection:
    """One peer connection. The client offers on `publisher`, we on `subscriber`."""

    transport: int
    is_added: bool = False
    """The worker knows it."""
    was_connected: bool = False
    is_connected: bool = False


@dataclass
class Participant:
    sid: str
    grants: Grants
    client: models.ClientInfo
    is_single: bool
    """One peer connection, on which the client makes all offers."""
    auto_subscribe: bool
    adaptive_stream: bool
    auto_subscribe_data: bool
    name: str
    metadata: str
    attributes: dict[str, str]
    joined_at_ms: int
    joined_at: float
    """On the room's clock."""
    publisher: Connection
    publishing: ClientOffered
    subscriber: Connection | None = None
    subscribing: ServerOffered | None = None
    session: SessionId | None = None
    state: ParticipantState = models.ParticipantInfo.State.JOINING
    version: int = 0
    tracks: dict[str, Track] = field(default_factory=dict)
    parked: dict[str, ReceivedSection] = field(default_factory=dict)
    """Sections whose `add_track` has not come, by cid."""
    sent_cids: dict[str, None] = field(default_factory=dict)
    """What the client has called tracks that it sent, the latest last; also of those that have ended."""
    data_tracks: dict[int, DataTrack] = field(default_factory=dict)
    """By the publisher's handle."""
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    wishes: dict[str, bool] = field(default_factory=dict)
    """Tracks that the client has asked for, or has not wanted, by itself."""
    settings: dict[str, Want] = field(default_factory=dict)
    """What was said of a track, kept over its subscriptions."""
    permissions: rtc.SubscriptionPermission | None = None
    """Who may subscribe to this one's tracks; None: everybody."""
    refused_to: set[str] = field(default_factory=set)
    """Tracks of others that this one was told he may not have."""
    data_subscriptions: dict[str, int] = field(default_factory=dict)
    """Data tracks received, by sid, each with its handle."""
    data_wishes: dict[str, bool] = field(default_factory=dict)
    next_data_handle: int = 1
    last_sequence: int = 0
    """The last reliable message that came from this one."""
    has_reliable: bool = False
    """Its reliable channel is open towards us to send."""
    asked_audio: int = 0
    asked_video: int = 0
    """Sections that the client was asked to add and has not offered yet."""
    sections_audio: int = 0
    sections_video: int = 0
    replaced_at: float | None = None
    """When this one took the place of a client of the same identity that was still there; on the room's clock."""
    untold_permissions: set[str] = field(default_factory=set)
    """Tracks whose permission changed while there was no signal connection."""
    untold_handles: bool = False
    """The handles of data tracks changed while there was no signal connection."""
    held_offer: rtc.SessionDescription | None = None
    """Came with the join and is not answered yet."""
    fail_resume: bool = False
    """Asked for by `simulate`: the next resume is cut short."""
    quality: Quality = models.ConnectionQuality.EXCELLENT
    score: float = 5.0
    disconnect_reason: DisconnectReason = models.DisconnectReason.UNKNOWN_REASON

    @property
    def identity(self) -> str:
        return self.grants.identity

    @property
    def protocol(self) -> int:
        return self.client.protocol

    def understands(self, message: rtc.SignalResponse) -> bool:
        """Whether its client lives on after this message.

        The Rust SDK before protocol 10 (in the Python SDK up to 0.11) stops reading its signal connection at the first
        kind of message that it does not know.
        """
        if self.protocol >= _PASSES_OVER_UNKNOWN or self.client.sdk != models.ClientInfo.SDK.RUST:
            return True
        kind = message.WhichOneof("message")
        return kind is None or _RESPONSES[kind].number <= _LAST_KNOWN_TO_OLD_RUST

    @property
    def is_hidden(self) -> bool:
        return self.grants.hidden

    @property
    def is_counted(self) -> bool:
        """Whether it takes a place: neither hidden nor there for others only."""
        return self.grants.takes_place

    @property
    def is_dependent(self) -> bool:
        """It does not keep a room open."""
        return self.grants.is_dependent

    @property
    def primary(self) -> Connection:
        """The connection that makes the participant active."""
        return self.publisher if self.subscriber is None else self.subscriber

    @property
    def receiving(self) -> Connection:
        """The connection on which tracks and data go to the client."""
        return self.publisher if self.subscriber is None else self.subscriber

    @property
    def is_publisher(self) -> bool:
        # In a large audience, most have none and all are counted often.
        return bool(self.tracks) and any(track.is_published for track in self.tracks.values())

    def info(self) -> models.ParticipantInfo:
        info = models.ParticipantInfo(
            sid=self.sid,
            identity=self.identity,
            state=self.state,
            tracks=[track.info for track in self.tracks.values() if track.is_published],
            metadata=self.metadata,
            joined_at=self.joined_at_ms // 1000,
            joined_at_ms=self.joined_at_ms,
            name=self.name,
            version=self.version,
            permission=self.grants.permission(),
            is_publisher=self.is_publisher,
            kind=self.grants.participant_kind,
            attributes=self.attributes,
            disconnect_reason=self.disconnect_reason,
            data_tracks=[track.info for track in self.data_tracks.values()],
            client_protocol=self.client.client_protocol,
        )
        info.capabilities.extend(self.client.capabilities)
        return info


@dataclass
class Departed:
    """One who is gone, or hides now. `at`: on the room's clock."""

    at: float
    sid: str
    identity: str
    version: int
    reason: int


@dataclass(frozen=True)
class Cutoff:
    """What an administrator decided about somebody whose earlier tokens are still about."""

    before: float
    """Tokens issued by then, in Unix seconds. Those that say the whole second of that moment may be newer, and pass."""
    expires_by: float
    """Of tokens that do not say when they were issued, those that expire by then: as the one in use did, or earlier."""
    grants: Grants | None
    """They allow no more than this; None: nothing."""


@dataclass
class RoomRecord:
    """What is true of the room itself. `number` names it on the border."""

    sid: str
    name: str
    number: int
    metadata: str
    created_at_ms: int
    empty_timeout_seconds: float
    departure_timeout_seconds: float
    participants_max: int
    """0: as many as the node's setting allows."""
    is_managed: bool = False
    """It belongs to the calls system, which asks to be asked about everyone who comes."""
    was_joined: bool = False
    prefers_tcp: set[str] = field(default_factory=set)
    """Identities whose next connection gets TCP candidates only."""
    departed: list[Departed] = field(default_factory=list)
    """Who left lately, oldest first."""
    cutoffs: dict[str, Cutoff] = field(default_factory=dict)
    """By identity, oldest first."""
