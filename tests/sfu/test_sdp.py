"""The Python and Rust sides of a description are the same types: every field crosses both ways."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sfu import sdp
from sfu.border import CodecSpec, Fingerprint

FIXTURES = Path(__file__).parents[2] / "sfu/core/proto/tests/fixtures/sdp"

FULL = sdp.Session(
    origin=sdp.Origin(username="me", session_id=7, session_version=3, address="::1"),
    name="talk",
    groups=(sdp.Group(semantics="BUNDLE", mids=("0", "1")),),
    ice_lite=True,
    ice_ufrag="abcd",
    ice_pwd="0123456789abcdefghijkl",
    ice_options=("trickle", "ice2"),
    setup=sdp.Setup.ACTPASS,
    fingerprints=(Fingerprint(algorithm="sha-256", value="AA:BB"), Fingerprint(algorithm="sha-512", value="CC:DD")),
    extmap_allow_mixed=True,
    msid_semantic="WMS *",
    media=(
        sdp.Media(
            kind="video",
            port=1234,
            protocol="RTP/SAVPF",
            mid="0",
            direction=sdp.Direction.RECVONLY,
            ice_ufrag="efgh",
            ice_pwd="abcdefghijkl0123456789",
            ice_options=("renomination",),
            candidates=(
                sdp.Candidate(
                    foundation="1",
                    component=1,
                    protocol="tcp",
                    priority=5,
                    address="192.0.2.1",
                    port=7881,
                    type="srflx",
                    related_address="192.0.2.2",
                    related_port=9,
                    tcp_type="passive",
                ),
            ),
            end_of_candidates=True,
            setup=sdp.Setup.PASSIVE,
            fingerprints=(Fingerprint(algorithm="sha-256", value="EE:FF"),),
            bundle_only=True,
            rtcp_mux=True,
            rtcp_rsize=True,
            extmap_allow_mixed=True,
            codecs=(
                sdp.Codec(pt=96, name="VP8", clock_rate=90000, channels=2, fmtp="max-fs=1", feedback=("nack pli",)),
            ),
            extensions=(sdp.Extension(id=3, uri="urn:x", direction=sdp.Direction.SENDONLY, attributes="a b"),),
            rids=(sdp.Rid(id="q", direction="send", restrictions="max-width=320"),),
            simulcast=sdp.Simulcast(
                send=(sdp.SimulcastStream(rids=("q", "h"), paused=True),), recv=(sdp.SimulcastStream(rids=("f",)),)
            ),
            msids=(sdp.Msid(stream="s", track="t"),),
            ssrcs=(sdp.Ssrc(ssrc=1, cname="c", msid=sdp.Msid(stream="s", track="t")),),
            ssrc_groups=(sdp.SsrcGroup(semantics="FID", ssrcs=(1, 2)),),
            sctp_port=5000,
            max_message_size=65535,
        ),
        sdp.Media(kind="application", protocol="UDP/DTLS/SCTP", formats=("webrtc-datachannel",), mid="1"),
    ),
)


def test_every_field_crosses_both_ways() -> None:
    assert sdp.parse(sdp.write(FULL)) == FULL


def test_the_full_example_leaves_no_field_at_its_default() -> None:
    """Guards the test above: a new field must be added to it."""

    def check(part: msgspec.Struct, ignored: tuple[str, ...] = ()) -> None:
        for field in msgspec.structs.fields(part):
            if field.default is not msgspec.NODEFAULT and field.name not in ignored:
                assert getattr(part, field.name) != field.default, f"{type(part).__name__}.{field.name}"

    video = FULL.media[0]
    assert video.simulcast is not None
    check(FULL)
    check(FULL.origin)
    check(video, ignored=("formats",))
    check(video.candidates[0])
    check(video.codecs[0])
    check(video.extensions[0])
    check(video.rids[0])
    check(video.simulcast)
    check(video.simulcast.send[0])
    check(video.msids[0])
    check(video.ssrcs[0])
    assert FULL.media[1].formats


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.sdp")), ids=lambda path: path.stem)
def test_real_descriptions_survive(path: Path) -> None:
    session = sdp.parse(path.read_bytes())
    assert session.media
    assert sdp.parse(sdp.write(session)) == session


def test_a_description_is_measured_as_it_is_limited() -> None:
    text = (FIXTURES / "chromium_single_join.sdp").read_bytes()
    size, largest = sdp.measure(text)
    assert sdp.measure(text.decode()) == (size, largest)
    assert size == (18_203, 599, 7)
    assert largest == {"audio": (937, 28, 1), "video": (4_974, 166, 1)}
    sdp.parse(text, sdp.Limits(*size))
    for index, code in enumerate(("too_long", "too_many_lines", "too_many_sections")):
        with pytest.raises(sdp.SdpError) as refused:
            sdp.parse(text, sdp.Limits(*(value - (index == place) for place, value in enumerate(size))))
        assert refused.value.code == code


def test_a_refusal_has_a_code_and_a_sentence() -> None:
    with pytest.raises(sdp.SdpError) as refusal:
        sdp.parse("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 200\r\n")
    assert refusal.value.code == "payload_type"
    assert refusal.value.message == "line 3: payload type 200 is over 127"


def test_a_value_with_a_line_break_is_not_written() -> None:
    with pytest.raises(sdp.SdpError) as refusal:
        sdp.write(sdp.Session(name="x\r\na=ice-lite"))
    assert refusal.value.code == "unwritable"


def test_a_subscriber_is_matched_by_profile_the_same_before_a_wider_one() -> None:
    def h264(pt: int, profile: str) -> CodecSpec:
        fmtp = f"packetization-mode=1;profile-level-id={profile}"
        return CodecSpec(pt=pt, mime="video/H264", clock_rate=90000, fmtp=fmtp)

    high, constrained = h264(1, "64001f"), h264(2, "42e01f")
    published = (h264(100, "42e034"),)
    assert [codec.pt for codec in sdp.matching((high, constrained), published)] == [2]
    assert [codec.pt for codec in sdp.matching((high,), published)] == [1]
    assert sdp.matching((constrained,), (h264(100, "64001f"),)) == ()
