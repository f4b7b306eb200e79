"""H.265 over the wire: real pictures of libx265 in every packet of RFC 7798, read by FFmpeg on the other side."""

from __future__ import annotations

import asyncio

import pytest
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import RtpPacket
from livekit.protocol import models, rtc

from signaling.probe import description
from signaling.probe.content import Colour
from signaling.probe.failure import Step
from signaling.probe.media import PictureTrack, ToneTrack
from signaling.probe.participant import JoinOptions, Participant
from signaling.probe.peer import Peer, PeerOptions
from tests.e2e.harness import h265
from tests.e2e.harness.server import Endpoint
from tests.e2e.raw_call import Caller, eventually, raw_call, still_a_call

pytestmark = pytest.mark.e2e

BOTH_MODES = pytest.mark.parametrize("single", [False, True], ids=["dual", "single"])
H265, VP8, BOTH = (PeerOptions(video=video) for video in (("H265",), ("VP8",), ("H265", "VP8")))
UNSUPPORTED = models.SubscriptionError.SE_CODEC_UNSUPPORTED
VIOLET, GREEN = Colour(140, 60, 180), Colour(90, 200, 80)


@pytest.fixture(autouse=True)
def _codec(monkeypatch: pytest.MonkeyPatch) -> None:
    h265.teach_aiortc(monkeypatch)


class Watch:
    """Every video packet that comes to one peer, its retransmissions left out."""

    def __init__(self, peer: Peer) -> None:
        self.packets: list[RtpPacket] = []
        self._peer = peer
        peer.on_rtp = self._note

    def _note(self, packet: RtpPacket) -> None:
        codec = self._peer._codecs.get(packet.payload_type)
        if codec is not None and codec.mimeType == h265.MIME and packet.payload:
            self.packets.append(packet)

    def pictures(self) -> list[set[int]]:
        """Types of the units of each picture, in order."""
        by_timestamp: dict[int, set[int]] = {}
        for packet in self.packets:
            by_timestamp.setdefault(packet.timestamp, set()).update(h265.unit_kinds(packet.payload))
        return list(by_timestamp.values())


def told_of(watcher: Participant, publisher: Participant) -> models.TrackInfo:
    """The video of `publisher`, as the last update said."""
    tracks = watcher.participants[publisher.sid].tracks
    return next(track for track in tracks if track.type == models.TrackType.VIDEO)


def shows(participant: Participant, colour: Colour) -> bool:
    video = participant.video
    return video is not None and video.picture is not None and video.picture.shows(colour)


@BOTH_MODES
async def test_a_call_in_h265(server: Endpoint, room: str, single: bool) -> None:
    async with raw_call(server, room, JoinOptions(single=single, peer=H265)) as (alice, bob):
        watch = Watch(bob.participant.subscriber)
        await still_a_call(alice, bob)
        await asyncio.sleep(1.1)  # past the throttle of the first key frame
        await bob.participant.subscriber.ask_keyframe(bob.video_ssrc())
        kinds = {h265.AGGREGATED, h265.FRAGMENT}
        await eventually(lambda: kinds <= {h265.kind_of(p.payload) for p in watch.packets}, 10, "not each kind came")
        await bob.sees_more()
        assert any(h265.kind_of(packet.payload) not in kinds for packet in watch.packets), "single units"
        assert bob.video_lost()[0] == 0

        sent = next(s for s in alice.participant.publisher.sections if s.sender is not None and s.kind == "video")
        assert [codec.mimeType for codec in sent.codecs] == [h265.MIME, "video/rtx"]
        (announced,) = [t for t in alice.participant.published.values() if t.type == models.TrackType.VIDEO]
        seen = told_of(bob.participant, alice.participant)
        assert seen.sid == announced.sid
        assert {seen.mime_type, announced.mime_type, *(one.mime_type for one in seen.codecs)} == {h265.MIME}
        (received,) = [s for s in bob.participant.subscriber.sections if s.kind == "video" and s.received_ssrcs]
        assert received.codecs[0].mimeType == h265.MIME
        assert received.codecs[0].parameters["profile-id"] in (1, "1")


async def test_who_comes_later_begins_with_a_key_frame_that_is_asked_for(server: Endpoint, room: str) -> None:
    async with raw_call(server, room, JoinOptions(peer=H265)) as (alice, bob):
        await asyncio.sleep(1.1)  # past the throttle of the first key frame
        before = alice.participant.publisher.counts.plis
        carol = Participant(server.ws_url, server.token(room, "carol", can_publish=False), JoinOptions(peer=H265))
        try:
            joining = asyncio.create_task(carol.join())
            await asyncio.sleep(0)  # the peers are made; packets come before it has joined
            watch = Watch(carol.subscriber)
            await joining
            await carol.until(lambda: len(carol.sinks) == 4, Step.FIRST_FRAME, "Not both people's media")
            await eventually(lambda: all(getattr(s, "frames", 0) > 3 for s in carol.sinks), 15, "no pictures")
            assert alice.participant.publisher.counts.plis > before
            first = watch.pictures()[0]
            assert first >= h265.PARAMETER_SETS
            assert first & h265.RANDOM_ACCESS
        finally:
            await carol.leave()
        await still_a_call(alice, bob)


async def test_packets_lost_on_the_way_down_come_again(server: Endpoint, room: str) -> None:
    options = JoinOptions(peer=PeerOptions(video=("H265",), receive_feedback=()))
    async with raw_call(server, room, options) as (alice, bob):
        lost: list[int] = []
        watch = Watch(bob.participant.subscriber)

        def lose(packet: RtpPacket) -> bool:
            is_media = packet.ssrc == bob.video_ssrc() and bool(packet.payload)
            if is_media and len(lost) < 5 and len(watch.packets) % 12 == 11:
                lost.append(packet.sequence_number)
                watch.packets.append(packet)
                return False
            return True

        bob.participant.subscriber.drop_in = lose
        await eventually(lambda: len(lost) == 5, 30, "too few packets")
        await eventually(lambda: bob.video_lost()[0] == 0 and bob.video_lost()[1] >= 5, 10, f"{lost} did not all come")
        await bob.sees_more()
        assert alice.participant.publisher.counts.nacks == 0, "the server had them"


async def entered(server: Endpoint, room: str, name: str, options: PeerOptions, single: bool) -> Participant:
    participant = Participant(server.ws_url, server.token(room, name), JoinOptions(single=single, peer=options))
    await participant.join()
    return participant


async def announce(
    publisher: Participant, track: MediaStreamTrack, *codecs: rtc.SimulcastCodec, sid: str = ""
) -> models.TrackInfo:
    request = rtc.AddTrackRequest(
        cid=track.id,
        sid=sid,
        type=models.TrackType.VIDEO,
        source=models.TrackSource.CAMERA,
        stream="camera",
        layers=[models.VideoLayer(quality=models.VideoQuality.HIGH, width=320, height=240)],
        simulcast_codecs=codecs,
    )
    await publisher._send(rtc.SignalRequest(add_track=request))
    return await publisher.until(lambda: publisher.published.get(track.id), Step.PUBLISH, "No answer to add_track")


@BOTH_MODES
async def test_who_takes_no_h265_is_told_gets_none_and_has_the_sound(server: Endpoint, room: str, single: bool) -> None:
    alice = await entered(server, room, "alice", H265, single)
    bob = await entered(server, room, "bob", VP8, single)
    carol = await entered(server, room, "carol", H265, single)
    came: list[RtpPacket] = []
    bob.subscriber.on_rtp = came.append
    try:
        tone = ToneTrack(440.0)
        await alice.publish(tone, PictureTrack(VIOLET))
        await eventually(lambda: shows(carol, VIOLET), 15, "carol sees no picture")
        await Caller(bob, tone, PictureTrack(GREEN)).hears(tone)
        told = [m.subscription_response for m in bob.messages if m.WhichOneof("message") == "subscription_response"]
        assert [(one.track_sid, one.err) for one in told] == [(told_of(carol, alice).sid, UNSUPPORTED)]
        assert told_of(bob, alice).mime_type == h265.MIME
        audio = {codec.payloadType for codec in description.codecs("audio", ())}
        assert {packet.payload_type for packet in came if packet.payload} == audio
    finally:
        for one in (alice, bob, carol):
            await one.leave()


@BOTH_MODES
async def test_who_takes_no_h265_gets_the_backup_codec(server: Endpoint, room: str, single: bool) -> None:
    alice = await entered(server, room, "alice", BOTH, single)
    bob = await entered(server, room, "bob", VP8, single)
    carol = await entered(server, room, "carol", H265, single)
    first, backup = PictureTrack(VIOLET), PictureTrack(GREEN)
    try:
        announced = (rtc.SimulcastCodec(codec="h265", cid=first.id), rtc.SimulcastCodec(codec="vp8"))
        sid = (await announce(alice, first, *announced)).sid
        alice.publisher.add_sending(first, "camera")
        await alice.negotiate()

        def asked() -> bool:
            updates = [m.subscribed_quality_update for m in alice.messages if m.HasField("subscribed_quality_update")]
            return any(c.codec == "vp8" and any(q.enabled for q in c.qualities) for c in codecs_of(updates))

        await eventually(asked, 15, "nobody asked alice for VP8")
        await announce(alice, backup, rtc.SimulcastCodec(codec="vp8", cid=backup.id), sid=sid)
        section = alice.publisher.add_sending(backup, "camera")
        section.codecs = description.codecs("video", VP8.send_feedback, ("VP8",))
        await alice.negotiate()
        await eventually(lambda: shows(bob, GREEN), 15, "bob does not see the backup")
        await eventually(lambda: shows(carol, VIOLET), 15, "carol does not see H.265")
        assert told_of(bob, alice).sid == sid
        assert {codec.mime_type for codec in told_of(bob, alice).codecs} == {h265.MIME, "video/VP8"}
        assert not [m for m in bob.messages if m.WhichOneof("message") == "subscription_response"]
    finally:
        for one in (alice, bob, carol):
            await one.leave()


def codecs_of(updates: list[rtc.SubscribedQualityUpdate]) -> list[rtc.SubscribedCodec]:
    return [codec for update in updates for codec in update.subscribed_codecs]
