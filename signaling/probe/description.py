"""The probe's session descriptions: written from typed sections, read back with refusals instead of assertions.

Only what LiveKit's wire needs of RFC 8829: one bundle, rtcp-mux, Opus and video with RTX, SCTP data channels. The text
itself is aiortc's (`aiortc.sdp`), so that the server's own reader and writer are checked by another hand.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import aioice
from aiortc import sdp
from aiortc.rtcdtlstransport import RTCDtlsParameters
from aiortc.rtcicetransport import RTCIceParameters, candidate_from_aioice
from aiortc.rtcrtpparameters import (
    ParametersDict,
    RTCRtcpFeedback,
    RTCRtpCodecParameters,
    RTCRtpHeaderExtensionParameters,
    RTCRtpParameters,
)
from aiortc.rtcsctptransport import RTCSctpCapabilities

from signaling.probe.dtls import TRANSPORT_CC_URI

MID_URI = "urn:ietf:params:rtp-hdrext:sdes:mid"
AUDIO_LEVEL_URI = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
ABS_SEND_TIME_URI = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"

SCTP_PORT = 5000
"""RFC 8841 §5.1: the port every implementation uses."""

_DISCARD_PORT = 9
_EXTENSION_IDS = {MID_URI: 1, AUDIO_LEVEL_URI: 2, ABS_SEND_TIME_URI: 3, TRANSPORT_CC_URI: 4}


_VIDEO: dict[str, tuple[int, ParametersDict]] = {
    "VP8": (96, {}),
    "H265": (98, {"level-id": 93, "profile-id": 1, "tier-flag": 0, "tx-mode": "SRST"}),
}
"""Payload type and format (RFC 7798 §7.1); RTX has the next payload type."""


def codecs(kind: str, feedback: Iterable[str], video: Sequence[str] = ("VP8",)) -> list[RTCRtpCodecParameters]:
    """What we offer and accept. `feedback`: `transport-cc`, `goog-remb` or both, for the codecs of `video`."""
    if kind == "audio":
        return [
            RTCRtpCodecParameters(
                mimeType="audio/opus",
                clockRate=48_000,
                channels=2,
                payloadType=111,
                rtcpFeedback=[RTCRtcpFeedback(type=name) for name in feedback if name == "transport-cc"],
                parameters={"minptime": 10, "useinbandfec": 1},
            )
        ]
    found: list[RTCRtpCodecParameters] = []
    for name in video:
        payload_type, parameters = _VIDEO[name]
        found += [
            RTCRtpCodecParameters(
                mimeType=f"video/{name}",
                clockRate=90_000,
                payloadType=payload_type,
                rtcpFeedback=[
                    RTCRtcpFeedback(type="nack"),
                    RTCRtcpFeedback(type="nack", parameter="pli"),
                    RTCRtcpFeedback(type="ccm", parameter="fir"),
                    *(RTCRtcpFeedback(type=one) for one in feedback),
                ],
                parameters=dict(parameters),
            ),
            RTCRtpCodecParameters(
                mimeType="video/rtx", clockRate=90_000, payloadType=payload_type + 1, parameters={"apt": payload_type}
            ),
        ]
    return found


def extensions(kind: str, feedback: Iterable[str]) -> list[RTCRtpHeaderExtensionParameters]:
    uris = [MID_URI]
    if kind == "audio":
        uris.append(AUDIO_LEVEL_URI)
    elif "goog-remb" in feedback:
        uris.append(ABS_SEND_TIME_URI)
    uris += [TRANSPORT_CC_URI] if "transport-cc" in feedback else []
    return [RTCRtpHeaderExtensionParameters(id=_EXTENSION_IDS[uri], uri=uri) for uri in uris]


def agreed_codecs(
    kind: str, remote: Sequence[RTCRtpCodecParameters], video: Sequence[str] = ("VP8",)
) -> list[RTCRtpCodecParameters]:
    """Those of ours that a section names, in its order and under its payload types (RFC 3264 §6.1)."""
    ours = {codec.mimeType.lower(): codec for codec in codecs(kind, ("goog-remb", "transport-cc"), video)}
    common: list[RTCRtpCodecParameters] = []
    for theirs in remote:
        mine = ours.get(theirs.mimeType.lower())
        if mine is None or mine.clockRate != theirs.clockRate:
            continue
        if theirs.name.lower() == "rtx" and theirs.parameters.get("apt") not in {one.payloadType for one in common}:
            continue
        common.append(
            RTCRtpCodecParameters(
                mimeType=mine.mimeType,
                clockRate=mine.clockRate,
                channels=mine.channels,
                payloadType=theirs.payloadType,
                rtcpFeedback=[item for item in theirs.rtcpFeedback if item in mine.rtcpFeedback],
                parameters=theirs.parameters if theirs.name.lower() == "rtx" else mine.parameters,
            )
        )
    return common


def agreed_extensions(
    kind: str, remote: Sequence[RTCRtpHeaderExtensionParameters], feedback: Iterable[str]
) -> list[RTCRtpHeaderExtensionParameters]:
    known = {extension.uri for extension in extensions(kind, feedback)}
    return [extension for extension in remote if extension.uri in known]


def media_section(
    kind: str,
    mid: str,
    direction: str,
    *,
    codec_list: list[RTCRtpCodecParameters],
    extension_list: list[RTCRtpHeaderExtensionParameters],
    msid: str | None = None,
    ssrcs: Sequence[int] = (),
    cname: str = "",
) -> sdp.MediaDescription:
    """An audio or video section. `ssrcs`: the media's, then its RTX's. Without codecs it is rejected (port 0)."""
    port = _DISCARD_PORT if codec_list else 0
    formats = [codec.payloadType for codec in codec_list] or [0]
    media = sdp.MediaDescription(kind=kind, port=port, profile="UDP/TLS/RTP/SAVPF", fmt=formats)
    media.host = "0.0.0.0"  # noqa: S104 - RFC 8829 §5.2.1: no address before ICE has chosen one
    media.direction = direction if codec_list else "inactive"
    media.rtp = RTCRtpParameters(codecs=codec_list, headerExtensions=extension_list, muxId=mid)
    media.rtcp_host, media.rtcp_port, media.rtcp_mux = media.host, _DISCARD_PORT, True
    media.msid = msid
    media.ssrc = [sdp.SsrcDescription(ssrc=ssrc, cname=cname, msid=msid) for ssrc in ssrcs]
    if len(ssrcs) == 2:
        media.ssrc_group = [sdp.GroupDescription(semantic="FID", items=list(ssrcs))]
    return media


def data_section(mid: str) -> sdp.MediaDescription:
    media = sdp.MediaDescription(
        kind="application", port=_DISCARD_PORT, profile="UDP/DTLS/SCTP", fmt=["webrtc-datachannel"]
    )
    media.host = "0.0.0.0"  # noqa: S104 - as above
    media.sctp_port = SCTP_PORT
    media.rtp.muxId = mid
    media.sctpCapabilities = RTCSctpCapabilities(maxMessageSize=65_536)
    return media


def session(
    kind: str,
    media: Sequence[sdp.MediaDescription],
    *,
    version: int,
    ice: RTCIceParameters,
    dtls: RTCDtlsParameters,
    candidates: Sequence[aioice.Candidate],
) -> str:
    """The whole text. `kind`: `offer` or `answer`; the same transport in every section, as BUNDLE wants."""
    description = sdp.SessionDescription()
    description.origin = f"- {time.time_ns() // 1000} {version} IN IP4 127.0.0.1"
    description.type = kind
    description.msid_semantic.append(sdp.GroupDescription(semantic="WMS", items=["*"]))
    bundled: list[int | str] = [section.rtp.muxId for section in media if section.port]
    description.group.append(sdp.GroupDescription(semantic="BUNDLE", items=bundled))
    for section in media:
        section.ice, section.dtls = ice, dtls
        section.ice_candidates = [candidate_from_aioice(candidate) for candidate in candidates]
        description.media.append(section)
    return str(description)


def parse(text: str, kind: str) -> sdp.SessionDescription:
    """Read the server's description. Raises ValueError with a sentence."""
    try:
        description = sdp.SessionDescription.parse(text)
    except (AssertionError, KeyError, ValueError, IndexError, StopIteration, AttributeError, TypeError) as error:
        raise ValueError(f"the server's {kind} cannot be read: {error!r}") from error
    description.type = kind
    if not description.media:
        raise ValueError(f"the server's {kind} has no sections")
    live = [section for section in description.media if section.port]
    for section in live:
        if section.ice is None or not section.ice.usernameFragment or not section.ice.password:
            raise ValueError(f"section {section.rtp.muxId} of the server's {kind} has no ICE credentials")
        if section.dtls is None or not section.dtls.fingerprints:
            raise ValueError(f"section {section.rtp.muxId} of the server's {kind} has no DTLS fingerprint or role")
        if section.kind in ("audio", "video") and not section.rtcp_mux:
            raise ValueError(f"section {section.rtp.muxId} of the server's {kind} lacks rtcp-mux")
    return description


def transport(remote: sdp.SessionDescription) -> tuple[RTCIceParameters, RTCDtlsParameters]:
    """Of the bundle: what its first live section says. Raises ValueError when every section is rejected."""
    for section in remote.media:
        if section.port and section.ice is not None and section.dtls is not None:
            return section.ice, section.dtls
    raise ValueError("the server rejected every section")
