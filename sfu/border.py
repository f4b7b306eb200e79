"""The border between signaling and a worker: every command and event, as typed values.

The same types stand in Rust (`sfu/core/proto/src/command.rs`, `event.rs`); a contract test holds the two together.
Commands go down, events come up, both as msgpack maps with a `type` field. Commands are applied in order and are not
acknowledged: ids are chosen by signaling and unique for the worker's life; what cannot be applied comes back as
`Rejected`. Nothing here knows a role, a name or a token. No I/O: `sfu/control.py` carries these values.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec


class Kind(StrEnum):
    AUDIO = "audio"
    VIDEO = "video"


class Content(StrEnum):
    """What the pictures are for: decides whether size or frame rate is given up first."""

    CAMERA = "camera"
    SCREEN = "screen"


class LayerMode(StrEnum):
    """How an uptrack's spatial layers arrive."""

    SINGLE = "single"
    SIMULCAST = "simulcast"
    SVC = "svc"


class DtlsRole(StrEnum):
    SERVER = "server"
    CLIENT = "client"


class TransportStatus(StrEnum):
    """`DISCONNECTED`: no check for a while, media still sent. `FAILED`: nothing is sent. `CLOSED`: the last word."""

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    FAILED = "failed"
    CLOSED = "closed"


class PathProtocol(StrEnum):
    UDP = "udp"
    TCP = "tcp"


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Base of everything that crosses the border."""


class IceCredentials(Value, frozen=True, kw_only=True):
    ufrag: str
    pwd: str


class Fingerprint(Value, frozen=True, kw_only=True):
    algorithm: str
    """Lower-case hash name: `sha-256`."""
    value: str
    """Upper-case hex bytes joined by colons."""


class Remote(Value, frozen=True, kw_only=True):
    """The client's side of a transport, as its description gives it."""

    ice: IceCredentials
    fingerprints: tuple[Fingerprint, ...]
    role: DtlsRole
    """The role *we* take; `SERVER` wherever the client leaves the choice."""


class ChannelSpec(Value, frozen=True, kw_only=True):
    label: str
    ordered: bool
    max_retransmits: int | None
    """None: reliable. 0: send once."""


class CodecSpec(Value, frozen=True, kw_only=True):
    pt: int
    mime: str
    clock_rate: int
    fmtp: str = ""
    rtx_pt: int | None = None
    feedback: tuple[str, ...] = ()


class ExtensionSpec(Value, frozen=True, kw_only=True):
    id: int
    uri: str


class SsrcSpec(Value, frozen=True, kw_only=True):
    ssrc: int
    rtx_ssrc: int | None = None
    rid: str | None = None


class LayerSpec(Value, frozen=True, kw_only=True):
    spatial: int
    width: int
    height: int
    bitrate_bps: int


class Want(Value, frozen=True, kw_only=True):
    """What a subscriber asks of one track (`track_setting`). Width and height win over quality; 0 = not said."""

    disabled: bool = False
    quality: int | None = None
    width: int = 0
    height: int = 0
    fps: int = 0
    priority: int = 0


# --- commands -------------------------------------------------------------------------------------------------------


class Command(Value, frozen=True, kw_only=True, tag_field="type"):
    """Base of all commands; see `command.rs` for what each does."""


class AddTransport(Command, frozen=True, kw_only=True, tag="add_transport"):
    transport: int
    room: int
    local: IceCredentials
    remote: Remote | None = None


class SetRemote(Command, frozen=True, kw_only=True, tag="set_remote"):
    transport: int
    remote: Remote


class RestartIce(Command, frozen=True, kw_only=True, tag="restart_ice"):
    transport: int
    local: IceCredentials
    remote: IceCredentials | None = None


class RemoveTransport(Command, frozen=True, kw_only=True, tag="remove_transport"):
    transport: int


class OpenDataChannels(Command, frozen=True, kw_only=True, tag="open_data_channels"):
    transport: int
    channels: tuple[ChannelSpec, ...]


class SendData(Command, frozen=True, kw_only=True, tag="send_data"):
    transports: tuple[int, ...]
    label: str
    payload: bytes


class AddUptrack(Command, frozen=True, kw_only=True, tag="add_uptrack"):
    uptrack: int
    transport: int
    kind: Kind
    content: Content = Content.CAMERA
    mode: LayerMode = LayerMode.SINGLE
    mid: str
    codecs: tuple[CodecSpec, ...]
    extensions: tuple[ExtensionSpec, ...]
    rids: tuple[str, ...] = ()
    ssrcs: tuple[SsrcSpec, ...] = ()
    layers: tuple[LayerSpec, ...] = ()
    muted: bool = False
    encrypted: bool = False


class UpdateUptrack(Command, frozen=True, kw_only=True, tag="update_uptrack"):
    uptrack: int
    muted: bool
    layers: tuple[LayerSpec, ...] | None = None


class RemoveUptrack(Command, frozen=True, kw_only=True, tag="remove_uptrack"):
    uptrack: int


class RequestKeyframe(Command, frozen=True, kw_only=True, tag="request_keyframe"):
    uptrack: int


class BoundDownlink(Command, frozen=True, kw_only=True, tag="bound_downlink"):
    """Send the transport's client no more than `max_bps`; None: what its link carries."""

    transport: int
    max_bps: int | None = None


class AddDowntrack(Command, frozen=True, kw_only=True, tag="add_downtrack"):
    downtrack: int
    uptrack: int
    transport: int
    mid: str
    ssrc: int
    rtx_ssrc: int | None = None
    codecs: tuple[CodecSpec, ...]
    extensions: tuple[ExtensionSpec, ...]
    want: Want = Want()


class SetDowntrack(Command, frozen=True, kw_only=True, tag="set_downtrack"):
    downtrack: int
    want: Want


class SwitchDowntrack(Command, frozen=True, kw_only=True, tag="switch_downtrack"):
    downtrack: int
    uptrack: int


class RemoveDowntrack(Command, frozen=True, kw_only=True, tag="remove_downtrack"):
    downtrack: int


class AddDataUptrack(Command, frozen=True, kw_only=True, tag="add_data_uptrack"):
    data_uptrack: int
    transport: int
    pub_handle: int


class RemoveDataUptrack(Command, frozen=True, kw_only=True, tag="remove_data_uptrack"):
    data_uptrack: int


class AddDataDowntrack(Command, frozen=True, kw_only=True, tag="add_data_downtrack"):
    data_uptrack: int
    transport: int
    handle: int


class RemoveDataDowntrack(Command, frozen=True, kw_only=True, tag="remove_data_downtrack"):
    data_uptrack: int
    transport: int


class TakeSnapshot(Command, frozen=True, kw_only=True, tag="snapshot"):
    pass


class SetMemoryPressure(Command, frozen=True, kw_only=True, tag="set_memory_pressure"):
    level: int
    """As `Overload.memory`."""


class GetRoomStats(Command, frozen=True, kw_only=True, tag="get_room_stats"):
    request: int
    room: int


class StartTrace(Command, frozen=True, kw_only=True, tag="start_trace"):
    """Answered by `Trace` until that ends; `trace` is chosen by whoever asks."""

    trace: int
    transport: int
    seconds: float


class StopTrace(Command, frozen=True, kw_only=True, tag="stop_trace"):
    trace: int


class InjectFault(Command, frozen=True, kw_only=True, tag="inject_fault"):
    transport: int
    fault: str


# --- events ---------------------------------------------------------------------------------------------------------


class Event(Value, frozen=True, kw_only=True, tag_field="type"):
    """Base of all events; see `event.rs` for what each means."""


class TransportState(Event, frozen=True, kw_only=True, tag="transport_state"):
    transport: int
    state: TransportStatus
    reason: str


class Unanswered(Event, frozen=True, kw_only=True, tag="unanswered"):
    transport: int


class TransportPath(Event, frozen=True, kw_only=True, tag="transport_path"):
    transport: int
    protocol: PathProtocol
    cipher: str
    dtls_version: str


class DataChannelOpen(Event, frozen=True, kw_only=True, tag="data_channel_open"):
    transport: int
    label: str


class DataMessage(Event, frozen=True, kw_only=True, tag="data_message"):
    transport: int
    label: str
    payload: bytes


class DataChannelStalled(Event, frozen=True, kw_only=True, tag="data_channel_stalled"):
    transport: int
    label: str


class UptrackMedia(Event, frozen=True, kw_only=True, tag="uptrack_media"):
    uptrack: int
    mime: str
    layers: tuple[int, ...]


class UptrackDemand(Event, frozen=True, kw_only=True, tag="uptrack_demand"):
    uptrack: int
    max_spatial: int | None


class DowntrackState(Event, frozen=True, kw_only=True, tag="downtrack_state"):
    downtrack: int
    active: bool
    reason: str


class DowntrackStarted(Event, frozen=True, kw_only=True, tag="downtrack_started"):
    downtrack: int


class Overload(Event, frozen=True, kw_only=True, tag="overload"):
    level: int
    """What the worker gives up for want of CPU: 0 nothing, then one after the other probes, top layers, all but a few
    videos, new video, newcomers."""
    memory: int
    """The same for want of memory: 0 nothing, then newcomers, caches of packets, and who idles."""

    @property
    def takes_video(self) -> bool:
        return self.level < 4

    @property
    def takes_joins(self) -> bool:
        return self.level < 5 and self.memory == 0

    @property
    def keeps_idlers(self) -> bool:
        return self.memory < 3


NO_OVERLOAD = Overload(level=0, memory=0)


class Speaker(Value, frozen=True, kw_only=True):
    uptrack: int
    level: float
    active: bool


class Speakers(Event, frozen=True, kw_only=True, tag="speakers"):
    room: int
    speakers: tuple[Speaker, ...]


class TransportQuality(Value, frozen=True, kw_only=True):
    transport: int
    rtt_ms: float = 0.0
    loss_up: float = 0.0
    loss_down: float = 0.0
    jitter_up_ms: float = 0.0
    jitter_down_ms: float = 0.0
    bitrate_up_bps: int = 0
    bitrate_down_bps: int = 0
    has_media: bool = False
    limited: bool = False


class Quality(Event, frozen=True, kw_only=True, tag="quality"):
    reports: tuple[TransportQuality, ...]


class TransportSummary(Value, frozen=True, kw_only=True):
    transport: int
    room: int
    state: TransportStatus
    channels: tuple[str, ...]


class UptrackSummary(Value, frozen=True, kw_only=True):
    uptrack: int
    transport: int
    mime: str
    layers: tuple[int, ...]
    max_spatial: int | None


class DowntrackSummary(Value, frozen=True, kw_only=True):
    downtrack: int
    uptrack: int
    transport: int
    active: bool


class Snapshot(Event, frozen=True, kw_only=True, tag="snapshot"):
    transports: tuple[TransportSummary, ...] = ()
    uptracks: tuple[UptrackSummary, ...] = ()
    downtracks: tuple[DowntrackSummary, ...] = ()


class TransportStats(Value, frozen=True, kw_only=True):
    quality: TransportQuality
    state: str
    cipher: str
    protocol: str
    bytes_up: int
    bytes_down: int
    packets_up: int
    packets_down: int
    estimate_bps: int
    estimate_limit: str = ""
    acknowledged_bps: int = 0
    allocated_bps: int = 0
    wanted_bps: int = 0
    link_queue_ms: float = 0.0
    pacer_queue_ms: float = 0.0


class UptrackStats(Value, frozen=True, kw_only=True):
    uptrack: int
    mime: str
    packets: int
    bytes: int
    lost: int
    nacks: int
    plis: int
    keyframes: int
    layer_bitrates_bps: tuple[int, ...]


class DowntrackStats(Value, frozen=True, kw_only=True):
    downtrack: int
    uptrack: int
    packets: int
    bytes: int
    retransmitted: int
    nacks: int
    plis: int
    current_spatial: int | None
    target_spatial: int | None
    max_spatial: int | None
    current_temporal: int
    reason: str
    allocation: str = ""
    target_bps: int = 0


class RoomStats(Event, frozen=True, kw_only=True, tag="room_stats"):
    request: int
    room: int
    transports: tuple[TransportStats, ...]
    uptracks: tuple[UptrackStats, ...]
    downtracks: tuple[DowntrackStats, ...]


class TraceEnd(StrEnum):
    """Why a trace is over; the last two: it never began."""

    TIME = "time"
    SIZE = "size"
    STOPPED = "stopped"
    CLOSED = "closed"
    UNKNOWN_TRANSPORT = "unknown_transport"
    TOO_MANY = "too_many"


class Trace(Event, frozen=True, kw_only=True, tag="trace"):
    """What a trace has become longer by: whole lines of JSON. With `end` it is over."""

    trace: int
    lines: bytes
    end: TraceEnd | None


class Rejected(Event, frozen=True, kw_only=True, tag="rejected"):
    command: str
    subject: int
    code: str
    message: str


AnyCommand: TypeAlias = (
    AddTransport
    | SetRemote
    | RestartIce
    | RemoveTransport
    | OpenDataChannels
    | SendData
    | AddUptrack
    | UpdateUptrack
    | RemoveUptrack
    | RequestKeyframe
    | BoundDownlink
    | AddDowntrack
    | SetDowntrack
    | SwitchDowntrack
    | RemoveDowntrack
    | AddDataUptrack
    | RemoveDataUptrack
    | AddDataDowntrack
    | RemoveDataDowntrack
    | TakeSnapshot
    | SetMemoryPressure
    | GetRoomStats
    | StartTrace
    | StopTrace
    | InjectFault
)
AnyEvent: TypeAlias = (
    TransportState
    | Unanswered
    | TransportPath
    | DataChannelOpen
    | DataMessage
    | DataChannelStalled
    | UptrackMedia
    | UptrackDemand
    | DowntrackState
    | DowntrackStarted
    | Overload
    | Speakers
    | Quality
    | Snapshot
    | RoomStats
    | Trace
    | Rejected
)
