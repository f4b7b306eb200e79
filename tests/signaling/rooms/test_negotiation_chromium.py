"""Our answers and offers are applied by Chromium, which must agree on directions, mids and tracks."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from sfu.border import CodecSpec, Fingerprint, IceCredentials, Kind
from signaling.rooms.negotiation import ClientOffered, ServerOffered
from signaling.rooms.transport import Address, LocalTransport, Publishing, Wanted

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]

LOCAL = LocalTransport(
    ice=IceCredentials(ufrag="abcd", pwd="0123456789abcdefghijkl"),
    fingerprint=Fingerprint(algorithm="sha-256", value=":".join(["AB"] * 32)),
    addresses=(Address("127.0.0.1", 9), Address("127.0.0.1", 9, "tcp")),
)
FRESH = IceCredentials(ufrag="fresh", pwd="zyxwvutsrqponmlkjihgfe")
OPUS = CodecSpec(pt=111, mime="audio/opus", clock_rate=48000)
VP8 = CodecSpec(pt=96, mime="video/VP8", clock_rate=90000)
AV1 = CodecSpec(pt=45, mime="video/AV1", clock_rate=90000)

# What a page needs: a connection, tracks without devices, a log of the tracks it was told of.
HELPERS = """
window.connect = () => {
  window.pc = new RTCPeerConnection({bundlePolicy: 'max-bundle'});
  window.told = [];
  pc.ontrack = e => told.push([e.transceiver.mid, e.streams.map(s => s.id).join(), e.track.id]);
};
window.channels = () => {
  pc.createDataChannel('_lossy', {ordered: false, maxRetransmits: 0});
  pc.createDataChannel('_reliable');
};
window.makeVideo = () => {
  const canvas = document.createElement('canvas');
  canvas.getContext('2d');
  const stream = canvas.captureStream(5);
  return [stream.getVideoTracks()[0], stream];
};
window.makeAudio = () => {
  const destination = new AudioContext().createMediaStreamDestination();
  return [destination.stream.getAudioTracks()[0], destination.stream];
};
window.offer = async (options) => {
  await pc.setLocalDescription(await pc.createOffer(options));
  return pc.localDescription.sdp;
};
window.take = async (sdp) => {
  await pc.setRemoteDescription({type: 'answer', sdp});
  return pc.getTransceivers().map(t => [t.mid, t.currentDirection]);
};
window.answer = async (sdp) => {
  await pc.setRemoteDescription({type: 'offer', sdp});
  await pc.setLocalDescription(await pc.createAnswer());
  return [pc.localDescription.sdp, pc.getTransceivers().map(t => [t.mid, t.currentDirection])];
};
"""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        page = await browser.new_page()
        await page.add_script_tag(content=HELPERS)
        await page.evaluate("connect()")
        yield page
        await browser.close()


def wanted(number: int, codec: CodecSpec) -> Wanted:
    kind = Kind(codec.mime.partition("/")[0])
    rtx = 2000 + number if kind is Kind.VIDEO else None
    return Wanted(number, f"TR_{number}", f"PA_x|TR_{number}", kind, (codec,), 1000 + number, rtx)


def client_offered() -> ClientOffered:
    return ClientOffered(LOCAL, new_credentials=lambda: FRESH)


async def take(page: Page, text: str) -> dict[str, str]:
    return dict(await page.evaluate("sdp => take(sdp)", text))


async def test_tracks_come_and_go_on_the_sections_of_a_single_connection(page: Page) -> None:
    await page.evaluate(
        """() => {
        for (let i = 0; i < 3; i++) pc.addTransceiver('audio', {direction: 'recvonly'});
        for (let i = 0; i < 3; i++) pc.addTransceiver('video', {direction: 'recvonly'});
        channels();
        }"""
    )
    server = client_offered()
    first = server.answer(await page.evaluate("offer()"))
    assert await take(page, first.sdp) == dict.fromkeys("012345", "inactive")
    assert first.data_channels
    assert not first.missing.again

    both = [wanted(1, OPUS), wanted(2, VP8)]
    second = server.answer(await page.evaluate("offer()"), both)
    assert second.mid_to_track_id == {"0": "TR_1", "3": "TR_2"}
    directions = await take(page, second.sdp)
    assert {mid for mid, direction in directions.items() if direction == "recvonly"} == {"0", "3"}
    assert await page.evaluate("told.map(entry => entry.slice(0, 2))") == [["0", "PA_x|TR_1"], ["3", "PA_x|TR_2"]]
    assert second.bound[2].codecs[0].mime == "video/VP8"
    assert second.bound[2].codecs[0].rtx_pt is not None

    # The freed section rests one round, so that the page is told of the next track on it.
    third = server.answer(await page.evaluate("offer()"), [wanted(1, OPUS)])
    assert (await take(page, third.sdp))["3"] == "inactive"
    fourth = server.answer(await page.evaluate("offer()"), [wanted(1, OPUS), wanted(3, AV1)])
    assert fourth.mid_to_track_id == {"0": "TR_1", "3": "TR_3"}
    await take(page, fourth.sdp)
    assert (await page.evaluate("told"))[-1][:2] == ["3", "PA_x|TR_3"]

    many = [wanted(number, VP8) for number in range(10, 15)]
    missing = server.missing(many)
    assert (missing.audio, missing.video, missing.again) == (0, 3, True)


@pytest.mark.parametrize(
    ("mime", "encodings", "rids"),
    [
        (
            "video/VP8",
            "[{rid: 'q', scaleResolutionDownBy: 4}, {rid: 'h', scaleResolutionDownBy: 2}, {rid: 'f'}]",
            ("q", "h", "f"),
        ),
        (
            "video/H264",
            "[{rid: 'q', scaleResolutionDownBy: 4}, {rid: 'h', scaleResolutionDownBy: 2}, {rid: 'f'}]",
            ("q", "h", "f"),
        ),
        ("video/VP9", "[{scalabilityMode: 'L3T3_KEY'}]", ()),
        ("video/AV1", "[{scalabilityMode: 'L3T3_KEY'}]", ()),
    ],
)
async def test_a_publisher_is_answered_with_its_codec_first_and_all_its_layers(
    page: Page, mime: str, encodings: str, rids: tuple[str, ...]
) -> None:
    cids: list[Any] = await page.evaluate(
        f"""() => {{
        channels();
        const [audio, audioStream] = makeAudio(), [video, videoStream] = makeVideo();
        pc.addTransceiver(audio, {{direction: 'sendonly', streams: [audioStream]}});
        pc.addTransceiver(video, {{direction: 'sendonly', streams: [videoStream], sendEncodings: {encodings}}});
        return [audio.id, video.id];
        }}"""
    )
    said = {cids[0]: Publishing(mime="audio/red", dtx=True, stereo=True), cids[1]: Publishing(mime=mime)}
    answer = client_offered().answer(
        await page.evaluate("offer()"), (), lambda sections: {section.mid: said[section.cid] for section in sections}
    )
    directions = await take(page, answer.sdp)
    assert set(directions.values()) == {"sendonly"}
    audio, video = answer.received
    assert [audio.cid, video.cid] == cids
    assert audio.codecs[0].mime == "audio/red"
    assert video.codecs[0].mime == mime
    assert video.codecs[0].rtx_pt is not None
    assert {"nack", "nack pli", "transport-cc"} <= set(video.codecs[0].feedback)
    assert video.rids == rids
    parameters = await page.evaluate("pc.getTransceivers().map(t => t.sender.getParameters())")
    assert parameters[0]["codecs"][0]["mimeType"] == "audio/red"
    assert "usedtx=1" in next(c["sdpFmtpLine"] for c in parameters[0]["codecs"] if c["mimeType"] == "audio/opus")
    assert parameters[1]["codecs"][0]["mimeType"] == mime
    assert tuple(e["rid"] for e in parameters[1]["encodings"] if "rid" in e) == rids


async def test_an_ice_restart_is_answered_with_new_credentials(page: Page) -> None:
    await page.evaluate("channels()")
    server = client_offered()
    first = server.answer(await page.evaluate("offer()"))
    await take(page, first.sdp)
    again = server.answer(await page.evaluate("offer()"))
    await take(page, again.sdp)
    assert not again.ice_restart
    restarted = server.answer(await page.evaluate("offer({iceRestart: true})"))
    assert restarted.ice_restart
    assert restarted.local.ice == FRESH
    assert restarted.remote.ice != first.remote.ice
    await take(page, restarted.sdp)
    assert "a=ice-ufrag:fresh" in await page.evaluate("pc.remoteDescription.sdp")


async def test_our_offers_are_answered_and_sections_are_used_again(page: Page) -> None:
    server = ServerOffered(LOCAL, new_credentials=lambda: FRESH)

    async def round_trip(tracks: list[Wanted]) -> tuple[Any, Any, dict[str, str]]:
        offer = server.offer(tracks)
        assert offer is not None
        text, directions = await page.evaluate("sdp => answer(sdp)", offer.sdp)
        return offer, server.accept(text, offer.id), dict(directions)

    _, accepted, directions = await round_trip([])
    assert accepted.data_channels
    assert directions == {}

    offer, accepted, directions = await round_trip([wanted(1, OPUS), wanted(2, VP8)])
    assert offer.mid_to_track_id == {"1": "TR_1", "2": "TR_2"}
    assert directions == {"1": "recvonly", "2": "recvonly"}
    assert accepted.bound[2].codecs[0].mime == "video/VP8"
    assert accepted.bound[2].codecs[0].rtx_pt is not None
    assert any(extension.uri.endswith("sdes:mid") for extension in accepted.bound[1].extensions)
    told = await page.evaluate("told")
    assert [entry[:2] for entry in told] == [["1", "PA_x|TR_1"], ["2", "PA_x|TR_2"]]

    _, accepted, directions = await round_trip([wanted(1, OPUS)])
    assert directions == {"1": "recvonly", "2": "inactive"}
    assert set(accepted.bound) == {1}

    offer, accepted, directions = await round_trip([wanted(1, OPUS), wanted(3, AV1)])
    assert offer.mid_to_track_id == {"1": "TR_1", "2": "TR_3"}
    assert (await page.evaluate("told"))[-1][:2] == ["2", "PA_x|TR_3"]

    server.restart_ice()
    offer, accepted, directions = await round_trip([wanted(1, OPUS), wanted(3, AV1)])
    assert offer.ice_restart
    assert offer.local.ice == FRESH
    assert accepted.remote.role == "server"
