"""What a peer connection's negotiation takes in and gives out, as values.

`negotiation.py` is the state machine over these; `Room` turns them into commands for the worker. Codecs, header
extensions, ssrcs and the remote side are the border's own types, so nothing is converted on the way to the worker.
No I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from sfu.border import CodecSpec, ExtensionSpec, Fingerprint, IceCredentials, Kind, Remote, SsrcSpec


@dataclass(frozen=True)
class Address:
    """Where the worker listens: one host candidate. `protocol`: `udp`, or `tcp` (passive, RFC 6544)."""

    ip: str
    port: int
    protocol: str = "udp"


@dataclass(frozen=True)
class LocalTransport:
    """Our side of one peer connection."""

    ice: IceCredentials
    fingerprint: Fingerprint
    addresses: tuple[Address, ...] = ()


@dataclass(frozen=True)
class Wanted:
    """A track this connection shall carry towards the client. `codecs`: the uptrack's, with the publisher's PTs."""

    downtrack_id: int
    track_sid: str
    stream_id: str
    """`PA_…|TR_…`: the msid's stream part."""
    kind: Kind
    codecs: tuple[CodecSpec, ...]
    ssrc: int
    rtx_ssrc: int | None = None
    mime: str = ""
    """The codec that comes, where it is known: who does not take it is not served by the others of its section."""


@dataclass(frozen=True)
class Publishing:
    """What `add_track` says about a section the client will send on; matched by the section's cid (msid track id)."""

    mime: str | None = None
    """This codec goes first in the answer (`video/VP8`); the client then sends it. None: RED for sound, if `red`."""
    stereo: bool = False
    dtx: bool = False
    red: bool = True


@dataclass(frozen=True)
class ReceivedSection:
    """A section on which the client sends, or sent (`active` is False once it has stopped)."""

    mid: str
    kind: Kind
    cid: str
    stream_id: str
    codecs: tuple[CodecSpec, ...]
    extensions: tuple[ExtensionSpec, ...]
    rids: tuple[str, ...]
    """Lowest layer first; empty without simulcast by rid."""
    ssrcs: tuple[SsrcSpec, ...]
    active: bool


@dataclass(frozen=True)
class SendParameters:
    """How a downtrack is sent: `codecs` are those of the uptrack, under the payload types of this connection."""

    mid: str
    codecs: tuple[CodecSpec, ...]
    extensions: tuple[ExtensionSpec, ...]


@dataclass(frozen=True)
class Missing:
    """Sections a client must still add (`media_sections_requirement`). `again`: it must offer again, even for none."""

    audio: int = 0
    video: int = 0
    again: bool = False


@dataclass(frozen=True)
class Answer:
    """Our answer to a client's offer, and what it means for the worker."""

    sdp: str
    mid_to_track_id: dict[str, str]
    received: tuple[ReceivedSection, ...]
    bound: dict[int, SendParameters]
    """By downtrack id: everything that is sent from now on, old and new."""
    unsupported: tuple[int, ...]
    """Downtrack ids whose codecs this client does not take."""
    missing: Missing
    local: LocalTransport
    remote: Remote
    ice_restart: bool
    """The client changed its credentials: the worker must restart ICE with `local.ice` and `remote.ice`."""
    data_channels: bool


@dataclass(frozen=True)
class Offer:
    """Our offer to a client; only one is outstanding at a time."""

    sdp: str
    id: int
    mid_to_track_id: dict[str, str]
    local: LocalTransport
    ice_restart: bool


@dataclass(frozen=True)
class Accepted:
    """What the client's answer to our offer means for the worker."""

    remote: Remote
    bound: dict[int, SendParameters]
    unsupported: tuple[int, ...]
    data_channels: bool
