"""Audio and video between Python SDKs, judged by what is decoded: the tone's frequency, the picture's colours."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from livekit import rtc

from tests.e2e.harness.media import BLUE, GREEN, GREY, RED, Picture, Tone, hear_tone, is_silent, look, see
from tests.e2e.harness.people import Party, Person

pytestmark = pytest.mark.e2e

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


def tone(party: Party, frequency_hz: float) -> Tone:
    made = Tone(frequency_hz)
    party.closes(made.stop)
    return made


def picture(party: Party, left: Any, right: Any, **options: Any) -> Picture:
    made = Picture(left, right, **options)
    party.closes(made.stop)
    return made


@MODES
async def test_each_hears_and_sees_the_other(party: Party, single: bool) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    low, high = tone(party, 440), tone(party, 1250)
    red, blue = picture(party, RED, GREEN), picture(party, BLUE, GREY)
    await alice.publish(low.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await alice.publish(red.track, source=rtc.TrackSource.SOURCE_CAMERA)
    await bob.publish(high.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await bob.publish(blue.track, source=rtc.TrackSource.SOURCE_CAMERA)
    await hear_tone(await bob.track("alice", "audio"), 440)
    await hear_tone(await alice.track("bob", "audio"), 1250)
    await see(await bob.track("alice", "video"), red)
    await see(await alice.track("bob", "video"), blue)
    heard = (await bob.publication("alice", "audio"), await bob.publication("alice", "video"))
    assert [publication.source for publication in heard] == [
        rtc.TrackSource.SOURCE_MICROPHONE,
        rtc.TrackSource.SOURCE_CAMERA,
    ]
    assert heard[0].sid.startswith("TR_AM")
    assert heard[1].sid.startswith("TR_VC")


async def test_both_modes_meet_in_one_room(party: Party) -> None:
    alice, bob = await party.join("alice", single=True), await party.join("bob", single=False)
    low, high = tone(party, 600), tone(party, 900)
    await alice.publish(low.track)
    await bob.publish(high.track)
    await hear_tone(await bob.track("alice", "audio"), 600)
    await hear_tone(await alice.track("bob", "audio"), 900)


@MODES
async def test_who_comes_later_gets_what_is_there(party: Party, single: bool) -> None:
    alice, carol = await party.join("alice", single=single), await party.join("carol", single=single)
    low, high = tone(party, 500), tone(party, 800)
    shown = picture(party, GREEN, BLUE)
    await alice.publish(low.track)
    await alice.publish(shown.track)
    await carol.publish(high.track)
    await carol.until(lambda: len(carol.publications("alice")) == 2)
    bob = await party.join("bob", single=single)
    await hear_tone(await bob.track("alice", "audio"), 500)
    await hear_tone(await bob.track("carol", "audio"), 800)
    await see(await bob.track("alice", "video"), shown)


@pytest.mark.parametrize(
    ("codec", "mime"),
    [
        (rtc.VideoCodec.VP8, "video/vp8"),
        (rtc.VideoCodec.H264, "video/h264"),
        (rtc.VideoCodec.VP9, "video/vp9"),
        (rtc.VideoCodec.AV1, "video/av1"),
    ],
    ids=["vp8", "h264", "vp9", "av1"],
)
async def test_each_codec_arrives_as_itself(party: Party, codec: Any, mime: str) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    shown = picture(party, BLUE, RED)
    await alice.publish(shown.track, video_codec=codec)
    await see(await bob.track("alice", "video"), shown)
    publication = await bob.publication("alice", "video")
    assert publication.mime_type.lower() == mime
    assert mime in await received_mimes(bob)


async def received_mimes(person: Any) -> set[str]:
    """Of the video codecs that the far end's WebRTC stack says it decodes."""
    stats = await person.room.get_rtc_stats()
    found = list(stats.subscriber_stats) + list(stats.publisher_stats)
    codecs = {entry.codec.rtc.id: entry.codec.codec.mime_type.lower() for entry in found if entry.HasField("codec")}
    used = {
        codecs.get(entry.inbound_rtp.stream.codec_id, "")
        for entry in found
        if entry.HasField("inbound_rtp") and entry.inbound_rtp.stream.kind == "video"
    }
    return used - {""}


@MODES
async def test_a_wish_for_quality_is_seen_in_the_received_size(party: Party, single: bool) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    shown = picture(party, RED, BLUE, width=1280, height=720, fps=10)
    await alice.publish(shown.track, simulcast=True, source=rtc.TrackSource.SOURCE_CAMERA)
    track = await bob.track("alice", "video")
    publication = await bob.publication("alice", "video")
    assert publication.simulcasted
    await see_width(track, 1280)
    publication.set_video_quality(rtc.VideoQuality.VIDEO_QUALITY_LOW)
    await see_width(track, 320)
    publication.set_video_quality(rtc.VideoQuality.VIDEO_QUALITY_HIGH)
    await see_width(track, 1280)


async def see_width(track: rtc.Track, width: int, seconds: float = 20) -> None:
    widths = []
    try:
        async with asyncio.timeout(seconds):
            async for seen in look(track):
                widths.append(seen.width)
                if seen.width == width and seen.shows(RED, BLUE):
                    return
    except TimeoutError:
        pass
    raise AssertionError(f"a picture {width} wide was not seen, the last ones were {widths[-5:]}")


@MODES
async def test_mute_silences_and_is_told(party: Party, single: bool) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    low = tone(party, 700)
    await alice.publish(low.track)
    track = await bob.track("alice", "audio")
    await hear_tone(track, 700)
    low.track.mute()
    await bob.event("track_muted")
    assert (await bob.publication("alice", "audio")).muted
    assert await is_silent(track, seconds=2)
    low.track.unmute()
    await bob.event("track_unmuted")
    await hear_tone(track, 700)


@MODES
async def test_unpublishing_takes_the_track_from_others_and_the_next_one_arrives(party: Party, single: bool) -> None:
    alice, bob = await party.join("alice", single=single), await party.join("bob", single=single)
    first, second = picture(party, RED, GREEN), picture(party, BLUE, GREY)
    published = await alice.publish(first.track)
    await see(await bob.track("alice", "video"), first)
    await alice.me.unpublish_track(published.sid)
    await bob.event("track_unpublished")
    await bob.until(lambda: not bob.publications("alice"))
    again = await alice.publish(second.track)
    assert again.sid != published.sid
    await see(await bob.track("alice", "video", not_sid=published.sid), second)


@MODES
async def test_a_subscriber_chooses_what_it_gets(party: Party, single: bool) -> None:
    alice = await party.join("alice", single=single)
    bob = await party.join("bob", single=single, auto_subscribe=False)
    low, shown = tone(party, 520), picture(party, GREEN, RED)
    await alice.publish(low.track)
    await alice.publish(shown.track)
    audio = await bob.publication("alice", "audio")
    await bob.publication("alice", "video")
    assert not bob.events("track_subscribed")
    audio.set_subscribed(True)
    await hear_tone(await bob.track("alice", "audio"), 520)
    assert [publication.kind for _, publication, _ in bob.events("track_subscribed")] == [rtc.TrackKind.KIND_AUDIO]
    audio.set_subscribed(False)
    await bob.event("track_unsubscribed")
    (await bob.publication("alice", "video")).set_subscribed(True)
    await see(await bob.track("alice", "video"), shown)


async def test_who_unsubscribes_may_subscribe_again(party: Party) -> None:
    alice, bob = await party.join("alice"), await party.join("bob", auto_subscribe=False)
    low = tone(party, 520)
    await alice.publish(low.track)
    audio = await bob.publication("alice", "audio")
    for time in (1, 2):
        audio.set_subscribed(True)
        await bob.event("track_subscribed", count=time)
        await hear_tone(await bob.track("alice", "audio"), 520)
        audio.set_subscribed(False)
        await bob.event("track_unsubscribed", count=time)


async def test_the_publisher_hears_of_its_first_subscriber(party: Party) -> None:
    alice, bob = await party.join("alice"), await party.join("bob", auto_subscribe=False)
    low = tone(party, 640)
    published = await alice.publish(low.track)
    publication = await bob.publication("alice", "audio")
    assert not alice.events("local_track_subscribed")
    publication.set_subscribed(True)
    async with asyncio.timeout(10):
        await published.wait_for_subscription()
    await alice.event("local_track_subscribed")


async def test_who_makes_noise_is_an_active_speaker(party: Party) -> None:
    alice, bob, carol = await party.join("alice"), await party.join("bob"), await party.join("carol")
    loud, quiet = tone(party, 300), Tone(300, amplitude=0.0)
    party.closes(quiet.stop)
    await alice.publish(loud.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await carol.publish(quiet.track, source=rtc.TrackSource.SOURCE_MICROPHONE)

    def speakers() -> list[str]:
        return [speaker.identity for (given,) in bob.events("active_speakers_changed")[-1:] for speaker in given]

    await bob.until(lambda: speakers() == ["alice"], what="alice to be the speaker")
    loud.track.mute()
    await bob.until(lambda: speakers() == [], what="nobody to speak")
    said = {speaker.identity for (given,) in bob.events("active_speakers_changed") for speaker in given}
    assert said == {"alice"}


async def test_connection_quality_is_told(party: Party) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    low = tone(party, 400)
    await alice.publish(low.track)
    await bob.track("alice", "audio")
    for person, about in ((alice, "alice"), (bob, "alice")):
        await person.until(
            lambda person=person, about=about: [  # type: ignore[misc]
                quality
                for participant, quality in person.events("connection_quality_changed")
                if participant.identity == about and quality == rtc.ConnectionQuality.QUALITY_EXCELLENT
            ],
            seconds=20,
            what=f"the quality of {about}",
        )


@MODES
async def test_what_is_encrypted_end_to_end_is_heard_by_who_has_the_key(party: Party, single: bool) -> None:
    """S-31"""

    def encrypted(key: bytes) -> rtc.RoomOptions:
        options = rtc.E2EEOptions()
        options.key_provider_options.shared_key = key
        return rtc.RoomOptions(single_peer_connection=single, encryption=options)

    people = {name: Person(name) for name in ("alice", "bob", "mallory")}
    for name, person in people.items():
        key = b"another key" if name == "mallory" else b"the key of this call"
        await person.room.connect(party.server.ws_url, party.server.token(party.room, name), encrypted(key))
        party.closes(person.leave)
    alice, bob, mallory = people.values()
    low, red = tone(party, 440), picture(party, RED, GREEN)
    await alice.publish(low.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await alice.publish(red.track, source=rtc.TrackSource.SOURCE_CAMERA, video_codec=rtc.VideoCodec.VP8)
    await hear_tone(await bob.track("alice", "audio"), 440)
    await see(await bob.track("alice", "video"), red)
    sound, sight = await mallory.track("alice", "audio"), await mallory.track("alice", "video")
    with pytest.raises(AssertionError):
        await hear_tone(sound, 440, seconds=4)
    with pytest.raises(AssertionError):
        await see(sight, red, seconds=4)
