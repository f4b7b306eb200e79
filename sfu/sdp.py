"""SDP as typed values: read, write, choose codecs. Text is only measured here: `sfu/core/proto/src/sdp` reads it.

The structs mirror the Rust types field by field and cross as msgpack maps; a contract test holds the two together.
Not here: who offers, which track goes where (`signaling/rooms/negotiation.py`). RFC 8866, 8829, 8839, 8842, 8853, 9143.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple, TypeVar, TypeVarTuple

import msgspec

from sfu import _core
from sfu.border import CodecSpec, ExtensionSpec, Fingerprint, SsrcSpec

_In = TypeVarTuple("_In")
_Out = TypeVar("_Out")


class SdpError(Exception):
    """A description cannot be used. `code` never changes once released; `message` is a sentence and may."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message


class Direction(StrEnum):
    """Media direction as the description's own side sees it (RFC 8866 §6.7)."""

    SENDRECV = "sendrecv"
    SENDONLY = "sendonly"
    RECVONLY = "recvonly"
    INACTIVE = "inactive"

    @property
    def sends(self) -> bool:
        return self in (Direction.SENDRECV, Direction.SENDONLY)

    @property
    def receives(self) -> bool:
        return self in (Direction.SENDRECV, Direction.RECVONLY)

    @staticmethod
    def of(*, sends: bool, receives: bool) -> Direction:
        if sends:
            return Direction.SENDRECV if receives else Direction.SENDONLY
        return Direction.RECVONLY if receives else Direction.INACTIVE


class Setup(StrEnum):
    """DTLS role offered or chosen (RFC 8842 §5.1)."""

    ACTPASS = "actpass"
    ACTIVE = "active"
    PASSIVE = "passive"
    HOLDCONN = "holdconn"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything in a description."""


class Origin(Part, frozen=True, kw_only=True):
    username: str = "-"
    session_id: int = 0
    session_version: int = 0
    address: str = "127.0.0.1"


class Group(Part, frozen=True, kw_only=True):
    semantics: str
    mids: tuple[str, ...]


class Candidate(Part, frozen=True, kw_only=True):
    """An ICE candidate (RFC 8839 §5.1); `tcp_type` per RFC 6544."""

    foundation: str
    component: int
    protocol: str
    priority: int
    address: str
    port: int
    type: str
    related_address: str | None = None
    related_port: int | None = None
    tcp_type: str | None = None


class Codec(Part, frozen=True, kw_only=True):
    """One payload type of a section: rtpmap, fmtp and rtcp-fb together."""

    pt: int
    name: str
    clock_rate: int
    channels: int = 1
    fmtp: str = ""
    feedback: tuple[str, ...] = ()


class Extension(Part, frozen=True, kw_only=True):
    """A header extension (RFC 8285 §5)."""

    id: int
    uri: str
    direction: Direction | None = None
    attributes: str = ""


class Rid(Part, frozen=True, kw_only=True):
    """RFC 8851; `direction` is `send` or `recv`."""

    id: str
    direction: str
    restrictions: str = ""


class SimulcastStream(Part, frozen=True, kw_only=True):
    """One stream of a simulcast: alternatives in order of preference, and whether it starts paused (RFC 8853 §5.1)."""

    rids: tuple[str, ...]
    paused: bool = False


class Simulcast(Part, frozen=True, kw_only=True):
    send: tuple[SimulcastStream, ...] = ()
    recv: tuple[SimulcastStream, ...] = ()


class Msid(Part, frozen=True, kw_only=True):
    """`stream` is `-` for "no stream" (RFC 8830 §2)."""

    stream: str
    track: str | None = None


class Ssrc(Part, frozen=True, kw_only=True):
    ssrc: int
    cname: str | None = None
    msid: Msid | None = None


class SsrcGroup(Part, frozen=True, kw_only=True):
    semantics: str
    ssrcs: tuple[int, ...]


class Media(Part, frozen=True, kw_only=True):
    """One m= section. `formats` is the m-line's list where `protocol` is not RTP; RTP sections have `codecs`."""

    kind: str
    port: int = 9
    protocol: str = "UDP/TLS/RTP/SAVPF"
    formats: tuple[str, ...] = ()
    mid: str | None = None
    direction: Direction = Direction.SENDRECV
    ice_ufrag: str | None = None
    ice_pwd: str | None = None
    ice_options: tuple[str, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    end_of_candidates: bool = False
    setup: Setup | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    bundle_only: bool = False
    rtcp_mux: bool = False
    rtcp_rsize: bool = False
    extmap_allow_mixed: bool = False
    codecs: tuple[Codec, ...] = ()
    extensions: tuple[Extension, ...] = ()
    rids: tuple[Rid, ...] = ()
    simulcast: Simulcast | None = None
    msids: tuple[Msid, ...] = ()
    ssrcs: tuple[Ssrc, ...] = ()
    ssrc_groups: tuple[SsrcGroup, ...] = ()
    sctp_port: int | None = None
    max_message_size: int | None = None

    @property
    def rejected(self) -> bool:
        return self.port == 0 and not self.bundle_only


class Session(Part, frozen=True, kw_only=True):
    """A whole description. ICE, DTLS and mixed extensions given for the session hold where a section is silent."""

    origin: Origin = Origin()
    name: str = "-"
    groups: tuple[Group, ...] = ()
    ice_lite: bool = False
    ice_ufrag: str | None = None
    ice_pwd: str | None = None
    ice_options: tuple[str, ...] = ()
    setup: Setup | None = None
    fingerprints: tuple[Fingerprint, ...] = ()
    extmap_allow_mixed: bool = False
    msid_semantic: str | None = None
    media: tuple[Media, ...] = ()


class Agreed(Part, frozen=True, kw_only=True):
    """What we and an offered section have in common, in the offer's order.

    `lines`: the codecs to write into the answer, RTX among them. `codecs`: the same for the worker, RTX folded in.
    `extensions` likewise. `rids`, `ssrcs`: what the offerer sends, lowest layer first.
    """

    lines: tuple[Codec, ...]
    codecs: tuple[CodecSpec, ...]
    extension_lines: tuple[Extension, ...]
    extensions: tuple[ExtensionSpec, ...]
    rids: tuple[str, ...]
    ssrcs: tuple[SsrcSpec, ...]


class Limits(NamedTuple):
    """How large a description may be."""

    bytes: int = 2 * 1024 * 1024
    lines: int = 80_000
    sections: int = 512


USUAL_LIMITS = Limits()


class Size(NamedTuple):
    """How large a description or a part of it is: what `Limits` bounds, in the same order."""

    bytes: int = 0
    lines: int = 0
    sections: int = 0


def parse(text: bytes | str, limits: Limits = USUAL_LIMITS) -> Session:
    """Read a description from the network; raises `SdpError`. Attributes we do not know are skipped."""
    raw = text.encode() if isinstance(text, str) else text
    return _session.decode(_guarded(_core.sdp_parse, raw, *limits))


def write(session: Session) -> str:
    """Write a description; raises `SdpError` if a value would not read back (a line break, a PT of 200)."""
    return _guarded(_core.sdp_write, _encoder.encode(session))


def measure(text: bytes | str) -> tuple[Size, dict[str, Size]]:
    """Return how large a description is that `parse` takes, and by kind its largest section of sound and of video."""
    raw = text.encode() if isinstance(text, str) else text
    _, *sections = raw.split(b"\nm=")
    largest: dict[str, Size] = {}
    for section in sections:
        kind = section.partition(b" ")[0].decode(errors="replace")
        if kind in ("audio", "video"):
            size = Size(len(section) + len(b"\nm="), section.count(b"\n") + 1, 1)
            largest[kind] = max(size, largest.get(kind, size))
    return Size(len(raw), raw.count(b"\n"), len(sections)), largest


def agree(offered: Media, *, mimes: tuple[str, ...] = ()) -> Agreed:
    """Choose from an offered section what we support. `mimes`: only these codecs (empty: all; RTX comes along)."""
    return _agreed.decode(_guarded(_core.sdp_agree, _encoder.encode((offered, mimes))))


def matching(offered: tuple[CodecSpec, ...], wanted: tuple[CodecSpec, ...]) -> tuple[CodecSpec, ...]:
    """Return those of `offered` that can carry one of `wanted`: same mime and the same profile."""
    return _codecs.decode(_guarded(_core.sdp_matching, _encoder.encode((offered, wanted))))


def supported(kind: str) -> Media:
    """Return a section of `kind` with every codec and header extension we can send, to be offered."""
    return _media.decode(_guarded(_core.sdp_supported, kind))


_encoder = msgspec.msgpack.Encoder()
_session = msgspec.msgpack.Decoder(Session)
_media = msgspec.msgpack.Decoder(Media)
_agreed = msgspec.msgpack.Decoder(Agreed)
_codecs = msgspec.msgpack.Decoder(tuple[CodecSpec, ...])


def _guarded(function: Callable[[*_In], _Out], *arguments: *_In) -> _Out:
    """Call the core; its `ValueError(code, sentence)` becomes an `SdpError`."""
    try:
        return function(*arguments)
    except ValueError as refusal:
        code, message = refusal.args
        raise SdpError(code, message) from None
