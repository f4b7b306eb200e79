"""The sections of one peer connection, over its life: which carries what, and what each description says.

`ClientOffered`: the client makes the offers (publisher connection; the only one in single mode; WHIP and WHEP).
`ServerOffered`: we do (subscriber connection in dual mode). Both keep a downtrack on its section until it goes, and
leave a freed section inactive for one round, because a browser tells its page of a new track only when a section
starts to receive. No I/O, no clock, no SDP text: `sfu.sdp` reads and writes. RFC 8829 §5, 8839 §4, 8842 §5, 9143 §7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

import msgspec

from sfu import sdp
from sfu.border import CodecSpec, DtlsRole, ExtensionSpec, Fingerprint, IceCredentials, Kind, Remote
from sfu.sdp import Codec, Direction, Media, Session, Setup
from signaling.rooms.transport import (
    Accepted,
    Address,
    Answer,
    LocalTransport,
    Missing,
    Offer,
    Publishing,
    ReceivedSection,
    SendParameters,
    Wanted,
)

SCTP_PORT = 5000
"""RFC 8841 §5.1: the port every implementation uses."""

MAX_MESSAGE_BYTES = 65535
"""What LiveKit clients expect; SDKs cut their messages far below."""

_KINDS = ("audio", "video")
_KEPT_SHARE = 16
"""One of so many parts of a description is left for what the client will send itself."""
_USUAL_SIZES = {Kind.AUDIO: sdp.Size(1_000, 30, 1), Kind.VIDEO: sdp.Size(5_000, 170, 1)}
"""Of Chromium's sections that only receive, where none has been seen."""


@dataclass
class ClientOfferedState:
    """All that `ClientOffered` must remember. `idle`: free sections on which the client receives, with their kind.

    `cid_of`: only of sections on which the client sends by its last offer, so that it has no more than one offer's.
    """

    local: LocalTransport
    mimes: tuple[str, ...] = ()
    version: int = 0
    remote: Remote | None = None
    mid_of: dict[int, str] = field(default_factory=dict)
    cid_of: dict[str, tuple[str, str]] = field(default_factory=dict)
    idle: dict[str, str] = field(default_factory=dict)
    kind_of: dict[str, str] = field(default_factory=dict)
    unsupported: frozenset[int] = frozenset()
    size: sdp.Size = field(default_factory=sdp.Size)
    section_sizes: dict[str, sdp.Size] = field(default_factory=dict)


class ClientOffered:
    """Answers a client's offers. `mimes`: the only codecs to accept (empty: all we support)."""

    def __init__(
        self,
        local: LocalTransport,
        *,
        new_credentials: Callable[[], IceCredentials],
        mimes: Sequence[str] = (),
    ) -> None:
        self.state = ClientOfferedState(local=local, mimes=tuple(mimes))
        self._new_credentials = new_credentials

    @classmethod
    def revive(cls, state: ClientOfferedState, *, new_credentials: Callable[[], IceCredentials]) -> ClientOffered:
        """Return the negotiation as it was when `state` was packed."""
        negotiation = cls(state.local, new_credentials=new_credentials)
        negotiation.state = state
        return negotiation

    @property
    def local(self) -> LocalTransport:
        """Our side as of the last answer."""
        return self.state.local

    def answer(
        self,
        offer_sdp: bytes | str,
        wanted: Sequence[Wanted] = (),
        publishing: Callable[[Sequence[ReceivedSection]], Mapping[str, Publishing]] = lambda _: {},
        limits: sdp.Limits = sdp.USUAL_LIMITS,
    ) -> Answer:
        """Answer an offer and place `wanted` on the sections it has free; raises `SdpError`, then nothing has changed.

        `publishing`: of the sections on which the client sends, by mid, what it said about their tracks.
        """
        offer = sdp.parse(offer_sdp, limits)
        bundled = _bundled(offer)
        remote = _remote_of(offer, bundled)
        restart = self.state.remote is not None and self.state.remote.ice != remote.ice
        local = replace(self.state.local, ice=self._new_credentials()) if restart else self.state.local
        setup = Setup.PASSIVE if remote.role is DtlsRole.SERVER else Setup.ACTIVE
        agreed = {
            mid: sdp.agree(media, mimes=self.state.mimes)
            for mid, media in bundled.items()
            if media.kind in _KINDS and not media.rejected
        }
        placed, unsupported = self._place(bundled, agreed, wanted)

        cid_of = {mid: _msid_of(bundled[mid]) for mid in agreed if agreed[mid].codecs and bundled[mid].direction.sends}
        known = self.state.cid_of | cid_of
        heard_of = {mid: _heard(mid, bundled[mid], agreed[mid], known.get(mid)) for mid in agreed if agreed[mid].codecs}
        said_of = publishing([heard for heard in heard_of.values() if heard is not None and heard.active])
        received = []
        sections = []
        idle: dict[str, str] = {}
        data_channels = False
        for media in offer.media:
            mid = media.mid or ""
            if bundled.get(mid) is not media or media.rejected:
                sections.append(_rejected(media))
            elif media.kind == "application" and "SCTP" in media.protocol:
                data_channels = True
                sections.append(_with_transport(_data_section(media), local, setup))
            elif mid not in agreed or not agreed[mid].codecs:
                sections.append(_rejected(media))
            else:
                heard, said = heard_of[mid], said_of.get(mid)
                lines = _preferred(agreed[mid].lines, said) if said is not None else agreed[mid].lines
                if heard is not None:
                    received.append(_reordered(heard, lines))
                section = _answering(media, agreed[mid], lines, placed.get(mid))
                sections.append(_with_transport(section, local, setup))
                if media.direction.receives and mid not in placed:
                    idle[mid] = media.kind

        version = self.state.version + 1
        text = sdp.write(_session(_with_candidates(sections, local.addresses), offer=offer, version=version))
        self.state.local, self.state.remote, self.state.version = local, remote, version
        self.state.cid_of, self.state.idle, self.state.unsupported = cid_of, idle, frozenset(unsupported)
        self.state.mid_of = {want.downtrack_id: mid for mid, want in placed.items()}
        self.state.kind_of = {mid: want.kind for mid, want in placed.items()}
        self.state.size, self.state.section_sizes = sdp.measure(offer_sdp)
        return Answer(
            sdp=text,
            mid_to_track_id={mid: want.track_sid for mid, want in placed.items()},
            received=tuple(received),
            bound={want.downtrack_id: _send_parameters(mid, agreed[mid], want) for mid, want in placed.items()},
            unsupported=unsupported,
            missing=self.missing(wanted),
            local=local,
            remote=remote,
            ice_restart=restart,
            data_channels=data_channels,
        )

    def receiving(self, kind: Kind) -> int:
        """Count the sections of `kind` on which the client receives or may, by its last offer."""
        idle = sum(1 for idle in self.state.idle.values() if idle == kind)
        return idle + sum(1 for mid in self.state.mid_of.values() if self.state.kind_of.get(mid) == kind)

    def capacity(self, wanted: Mapping[Kind, AbstractSet[int]], limits: sdp.Limits) -> dict[Kind, int]:
        """Return how many tracks of each kind the client can be sent, all its sections in one offer within `limits`.

        `wanted`: their downtrack ids. A section whose track has gone counts once it is free.
        """
        idle = list(self.state.idle.values())
        there = {kind: idle.count(kind) + len(ids & self.state.mid_of.keys()) for kind, ids in wanted.items()}
        return _capacity(there, wanted, self.state.size, self.state.section_sizes, limits)

    def missing(self, wanted: Sequence[Wanted]) -> Missing:
        """Return what the client must add to carry `wanted`, judged by its last offer."""
        settled = self.state.unsupported | self.state.mid_of.keys()
        waiting = [want for want in wanted if want.downtrack_id not in settled]
        gone = self.state.mid_of.keys() - {want.downtrack_id for want in wanted}
        idle = list(self.state.idle.values())

        def short_of(kind: Kind) -> int:
            return max(0, sum(want.kind is kind for want in waiting) - idle.count(kind))

        return Missing(audio=short_of(Kind.AUDIO), video=short_of(Kind.VIDEO), again=bool(waiting or gone))

    def _place(
        self, offered: Mapping[str, Media], agreed: Mapping[str, sdp.Agreed], wanted: Sequence[Wanted]
    ) -> tuple[dict[str, Wanted], tuple[int, ...]]:
        """Keep what has a section, then give free ones in their order; a section that is freed now rests this round."""
        taking = {mid for mid, media in offered.items() if media.direction.receives and mid in agreed}
        resting = set(self.state.mid_of.values())
        placed: dict[str, Wanted] = {}
        left = []
        for want in wanted:
            mid = self.state.mid_of.get(want.downtrack_id)
            if mid in taking and _carries(agreed[mid], want):
                placed[mid] = want
            else:
                left.append(want)
        unsupported = []
        kin_of = {kind: [mid for mid in offered if mid in taking and offered[mid].kind == kind] for kind in _KINDS}
        for want in left:
            kin = kin_of[want.kind]
            # Codecs are compared for as few sections as will do: there may be hundreds of either.
            free = (mid for mid in kin if mid not in placed and mid not in resting)
            fit = next((mid for mid in free if _carries(agreed[mid], want)), None)
            if fit is not None:
                placed[fit] = want
            elif kin and not any(_carries(agreed[mid], want) for mid in kin):
                unsupported.append(want.downtrack_id)
        return placed, tuple(unsupported)


@dataclass
class Slot:
    """A media section of our own offers. `rested`: it was inactive in the last agreed description."""

    mid: str
    kind: Kind
    want: Wanted | None
    rested: bool = False
    rejected: bool = False


@dataclass
class ServerOfferedState:
    """All that `ServerOffered` must remember. `outstanding`: the offer that waits for its answer, id and mids."""

    local: LocalTransport
    slots: list[Slot] = field(default_factory=list)
    last_id: int = 0
    outstanding: tuple[int, tuple[str, ...]] | None = None
    needs_offer: bool = True
    restarting: bool = False
    size: sdp.Size = field(default_factory=sdp.Size)
    section_sizes: dict[str, sdp.Size] = field(default_factory=dict)


class ServerOffered:
    """Makes the offers on a connection that only carries tracks, and our data channels, to the client."""

    def __init__(self, local: LocalTransport, *, new_credentials: Callable[[], IceCredentials]) -> None:
        self.state = ServerOfferedState(local=local)
        self._new_credentials = new_credentials

    @classmethod
    def revive(cls, state: ServerOfferedState, *, new_credentials: Callable[[], IceCredentials]) -> ServerOffered:
        """Return the negotiation as it was when `state` was packed."""
        negotiation = cls(state.local, new_credentials=new_credentials)
        negotiation.state = state
        return negotiation

    @property
    def local(self) -> LocalTransport:
        """Our side as of the last offer."""
        return self.state.local

    @property
    def needs_offer(self) -> bool:
        """Something waits to be offered: `offer` again as soon as nothing is outstanding."""
        return self.state.needs_offer

    @property
    def outstanding(self) -> bool:
        return self.state.outstanding is not None

    def restart_ice(self) -> None:
        """Take new credentials with the next offer. An offer that is out is given up: its answer will be stale."""
        self.state.restarting = self.state.needs_offer = True
        self.state.outstanding = None

    def capacity(self, wanted: Mapping[Kind, AbstractSet[int]], limits: sdp.Limits) -> dict[Kind, int]:
        """As `ClientOffered.capacity`: the client's answer has as many sections as our offer, and about its size."""
        slots = self.state.slots
        there = {kind: sum(self._is_there(slot, kind, ids) for slot in slots) for kind, ids in wanted.items()}
        return _capacity(there, wanted, self.state.size, self.state.section_sizes, limits)

    def _is_there(self, slot: Slot, kind: Kind, ids: AbstractSet[int]) -> bool:
        """Whether one of these has the slot, or can have it with the next offer."""
        is_of_them = slot.rested if slot.want is None else slot.want.downtrack_id in ids
        return slot.kind is kind and not slot.rejected and is_of_them

    def offer(self, wanted: Sequence[Wanted]) -> Offer | None:
        """Offer to carry exactly `wanted`. None while an answer is awaited: ask again after `accept`."""
        if self.state.outstanding is not None:
            self.state.needs_offer = True
            return None
        restart = self.state.restarting
        if restart:
            self.state.local = replace(self.state.local, ice=self._new_credentials())
            self.state.restarting = False
        self.state.needs_offer = False
        self._place(wanted)
        self.state.last_id += 1

        data = Media(
            kind="application",
            protocol="UDP/DTLS/SCTP",
            formats=("webrtc-datachannel",),
            mid="0",
            sctp_port=SCTP_PORT,
            max_message_size=MAX_MESSAGE_BYTES,
        )
        sections = [_with_transport(data, self.state.local, Setup.ACTPASS)]
        sections += [_offered_section(slot, self.state.local) for slot in self.state.slots]
        placed = _with_candidates(sections, self.state.local.addresses)
        text = sdp.write(_session(placed, offer=None, version=self.state.last_id))
        self.state.size, self.state.section_sizes = sdp.measure(text)
        self.state.outstanding = (self.state.last_id, ("0", *(slot.mid for slot in self.state.slots)))
        return Offer(
            sdp=text,
            id=self.state.last_id,
            mid_to_track_id={slot.mid: slot.want.track_sid for slot in self.state.slots if slot.want is not None},
            local=self.state.local,
            ice_restart=restart,
        )

    def accept(
        self, answer_sdp: bytes | str, offer_id: int = 0, limits: sdp.Limits = sdp.USUAL_LIMITS
    ) -> Accepted | None:
        """Take the answer to the outstanding offer; None if it answers another. Id 0: from a client without ids.

        Raises `SdpError` if it cannot be used; the offer then stays outstanding.
        """
        if self.state.outstanding is None or offer_id not in (0, self.state.outstanding[0]):
            return None
        offered = self.state.outstanding[1]
        answer = sdp.parse(answer_sdp, limits)
        answered = {media.mid: media for media in answer.media if media.mid is not None}
        if answered.keys() != set(offered):
            raise sdp.SdpError("answer_mismatch", "the answer's sections are not those of the offer")
        bundled = {mid: media for mid, media in answered.items() if not media.rejected}
        remote = _remote_of(answer, bundled)
        bound: dict[int, SendParameters] = {}
        unsupported = []
        for slot in self.state.slots:
            media = answered[slot.mid]
            slot.rejected = media.rejected
            slot.rested = slot.want is None
            if slot.want is None:
                continue
            agreed = sdp.agree(media)
            if media.rejected or not media.direction.receives or not _carries(agreed, slot.want):
                unsupported.append(slot.want.downtrack_id)
            else:
                bound[slot.want.downtrack_id] = _send_parameters(slot.mid, agreed, slot.want)
        self.state.outstanding = None
        return Accepted(
            remote=remote,
            bound=bound,
            unsupported=tuple(unsupported),
            data_channels="0" in bundled,
        )

    def _place(self, wanted: Sequence[Wanted]) -> None:
        """Give every wanted track a slot: its own, else a rested one, else a new one."""
        by_id = {want.downtrack_id: want for want in wanted}
        placed = set()
        for slot in self.state.slots:
            want = by_id.get(slot.want.downtrack_id) if slot.want is not None else None
            if want is None or slot.rejected:
                slot.rested = slot.rested and slot.want is None
                slot.want = None
            else:
                slot.want = want
                placed.add(want.downtrack_id)
        for want in wanted:
            if want.downtrack_id in placed:
                continue
            free = (
                slot
                for slot in self.state.slots
                if slot.want is None and slot.rested and not slot.rejected and slot.kind is want.kind
            )
            reused = next(free, None)
            if reused is not None:
                reused.want = want
                reused.rested = False
            else:
                self.state.slots.append(Slot(mid=str(len(self.state.slots) + 1), kind=want.kind, want=want))


# --- how much fits --------------------------------------------------------------------------------------------------


def _capacity(
    there: Mapping[Kind, int],
    wanted: Mapping[Kind, AbstractSet[int]],
    size: sdp.Size,
    section_sizes: Mapping[str, sdp.Size],
    limits: sdp.Limits,
) -> dict[Kind, int]:
    """Return for how many of `wanted` a description has sections (`there`) or room for further ones, sound first."""
    left = [limit - limit // _KEPT_SHARE - used for limit, used in zip(limits, size, strict=True)]
    capacity = {}
    for kind, usual in _USUAL_SIZES.items():
        section = section_sizes.get(kind, usual)
        fit = min(room // needed for room, needed in zip(left, section, strict=True))
        more = max(0, min(len(wanted[kind]) - there[kind], fit))
        left = [room - more * needed for room, needed in zip(left, section, strict=True)]
        capacity[kind] = there[kind] + more
    return capacity


# --- sections -------------------------------------------------------------------------------------------------------


def _offered_section(slot: Slot, local: LocalTransport) -> Media:
    section = msgspec.structs.replace(
        sdp.supported(slot.kind),
        mid=slot.mid,
        direction=Direction.SENDONLY if slot.want is not None else Direction.INACTIVE,
        rtcp_mux=True,
        rtcp_rsize=True,
        extmap_allow_mixed=True,
    )
    if slot.rejected:
        return _rejected(section)
    if slot.want is not None:
        section = _carrying(section, slot.want)
    return _with_transport(section, local, Setup.ACTPASS)


def _answering(media: Media, agreed: sdp.Agreed, lines: tuple[Codec, ...], want: Wanted | None) -> Media:
    section = Media(
        kind=media.kind,
        protocol=media.protocol,
        mid=media.mid,
        direction=Direction.of(sends=want is not None, receives=media.direction.sends),
        rtcp_mux=True,
        rtcp_rsize=media.rtcp_rsize,
        extmap_allow_mixed=media.extmap_allow_mixed,
        codecs=lines,
        extensions=agreed.extension_lines,
        rids=tuple(sdp.Rid(id=rid, direction="recv") for rid in agreed.rids),
        simulcast=_received_simulcast(media, agreed.rids),
    )
    return section if want is None else _carrying(section, want)


def _data_section(offered: Media) -> Media:
    return Media(
        kind="application",
        protocol=offered.protocol,
        formats=offered.formats,
        mid=offered.mid,
        sctp_port=SCTP_PORT,
        max_message_size=MAX_MESSAGE_BYTES,
    )


def _rejected(offered: Media) -> Media:
    """RFC 8829 §5.3.1: the same kind, protocol and formats, port 0."""
    return Media(
        kind=offered.kind,
        port=0,
        protocol=offered.protocol,
        formats=offered.formats,
        mid=offered.mid,
        direction=Direction.INACTIVE,
        codecs=tuple(msgspec.structs.replace(codec, feedback=()) for codec in offered.codecs),
    )


def _carrying(section: Media, want: Wanted) -> Media:
    """Name the track a section carries, in `a=msid` and, for clients that look there, per source."""
    msid = sdp.Msid(stream=want.stream_id, track=want.track_sid)
    ssrcs = [want.ssrc] if want.rtx_ssrc is None else [want.ssrc, want.rtx_ssrc]
    return msgspec.structs.replace(
        section,
        msids=(msid,),
        ssrcs=tuple(sdp.Ssrc(ssrc=ssrc, cname=want.stream_id, msid=msid) for ssrc in ssrcs),
        ssrc_groups=(sdp.SsrcGroup(semantics="FID", ssrcs=tuple(ssrcs)),) if len(ssrcs) > 1 else (),
    )


def _with_transport(section: Media, local: LocalTransport, setup: Setup) -> Media:
    return msgspec.structs.replace(
        section,
        ice_ufrag=local.ice.ufrag,
        ice_pwd=local.ice.pwd,
        fingerprints=(local.fingerprint,),
        setup=setup,
    )


def _with_candidates(sections: Sequence[Media], addresses: Sequence[Address]) -> list[Media]:
    """Put our candidates into the section that stands for the bundle (RFC 9143 §7.1.2); they are all we will have."""
    live = next((index for index, section in enumerate(sections) if not section.rejected), None)
    candidates = tuple(_candidate(rank, address) for rank, address in enumerate(addresses))
    return [
        msgspec.structs.replace(section, candidates=candidates, end_of_candidates=True)
        if index == live and candidates
        else section
        for index, section in enumerate(sections)
    ]


def _candidate(rank: int, address: Address) -> sdp.Candidate:
    """RFC 8445 §5.1.2: UDP before TCP, earlier addresses before later ones."""
    is_tcp = address.protocol == "tcp"
    local_preference = (8191 if is_tcp else 65535) - rank
    return sdp.Candidate(
        foundation=str(rank + 1),
        component=1,
        protocol=address.protocol,
        priority=(126 << 24) | (local_preference << 8) | 255,
        address=address.ip,
        port=address.port,
        type="host",
        tcp_type="passive" if is_tcp else None,
    )


def _session(sections: Sequence[Media], *, offer: Session | None, version: int) -> Session:
    mids = tuple(section.mid for section in sections if section.mid is not None and not section.rejected)
    has_bundle = offer is None or any(group.semantics == "BUNDLE" for group in offer.groups)
    return Session(
        origin=sdp.Origin(session_id=1, session_version=version),
        groups=(sdp.Group(semantics="BUNDLE", mids=mids),) if has_bundle else (),
        ice_lite=True,
        extmap_allow_mixed=offer is None or offer.extmap_allow_mixed,
        msid_semantic="WMS *",
        media=tuple(sections),
    )


def _received_simulcast(offered: Media, rids: Sequence[str]) -> sdp.Simulcast | None:
    if offered.simulcast is None or not rids:
        return None
    in_offer = [rid for stream in offered.simulcast.send for rid in stream.rids if rid in rids]
    return sdp.Simulcast(recv=tuple(sdp.SimulcastStream(rids=(rid,)) for rid in in_offer))


def _preferred(lines: Sequence[Codec], hints: Publishing) -> tuple[Codec, ...]:
    """Put the wanted codec first, with its RTX; leave RED out if it is not wanted; ask for stereo and DTX.

    Sound for which no codec is named is wanted as RED: what is lost is in the next packet again.
    """
    named = hints.mime.partition("/")[2].lower() if hints.mime is not None else None
    kept = [line for line in lines if hints.red or line.name.lower() != "red"]
    if named == "red" and all(line.name.lower() != "red" for line in kept):
        named = "opus"
    first = {str(line.pt) for line in kept if line.name.lower() == (named or "red")}

    def comes_later(line: Codec) -> bool:
        repairs = line.fmtp.removeprefix("apt=") if line.name.lower() == "rtx" else ""
        return str(line.pt) not in first and repairs not in first

    return tuple(_tuned(line, hints) for line in sorted(kept, key=comes_later))


def _tuned(line: Codec, hints: Publishing) -> Codec:
    """RFC 7587 §7.1: `stereo` and `usedtx` say what we would like to receive."""
    if line.name.lower() != "opus":
        return line
    extra = [*(["stereo=1"] if hints.stereo else []), *(["usedtx=1"] if hints.dtx else [])]
    present = line.fmtp.split(";") if line.fmtp else []
    return msgspec.structs.replace(line, fmtp=";".join(present + [word for word in extra if word not in present]))


# --- reading --------------------------------------------------------------------------------------------------------


def _bundled(offer: Session) -> dict[str, Media]:
    """Return the sections that share the transport, by mid. Without BUNDLE only the first usable one can be served."""
    members = {mid for group in offer.groups if group.semantics == "BUNDLE" for mid in group.mids}
    if members:
        return {media.mid: media for media in offer.media if media.mid is not None and media.mid in members}
    first = next((media for media in offer.media if not media.rejected), None)
    return {} if first is None else {first.mid if first.mid is not None else "": first}


def _remote_of(session: Session, bundled: Mapping[str, Media]) -> Remote:
    """Return the transport's parameters: the first live section's, else the session's (RFC 9143 §7.2)."""
    parts: list[Media | Session] = [*(media for media in bundled.values() if not media.rejected), session]

    def credentials() -> IceCredentials:
        for part in parts:
            if part.ice_ufrag is not None and part.ice_pwd is not None:
                return IceCredentials(ufrag=part.ice_ufrag, pwd=part.ice_pwd)
        raise sdp.SdpError("no_ice", "the description has no ICE credentials")

    def fingerprints() -> tuple[Fingerprint, ...]:
        for part in parts:
            if part.fingerprints:
                return part.fingerprints
        raise sdp.SdpError("no_fingerprint", "the description has no DTLS fingerprint")

    setup = next((part.setup for part in parts if part.setup is not None), Setup.ACTPASS)
    role = DtlsRole.CLIENT if setup is Setup.PASSIVE else DtlsRole.SERVER
    return Remote(ice=credentials(), fingerprints=fingerprints(), role=role)


def _msid_of(media: Media) -> tuple[str, str]:
    """Return stream and track id of what a section sends; the track id is empty where the client gives none."""
    named = [*media.msids, *(ssrc.msid for ssrc in media.ssrcs if ssrc.msid is not None)]
    for msid in named:
        if msid.track is not None:
            return msid.stream, msid.track
    return (named[0].stream, "") if named else ("", "")


def _heard(mid: str, media: Media, agreed: sdp.Agreed, msid: tuple[str, str] | None) -> ReceivedSection | None:
    """Describe what a section brings us, or did until now; None if the client did not send on it."""
    if msid is None:
        return None
    return ReceivedSection(
        mid=mid,
        kind=Kind(media.kind),
        cid=msid[1],
        stream_id=msid[0],
        codecs=agreed.codecs,
        extensions=agreed.extensions,
        rids=agreed.rids,
        ssrcs=agreed.ssrcs,
        active=media.direction.sends,
    )


def _reordered(heard: ReceivedSection, lines: Sequence[Codec]) -> ReceivedSection:
    rank = {line.pt: index for index, line in enumerate(lines)}
    kept = [codec for codec in heard.codecs if codec.pt in rank]
    return replace(heard, codecs=tuple(sorted(kept, key=lambda codec: rank[codec.pt])))


def _carries(agreed: sdp.Agreed, want: Wanted) -> bool:
    codecs: tuple[CodecSpec, ...] = sdp.matching(agreed.codecs, want.codecs)
    return any(not want.mime or codec.mime.lower() == want.mime.lower() for codec in codecs)


def _send_parameters(mid: str, agreed: sdp.Agreed, want: Wanted) -> SendParameters:
    codecs: tuple[CodecSpec, ...] = sdp.matching(agreed.codecs, want.codecs)
    extensions: tuple[ExtensionSpec, ...] = agreed.extensions
    return SendParameters(mid=mid, codecs=codecs, extensions=extensions)
