"""Descriptions are written as RFC 8829 wants and read with refusals, never with a traceback."""

from __future__ import annotations

import contextlib

import pytest
from aiortc import sdp
from hypothesis import given
from hypothesis import strategies as st

from signaling.probe import description
from signaling.probe.content import Colour
from signaling.probe.media import PictureTrack, ToneTrack
from signaling.probe.peer import Peer


async def offer_of(peer: Peer) -> str:
    try:
        return await peer.offer()
    finally:
        await peer.close()


async def test_an_offer_bundles_all_sections_on_one_transport() -> None:
    peer = Peer()
    peer.add_channel("_reliable", ordered=True)
    peer.add_receiving("audio")
    tone, picture = ToneTrack(440), PictureTrack(Colour(1, 2, 3))
    peer.add_sending(tone, "camera")
    peer.add_sending(picture, "camera")
    text = await offer_of(peer)
    parsed = sdp.SessionDescription.parse(text)
    assert parsed.group[0].items == ["0", "1", "2", "3"]
    assert [(m.kind, m.direction) for m in parsed.media[1:]] == [
        ("audio", "recvonly"),
        ("audio", "sendonly"),
        ("video", "sendonly"),
    ]
    assert len({m.ice.usernameFragment for m in parsed.media if m.ice is not None}) == 1
    assert parsed.media[2].msid == f"camera {tone.id}"
    video = parsed.media[3]
    assert video.ssrc_group[0].semantic == "FID"
    assert video.ssrc_group[0].items == [one.ssrc for one in video.ssrc]
    assert {codec.name for codec in video.rtp.codecs} == {"VP8", "rtx"}
    assert "transport-cc" in {feedback.type for feedback in video.rtp.codecs[0].rtcpFeedback}
    assert len({e.uri: e.id for m in parsed.media for e in m.rtp.headerExtensions}) == 4


async def test_mids_and_order_stay_over_offers() -> None:
    peer = Peer()
    peer.add_receiving("video")
    first = sdp.SessionDescription.parse(await peer.offer())
    peer.add_receiving("audio")
    second = sdp.SessionDescription.parse(await offer_of(peer))
    assert [m.rtp.muxId for m in second.media][: len(first.media)] == [m.rtp.muxId for m in first.media]
    assert [m.kind for m in second.media] == ["video", "audio"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no sections"),
        ("v=0\r\nm=audio x", "cannot be read"),
        ("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\na=mid:0\r\n", "no ICE credentials"),
        (
            "v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\n",
            "no DTLS fingerprint",
        ),
    ],
)
def test_what_does_not_hold_is_refused_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        description.parse(text, "answer")


KNOWN = """v=0
m=audio 9 UDP/TLS/RTP/SAVPF 111
m=video 9 UDP/TLS/RTP/SAVPF 96 97
a=mid:0
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=rtpmap:96 VP8/90000
a=fmtp:97 apt=96
a=rtcp-fb:96 nack
a=ssrc:1 cname:x
a=ssrc-group:FID 1 2
a=ice-ufrag:u
a=ice-pwd:p
a=setup:active
a=setup:no
c=IN
a=fingerprint:sha-256 00
a=candidate:1 1 udp 1 127.0.0.1 1 typ host
a=extmap:x y"""
LINES = st.lists(st.one_of(st.sampled_from(KNOWN.splitlines()), st.text(max_size=40)), max_size=30)


@given(LINES)
def test_no_text_raises_anything_but_a_value_error(lines: list[str]) -> None:
    with contextlib.suppress(ValueError):
        description.parse("\r\n".join(lines), "answer")


def test_codecs_are_agreed_under_the_other_sides_payload_types() -> None:
    theirs = description.codecs("video", ("goog-remb",))
    theirs[0].payloadType, theirs[1].payloadType, theirs[1].parameters = 120, 121, {"apt": 120}
    agreed = description.agreed_codecs("video", theirs)
    assert [(codec.name, codec.payloadType) for codec in agreed] == [("VP8", 120), ("rtx", 121)]
    theirs[0].mimeType = "video/AV1"
    assert description.agreed_codecs("video", theirs) == []
