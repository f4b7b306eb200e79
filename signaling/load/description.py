"""Descriptions of a light client: the offer of what it sends, the answer to what it is offered. Pure.

RFC 8829; text is read and written by `sfu.sdp` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from sfu import sdp
from sfu.border import DtlsRole, Fingerprint, IceCredentials
from sfu.load import Codec, Encoding, ExtensionIds, ReceiveCodec, Repair
from sfu.sdp import Agreed, Direction, Group, Media, Msid, Session, Setup, Simulcast, SimulcastStream
from signaling.load.plan import Track

_FIELDS = {
    "urn:ietf:params:rtp-hdrext:sdes:mid": "mid",
    "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id": "rid",
    "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id": "repaired_rid",
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01": "transport_seq",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time": "abs_send_time",
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level": "audio_level",
}
"""Header extensions that the generator writes and reads."""
_STREAM = "load"


class DescriptionError(Exception):
    """The server's description cannot be used; the text is a sentence."""


@dataclass(frozen=True)
class Sent:
    """One track to be sent: its section, and what the generator needs beside it."""

    cid: str
    track: Track
    encodings: tuple[Encoding, ...]


@dataclass(frozen=True)
class Side:
    """How one end of a transport presents itself."""

    ice: IceCredentials
    fingerprints: tuple[Fingerprint, ...]


def offer(own: Side, sent: Sequence[Sent], setup: Setup = Setup.ACTPASS) -> Session:
    """An offer of all that is sent; section n has mid n."""
    media = []
    for index, item in enumerate(sent):
        section = _section(item.track, index)
        is_simulcast = len(item.track.layers) > 1
        rids = [layer.rid or "" for layer in item.track.layers] if is_simulcast else []
        ssrcs = [] if is_simulcast else [n for e in item.encodings for n in (e.ssrc, e.rtx_ssrc) if n is not None]
        msid = Msid(stream=_STREAM, track=item.cid)
        media.append(
            _over(
                own,
                setup,
                msgspec.structs.replace(
                    section,
                    direction=Direction.SENDONLY,
                    rids=tuple(sdp.Rid(id=rid, direction="send") for rid in rids),
                    simulcast=Simulcast(send=tuple(SimulcastStream(rids=(rid,)) for rid in rids)) if rids else None,
                    msids=(msid,),
                    ssrcs=tuple(sdp.Ssrc(ssrc=ssrc, cname=_STREAM, msid=msid) for ssrc in ssrcs),
                    ssrc_groups=(sdp.SsrcGroup(semantics="FID", ssrcs=tuple(ssrcs)),) if len(ssrcs) > 1 else (),
                ),
            )
        )
    return _session(media)


def offer_to_receive(own: Side, tracks: Sequence[Track], setup: Setup = Setup.ACTPASS) -> Session:
    """An offer to be sent so many tracks; section n has mid n."""
    sections = (_section(track, index) for index, track in enumerate(tracks))
    return _session(
        [_over(own, setup, msgspec.structs.replace(section, direction=Direction.RECVONLY)) for section in sections]
    )


def accepted(answered: Session) -> list[tuple[Media, Agreed]]:
    """What an answer to `offer_to_receive` says will be sent. `DescriptionError` if that is less than was offered."""
    found = [(section, sdp.agree(section)) for section in answered.media]
    for section, common in found:
        if section.rejected or not common.lines or not section.direction.sends:
            raise DescriptionError(f"The server sends nothing in section {section.mid}.")
    return found


def answer(own: Side, offered: Session) -> tuple[Session, list[tuple[Media, Agreed]]]:
    """Takes all media that is offered, and the data section; also what was agreed on for each section with media."""
    media: list[Media] = []
    agreed: list[tuple[Media, Agreed]] = []
    for section in offered.media:
        if section.kind == "application":
            media.append(
                _over(
                    own,
                    Setup.ACTIVE,
                    Media(
                        kind=section.kind,
                        protocol=section.protocol,
                        formats=section.formats,
                        mid=section.mid,
                        sctp_port=section.sctp_port,
                        max_message_size=section.max_message_size,
                    ),
                )
            )
            continue
        common = sdp.agree(section)
        if section.rejected or not common.lines:
            media.append(Media(kind=section.kind, port=0, mid=section.mid, codecs=section.codecs[:1]))
            continue
        agreed.append((section, common))
        media.append(
            _over(
                own,
                Setup.ACTIVE,
                Media(
                    kind=section.kind,
                    mid=section.mid,
                    direction=Direction.RECVONLY if section.direction.sends else Direction.INACTIVE,
                    codecs=common.lines,
                    extensions=common.extension_lines,
                ),
            )
        )
    return _session(media), agreed


def remote_side(described: Session) -> tuple[Side, DtlsRole]:
    """The server's credentials, and the role that is ours after its answer. `DescriptionError` if they are missing."""
    for section in described.media:
        ufrag, pwd = section.ice_ufrag or described.ice_ufrag, section.ice_pwd or described.ice_pwd
        fingerprints = section.fingerprints or described.fingerprints
        if section.rejected or not ufrag or not pwd or not fingerprints:
            continue
        setup = section.setup or described.setup
        role = DtlsRole.SERVER if setup is Setup.ACTIVE else DtlsRole.CLIENT
        return Side(IceCredentials(ufrag=ufrag, pwd=pwd), fingerprints), role
    raise DescriptionError("The description has no section with ICE credentials and a fingerprint.")


def udp_candidates(described: Session) -> list[tuple[str, int]]:
    """Addresses and ports of the UDP host candidates inside a description, in its order."""
    candidates = [candidate for section in described.media for candidate in section.candidates]
    return [(c.address, c.port) for c in candidates if c.protocol.lower() == "udp" and c.type == "host"]


def extension_ids(sections: Sequence[Media]) -> ExtensionIds:
    """One id has one meaning in a bundle (RFC 9143 §10), so sections may be looked at together."""
    return extension_ids_of({e.uri: e.id for section in sections for e in section.extensions})


def extension_ids_of(uris: Mapping[str, int]) -> ExtensionIds:
    """Those that the generator knows."""
    return ExtensionIds(**{_FIELDS[uri]: number for uri, number in uris.items() if uri in _FIELDS})


def receive_codecs(agreed: Sequence[Agreed]) -> tuple[ReceiveCodec, ...]:
    """What the generator can tell apart of what was agreed on."""
    known = {codec.mime.lower(): codec for codec in Codec}
    specs = {codec.pt: codec for common in agreed for codec in common.codecs}
    return tuple(
        ReceiveCodec(pt=spec.pt, codec=known[spec.mime.lower()], rtx_pt=spec.rtx_pt)
        for spec in specs.values()
        if spec.mime.lower() in known
    )


def repairs(sections: Sequence[Media]) -> tuple[Repair, ...]:
    """From the sections' FID groups (RFC 5576 §4.2)."""
    groups = [group for section in sections for group in section.ssrc_groups if group.semantics == "FID"]
    return tuple(Repair(rtx_ssrc=group.ssrcs[1], ssrc=group.ssrcs[0]) for group in groups if len(group.ssrcs) == 2)


def _section(track: Track, index: int) -> Media:
    """One codec, and those header extensions that the generator knows."""
    section = sdp.supported("video" if track.is_video else "audio")
    return Media(
        kind=section.kind,
        mid=str(index),
        codecs=sdp.agree(section, mimes=(track.codec.mime,)).lines,
        extensions=tuple(e for e in section.extensions if e.uri in _FIELDS),
    )


def _over(own: Side, setup: Setup, media: Media) -> Media:
    """The section with our end of the transport in it."""
    return msgspec.structs.replace(
        media,
        ice_ufrag=own.ice.ufrag,
        ice_pwd=own.ice.pwd,
        setup=setup,
        fingerprints=own.fingerprints,
        rtcp_mux=True,
        rtcp_rsize=True,
    )


def _session(media: Sequence[Media]) -> Session:
    mids = tuple(section.mid for section in media if section.mid is not None and not section.rejected)
    return Session(groups=(Group(semantics="BUNDLE", mids=mids),), media=tuple(media))
