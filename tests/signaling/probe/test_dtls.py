"""What stands between aiortc's transport and its user: feedback that aiortc cannot read, packets told apart by mid."""

from __future__ import annotations

import struct

from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from aiortc.rtp import HeaderExtensionsMap, RtcpPacket, RtcpRrPacket, RtpPacket
from hypothesis import given
from hypothesis import strategies as st

from signaling.probe.description import MID_URI
from signaling.probe.dtls import CIPHERS, MidRouter, TransportFeedback, split_transport_feedback


def feedback(base: int, count: int) -> bytes:
    body = struct.pack("!IIHHI", 1, 2, base, count, 0) + struct.pack("!HH", 0x2000 | count, 0x0101)
    return struct.pack("!BBH", 0x80 | 15, 205, len(body) // 4) + body


def test_transport_feedback_is_taken_out_of_a_compound() -> None:
    report = bytes(RtcpRrPacket(ssrc=5))
    found, rest = split_transport_feedback(report + feedback(10, 3) + report + feedback(13, 2))
    assert found == [TransportFeedback(1, 2, 10, 3), TransportFeedback(1, 2, 13, 2)]
    assert [type(packet) for packet in RtcpPacket.parse(rest)] == [RtcpRrPacket, RtcpRrPacket]


@given(st.binary(max_size=200))
def test_any_bytes_are_split_without_an_error(data: bytes) -> None:
    found, rest = split_transport_feedback(data)
    assert len(rest) + 20 * len(found) <= len(data)


class Sink:
    def _handle_disconnect(self) -> None: ...
    async def _handle_rtcp_packet(self, packet: object) -> None: ...
    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None: ...


def test_sections_with_the_same_payload_type_are_told_apart_by_mid_then_by_ssrc() -> None:
    extensions = HeaderExtensionsMap()
    extensions.configure(RTCRtpParameters(headerExtensions=[RTCRtpHeaderExtensionParameters(id=1, uri=MID_URI)]))
    router, audio, other = MidRouter(), Sink(), Sink()
    router.register_receiver(audio, ssrcs=[], payload_types=[111], mid="0")
    router.register_receiver(other, ssrcs=[], payload_types=[111], mid="1")

    def packet(ssrc: int, mid: str | None) -> RtpPacket:
        made = RtpPacket(payload_type=111, ssrc=ssrc)
        made.extensions.mid = mid
        return RtpPacket.parse(made.serialize(extensions), extensions)

    assert router.route_rtp(packet(7, None)) is None
    assert router.route_rtp(packet(7, "1")) is other
    assert router.route_rtp(packet(7, None)) is other
    assert router.route_rtp(packet(8, "0")) is audio


def test_the_ciphers_have_their_names_of_rfc_5764_and_7714() -> None:
    assert list(CIPHERS) == ["AEAD_AES_256_GCM", "AEAD_AES_128_GCM", "AES128_CM_SHA1_80"]
