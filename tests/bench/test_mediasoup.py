"""mediasoup's parameters and the generator's: each made from the other."""

from __future__ import annotations

from typing import Any

from bench.peers import over_mediasoup
from bench.scenarios import CAMERA, SIMULCAST
from sfu.border import DtlsRole, IceCredentials
from sfu.load import Codec, Encoding, ReceiveCodec, Repair
from signaling.load.description import Sent
from signaling.load.plan import MICROPHONE, Track


def sent(track: Track) -> Sent:
    encodings = tuple(
        Encoding(
            ssrc=100 + 2 * index,
            rtx_ssrc=101 + 2 * index if track.is_video else None,
            rid=layer.rid,
            packets_per_second=layer.packets_per_second,
            payload_bytes=layer.payload_bytes,
        )
        for index, layer in enumerate(track.layers)
    )
    return Sent(cid="me", track=track, encodings=encodings)


def test_a_producer_and_the_generators_stream_say_the_same() -> None:
    for track in (MICROPHONE, CAMERA, SIMULCAST):
        produced = over_mediasoup.rtp_parameters("3", sent(track))
        publish = over_mediasoup.publication(7, 1, "3", sent(track))
        assert (produced["mid"], publish.mid) == ("3", "3")
        assert produced["codecs"][0]["payloadType"] == publish.pt
        assert [e["ssrc"] for e in produced["encodings"]] == [e.ssrc for e in publish.encodings]
        extensions = {line["uri"].rpartition(":")[2]: line["id"] for line in produced["headerExtensions"]}
        assert extensions["mid"] == publish.extensions.mid
        if track.is_video:
            assert extensions["rtp-stream-id"] == publish.extensions.rid
            assert produced["codecs"][1]["parameters"]["apt"] == publish.pt
            assert produced["codecs"][1]["payloadType"] == publish.rtx_pt
            assert [e["rtx"]["ssrc"] for e in produced["encodings"]] == [e.rtx_ssrc for e in publish.encodings]
        else:
            assert extensions["ssrc-audio-level"] == publish.extensions.audio_level
            assert "rtx" not in produced["encodings"][0]


def test_consumers_of_one_transport_are_received_together() -> None:
    mid = {"uri": "urn:ietf:params:rtp-hdrext:sdes:mid", "id": 1}
    audio = {
        "codecs": [{"mimeType": "audio/opus", "payloadType": 100, "parameters": {}}],
        "headerExtensions": [mid, {"uri": "urn:ietf:params:rtp-hdrext:ssrc-audio-level", "id": 10}],
        "encodings": [{"ssrc": 5}],
    }
    video = {
        "codecs": [
            {"mimeType": "video/VP8", "payloadType": 101, "parameters": {}},
            {"mimeType": "video/rtx", "payloadType": 102, "parameters": {"apt": 101}},
        ],
        "headerExtensions": [mid, {"uri": "urn:unknown", "id": 14}],
        "encodings": [{"ssrc": 6, "rtx": {"ssrc": 7}}],
    }
    receive = over_mediasoup.reception(9, [audio, video, audio])
    assert receive.codecs == (
        ReceiveCodec(pt=100, codec=Codec.OPUS),
        ReceiveCodec(pt=101, codec=Codec.VP8, rtx_pt=102),
    )
    assert receive.repairs == (Repair(rtx_ssrc=7, ssrc=6),)
    assert (receive.extensions.mid, receive.extensions.audio_level, receive.extensions.rid) == (1, 10, None)


def test_a_transport_is_opened_to_its_first_candidate_as_the_dtls_client() -> None:
    answer: dict[str, Any] = {
        "iceParameters": {"usernameFragment": "u", "password": "p", "iceLite": True},
        "iceCandidates": [{"address": "127.0.0.1", "ip": "127.0.0.1", "port": 4_000, "protocol": "udp"}],
        "dtlsParameters": {
            "fingerprints": [{"algorithm": "sha-1", "value": "A"}, {"algorithm": "sha-256", "value": "B"}]
        },
    }
    own = IceCredentials(ufrag="me", pwd="mine")
    opened = over_mediasoup.opening(4, own, answer, external_dtls=True)
    assert (opened.address, opened.remote.ufrag, opened.remote.pwd) == ("127.0.0.1:4000", "u", "p")
    assert [f.value for f in opened.fingerprints] == ["B"]
    assert (opened.role, opened.controlling, opened.external_dtls) == (DtlsRole.CLIENT, True, True)
