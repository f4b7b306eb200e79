"""What one participant may cost: counts and lengths are bounded, and work follows from what a message concerns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from livekit.protocol import models, rtc

from sfu import border
from sfu.sdp import Direction
from signaling.rooms.core import LARGE_ROOM
from signaling.rooms.memory import pack
from signaling.rooms.presence import RoomFull
from signaling.rooms.settings import RoomSettings
from signaling.wire.livekit import frames
from tests.signaling.rooms.world import (
    AUDIO,
    CAMERA,
    HIGH,
    MICROPHONE,
    SCREEN,
    VIDEO,
    Client,
    Section,
    World,
    last_leave,
    unpacked,
)

RESPONSES = rtc.RequestResponse.Reason
UNITS = {
    "description_max_bytes": "bytes",
    "description_lines_max": "lines",
    "description_sections_max": "media sections",
}
LAYERS = [models.VideoLayer(width=number + 1) for number in range(17)]
LONG = [models.VideoLayer(width=320, rid="q" * 5_000)]


@pytest.mark.parametrize(
    "too_much",
    [
        {"cid": "x" * 257},
        {"name": "x" * 257},
        {"stream": "x" * 257},
        {"layers": LAYERS},
        {"simulcast_codecs": [rtc.SimulcastCodec(codec="vp8", cid=str(number)) for number in range(9)]},
        {"simulcast_codecs": [rtc.SimulcastCodec(codec="vp8", layers=LAYERS)]},
        {"simulcast_codecs": [rtc.SimulcastCodec(codec="x" * 257)]},
        {"simulcast_codecs": [rtc.SimulcastCodec(cid="x" * 257)]},
        {"audio_features": [models.AudioTrackFeature.TF_STEREO] * 33},
        {"layers": LONG},
        {"simulcast_codecs": [rtc.SimulcastCodec(codec="vp8", layers=LONG)]},
        {"simulcast_codecs": [rtc.SimulcastCodec(codec=f"{number}" * 250, cid="c" * 250) for number in range(8)]},
    ],
)
def test_an_announcement_is_bounded_in_all_its_parts(too_much: dict[str, Any]) -> None:
    world = World()
    alice = world.join("alice")
    alice.say(add_track=rtc.AddTrackRequest(**{"cid": "c", "type": VIDEO, **too_much}))
    assert alice.heard("request_response")[-1].reason == RESPONSES.LIMIT_EXCEEDED
    assert not alice.record.tracks


def test_a_further_codec_is_bounded_as_well() -> None:
    world = World()
    alice = world.join("alice")
    sid = alice.publish_video().sid
    codecs = [rtc.SimulcastCodec(codec="vp8", cid=str(number)) for number in range(9)]
    alice.say(add_track=rtc.AddTrackRequest(cid="c", type=VIDEO, sid=sid, simulcast_codecs=codecs))
    assert alice.heard("request_response")[-1].reason == RESPONSES.LIMIT_EXCEEDED
    assert len(alice.track("cam").codecs) == 1


def test_further_codecs_are_bounded_all_together() -> None:
    world = World()
    alice = world.join("alice")
    sid = alice.publish_video().sid
    for number in range(20):
        for codec in (f"codec{number}", "vp9"):
            codecs = [rtc.SimulcastCodec(codec=codec, cid=f"{codec}-{number}")]
            alice.say(add_track=rtc.AddTrackRequest(cid="c", type=VIDEO, sid=sid, simulcast_codecs=codecs))
    assert {one.reason for one in alice.heard("request_response")} == {RESPONSES.LIMIT_EXCEEDED}
    assert len(alice.track("cam").codecs) <= 8
    assert len(alice.record.tracks[sid].cids) == 8
    alice.say(add_track=rtc.AddTrackRequest(type=VIDEO, sid=sid, simulcast_codecs=[{"codec": "vp9", "layers": LONG}]))
    assert alice.heard("request_response")[-1].reason == RESPONSES.LIMIT_EXCEEDED


def test_a_track_that_its_description_gives_a_long_name_is_ended() -> None:
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    alice.announce("mic", AUDIO, MICROPHONE)
    sid = alice.heard("track_published")[-1].track.sid
    # Browsers may offer a track under another id than it was announced with.
    alice.send_on("x" * 100_000, "audio")
    assert [message.track_sid for message in alice.heard("track_unpublished")] == [sid]
    assert not alice.record.tracks
    assert not world.worker.uptracks
    assert not bob.people[alice.sid].tracks
    alice.publish_audio("again")
    assert len(bob.people[alice.sid].tracks) == 1


def test_layers_and_features_of_a_published_track_stay_bounded() -> None:
    world = World()
    alice = world.join("alice")
    audio, video = alice.publish_audio().sid, alice.publish_video().sid
    for layers in (LAYERS, LONG):
        alice.say(update_layers=rtc.UpdateVideoLayers(track_sid=video, layers=layers))
    features = [models.AudioTrackFeature.TF_STEREO] * 33
    alice.say(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid=audio, features=features))
    assert len(alice.track("cam").layers) == 3
    assert not alice.track("mic").audio_features


def test_of_what_a_client_says_of_itself_little_is_kept() -> None:
    world = World()
    bob, alice = world.join("bob"), world.client("alice")
    capability = models.ClientInfo.Capability.CAP_PACKET_TRAILER
    said = models.ClientInfo(sdk=models.ClientInfo.SDK.JS, protocol=17, browser="x" * 100_000)
    world.enter_with(alice, client=models.ClientInfo(capabilities=[capability] * 1_000_000))
    assert list(bob.people[alice.sid].capabilities) == [capability]
    world.enter_with(alice, client=said)
    assert (alice.record.protocol, alice.record.client.browser) == (17, "x" * 256)


def test_what_one_participant_can_make_others_be_told_is_less_than_a_fifth_of_what_may_wait_for_them() -> None:
    """S-49"""
    world = World()
    settings = world.settings
    bob = world.enter(world.client("bob"), auto_subscribe=False)
    huge, name = "x" * 500_000, "n" * settings.name_max_bytes
    alice = world.client("alice", can_update_own_metadata=True)
    said = models.ClientInfo(sdk=models.ClientInfo.SDK.JS, protocol=17, version=huge)
    said.capabilities.extend([models.ClientInfo.Capability.CAP_PACKET_TRAILER] * 1_000_000)
    world.enter_with(alice, client=said)
    alice.offer()
    world.settle()
    # Of every kind one that is far too large, and one that is as large as it may be told.
    metadata = "m" * settings.metadata_max_bytes
    pairs = itertools.islice(itertools.product(map(chr, range(33, 127)), repeat=2), 8_836)
    attributes = {"".join(pair): "v" for pair in pairs}
    attributes["rest"] = "v" * (settings.attributes_max_bytes - 3 * len(attributes) - 4)
    for change in (
        *({"metadata": huge}, {"name": huge}, {"attributes": {"key": huge}}, {"attributes": {huge: "v"}}),
        {"metadata": metadata, "name": name, "attributes": attributes},
    ):
        alice.say(update_metadata=rtc.UpdateParticipantMetadata(**change))
    for number in range(settings.tracks_max):
        cid = f"{number:02}"
        for rid in (huge, "r" * 1_700) if number == 0 else ("r" * 1_700,):
            layers = [models.VideoLayer(width=1, rid=rid)]
            codecs = [rtc.SimulcastCodec(codec="opus", cid=cid)]
            alice.announce(cid, AUDIO, MICROPHONE, name=name, stream=name, layers=layers, simulcast_codecs=codecs)
        alice.send_on(cid, "audio")
        sid = alice.track(cid).sid
        for rid in (huge, "r" * 1_750):
            layers = [models.VideoLayer(width=2**32 - 1, height=2**32 - 1, rid=rid)]
            alice.say(update_layers=rtc.UpdateVideoLayers(track_sid=sid, layers=layers))
        more = rtc.SimulcastCodec(codec="red", cid=name, layers=[models.VideoLayer(rid=huge)])
        alice.say(add_track=rtc.AddTrackRequest(sid=sid, simulcast_codecs=[more]))
        features = [models.AudioTrackFeature.TF_STEREO] * 32
        alice.say(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid=sid, features=features))
    for number in range(1, settings.data_tracks_max + 1):
        for text in (huge, "s" * (settings.track_max_bytes - 400)) if number == 1 else ("s" * 3_700,):
            request = rtc.PublishDataTrackRequest(pub_handle=number, name=f"{number:02}".ljust(200, "d"))
            request.frame_encoding.custom = request.schema.encoding.custom = "e" * 50
            request.schema.name = text
            alice.say(publish_data_track_request=request)
    told = bob.people[alice.sid]
    assert (len(told.tracks), len(told.data_tracks), len(told.name)) == (64, 64, 256)
    assert (told.metadata, dict(told.attributes)) == (metadata, attributes)
    assert min(info.ByteSize() for info in (*told.tracks, *told.data_tracks)) > 0.9 * settings.track_max_bytes
    assert told.ByteSize() < settings.signal_queue_max_bytes / 5
    # Nor does anything else that was said.
    assert max(message.ByteSize() for message in bob.inbox) < settings.signal_queue_max_bytes / 5


def test_a_hundred_thousand_unknown_tracks_are_answered_for_a_hundred() -> None:
    world = World()
    alice = world.join("alice")
    sids = [f"TR_{number}" for number in range(100_000)]
    alice.say(subscription=rtc.UpdateSubscription(track_sids=sids, subscribe=True))
    alice.say(track_setting=rtc.UpdateTrackSettings(track_sids=sids, disabled=True))
    updates = [rtc.UpdateDataSubscription.Update(track_sid=sid, subscribe=True) for sid in sids]
    alice.say(update_data_subscription=rtc.UpdateDataSubscription(updates=updates))
    assert len(alice.heard("subscription_response")) == 100
    record = alice.record
    assert not record.wishes
    assert not record.settings
    assert not record.data_wishes


def test_ten_thousand_permissions_are_looked_up_not_searched() -> None:
    world = World()
    alice = world.join("alice")
    others = [world.enter(world.client(f"u{number}")) for number in range(LARGE_ROOM)]
    sid = alice.publish_audio().sid
    looked: list[str] = []
    named = [rtc.TrackPermission(participant_identity=f"nobody-{number}") for number in range(10_000)]
    named.append(rtc.TrackPermission(participant_identity="u7", track_sids=[sid]))
    named.append(rtc.TrackPermission(participant_sid=others[8].sid, all_tracks=True))
    alice.say(subscription_permission=rtc.SubscriptionPermission(track_permissions=named))
    looked += [one.identity for one in others if sid in one.record.subscriptions]
    assert looked == ["u7", "u8"]
    assert len(world.room.core.permitted[alice.sid]) == 10_002
    alice.say(leave=rtc.LeaveRequest())
    assert not world.room.core.permitted


def test_of_one_name_all_that_is_permitted_counts() -> None:
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    sids = [alice.publish_audio().sid, alice.publish_video().sid]
    each = [rtc.TrackPermission(participant_identity="bob", track_sids=[sid]) for sid in sids]
    alice.say(subscription_permission=rtc.SubscriptionPermission(track_permissions=each))
    assert set(bob.record.subscriptions) == set(sids)
    more = [*each, rtc.TrackPermission(participant_identity="bob", all_tracks=True), each[0]]
    alice.say(subscription_permission=rtc.SubscriptionPermission(track_permissions=more))
    third = alice.publish_video("again").sid
    assert set(bob.record.subscriptions) == {*sids, third}


def test_what_a_resuming_client_names_is_answered_within_bounds() -> None:
    world = World()
    alice = world.join("alice")
    world.lose_signal(alice)
    tracks = [rtc.TrackPublishedResponse(track=models.TrackInfo(sid=f"TR_{number}")) for number in range(10_000)]
    world.resume(alice, sync_state=rtc.SyncState(publish_tracks=tracks))
    assert len(alice.heard("track_unpublished")) == world.settings.tracks_max


def test_tracks_that_are_announced_and_withdrawn_for_ever_leave_nothing_behind() -> None:
    """F-41"""
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    for number in range(30):
        alice.announce(f"c{number}", AUDIO, MICROPHONE)
        if number == 0:
            alice.send_on("c0", "audio")
        else:
            section = next(one for one in alice.sections if one.cid == f"c{number - 1}")
            section.cid = f"c{number}"
            alice.offer()
            world.settle()
    core = world.room.core
    assert len(core.by_track) == len(core.by_uptrack) == len(core.by_downtrack) == 1
    assert len(world.worker.uptracks) == len(world.worker.downtracks) == 1
    assert len(bob.record.subscriptions) == 1
    assert not bob.record.wishes


def test_offers_that_bring_other_sections_each_time_leave_nothing_behind() -> None:
    """S-45"""
    world = World()
    alice = world.join("alice")
    sizes = []
    for number in range(4):
        alice.sections = [
            Section(f"{number}-{one}", "audio", Direction.SENDONLY, f"{number}-{one}-{'c' * 400}", codecs=("opus",))
            for one in range(100)
        ]
        alice.offer()
        world.settle()
        sizes.append(len(unpacked(pack(alice.record))))
    assert len(alice.record.parked) == world.settings.tracks_max
    # They are compressed: other mids take a byte more or less.
    assert max(sizes) - min(sizes) < 100


def test_what_a_request_has_and_nobody_knows_is_not_kept() -> None:
    world = World()
    alice = world.join("alice")
    request = rtc.AddTrackRequest(cid="c", type=AUDIO, source=MICROPHONE)
    before = len(unpacked(pack(alice.record)))
    # A field of a number that the protocol does not have: 100 000 bytes.
    request.MergeFromString(b"\xf2\x3f\xa0\x8d\x06" + bytes(100_000))
    # As every message comes to a room: by way of the wire.
    alice.say(add_track=frames.read(rtc.SignalRequest(add_track=request).SerializeToString()).add_track)
    assert alice.track("c")
    assert len(unpacked(pack(alice.record))) < before + 1_000


def test_who_says_nothing_new_of_what_he_receives_has_nothing_remembered() -> None:
    """S-44"""
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video().sid
    core = world.room.core
    said = rtc.UpdateTrackSettings(track_sids=[sid], width=100)
    alice.say(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=1, name="d"))
    (data,) = core.by_data_track
    wish = rtc.UpdateDataSubscription(updates=[rtc.UpdateDataSubscription.Update(track_sid=data, subscribe=True)])
    bob.say(track_setting=said)
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    bob.say(update_data_subscription=wish)
    core.changed.clear()
    core.changed_little.clear()
    for _ in range(2):
        bob.say(track_setting=said)
        bob.say(track_setting=rtc.UpdateTrackSettings())
        bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
        bob.say(subscription=rtc.UpdateSubscription())
        bob.say(update_data_subscription=wish)
    assert not core.changed
    assert not core.changed_little
    bob.say(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], width=200))
    # The worker knows it already, so it may be remembered a little later.
    assert (core.changed, core.changed_little) == (set(), {bob.sid})


def test_an_overloaded_worker_takes_no_new_video_and_keeps_what_there_is() -> None:
    """F-32"""
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    camera = alice.publish_video()
    world.room.core.overload = border.Overload(level=4, memory=0)
    bob.announce("screen", VIDEO, SCREEN)
    refused = bob.heard("request_response")[-1]
    assert refused.reason == RESPONSES.LIMIT_EXCEEDED
    assert "overloaded" in refused.message
    assert not bob.record.tracks
    # Sound is taken as ever, and so is a further codec of what is there.
    bob.publish_audio()
    codecs = [rtc.SimulcastCodec(codec="vp9", cid="again")]
    alice.say(add_track=rtc.AddTrackRequest(cid="again", type=VIDEO, sid=camera.sid, simulcast_codecs=codecs))
    assert not alice.heard("request_response")
    world.room.core.overload = border.NO_OVERLOAD
    bob.announce("screen", VIDEO, SCREEN)
    assert len(bob.record.tracks) == 2


@pytest.mark.parametrize(
    ("setting", "size"),
    [
        ("description_max_bytes", lambda text: len(text.encode())),
        ("description_lines_max", lambda text: text.count("\n")),
        ("description_sections_max", lambda text: text.count("\nm=")),
    ],
)
def test_a_description_may_be_as_large_as_the_settings_say(setting: str, size: Callable[[str], int]) -> None:
    """S-45"""

    def with_sections(settings: RoomSettings) -> tuple[World, Client]:
        world = World(settings=settings)
        alice = world.join("alice")
        alice.add_sections("audio", 4)
        return world, alice

    needed = size(with_sections(RoomSettings())[1].description().sdp)
    for limit in (needed, needed - 1):
        # What tests describe is smaller than the least that an operator can set.
        world, alice = with_sections(RoomSettings().model_copy(update={setting: limit}))
        bob = world.join("bob")
        alice.forget()
        alice.offer()
        world.settle()
        assert len(alice.heard("answer")) == (limit == needed)
        if limit < needed:
            assert alice.heard("request_response")[-1].message.endswith(f"{limit} {UNITS[setting]}.")
            assert last_leave(alice).action == rtc.LeaveRequest.Action.RECONNECT
        assert not bob.heard("leave")


# --- many tracks on one connection ----------------------------------------------------------------------------------


CHROMIUM = Path(__file__).parents[3] / "sfu/core/proto/tests/fixtures/sdp/chromium_single_join.sdp"


class Browser(Client):
    """Only receives, and offers it in Chromium's own sections."""

    def description(self) -> rtc.SessionDescription:
        self.offers += 1
        head, *captured = CHROMIUM.read_bytes().decode().split("\nm=")
        text_of = {text.partition(" ")[0]: text for text in captured}
        sections = [(section.mid, section.kind) for section in self.sections] + [("data", "application")]
        head = re.sub(r"(?<=BUNDLE )[\d ]+", " ".join(mid for mid, _ in sections), head)
        named = [re.sub(r"(?<=a=mid:)\d+", mid, text_of[kind]) for mid, kind in sections]
        return rtc.SessionDescription(type="offer", sdp="\nm=".join((head, *named)), id=self.offers)

    @classmethod
    def enters(cls, world: World) -> Browser:
        plain = world.client("browser")
        browser = cls(world, plain.grants, True, sections=plain.sections)
        world.enter(browser)
        return browser

    def received(self) -> set[str]:
        return {sid for sid, one in self.record.subscriptions.items() if one.sent is not None}


def publishes(client: Client, count: int) -> list[str]:
    """So many videos, as many with one offer as may wait for it; return their sids."""
    cids = [f"c{number}" for number in range(count)]
    for first in range(0, count, 20):
        for cid in cids[first : first + 20]:
            client.announce(cid, VIDEO, CAMERA)
            client.sections.append(Section(str(len(client.sections)), "video", Direction.SENDONLY, cid, (), ("VP8",)))
        client.offer()
        client.world.settle()
    return [client.track(cid).sid for cid in cids]


def test_a_hundred_people_with_camera_and_microphone_are_received_on_one_connection() -> None:
    """S-45"""
    world = World()
    publishers = [world.enter(world.client(f"p{number}"), auto_subscribe=False) for number in range(100)]
    sids = {publisher.publish_audio().sid for publisher in publishers}
    sids |= {publisher.publish_video(layers=((HIGH, 1280, 720),)).sid for publisher in publishers}
    browser = Browser.enters(world)
    assert browser.received() == sids
    assert len(browser.description().sdp) > 590_000
    assert not [client.identity for client in (browser, *publishers) if client.heard("leave")]
    assert not browser.heard("subscription_response")


def test_nobody_is_asked_for_more_than_his_description_may_have() -> None:
    """S-45: one who publishes as much as he may, and others who publish half of it."""
    world = World()
    publishers = [world.enter(world.client(f"p{number}"), auto_subscribe=False) for number in range(16)]
    sids = [publishes(publisher, 30 if rank else 64) for rank, publisher in enumerate(publishers)]
    browser = Browser.enters(world)
    in_order = list(itertools.chain(*sids))
    received = browser.received()
    assert 390 <= len(received) < 400
    assert received == set(in_order[: len(received)])
    told = browser.heard("subscription_response")
    assert [one.track_sid for one in told] == in_order[len(received) :]
    assert len(browser.description().sdp) < world.settings.description_max_bytes
    # Those who wait come in the place of those who go.
    browser.forget()
    publishers[0].say(leave=rtc.LeaveRequest())
    assert browser.received() == set(in_order[64 : 64 + len(received)])
    assert not browser.heard("subscription_response")
    assert not [client.identity for client in (browser, *publishers[1:]) if client.heard("leave")]


@pytest.mark.parametrize(("single", "most"), [(True, 11), (False, 14)])
def test_a_track_for_which_there_is_no_section_waits_until_there_is_one(single: bool, most: int) -> None:
    """S-45: of sixteen one is kept for what he sends himself, one has data, and three are for video."""
    world = World(RoomSettings(description_sections_max=16))
    alice = world.join("alice", single=single)
    publishers = [world.enter(world.client(f"p{number}"), auto_subscribe=False) for number in range(3)]
    sids = [publisher.publish_audio(f"c{number}").sid for publisher in publishers for number in range(7)]

    def received() -> set[str]:
        return {sid for sid, one in alice.record.subscriptions.items() if one.sent is not None}

    assert received() == set(sids[:most])
    assert [one.track_sid for one in alice.heard("subscription_response")] == sids[most:]
    # Who comes back may have missed it.
    world.lose_signal(alice)
    alice.forget()
    world.resume(alice)
    assert [one.track_sid for one in alice.heard("subscription_response")] == sids[most:]
    publishers[0].say(leave=rtc.LeaveRequest())
    assert received() == set(sids[7 : 7 + most])
    assert not alice.heard("leave")
    assert len(alice.sections) <= 14


# --- each limit of RoomSettings by its default: just so much, and one more -------------------------------------------


class Limit(NamedTuple):
    """`ask` asks for the `number`th of something, or for something of that size (`is_size`)."""

    setting: str
    default: int
    ask: Callable[[Client, int], None]
    is_size: bool = False
    settings: RoomSettings = RoomSettings()


def announces(client: Client, number: int) -> None:
    client.announce(f"c{number}", AUDIO, MICROPHONE)


def publishes_data(client: Client, number: int) -> None:
    client.say(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=number, name=f"n{number}"))


def changes(**said: Callable[[int], Any]) -> Callable[[Client, int], None]:
    def ask(client: Client, size: int) -> None:
        values = {field: of(size) for field, of in said.items()}
        client.say(update_metadata=rtc.UpdateParticipantMetadata(request_id=1, **values))

    return ask


def publishes_data_of(client: Client, size: int) -> None:
    """Of which so many bytes are told."""
    number = len(client.record.data_tracks) + 1
    request = rtc.PublishDataTrackRequest(pub_handle=number, name=f"n{number}")
    request.schema.name = "s" * 1_000
    info = models.DataTrackInfo(pub_handle=number, sid="DTR_1", name=f"n{number}", schema=request.schema)
    request.schema.name += "s" * (size - info.ByteSize())
    client.say(publish_data_track_request=request)


LIMITS = [
    Limit("tracks_max", 64, announces, settings=RoomSettings(pending_tracks_max=1000)),
    Limit("pending_tracks_max", 20, announces),
    Limit("data_tracks_max", 64, publishes_data),
    Limit("track_max_bytes", 4_096, publishes_data_of, is_size=True),
    Limit("name_max_bytes", 256, changes(name=lambda size: "é" * (size // 2) + "x" * (size % 2)), is_size=True),
    Limit("metadata_max_bytes", 65_536, changes(metadata=lambda size: "x" * size), is_size=True),
    Limit("attributes_max_bytes", 65_536, changes(attributes=lambda size: {"key": "x" * (size - 3)}), is_size=True),
]


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.setting)
def test_just_so_much_is_taken_and_one_more_refused_with_a_sentence(limit: Limit) -> None:
    """S-30, S-44, S-49"""
    assert RoomSettings.model_fields[limit.setting].default == limit.default
    world = World(limit.settings)
    alice, bob = world.join("alice", can_update_own_metadata=True), world.join("bob")
    for number in [limit.default] if limit.is_size else range(1, limit.default + 1):
        limit.ask(alice, number)
    assert {response.reason for response in alice.heard("request_response")} <= {RESPONSES.OK}
    before = [str(bob.people[sid]) for sid in (alice.sid, bob.sid)]
    bob.forget()
    limit.ask(alice, limit.default + 1)
    refused = alice.heard("request_response")[-1]
    assert refused.reason == RESPONSES.LIMIT_EXCEEDED
    assert str(limit.default) in refused.message.replace(",", "")
    assert len(refused.message.split()) > 3
    assert not bob.inbox
    assert [str(bob.people[sid]) for sid in (alice.sid, bob.sid)] == before
    # Who asked too much is still there, and so are the others.
    sid = bob.publish_audio().sid
    assert sid in alice.record.subscriptions


def test_of_a_message_about_subscriptions_so_many_names_are_read() -> None:
    """S-44"""
    assert RoomSettings.model_fields["subscription_sids_max"].default == 1000
    world = World()
    alice, bob = world.join("alice"), world.join("bob")
    sid = bob.publish_audio().sid
    for unknown, is_read in ((1000, False), (999, True)):
        names = [*(f"TR_{number}" for number in range(unknown)), sid]
        alice.say(subscription=rtc.UpdateSubscription(track_sids=names, subscribe=False))
        assert (sid not in alice.record.subscriptions) is is_read


def test_a_room_takes_so_many_participants_whatever_it_was_made_for() -> None:
    assert RoomSettings.model_fields["participants_max"].default == 5000
    world = World(RoomSettings(participants_max=2), participants_max=9)
    alice, bob = world.join("alice"), world.join("bob")
    with pytest.raises(RoomFull, match="at most 2 participants"):
        world.join("carol")
    sid = alice.publish_audio().sid
    assert sid in bob.record.subscriptions
