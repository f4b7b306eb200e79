"""A light client's descriptions, read back by the core's own parser."""

from __future__ import annotations

import msgspec
import pytest

from sfu import sdp
from sfu.border import DtlsRole, Fingerprint, IceCredentials
from sfu.load import Codec, Encoding, Repair
from sfu.sdp import Direction, Setup
from signaling.load import description
from signaling.load.description import DescriptionError, Sent, Side
from signaling.load.plan import MICROPHONE, Track, camera

OWN = Side(
    IceCredentials(ufrag="abcdefgh", pwd="p" * 32), (Fingerprint(algorithm="sha-256", value=":".join(["AB"] * 32)),)
)


def sent(track: Track, ssrc: int) -> Sent:
    encodings = tuple(
        Encoding(
            ssrc=ssrc + 2 * index,
            rtx_ssrc=ssrc + 2 * index + 1 if track.is_video else None,
            rid=layer.rid,
            packets_per_second=layer.packets_per_second,
            payload_bytes=layer.payload_bytes,
        )
        for index, layer in enumerate(track.layers)
    )
    return Sent(cid=f"cid-{ssrc}", track=track, encodings=encodings)


def test_an_offer_holds_what_is_sent_and_no_more() -> None:
    tracks = [MICROPHONE, camera(Codec.H264, 1_000_000, layers=1), camera(Codec.VP8, 1_700_000, layers=3)]
    offer = sdp.parse(sdp.write(description.offer(OWN, [sent(t, 100 * (n + 1)) for n, t in enumerate(tracks)])))
    audio, single, layered = offer.media
    assert [m.kind for m in offer.media] == ["audio", "video", "video"]
    assert all(m.direction is Direction.SENDONLY and m.setup is Setup.ACTPASS for m in offer.media)
    assert {c.name.lower() for c in audio.codecs} == {"opus"}
    assert {c.name.lower() for c in single.codecs} == {"h264", "rtx"}
    assert [s.ssrc for s in single.ssrcs] == list(single.ssrc_groups[0].ssrcs) == [200, 201]
    assert [rid.id for rid in layered.rids] == ["q", "h", "f"]
    assert layered.simulcast is not None
    assert [stream.rids for stream in layered.simulcast.send] == [("q",), ("h",), ("f",)]
    assert not layered.ssrcs, "simulcast streams are found by their rid"
    assert [m.msids[0].track for m in offer.media] == ["cid-100", "cid-200", "cid-300"]


def test_an_answer_takes_the_media_and_tells_what_the_generator_must_know() -> None:
    offered = description.offer(OWN, [sent(MICROPHONE, 100), sent(camera(Codec.VP8, 10**6, layers=1), 200)])
    session, agreed = description.answer(OWN, sdp.parse(sdp.write(offered)))
    answer = sdp.parse(sdp.write(session))
    assert [m.direction for m in answer.media] == [Direction.RECVONLY] * 2
    assert all(m.setup is Setup.ACTIVE for m in answer.media)
    codecs = description.receive_codecs([common for _, common in agreed])
    assert {c.codec for c in codecs} == {Codec.OPUS, Codec.VP8}
    assert all((c.rtx_pt is not None) == (c.codec is Codec.VP8) for c in codecs)
    sections = [section for section, _ in agreed]
    assert description.repairs(sections) == (Repair(rtx_ssrc=201, ssrc=200),)
    ids = description.extension_ids(sections)
    assert None not in {ids.mid, ids.transport_seq, ids.abs_send_time, ids.audio_level}


def test_the_role_is_what_the_other_side_leaves_us() -> None:
    offered = description.offer(OWN, [sent(MICROPHONE, 100)])
    assert description.remote_side(offered)[1] is DtlsRole.CLIENT
    answered, _ = description.answer(OWN, offered)
    side, role = description.remote_side(answered)
    assert role is DtlsRole.SERVER
    assert side == OWN


def test_a_description_without_credentials_cannot_be_used() -> None:
    with pytest.raises(DescriptionError, match="ICE"):
        description.remote_side(sdp.Session())


def test_only_udp_host_candidates_are_addresses() -> None:
    text = sdp.write(description.offer(OWN, [sent(MICROPHONE, 100)]))
    text += (
        "a=candidate:1 1 tcp 1 127.0.0.1 7 typ host tcptype passive\r\n"
        "a=candidate:2 1 udp 2 127.0.0.1 8 typ host\r\n"
        "a=candidate:3 1 udp 3 192.0.2.1 9 typ srflx raddr 127.0.0.1 rport 8\r\n"
        "a=candidate:4 1 udp 4 ::1 10 typ host\r\n"
    )
    assert description.udp_candidates(sdp.parse(text)) == [("127.0.0.1", 8), ("::1", 10)]


def test_an_offer_to_receive_has_a_section_for_each_track_and_the_role_that_was_wanted() -> None:
    tracks = [MICROPHONE, camera(Codec.VP8, 10**6, layers=3)]
    offer = sdp.parse(sdp.write(description.offer_to_receive(OWN, tracks, Setup.ACTIVE)))
    assert [(m.kind, m.mid, m.direction) for m in offer.media] == [
        ("audio", "0", Direction.RECVONLY),
        ("video", "1", Direction.RECVONLY),
    ]
    assert all(m.setup is Setup.ACTIVE for m in offer.media)
    assert {c.name.lower() for c in offer.media[1].codecs} == {"vp8", "rtx"}
    assert not offer.media[1].rids, "layers are the sender's business"


def test_an_answer_that_sends_less_than_was_asked_for_is_an_error() -> None:
    offered = description.offer(OWN, [sent(MICROPHONE, 100), sent(camera(Codec.VP8, 10**6, layers=1), 200)])
    assert [common.codecs[0].mime for _, common in description.accepted(offered)] == ["audio/opus", "video/VP8"]
    refused = msgspec.structs.replace(offered.media[1], port=0)
    with pytest.raises(DescriptionError, match="section 1"):
        description.accepted(msgspec.structs.replace(offered, media=(offered.media[0], refused)))
    silent = msgspec.structs.replace(offered.media[0], direction=Direction.RECVONLY)
    with pytest.raises(DescriptionError, match="section 0"):
        description.accepted(msgspec.structs.replace(offered, media=(silent,)))
