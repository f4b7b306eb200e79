"""livekit-client in Chromium: every codec and layer, both modes, judged by the picture and the statistics."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from signaling.probe.content import Colour
from signaling.probe.media import PictureTrack, ToneTrack
from signaling.probe.participant import JoinOptions, Participant
from tests.e2e.harness import media
from tests.e2e.harness.browser import Tab, Tabs
from tests.e2e.harness.people import Party
from tests.e2e.harness.server import Endpoint
from tests.e2e.raw_call import Caller

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
CAMERA, SCREEN, MICROPHONE = "camera", "screen_share", "microphone"


def camera(**options: Any) -> dict[str, Any]:
    return {"source": CAMERA, "simulcast": True, "videoCodec": "vp8", "backupCodec": False, **options}


@MODES
async def test_two_pages_see_and_hear_each_other(tabs: Tabs, single: bool) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    await alice.call("publishPicture", "red", "green", 640, 360, 15, camera())
    await bob.call("publishPicture", "blue", "grey", 640, 360, 15, camera())
    await alice.call("publishTone", 440, {"source": MICROPHONE})
    await bob.call("publishTone", 1000, {"source": MICROPHONE})
    await bob.until("widthIs", "alice", CAMERA, 640)
    await alice.until("widthIs", "bob", CAMERA, 640)
    assert await bob.shows("alice", CAMERA, "red", "green") == {"width": 640, "height": 360}
    assert await alice.shows("bob", CAMERA, "blue", "grey") == {"width": 640, "height": 360}
    await bob.hears("alice", 440)
    await alice.hears("bob", 1000)
    assert await alice.call("people") == ["bob"]


@MODES
@pytest.mark.parametrize(
    ("codec", "mime", "mode"),
    [
        ("vp8", "video/VP8", None),
        ("h264", "video/H264", None),
        ("vp9", "video/VP9", "L3T3_KEY"),
        ("av1", "video/AV1", "L3T3_KEY"),
    ],
    ids=["vp8-simulcast", "h264-simulcast", "vp9-svc", "av1-svc"],
)
async def test_each_codec_arrives_in_its_layers(
    tabs: Tabs, single: bool, codec: str, mime: str, mode: str | None
) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    # 960 wide: three layers at a price that software encoders of a small machine can pay.
    await alice.call("publishPicture", "red", "blue", 960, 540, 10, camera(videoCodec=codec))
    await bob.shows("alice", CAMERA, "red", "blue", seconds=30)
    await bob.until("widthIs", "alice", CAMERA, 960, seconds=30)
    assert (await bob.call("stats", "alice", CAMERA))["mime"] == mime
    assert (await bob.call("mimeType", "alice", CAMERA)).lower() == mime.lower()
    sent = await alice.call("sending", CAMERA)
    if mode is None:
        assert {entry["mime"] for entry in sent.values() if "mime" in entry} == {mime}
        assert len([rid for rid, entry in sent.items() if entry["active"]]) >= 2, sent
    else:
        (only,) = sent.values()
        assert (only["mime"], only["mode"]) == (mime, mode)
    # The wish for less is seen in the received size, and so is the wish for more.
    await bob.call("wantQuality", "alice", CAMERA, "LOW")
    await narrower(bob, 960)
    lower = await bob.shows("alice", CAMERA, "red", "blue")
    assert lower["width"] <= 480
    assert abs(lower["width"] / lower["height"] - 16 / 9) < 0.05
    await bob.call("wantQuality", "alice", CAMERA, "HIGH")
    await bob.until("widthIs", "alice", CAMERA, 960, seconds=30, what="the full size again")
    await bob.shows("alice", CAMERA, "red", "blue")


@MODES
async def test_sound_is_redundant_unless_refused_and_reaches_those_who_do_not_take_it_as_opus(
    tabs: Tabs, server: Endpoint, room: str, single: bool
) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    # aiortc knows Opus and no RED.
    plain = Participant(server.ws_url, server.token(room, "plain"), JoinOptions(single=single))
    listener = Caller(plain, ToneTrack(880.0), PictureTrack(Colour(90, 200, 80)))
    try:
        await plain.join()
        await alice.call("publishTone", 440, {"source": MICROPHONE})
        await bob.hears("alice", 440)
        # What the worker has received, not what was announced: statistics of Chromium name the codec inside.
        assert await bob.call("mimeType", "alice", MICROPHONE) == "audio/red"
        await listener.hears(ToneTrack(440.0))
        (section,) = (one for one in plain.subscriber.sections if one.kind == "audio" and one.received_ssrcs)
        assert plain.subscriber.receptions[section.received_ssrcs[0]].lost == 0
        await alice.call("unpublish", MICROPHONE)
        await alice.call("publishTone", 660, {"source": MICROPHONE, "red": False})
        await listener.hears(ToneTrack(660.0))
        await bob.hears("alice", 660)
        assert await bob.call("mimeType", "alice", MICROPHONE) == "audio/opus"
    finally:
        await plain.leave()


async def test_fewer_frames_of_h264_are_sent_by_its_temporal_layers(tabs: Tabs) -> None:
    """H.264's payload names no layer: what is left out is known by the dependency descriptor alone."""
    alice, bob, carol = await tabs.join("alice"), await tabs.join("bob"), await tabs.join("carol")
    await alice.call("publishPicture", "red", "blue", 640, 360, 16, camera(videoCodec="h264"))
    await alice.call("layered", CAMERA, "L1T3")
    await bob.until("widthIs", "alice", CAMERA, 640, seconds=30)
    await carol.until("widthIs", "alice", CAMERA, 640, seconds=30)
    await alice.holds("async () => Object.values(await window.e2e.sending('camera')).every((e) => e.mode === 'L1T3')")
    await bob.call("wantFps", "alice", CAMERA, 4)
    quarter, whole = await asyncio.gather(frames_a_second(bob), frames_a_second(carol))
    assert quarter < 0.4 * whole, (quarter, whole)
    assert quarter > 0.15 * whole, (quarter, whole)
    await bob.shows("alice", CAMERA, "red", "blue")
    # And back, without a key frame being asked for.
    before = await bob.call("stats", "alice", CAMERA)
    await bob.call("wantFps", "alice", CAMERA, 30)
    again, whole = await asyncio.gather(frames_a_second(bob), frames_a_second(carol))
    assert again > 0.7 * whole, (again, whole)
    assert (await bob.call("stats", "alice", CAMERA))["pli"] == before["pli"]


async def frames_a_second(tab: Tab, seconds: float = 5) -> float:
    """Pictures of alice that are decoded, once what was wished before has had its time."""
    await asyncio.sleep(1.5)
    before: int = (await tab.call("stats", "alice", CAMERA))["frames"]
    await asyncio.sleep(seconds)
    after: int = (await tab.call("stats", "alice", CAMERA))["frames"]
    return (after - before) / seconds


@MODES
@pytest.mark.parametrize(("codec", "mime"), [("av1", "video/AV1"), ("vp9", "video/VP9")])
async def test_who_cannot_decode_a_codec_gets_the_backup_and_the_others_keep_it(
    tabs: Tabs, single: bool, codec: str, mime: str
) -> None:
    alice = await tabs.join("alice", single=single, dynacast=True)
    bob = await tabs.join("bob", single=single, without_decoder=codec)
    carol = await tabs.join("carol", single=single)
    backup = {"codec": "vp8", "encoding": {"maxBitrate": 400_000, "maxFramerate": 10}}
    await alice.call("publishPicture", "red", "blue", 640, 360, 10, camera(videoCodec=codec, backupCodec=backup))
    await carol.shows("alice", CAMERA, "red", "blue", seconds=30)
    await bob.shows("alice", CAMERA, "red", "blue", seconds=30)
    assert (await bob.call("stats", "alice", CAMERA))["mime"] == "video/VP8"
    assert (await carol.call("stats", "alice", CAMERA))["mime"] == mime
    assert "trackSubscriptionFailed" not in await bob.call("events")


@MODES
async def test_who_cannot_decode_the_only_codec_is_told(tabs: Tabs, single: bool) -> None:
    alice = await tabs.join("alice", single=single, dynacast=True)
    bob = await tabs.join("bob", single=single, without_decoder="av1")
    carol = await tabs.join("carol", single=single)
    await alice.call("publishPicture", "red", "blue", 640, 360, 10, camera(videoCodec="av1"))
    await carol.shows("alice", CAMERA, "red", "blue", seconds=30)
    await bob.event("trackSubscriptionFailed")
    ((sid, identity, reason),) = await bob.call("given", "trackSubscriptionFailed")
    assert (sid[:3], identity, reason) == ("TR_", "alice", 1), "SE_CODEC_UNSUPPORTED"


async def narrower(tab: Tab, width: int) -> None:
    await tab.page.wait_for_function(
        "([width]) => { const now = window.e2e.width('alice', 'camera'); return now > 0 && now < width; }",
        arg=[width],
        timeout=30_000,
    )


@MODES
async def test_a_wish_for_a_size_gets_the_smallest_layer_that_covers_it(tabs: Tabs, single: bool) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    await alice.call("publishPicture", "red", "blue", 1280, 720, 8, camera())
    await bob.until("widthIs", "alice", CAMERA, 1280, seconds=30)
    for asked, expected in ((200, 320), (500, 640), (1000, 1280), (320, 320)):
        await bob.call("wantSize", "alice", CAMERA, asked, asked * 9 // 16)
        await bob.until("widthIs", "alice", CAMERA, expected, seconds=30, what=f"{expected} for {asked}")


@MODES
async def test_layers_nobody_wants_are_not_sent(tabs: Tabs, single: bool) -> None:
    alice = await tabs.join("alice", single=single, dynacast=True)
    bob, carol = await tabs.join("bob", single=single), await tabs.join("carol", single=single)
    await alice.call("publishPicture", "green", "grey", 1280, 720, 8, camera())
    await bob.until("widthIs", "alice", CAMERA, 1280, seconds=30)
    await carol.shows("alice", CAMERA, "green", "grey")

    async def active() -> list[str]:
        return [rid for rid, entry in (await alice.call("sending", CAMERA)).items() if entry["active"]]

    assert await active() == ["q", "h", "f"]
    await bob.call("wantQuality", "alice", CAMERA, "LOW")
    await carol.call("wantQuality", "alice", CAMERA, "MEDIUM")
    await until_active(alice, ["q", "h"])
    await carol.call("subscribe", "alice", CAMERA, False)
    await until_active(alice, ["q"])
    await bob.call("wantQuality", "alice", CAMERA, "HIGH")
    await until_active(alice, ["q", "h", "f"])
    await bob.until("widthIs", "alice", CAMERA, 1280, seconds=30)
    await bob.call("subscribe", "alice", CAMERA, False)
    await until_active(alice, [])


async def until_active(tab: Tab, rids: list[str]) -> None:
    await tab.holds(
        """async ([wanted]) => {
          const sent = await window.e2e.sending('camera');
          return Object.entries(sent).filter(([, entry]) => entry.active).map(([rid]) => rid).join() === wanted;
        }""",
        ",".join(rids),
        seconds=30,
    )


@MODES
async def test_adaptive_stream_follows_the_size_of_the_element(tabs: Tabs, single: bool) -> None:
    alice = await tabs.join("alice", single=single, dynacast=True)
    bob = await tabs.join("bob", single=single, adaptiveStream={"pixelDensity": 1})
    await alice.call("publishPicture", "red", "blue", 1280, 720, 8, camera())
    await bob.until("has", "alice", CAMERA)
    await bob.call("resize", "alice", CAMERA, 1200, 675)
    await bob.until("widthIs", "alice", CAMERA, 1280, seconds=30)
    await bob.call("resize", "alice", CAMERA, 160, 90)
    await bob.until("widthIs", "alice", CAMERA, 320, seconds=30)
    await until_active(alice, ["q"])
    # Out of sight: nothing is sent to it, then nothing by anybody.
    await bob.call("resize", "alice", CAMERA, 0, 0)
    await until_active(alice, [])
    await bob.call("resize", "alice", CAMERA, 640, 360)
    await bob.until("widthIs", "alice", CAMERA, 640, seconds=30)
    await bob.shows("alice", CAMERA, "red", "blue")


async def test_a_disabled_track_pauses_and_comes_back(tabs: Tabs) -> None:
    alice, bob = await tabs.join("alice"), await tabs.join("bob")
    await alice.call("publishPicture", "red", "green", 640, 360, 15, camera())
    await bob.shows("alice", CAMERA, "red", "green")
    await bob.call("enable", "alice", CAMERA, False)
    await bob.holds(
        """async () => {
          const before = (await window.e2e.stats('alice', 'camera')).packets;
          await new Promise((done) => setTimeout(done, 700));
          return (await window.e2e.stats('alice', 'camera')).packets === before;
        }"""
    )
    frames = (await bob.call("stats", "alice", CAMERA))["frames"]
    await bob.call("enable", "alice", CAMERA, True)
    await bob.holds("async ([before]) => (await window.e2e.stats('alice', 'camera'))?.frames > before + 5", frames)


@MODES
async def test_screen_and_camera_are_two_pictures(tabs: Tabs, single: bool) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    await alice.call("publishPicture", "red", "green", 640, 360, 15, camera())
    assert await alice.call("screen", True)
    await bob.shows("alice", CAMERA, "red", "green")
    shared = await bob.until("showsSomething", "alice", SCREEN, seconds=30)
    assert shared["width"] > 0
    assert (await bob.call("published", "alice", SCREEN)).startswith("TR_VS")
    await alice.call("screen", False)
    await bob.page.wait_for_function("() => window.e2e.published('alice', 'screen_share') === null", timeout=10_000)
    await bob.shows("alice", CAMERA, "red", "green")


@MODES
async def test_devices_are_switched_on_muted_and_unmuted(tabs: Tabs, single: bool) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    await alice.call("camera", True, {"resolution": {"width": 640, "height": 360}})
    await alice.call("microphone", True)
    await bob.until("showsSomething", "alice", CAMERA)
    await bob.until("has", "alice", MICROPHONE)
    await alice.call("camera", False)
    await alice.call("microphone", False)
    await bob.event("trackMuted", count=2)
    assert await bob.call("muted", "alice", CAMERA)
    frames = (await bob.call("stats", "alice", CAMERA))["frames"]
    await alice.call("camera", True)
    await alice.call("microphone", True)
    await bob.event("trackUnmuted", count=2)
    await bob.holds("async ([before]) => (await window.e2e.stats('alice', 'camera'))?.frames > before + 5", frames)


@MODES
async def test_tracks_come_and_go_on_one_connection(tabs: Tabs, single: bool) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    colours = ["red", "green", "blue", "grey"]
    for left, right in itertools.pairwise(colours):
        await alice.call("publishPicture", left, right, 320, 180, 15, camera(simulcast=False))
        await bob.shows("alice", CAMERA, left, right)
        await alice.call("unpublish", CAMERA)
        await bob.page.wait_for_function("() => window.e2e.published('alice', 'camera') === null", timeout=10_000)
    await bob.event("trackUnsubscribed", count=3)


async def test_five_publish_and_each_gets_the_right_ones(tabs: Tabs) -> None:
    """More than the three sections of each kind that a client first offers, in both modes at once."""
    pairs = [("red", "green"), ("green", "blue"), ("blue", "red"), ("grey", "red"), ("green", "grey")]
    names = ["ann", "ben", "cay", "dan", "eve"]
    joined = [await tabs.join(name, single=bool(index % 2)) for index, name in enumerate(names)]
    for index, tab in enumerate(joined):
        await tab.call("publishPicture", *pairs[index], 320, 180, 8, camera(simulcast=False))
        await tab.call("publishTone", 400 + 200 * index, {"source": MICROPHONE})
    for tab in joined:
        for index, name in enumerate(names):
            if name != tab.identity:
                await tab.shows(name, CAMERA, *pairs[index], seconds=30)
                await tab.hears(name, 400 + 200 * index)


@MODES
async def test_the_active_speaker_and_the_quality_are_told(tabs: Tabs, single: bool) -> None:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    await alice.call("publishTone", 300, {"source": MICROPHONE})
    await bob.page.wait_for_function("() => window.e2e.speakers().join() === 'alice'", timeout=20_000)
    await alice.call("mute", MICROPHONE, True)
    await bob.page.wait_for_function("() => window.e2e.speakers().length === 0", timeout=20_000)
    for tab in (alice, bob):
        await tab.page.wait_for_function("() => window.e2e.quality('alice') === 'excellent'", timeout=20_000)


@MODES
async def test_a_page_and_the_python_sdk_see_and_hear_each_other(tabs: Tabs, people: Party, single: bool) -> None:
    page, python = await tabs.join("page", single=single), await people.join("python", single=not single)
    tone, picture = media.Tone(880), media.Picture(media.RED, media.BLUE)
    await people.sends(python, tone, picture)
    await page.call("publishTone", 440, {"source": MICROPHONE})
    await page.call("publishPicture", "green", "grey", 640, 360, 15, camera())
    await page.hears("python", 880)
    await page.until("showsSomething", "python", CAMERA)
    await media.hear_tone(await python.track("page", "audio"), 440)
    await seen_as(await python.track("page", "video"), (36, 159, 54), (128, 128, 128))


async def seen_as(track: Any, left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    """Waits for a picture whose halves have these colours, given as RGB."""
    last = None
    try:
        async with asyncio.timeout(20):
            async for last in media.look(track):
                if close(last.left, left) and close(last.right, right):
                    return
    except TimeoutError:
        pass
    raise AssertionError(f"not seen; last {last}")


def close(yuv: tuple[int, int, int], rgb: tuple[int, int, int]) -> bool:
    y, u, v = yuv[0] - 16, yuv[1] - 128, yuv[2] - 128
    found = (1.164 * y + 1.596 * v, 1.164 * y - 0.392 * u - 0.813 * v, 1.164 * y + 2.017 * u)
    return all(abs(a - b) < 45 for a, b in zip(found, rgb, strict=True))


@pytest.mark.parametrize("codec", ["vp9", "av1"])
async def test_one_viewer_goes_down_while_another_stays(tabs: Tabs, codec: str) -> None:
    """The client's own mode is L3T3_KEY: between key frames nothing of the lower layers goes to who has the largest."""
    alice, bob, carol = [await tabs.join(name) for name in ("alice", "bob", "carol")]
    options = {"source": CAMERA, "videoCodec": codec, "scalabilityMode": "L3T3_KEY", "backupCodec": False}
    await alice.call("publishPicture", "red", "green", 1280, 720, 15, options)
    for tab in (bob, carol):
        await tab.until("widthIs", "alice", CAMERA, 1280, seconds=30)
    for _ in range(2):
        for quality, width in (("LOW", 320), ("HIGH", 1280)):
            # Past the last key frame.
            await asyncio.sleep(1)
            await carol.call("wantQuality", "alice", CAMERA, quality)
            await carol.until("widthIs", "alice", CAMERA, width)
            await carol.shows("alice", CAMERA, "red", "green")
            assert await bob.call("width", "alice", CAMERA) == 1280


@MODES
@pytest.mark.parametrize("codec", ["vp8", "h264", "vp9"])  # the client cannot encrypt AV1
async def test_pages_that_encrypt_end_to_end_understand_only_each_other(tabs: Tabs, single: bool, codec: str) -> None:
    """S-31: layers are told apart although no payload can be read."""
    key = "the key of this call"
    alice, bob = [await tabs.join_encrypted(name, key, single=single) for name in ("alice", "bob")]
    mallory = await tabs.join_encrypted("mallory", "another key", single=single)
    layers = {"scalabilityMode": "L3T3_KEY"} if codec == "vp9" else {"simulcast": True}
    await alice.call("publishPicture", "red", "green", 1280, 720, 15, {"source": CAMERA, "videoCodec": codec, **layers})
    await alice.call("publishTone", 440, {"source": MICROPHONE})
    await bob.shows("alice", CAMERA, "red", "green", seconds=30)
    await bob.hears("alice", 440)
    for quality, most in (("LOW", 320), ("HIGH", 1280)):
        await bob.call("wantQuality", "alice", CAMERA, quality)
        await bob.until("widthIs", "alice", CAMERA, most, seconds=30)
        await bob.shows("alice", CAMERA, "red", "green")
    assert await mallory.until("has", "alice", CAMERA)
    assert not await mallory.call("shows", "alice", CAMERA, "red", "green")
    assert not await mallory.call("hears", "alice", 440)
