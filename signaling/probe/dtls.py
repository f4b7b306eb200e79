"""aiortc's DTLS-SRTP transport with eyes: what was negotiated, every RTP and RTCP packet, and a say in what passes.

Adds to aiortc what a bundled transport needs: packets are told apart by mid (RFC 9143 §9.2), packets sent carry
transport-wide sequence numbers where negotiated. Leans on aiortc's inner methods, which its pinned version keeps still.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from aiortc import rtp
from aiortc.rtcdtlstransport import (
    SRTP_PROFILES,
    RTCCertificate,
    RTCDtlsTransport,
    RtpReceiver,
    RtpRouter,
    RtpSender,
    SRTPProtectionProfile,
)
from aiortc.rtcicetransport import RTCIceTransport
from aiortc.rtcrtpparameters import RTCRtpSendParameters
from aiortc.rtp import AnyRtcpPacket, RtcpPacket, RtpPacket

from signaling.probe.ice import IceLink

TRANSPORT_CC_URI = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"
RTPFB_TRANSPORT_CC = 15
"""draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1; aiortc has no name for it."""

CIPHERS: dict[str, SRTPProtectionProfile] = {
    profile.openssl_profile.decode().removeprefix("SRTP_"): profile for profile in SRTP_PROFILES
}
"""`AEAD_AES_256_GCM`, `AEAD_AES_128_GCM`, `AES128_CM_SHA1_80`, as far as libsrtp has them."""


@dataclass(frozen=True)
class TransportFeedback:
    """Head of a transport-wide feedback packet: `count` packets from `base` on are reported (§3.1 of the draft)."""

    ssrc: int
    media_ssrc: int
    base: int
    count: int


def split_transport_feedback(compound: bytes) -> tuple[list[TransportFeedback], bytes]:
    """Take transport-wide feedback, which aiortc cannot read, out of a compound packet; the rest stays as it was."""
    found, rest, at = [], bytearray(), 0
    while at + 4 <= len(compound):
        first, kind, words = struct.unpack_from("!BBH", compound, at)
        end = at + 4 * (words + 1)
        if kind == rtp.RTCP_RTPFB and first & 0x1F == RTPFB_TRANSPORT_CC and end - at >= 20 and end <= len(compound):
            found.append(TransportFeedback(*struct.unpack_from("!IIHH", compound, at + 4)))
        else:
            rest += compound[at:end]
        at = end
    return found, bytes(rest)


class Observer(Protocol):
    """Told of each packet. An `…ing` method that returns False has the packet dropped."""

    def receiving(self, packet: RtpPacket) -> bool: ...
    def sending(self, packet: RtpPacket) -> bool: ...
    def heard(self, packet: AnyRtcpPacket | TransportFeedback) -> None: ...


class MidRouter(RtpRouter):
    """Routes by mid first, then by the ssrcs learnt: several sections of a bundle share their payload types."""

    def route_rtp(self, packet: RtpPacket) -> RtpReceiver | None:
        mid = packet.extensions.mid
        receiver = self.mid_table.get(mid) if mid is not None else None
        if receiver is not None:
            self.ssrc_table[packet.ssrc] = receiver
            return receiver
        return self.ssrc_table.get(packet.ssrc) or super().route_rtp(packet)


class ProbeDtls(RTCDtlsTransport):
    """`ciphers`: names out of `CIPHERS`, best first."""

    def __init__(self, link: IceLink, certificate: RTCCertificate, ciphers: Sequence[str], observer: Observer) -> None:
        super().__init__(cast(RTCIceTransport, link), [certificate])
        self._srtp_profiles = [CIPHERS[name] for name in ciphers]
        self._rtp_router = MidRouter()
        self._observer = observer
        self._numbered: set[int] = set()
        self._transport_sequence_number = 0

    @property
    def cipher(self) -> str:
        """The SRTP protection profile, named as in `CIPHERS`; empty before the handshake."""
        profile = self._ssl.get_selected_srtp_profile() if self._ssl is not None else b""
        return profile.decode().removeprefix("SRTP_")

    @property
    def version(self) -> str:
        """`DTLSv1.2`; empty before the handshake."""
        return self._ssl.get_protocol_version_name() if self._ssl is not None and self.encrypted else ""

    async def send_rtcp(self, packet: AnyRtcpPacket) -> None:
        await self._send_rtp(bytes(packet))

    def _register_rtp_sender(self, sender: RtpSender, parameters: RTCRtpSendParameters) -> None:
        super()._register_rtp_sender(sender, parameters)
        if any(extension.uri == TRANSPORT_CC_URI for extension in parameters.headerExtensions):
            self._numbered |= {sender._ssrc, getattr(sender, "_rtx_ssrc", sender._ssrc)}

    async def _send_rtp(self, data: bytes) -> None:
        if not rtp.is_rtcp(data):
            packet = RtpPacket.parse(data, self._rtp_header_extensions_map)
            if packet.ssrc in self._numbered:
                packet.extensions.transport_sequence_number = self._transport_sequence_number
                self._transport_sequence_number = (self._transport_sequence_number + 1) & 0xFFFF
                data = packet.serialize(self._rtp_header_extensions_map)
            if not self._observer.sending(packet):
                return
        await super()._send_rtp(data)

    async def _handle_rtp_data(self, data: bytes, arrival_time_ms: int) -> None:
        try:
            packet = RtpPacket.parse(data, self._rtp_header_extensions_map)
        except ValueError:
            return
        if self._observer.receiving(packet):
            await super()._handle_rtp_data(data, arrival_time_ms)

    async def _handle_rtcp_data(self, data: bytes) -> None:
        feedbacks, others = split_transport_feedback(data)
        for feedback in feedbacks:
            self._observer.heard(feedback)
        try:
            packets = RtcpPacket.parse(others)
        except ValueError:
            return
        for packet in packets:
            self._observer.heard(packet)
        if others:
            await super()._handle_rtcp_data(others)


PacketFilter = Callable[[RtpPacket], bool]
"""True lets an RTP packet pass."""
