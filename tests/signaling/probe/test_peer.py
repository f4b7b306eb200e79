"""The raw transport, peer to peer: media with content, losses, restarts, changed addresses, both cipher families."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import RtpPacket

from signaling.probe import content
from signaling.probe.content import Colour
from signaling.probe.dtls import CIPHERS
from signaling.probe.media import AudioSink, PictureTrack, ToneTrack, VideoSink
from signaling.probe.peer import Peer, PeerOptions, Section
from tests.signaling.probe.pairs import LOOPBACK, eventually, negotiate, pair, tell_addresses

COLOUR = Colour(90, 200, 80)


class Watching:
    """Collects what an answerer receives."""

    def __init__(self, peer: Peer, source: PictureTrack | None = None) -> None:
        self.audio: AudioSink | None = None
        self.video: VideoSink | None = None
        self.ssrcs: dict[str, tuple[int, ...]] = {}
        self._source = source
        peer.on_track = self._track

    def _track(self, section: Section, track: MediaStreamTrack) -> None:
        self.ssrcs[section.kind] = section.received_ssrcs
        if section.kind == "audio":
            self.audio = AudioSink(track)
        else:
            self.video = VideoSink(track, self._source)

    async def close(self) -> None:
        for sink in (self.audio, self.video):
            if sink is not None:
                await sink.close()


async def test_tone_and_picture_arrive_with_their_content() -> None:
    picture = PictureTrack(COLOUR)
    watching: list[Watching] = []

    def prepare(offerer: Peer, answerer: Peer) -> None:
        watching.append(Watching(answerer, picture))
        offerer.add_sending(ToneTrack(660), "camera")
        offerer.add_sending(picture, "camera")

    async with pair(prepare=prepare) as (offerer, answerer):
        seen = watching[0]
        await eventually(lambda: seen.audio is not None and seen.audio.pitch() is not None)
        await asyncio.sleep(0.5)
        assert seen.audio is not None
        assert seen.video is not None
        heard = seen.audio.pitch()
        assert heard is not None
        assert abs(heard.frequency_hz - 660) < content.TONE_TOLERANCE_HZ
        assert heard.share > content.MIN_TONE_SHARE
        await eventually(lambda: seen.video is not None and len(seen.video.numbers) > 5)
        assert seen.video.picture is not None
        assert seen.video.picture.shows(COLOUR)
        assert seen.video.numbers == sorted(set(seen.video.numbers))
        assert 0 < min(seen.video.delays) < 5
        assert {reception.lost for reception in answerer.receptions.values()} == {0}
        assert (await offerer.round_trip_by_rtcp() or 0) >= 0
        await seen.close()


@pytest.mark.parametrize("cipher", list(CIPHERS))
async def test_each_cipher_carries_media(cipher: str) -> None:
    watching: list[Watching] = []

    def prepare(offerer: Peer, answerer: Peer) -> None:
        watching.append(Watching(answerer))
        offerer.add_sending(ToneTrack(440), "camera")

    async with pair(PeerOptions(ciphers=(cipher,)), prepare=prepare) as (offerer, answerer):
        assert offerer.dtls.cipher == answerer.dtls.cipher == cipher
        assert offerer.dtls.version.startswith("DTLSv1.")
        await eventually(lambda: watching[0].audio is not None and watching[0].audio.frames > 3)
        await watching[0].close()


async def test_no_common_cipher_fails_the_handshake_with_a_sentence() -> None:
    offerer, answerer = (
        Peer(PeerOptions(ciphers=("AES128_CM_SHA1_80",))),
        Peer(PeerOptions(ciphers=("AEAD_AES_128_GCM",))),
    )
    offerer.add_channel("chat", ordered=True)
    try:
        with pytest.raises(ConnectionError, match="DTLS handshake failed"):
            await negotiate(offerer, answerer)
    finally:
        await offerer.close()
        await answerer.close()


async def test_data_arrives_whole_on_both_kinds_of_channel() -> None:
    got: dict[str, list[bytes]] = {"reliable": [], "lossy": []}

    def prepare(offerer: Peer, answerer: Peer) -> None:
        answerer.on_message = lambda label, data: got[label].append(data)
        offerer.add_channel("reliable", ordered=True)
        offerer.add_channel("lossy", ordered=False, max_retransmits=0)

    async with pair(prepare=prepare) as (offerer, _):
        sent = [bytes([i]) * size for i, size in enumerate((1, 1_000, 60_000))]
        async with asyncio.timeout(5):
            for payload in sent:
                (await offerer.wait_channel("reliable")).send(payload)
            (await offerer.wait_channel("lossy")).send(b"now")
        await eventually(lambda: len(got["reliable"]) == 3 and got["lossy"])
        assert got == {"reliable": sent, "lossy": [b"now"]}


async def test_a_lost_packet_is_asked_for_and_comes_as_rtx() -> None:
    watching: list[Watching] = []
    lost: list[int] = []

    def prepare(offerer: Peer, answerer: Peer) -> None:
        watching.append(Watching(answerer))
        offerer.add_sending(PictureTrack(COLOUR), "camera")

        def lose_one(packet: RtpPacket) -> bool:
            seen = watching[0].ssrcs.get("video", (0, 0))
            if not lost and packet.ssrc == seen[0] and answerer.receptions.get(seen[0]) is not None:
                lost.append(packet.sequence_number)
                return False
            return True

        answerer.drop_in = lose_one

    async with pair(prepare=prepare) as (offerer, answerer):
        await eventually(lambda: answerer.counts.retransmissions)
        assert lost
        assert offerer.counts.nacks >= 1
        reception = answerer.receptions[watching[0].ssrcs["video"][0]]
        assert (reception.recovered, reception.lost) == (1, 0)
        await watching[0].close()


async def test_a_picture_loss_indication_brings_a_key_frame() -> None:
    watching: list[Watching] = []
    key_frames: list[int] = []

    def prepare(offerer: Peer, answerer: Peer) -> None:
        watching.append(Watching(answerer))
        offerer.add_sending(PictureTrack(COLOUR), "camera")

        def note(packet: RtpPacket) -> None:
            if starts_key_frame(packet.payload):
                key_frames.append(packet.timestamp)

        answerer.on_rtp = note

    async with pair(prepare=prepare) as (offerer, answerer):
        await eventually(lambda: key_frames and watching[0].ssrcs)
        await asyncio.sleep(0.3)
        before = len(key_frames)
        await answerer.ask_keyframe(watching[0].ssrcs["video"][0])
        await eventually(lambda: len(key_frames) > before)
        assert offerer.counts.plis >= 1
        await watching[0].close()


def starts_key_frame(payload: bytes) -> bool:
    """First packet of a VP8 key frame (RFC 7741 §4.2, §4.3); aiortc writes a 15-bit picture id."""
    if len(payload) < 5 or not payload[0] & 0x10 or payload[0] & 0x0F:
        return False
    at = 1
    if payload[0] & 0x80:
        extended = payload[1]
        at = 2 + (2 if extended & 0x80 and payload[2] & 0x80 else 1 if extended & 0x80 else 0)
        at += bool(extended & 0x40) + bool(extended & 0x30)
    return not payload[at] & 1


async def exchange(offerer: Peer, got: list[bytes], payload: bytes) -> None:
    async with asyncio.timeout(10):
        (await offerer.wait_channel("chat")).send(payload)
    await eventually(lambda: payload in got)


async def test_an_ice_restart_keeps_keys_and_data() -> None:
    async with pair() as (offerer, answerer):
        got: list[bytes] = []
        answerer.on_message = lambda label, data: got.append(data)
        await exchange(offerer, got, b"before")
        former, session = offerer.link.credentials, offerer.dtls._ssl
        await negotiate(offerer, answerer, restart=True)
        assert offerer.link.credentials != former
        assert offerer.dtls._ssl is session
        await exchange(offerer, got, b"after")


async def test_a_new_local_address_keeps_the_session() -> None:
    async with pair() as (offerer, answerer):
        got: list[bytes] = []
        answerer.on_message = lambda label, data: got.append(data)
        await exchange(offerer, got, b"before")
        await offerer.link.migrate()
        assert offerer.link.state == "connected"
        (await offerer.wait_channel("chat")).send(b"after")
        await eventually(lambda: b"after" in got)


async def test_a_vanished_side_says_nothing() -> None:
    async with pair() as (offerer, answerer):
        await offerer.link.vanish()
        assert offerer.link.state == "failed"
        await eventually(lambda: offerer.dtls.state == "closed")
        assert answerer.dtls.state == "connected"


async def test_rejected_sections_and_wrong_answers_are_refused() -> None:
    offerer, answerer = Peer(), Peer()
    offerer.add_receiving("audio")
    offerer.add_receiving("video")
    answer = await answerer.answer(await offerer.offer())
    with pytest.raises(ValueError, match="do not match"):
        await offerer.accept(answer.replace("a=mid:1", "a=mid:9"))
    with pytest.raises(ValueError, match="every section"):
        await offerer.accept(answer.replace("m=audio 9", "m=audio 0").replace("m=video 9", "m=video 0"))
    with pytest.raises(ValueError, match="candidate cannot be read"):
        await offerer.add_candidate('{"candidate": "candidate:1 1 udp"}')
    await offerer.close()
    await answerer.close()


@pytest.mark.parametrize("datagram", range(1, 5))
async def test_who_is_closed_in_the_handshake_is_closed(datagram: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a datagram comes in the same moment, which makes `asyncio.wait_for` lose the cancellation."""
    before = asyncio.all_tasks()
    offerer, answerer = Peer(PeerOptions(paths=LOOPBACK)), Peer(PeerOptions(paths=LOOPBACK))
    offerer.add_sending(ToneTrack(660), "camera")
    closing = asyncio.get_running_loop().create_future()
    received, receive = itertools.count(1), answerer.link._recv

    async def receive_and_close() -> bytes:
        data = await receive()
        if next(received) == datagram:
            asyncio.get_running_loop().call_soon(lambda: closing.set_result(asyncio.create_task(answerer.close())))
        return data

    monkeypatch.setattr(answerer.link, "_recv", receive_and_close)
    await offerer.accept(await answerer.answer(await offerer.offer()))
    answerer.start()
    await tell_addresses(offerer, answerer)
    await tell_addresses(answerer, offerer)
    async with asyncio.timeout(10):
        await (await closing)
        assert answerer._connecting is not None
        assert answerer._connecting.done()
        assert not [thread for thread in threading.enumerate() if "decoder" in thread.name]
        await offerer.close()
    assert asyncio.all_tasks() == before
