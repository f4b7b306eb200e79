"""The media port as an independent WebRTC peer sees it (aiortc, aioice, libsrtp): paths, keys, losses, feedback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RTCP_PSFB_FIR, RtcpPsfbPacket, RtcpReceiverInfo, RtcpRrPacket, RtpPacket, pack_remb_fci
from livekit.protocol import rtc

from signaling.probe import description
from signaling.probe.dtls import CIPHERS
from signaling.probe.failure import Step
from signaling.probe.ice import Paths
from signaling.probe.participant import JoinOptions, Participant
from signaling.probe.peer import Peer, PeerOptions
from signaling.probe.signal import SignalClient, single_query
from tests.e2e.harness import metrics
from tests.e2e.harness.media import BLUE, GREEN
from tests.e2e.harness.nodes import Nodes
from tests.e2e.harness.server import Endpoint, ServerProcess
from tests.e2e.raw_call import DISCONNECTED, eventually, raw_call, still_a_call

pytestmark = pytest.mark.e2e

StartServer = Callable[..., Awaitable[ServerProcess]]

BOTH_MODES = pytest.mark.parametrize("single", [False, True], ids=["dual", "single"])


def remote_ufrag(peer: Peer) -> str:
    assert peer.link._remote is not None
    return peer.link._remote.username


@BOTH_MODES
async def test_media_and_data_pass_with_their_content(server: Endpoint, room: str, single: bool) -> None:
    async with raw_call(server, room, JoinOptions(single=single)) as (alice, bob):
        await still_a_call(alice, bob)
        assert alice.participant.subscriber.dtls.version == "DTLSv1.2"
        assert {one.video_lost()[0] for one in (alice, bob)} == {0}


@pytest.mark.parametrize("cipher", list(CIPHERS))
async def test_each_srtp_profile_carries_a_call(server: Endpoint, room: str, cipher: str) -> None:
    options = JoinOptions(peer=PeerOptions(ciphers=(cipher,)))
    async with raw_call(server, room, options, JoinOptions()) as (alice, bob):
        assert alice.participant.subscriber.dtls.cipher == cipher
        assert alice.participant.publisher.dtls.cipher == cipher
        await still_a_call(alice, bob)


async def test_the_server_prefers_gcm_to_a_client_s_first_choice(server: Endpoint, room: str) -> None:
    options = JoinOptions(peer=PeerOptions(ciphers=("AES128_CM_SHA1_80", "AEAD_AES_128_GCM")))
    async with raw_call(server, room, options) as (alice, _):
        assert alice.participant.subscriber.dtls._role == "client", "so the server chooses"
        assert alice.participant.subscriber.dtls.cipher == "AEAD_AES_128_GCM"


@BOTH_MODES
async def test_ice_over_tcp_carries_a_call(server: Endpoint, room: str, single: bool) -> None:
    options = JoinOptions(single=single, peer=PeerOptions(paths=Paths(udp=False, tcp=True)))
    async with raw_call(server, room, options, JoinOptions()) as (alice, bob):
        assert alice.participant.subscriber.link.path[0] == "tcp"
        assert bob.participant.subscriber.link.path[0] == "udp"
        await still_a_call(alice, bob)


@BOTH_MODES
async def test_an_ice_restart_changes_credentials_and_nothing_else(server: Endpoint, room: str, single: bool) -> None:
    """F-09"""
    async with raw_call(server, room, JoinOptions(single=single)) as (alice, bob):
        peer = alice.participant.publisher
        ours, theirs, session = peer.link.credentials, remote_ufrag(peer), peer.dtls._ssl
        await alice.participant.restart_ice()
        assert peer.link.credentials != ours
        assert remote_ufrag(peer) != theirs
        assert peer.dtls._ssl is session
        await still_a_call(alice, bob)
        assert not bob.saw(alice.participant, DISCONNECTED)


@BOTH_MODES
async def test_a_client_that_moves_to_another_address_stays(server: Endpoint, room: str, single: bool) -> None:
    async with raw_call(server, room, JoinOptions(single=single)) as (alice, bob):
        for peer in {alice.participant.publisher, alice.participant.subscriber}:
            pair = peer.link._agent.pair
            await peer.link.migrate()
            assert peer.link._agent.pair is not pair
        await still_a_call(alice, bob)
        assert not bob.saw(alice.participant, DISCONNECTED)


async def test_a_nat_that_gives_a_new_port_is_followed_at_the_next_check(server: Endpoint, room: str) -> None:
    """F-09"""
    async with raw_call(server, room) as (alice, bob):
        for peer in (alice.participant.publisher, alice.participant.subscriber):
            await peer.link.rebind()
        await still_a_call(alice, bob)
        assert not bob.saw(alice.participant, DISCONNECTED)


class LoseSome:
    """Lets one in `every` video packets get lost, up to `most`."""

    def __init__(self, payload_types: set[int], every: int = 12, most: int = 6) -> None:
        self.lost: list[int] = []
        self._payload_types, self._every, self._most, self._seen = payload_types, every, most, 0

    def __call__(self, packet: RtpPacket) -> bool:
        if packet.payload_type not in self._payload_types or len(self.lost) >= self._most:
            return True
        self._seen += 1
        if self._seen % self._every:
            return True
        self.lost.append(packet.sequence_number)
        return False


def video_payload_types(peer: Peer) -> set[int]:
    return {
        codec.payloadType or 0
        for section in peer.sections
        for codec in section.codecs
        if codec.mimeType.lower() == "video/vp8"
    }


NO_ESTIMATE = JoinOptions(peer=PeerOptions(receive_feedback=()))
"""Says nothing of bandwidth: what is lost here on purpose shall not look like congestion."""


async def test_packets_lost_on_the_way_down_come_again_as_rtx(server: Endpoint, room: str) -> None:
    """F-01"""
    async with raw_call(server, room, NO_ESTIMATE) as (alice, bob):
        subscriber = bob.participant.subscriber
        lose = LoseSome(video_payload_types(subscriber))
        subscriber.drop_in = lose
        await eventually(lambda: len(lose.lost) == 6, 30, "too few packets")
        try:
            await eventually(lambda: bob.video_lost()[0] == 0 and bob.video_lost()[1] >= 6, 10, "")
        except AssertionError:
            raise AssertionError(f"of {lose.lost}: {bob.video_lost()} lost and recovered") from None
        assert alice.participant.publisher.counts.nacks == 0, "the server had them"
        await bob.sees_more()


async def test_packets_lost_on_the_way_up_are_asked_for_and_nobody_misses_them(server: Endpoint, room: str) -> None:
    """F-02"""
    async with raw_call(server, room, NO_ESTIMATE) as (alice, bob):
        publisher = alice.participant.publisher
        lose = LoseSome(video_payload_types(publisher))
        publisher.drop_out = lose
        await eventually(lambda: len(lose.lost) == 6, 30, "too few packets")
        await eventually(lambda: publisher.counts.nacks > 0, 5, "the server asked for nothing")
        await eventually(lambda: bob.video_lost()[0] == 0, 5, f"of {lose.lost} some never came")
        await bob.sees_more()
        await bob.sees_more()


async def test_a_lost_picture_brings_one_key_frame_however_often_it_is_reported(server: Endpoint, room: str) -> None:
    """S-20, F-03"""
    async with raw_call(server, room) as (alice, bob):
        await asyncio.sleep(1.1)  # past the throttle of the first key frame
        before = alice.participant.publisher.counts.plis
        key_frames: list[int] = []

        def note(packet: RtpPacket) -> None:
            if is_key_frame(packet):
                key_frames.append(packet.timestamp)

        bob.participant.subscriber.on_rtp = note
        for _ in range(20):
            await bob.participant.subscriber.ask_keyframe(bob.video_ssrc())
            await asyncio.sleep(0.02)
        await eventually(lambda: key_frames, 5, "no key frame")
        await asyncio.sleep(1.2)
        asked = alice.participant.publisher.counts.plis - before
        assert 1 <= asked <= 2, "the first at once, the rest as one"
        await bob.sees_more()


def only_fir(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that know no other request for a key frame."""
    every = description.codecs

    def codecs(*arguments: Any) -> list[RTCRtpCodecParameters]:
        found = every(*arguments)
        for codec in found:
            codec.rtcpFeedback = [item for item in codec.rtcpFeedback if item.parameter != "pli"]
        return found

    monkeypatch.setattr(description, "codecs", codecs)


@pytest.mark.parametrize("request_kind", ["plis", "firs"])
async def test_a_fir_brings_a_key_frame_and_the_same_one_again_does_not(
    server: Endpoint, room: str, monkeypatch: pytest.MonkeyPatch, request_kind: str
) -> None:
    """S-20: whatever the subscriber asks by, the publisher is asked by what it knows, PLI before FIR."""
    if request_kind == "firs":
        only_fir(monkeypatch)
    async with raw_call(server, room, NO_ESTIMATE) as (alice, bob):
        publisher, subscriber = alice.participant.publisher, bob.participant.subscriber
        key_frames: set[int] = set()
        commands: list[bytes] = []

        def note(packet: RtpPacket) -> None:
            if is_key_frame(packet):
                key_frames.add(packet.timestamp)

        def hear(packet: object) -> None:
            if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_FIR:
                commands.append(packet.fci)

        subscriber.on_rtp, publisher.on_rtcp = note, hear
        for number, asks in ((255, 1), (255, 0), (0, 1), (0, 0), (1, 1)):
            await asyncio.sleep(1.2)  # past the throttle of the one before
            before, shown = getattr(publisher.counts, request_kind), len(key_frames)
            for _ in range(3):
                await subscriber.command_keyframe(bob.video_ssrc(), number)
                await asyncio.sleep(0.05)
            await asyncio.sleep(1.2)
            assert getattr(publisher.counts, request_kind) - before == asks, number
            assert len(key_frames) - shown == asks, number
        before = getattr(publisher.counts, request_kind)
        for number in range(2, 42):
            await subscriber.command_keyframe(bob.video_ssrc(), number)
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.5)
        assert 1 <= getattr(publisher.counts, request_kind) - before <= 2, "the first at once, the rest as one"
        assert (publisher.counts.firs == 0) is (request_kind == "plis")
        assert (publisher.counts.plis == 0) is (request_kind == "firs")
        targets, numbers = {entry[:4] for entry in commands}, [entry[4] for entry in commands]
        assert len(targets) == bool(commands)
        assert numbers == [(numbers[0] + step) % 256 for step in range(len(numbers))], "each is a new command"
        await bob.sees_more()


def is_key_frame(packet: RtpPacket) -> bool:
    """First packet of a VP8 key frame (RFC 7741 §4.2, §4.3)."""
    data = packet.payload
    if len(data) < 6 or not data[0] & 0x10 or data[0] & 0x0F:
        return False
    at = 1
    if data[0] & 0x80:
        extended, at = data[1], 2
        if extended & 0x80:
            at += 2 if data[at] & 0x80 else 1
        at += bool(extended & 0x40) + bool(extended & 0x30)
    return not data[at] & 1


async def test_a_publisher_that_knows_transport_cc_gets_its_feedback_and_no_remb(server: Endpoint, room: str) -> None:
    options = JoinOptions(peer=PeerOptions(send_feedback=("transport-cc", "goog-remb")))
    async with raw_call(server, room, options) as (alice, _):
        counts = alice.participant.publisher.counts
        await eventually(lambda: counts.transport_feedbacks >= 5, 10, f"{counts}")
        assert counts.rembs == 0
        await eventually(lambda: counts.receiver_reports > 0, 5, f"{counts}")


async def test_a_publisher_that_knows_only_remb_gets_that(server: Endpoint, room: str) -> None:
    options = JoinOptions(peer=PeerOptions(send_feedback=("goog-remb",)))
    async with raw_call(server, room, options) as (alice, _):
        counts = alice.participant.publisher.counts
        await eventually(lambda: counts.rembs >= 2, 10, f"{counts}")
        assert counts.transport_feedbacks == 0


async def test_a_subscriber_that_knows_transport_cc_gets_numbered_packets(server: Endpoint, room: str) -> None:
    numbered = JoinOptions(peer=PeerOptions(receive_feedback=("transport-cc",)))
    async with raw_call(server, room, numbered, JoinOptions()) as (alice, bob):
        await eventually(lambda: alice.participant.subscriber.counts.transport_sequence_numbers > 20, 10, "no numbers")
        assert bob.participant.subscriber.counts.transport_sequence_numbers == 0


SHORT_ICE = {
    "CALLYARD_NODE_ENGINE_ICE_DISCONNECTED_AFTER_SECONDS": "3",
    "CALLYARD_NODE_ENGINE_ICE_FAILED_AFTER_SECONDS": "1",
}


class CountDatagrams:
    """Of everything but STUN that the server sends to one peer."""

    def __init__(self, peer: Peer) -> None:
        self.count = 0
        peer.link.filter_in = self

    def __call__(self, data: bytes) -> bool:
        self.count += 1
        return True


async def test_without_consent_nothing_is_sent_any_more(own_server: StartServer, room: str) -> None:
    """S-08"""
    server = await own_server(environment=SHORT_ICE)
    async with raw_call(server, room, JoinOptions(single=True)) as (alice, bob):
        arriving = CountDatagrams(alice.participant.publisher)
        await eventually(lambda: arriving.count > 10, 5, "nothing arrives to begin with")
        await alice.participant.publisher.link.stop_checks()

        def told() -> list[int]:
            return [m.leave.action for m in alice.participant.messages if m.WhichOneof("message") == "leave"]

        await eventually(told, 12, "no leave")
        assert told() == [rtc.LeaveRequest.Action.RESUME]
        await asyncio.sleep(0.2)
        before = arriving.count
        await asyncio.sleep(1)
        assert arriving.count == before, "bob still publishes, alice has not said that she hears"
        await eventually(lambda: bob.saw(alice.participant, DISCONNECTED), 20, "bob was not told")


async def test_a_client_that_checks_only_without_media_is_asked(own_server: StartServer, room: str) -> None:
    """As Pion did before ICE v4: its answers are its consent."""
    server = await own_server(environment=SHORT_ICE)
    async with raw_call(server, room, JoinOptions(single=True)) as (alice, bob):
        arriving = CountDatagrams(alice.participant.publisher)
        await eventually(lambda: arriving.count > 10, 5, "nothing arrives to begin with")
        await alice.participant.publisher.link.stop_checks(answer=True)
        # Longer than it takes to lose consent, twice.
        await asyncio.sleep(9)
        before = arriving.count
        await asyncio.sleep(1)
        assert arriving.count > before + 10, "bob's media flows on"
        assert not [m for m in alice.participant.messages if m.WhichOneof("message") == "leave"]
        assert not bob.saw(alice.participant, DISCONNECTED)


async def test_a_client_that_is_gone_without_a_word_leaves_the_room(own_server: StartServer, room: str) -> None:
    """F-11"""
    server = await own_server(environment=SHORT_ICE)
    async with raw_call(server, room) as (alice, bob):
        for peer in (alice.participant.publisher, alice.participant.subscriber):
            await peer.link.vanish()
        await eventually(lambda: bob.saw(alice.participant, DISCONNECTED), 25, "bob was not told")


async def test_after_a_goodbye_in_dtls_nothing_is_sent_any_more(server: Endpoint, room: str) -> None:
    """S-08"""
    async with raw_call(server, room) as (alice, _):
        subscriber = alice.participant.subscriber
        arriving = CountDatagrams(subscriber)
        await eventually(lambda: arriving.count > 10, 5, "nothing arrives to begin with")
        await subscriber.dtls.stop()
        await asyncio.sleep(0.3)
        before = arriving.count
        await asyncio.sleep(1)
        assert arriving.count == before, "the checks go on, but DTLS is closed"


async def test_one_who_never_checks_is_freed(own_server: StartServer, room: str) -> None:
    """S-30"""
    server = await own_server(environment={"CALLYARD_NODE_ENGINE_CONNECT_TIMEOUT_SECONDS": "2"}, workers=1)
    silent = Peer()
    silent.add_channel("_reliable", ordered=True)
    client = await SignalClient.connect(
        server.ws_url, "/rtc/v1", single_query(await silent.offer()), server.token(room, "silent"), 5
    )
    try:
        assert await transports(server) == 1
        for _ in range(100):
            if await transports(server) == 0:
                break
            await asyncio.sleep(0.1)
        assert await transports(server) == 0
    finally:
        await client.close()
        await silent.close()


async def transports(server: Endpoint) -> float:
    """That the workers hold now, whatever their state."""
    return await metrics.total(server.url, "callyard_transports")


async def test_a_receiver_that_claims_no_bandwidth_hurts_only_itself(server: Endpoint, room: str) -> None:
    """S-22, F-38"""
    async with raw_call(server, room) as (alice, bob):
        liar = Participant(server.ws_url, server.token(room, "liar"))
        try:
            await liar.join()
            await liar.until(lambda: liar.video is not None and liar.video.frames > 2, Step.FIRST_FRAME, "No picture")
            ssrcs = [section.received_ssrcs[0] for section in liar.subscriber.sections if section.received_ssrcs]
            for _ in range(30):
                remb = RtcpPsfbPacket(fmt=15, ssrc=1, media_ssrc=0, fci=pack_remb_fci(1, ssrcs))
                await liar.subscriber.dtls.send_rtcp(remb)
                lost = RtcpReceiverInfo(ssrcs[0], 255, 0x7FFFFF, 1, 0, 0, 0)
                await liar.subscriber.dtls.send_rtcp(RtcpRrPacket(ssrc=1, reports=[lost]))
                await asyncio.sleep(0.05)
            await still_a_call(alice, bob)
            assert bob.video_lost()[0] == 0
        finally:
            await liar.leave()


async def test_a_client_that_stood_still_is_soon_sent_pictures_again(server: Endpoint, room: str, node: Nodes) -> None:
    """aiortc estimates pictures alone, and says nothing more of them where none come."""
    sender = await node("sender", single=True)
    await sender.event("connected")
    await sender.do("tone", hertz=660)
    await sender.do("picture", left=GREEN, right=BLUE, width=640, height=360)
    viewer = Participant(server.ws_url, server.token(room, "viewer"))

    def frames() -> int:
        return viewer.video.frames if viewer.video is not None else 0

    try:
        await viewer.join()
        await viewer.until(lambda: frames() > 30, Step.FIRST_FRAME, "No picture")
        time.sleep(4)  # noqa: ASYNC251 - all of this process is to stand still, and not the sender's
        # What has waited is read, and answered.
        await asyncio.sleep(3)
        before = frames()
        await eventually(lambda: frames() > before + 30, 12, f"{frames() - before} pictures")
    finally:
        await viewer.leave()
