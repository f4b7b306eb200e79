"""What participants send: announced and negotiated in either order, bounded, muted, changed, ended."""

from __future__ import annotations

from typing import Any

import pytest
from livekit.protocol import models, rtc
from livekit.protocol import room as api

from sfu import border, sdp
from sfu.border import Content, Kind, LayerMode
from signaling.errors import NotFound, PreconditionFailed
from signaling.rooms import publishing
from signaling.rooms.effects import Dropped, TrackChanged
from signaling.rooms.settings import RoomSettings
from tests.signaling.rooms.world import (
    AUDIO,
    CAMERA,
    HIGH,
    LOW,
    MEDIUM,
    MICROPHONE,
    SCREEN,
    VIDEO,
    Client,
    Section,
    World,
    last_leave,
    without_permission,
)

RESPONSES = rtc.RequestResponse.Reason
SCREEN_AUDIO = models.TrackSource.SCREEN_SHARE_AUDIO


def refusal(client: Client) -> rtc.RequestResponse:
    response: rtc.RequestResponse = client.heard("request_response")[-1]
    return response


def uptrack(world: World) -> border.AddUptrack:
    added: border.AddUptrack = world.worker.of(border.AddUptrack)[-1]
    return added


# --- announcing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "source", "letters", "stream"),
    [
        (VIDEO, CAMERA, "TR_VC", "camera"),
        (AUDIO, MICROPHONE, "TR_AM", "camera"),
        (VIDEO, SCREEN, "TR_VS", "screen"),
        (AUDIO, SCREEN_AUDIO, "TR_As", "screen"),
        (VIDEO, models.TrackSource.UNKNOWN, "TR_V_", "camera"),
    ],
)
def test_an_announced_track_is_answered_at_once_and_told_to_nobody(
    world: World, kind: models.TrackType, source: models.TrackSource, letters: str, stream: str
) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    bob.forget()
    alice.announce("c1", kind, source, name="n", muted=True)
    (reply,) = alice.heard("track_published")
    assert reply.cid == "c1"
    assert (reply.track.sid[:5], reply.track.stream, reply.track.name) == (letters, stream, "n")
    assert (reply.track.type, reply.track.source, reply.track.muted) == (kind, source, True)
    assert bob.inbox == []
    assert not alice.record.info().tracks


def test_layers_are_sorted_and_numbered_whatever_their_order(world: World) -> None:
    alice = world.join("alice")
    for order in ((0, 1, 2), (2, 1, 0)):
        layers = [((LOW, 320), (MEDIUM, 640), (HIGH, 1280))[index] for index in order]
        declared = [models.VideoLayer(quality=quality, width=width) for quality, width in layers]
        alice.announce(f"c{order}", VIDEO, CAMERA, layers=declared)
        info = alice.heard("track_published")[-1].track
        assert [(layer.quality, layer.width, layer.spatial_layer) for layer in info.layers] == [
            (LOW, 320, 0),
            (MEDIUM, 640, 1),
            (HIGH, 1280, 2),
        ]
        assert info.simulcast


@pytest.mark.parametrize(
    ("grants", "request_", "reason"),
    [
        ({"can_publish": False}, {"type": AUDIO, "source": MICROPHONE}, RESPONSES.NOT_ALLOWED),
        ({"can_publish_sources": ("camera",)}, {"type": AUDIO, "source": MICROPHONE}, RESPONSES.NOT_ALLOWED),
        ({"can_publish_sources": ("camera",)}, {"type": VIDEO}, RESPONSES.NOT_ALLOWED),
        ({}, {"type": models.TrackType.DATA}, RESPONSES.UNSUPPORTED_TYPE),
        ({}, {"type": AUDIO, "cid": ""}, RESPONSES.INVALID_REQUEST),
        ({}, {"type": AUDIO, "cid": "c", "name": "\u202egpj"}, RESPONSES.INVALID_REQUEST),
        ({}, {"type": AUDIO, "sid": "TR_none"}, RESPONSES.NOT_FOUND),
        ({}, {"type": AUDIO, "name": "x" * 300}, RESPONSES.LIMIT_EXCEEDED),
    ],
)
def test_a_refused_track_is_answered_with_the_request(
    world: World, grants: dict[str, Any], request_: dict[str, Any], reason: int
) -> None:
    alice = world.join("alice", **grants)
    request = rtc.AddTrackRequest(**{"cid": "c", **request_})
    alice.say(add_track=request)
    assert refusal(alice).reason == reason
    assert refusal(alice).message
    assert refusal(alice).add_track == request
    assert not alice.record.tracks


def test_only_allowed_sources_may_be_published(world: World) -> None:
    alice = world.join("alice", can_publish_sources=("camera", "screen_share"))
    alice.publish_video("cam", source=CAMERA)
    alice.publish_video("screen", source=SCREEN)
    assert len(world.worker.uptracks) == 2


def test_tracks_are_counted_and_so_are_those_that_wait() -> None:
    """S-30"""
    world = World(RoomSettings(tracks_max=3, pending_tracks_max=2))
    alice = world.join("alice")
    for cid in ("a", "b", "c"):
        alice.announce(cid, AUDIO, MICROPHONE)
    assert len(alice.heard("track_published")) == 2
    assert refusal(alice).reason == RESPONSES.LIMIT_EXCEEDED
    for cid in ("a", "b"):
        alice.send_on(cid, "audio")
    alice.publish_audio("c")
    alice.announce("d", AUDIO, MICROPHONE)
    assert (refusal(alice).reason, len(alice.record.tracks)) == (RESPONSES.LIMIT_EXCEEDED, 3)


# --- negotiated -----------------------------------------------------------------------------------------------------


def test_a_published_track_reaches_the_worker_the_others_and_webhooks(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    bob.forget()
    info = alice.publish_video()
    added = uptrack(world)
    assert (added.kind, added.content, added.mode) == (Kind.VIDEO, Content.CAMERA, LayerMode.SIMULCAST)
    assert added.transport == alice.record.publisher.transport
    assert (added.rids, added.mid) == (("q", "h", "f"), "6")
    assert [codec.mime for codec in added.codecs] == ["video/VP8"]
    assert [(layer.spatial, layer.width, layer.height) for layer in added.layers] == [
        (0, 320, 180),
        (1, 640, 360),
        (2, 1280, 720),
    ]
    told = bob.people[alice.sid].tracks[0]
    assert (told.sid, told.mime_type, told.mid) == (info.sid, "video/VP8", "6")
    (codec,) = told.codecs
    assert (codec.mime_type, codec.mid, codec.cid) == ("video/VP8", "6", "cam")
    assert codec.video_layer_mode == models.VideoLayer.Mode.ONE_SPATIAL_LAYER_PER_STREAM
    assert bob.people[alice.sid].is_publisher
    assert TrackChanged("alice", "camera", "published") in world.effects
    assert world.notified[-1].event == "track_published"
    assert world.notified[-1].track.sid == info.sid


def test_the_offer_may_come_before_the_announcement(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.send_on("mic", "audio")
    assert not world.worker.uptracks
    assert len(alice.heard("answer")) == 2
    alice.announce("mic", AUDIO, MICROPHONE)
    assert len(world.worker.uptracks) == 1
    assert len(bob.people[alice.sid].tracks) == 1


def test_firefox_may_call_a_track_otherwise_in_its_offer(world: World) -> None:
    # Seen with Firefox 153: `a=msid:- {another id}`; what is offered under the announced id is that track all the same.
    alice, bob = world.join("alice"), world.join("bob")
    alice.announce("{page-cam}", VIDEO, CAMERA)
    alice.announce("mic", AUDIO, MICROPHONE)
    alice.announce("{page-second}", AUDIO, MICROPHONE)
    alice.send_on("{offer-cam}", "video")
    # Which is which is told by the ids that do match.
    for cid in ("{offer-second}", "mic"):
        alice.sections.append(Section(str(len(alice.sections)), "audio", sdp.Direction.SENDONLY, cid))
    alice.offer()
    world.settle()
    tracks = tuple(alice.record.tracks.values())
    assert [list(track.cids) for track in tracks] == [
        ["{offer-cam}"],
        ["mic"],
        ["{offer-second}"],
    ]
    assert [codec.cid for codec in tracks[0].info.codecs] == ["{offer-cam}"]
    assert len(world.worker.uptracks) == 3
    assert {track.mime_type for track in bob.people[alice.sid].tracks} == {"video/VP8", "audio/red"}
    alice.offer()
    world.settle()
    assert len(world.worker.uptracks) == 3, "nothing ends or begins by the next offer"


def test_what_was_said_of_a_track_holds_in_its_first_answer_whatever_firefox_calls_it(world: World) -> None:
    alice = world.join("alice")
    alice.announce("mic", AUDIO, MICROPHONE)
    alice.announce("{page-music}", AUDIO, MICROPHONE, stereo=True, disable_dtx=True, disable_red=True)
    for cid in ("{offer-music}", "mic"):
        alice.sections.append(Section(str(len(alice.sections)), "audio", sdp.Direction.SENDONLY, cid))
    alice.offer()
    world.settle()
    answer = sdp.parse(alice.heard("answer")[-1].sdp)
    music, voice = (media for media in answer.media if media.kind == "audio" and media.direction.receives)
    opus = [next(line for line in media.codecs if line.name == "opus") for media in (music, voice)]
    assert "stereo=1" in opus[0].fmtp.split(";")
    assert "usedtx=1" not in opus[0].fmtp.split(";")
    assert "red" not in [line.name for line in music.codecs]
    assert "usedtx=1" in opus[1].fmtp.split(";")
    assert "stereo=1" not in opus[1].fmtp.split(";")


@pytest.mark.parametrize(
    ("said", "mime"),
    [
        ({}, "audio/red"),
        ({"disable_red": True}, "audio/opus"),
        ({"encryption": models.Encryption.GCM}, "audio/opus"),
        ({"simulcast_codecs": [rtc.SimulcastCodec(codec="opus", cid="mic")]}, "audio/opus"),
    ],
)
def test_sound_comes_as_red_where_that_can_be_read_and_nothing_else_was_said(
    world: World, said: dict[str, Any], mime: str
) -> None:
    track = world.join("alice").publish_audio(**said)
    assert (track.mime_type, track.disable_red) == (mime, said.get("disable_red", False))


def test_what_is_announced_again_because_the_answer_was_lost_is_the_newer_track_alone(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.announce("mic", AUDIO, MICROPHONE)
    lost = alice.track("mic").sid
    world.lose_signal(alice)
    world.resume(alice)
    track = alice.publish_audio()
    assert list(alice.record.tracks) == [track.sid] != [lost]
    alice.say(mute=rtc.MuteTrackRequest(sid=track.sid, muted=True))
    assert [(told.sid, told.muted) for told in bob.people[alice.sid].tracks] == [(track.sid, True)]
    assert [command.muted for command in world.worker.of(border.UpdateUptrack)] == [True]


def test_what_is_announced_again_counts_once_among_those_that_wait() -> None:
    world = World(RoomSettings(pending_tracks_max=1))
    alice = world.join("alice")
    for _ in range(3):
        alice.announce("mic", AUDIO, MICROPHONE)
    assert len(alice.heard("track_published")) == 3
    assert len(alice.record.tracks) == 1


def test_a_section_under_the_id_of_one_that_is_sent_already_is_the_track_that_waits(world: World) -> None:
    """As when a track is published anew before its first publication has ended: in one offer one ends, one begins."""
    alice = world.join("alice")
    first = alice.publish_audio("mic", stereo=True).sid
    alice.announce("mic", AUDIO, MICROPHONE)
    second = alice.track("mic").sid
    no_longer_send(alice, "mic")
    alice.send_on("mic", "audio")
    assert list(alice.record.tracks) == [second] != [first]
    media = next(m for m in sdp.parse(alice.heard("answer")[-1].sdp).media if m.mid == alice.track("mic").mid)
    opus = next(line for line in media.codecs if line.name == "opus")
    assert "stereo=1" not in opus.fmtp.split(";"), "what was said of the second holds"


def native(world: World, identity: str) -> Client:
    client = world.client(identity, single=False)
    world.enter_with(client, client=models.ClientInfo(sdk=models.ClientInfo.SDK.PYTHON, protocol=17))
    world.connect(client)
    return client


def no_longer_send(client: Client, cid: str) -> None:
    """To be offered with what comes next."""
    for section in client.sections:
        if section.cid == cid:
            section.direction, section.cid = sdp.Direction.INACTIVE, ""


def test_a_track_that_is_published_again_is_known_whatever_libwebrtc_calls_it(world: World) -> None:
    """To a sender whose track has an id that an earlier one had it gives a random one."""
    alice, bob = native(world, "alice"), world.join("bob")
    called = "mic"
    sids = [alice.publish_audio(called).sid]
    for name in ("second", "third", "fourth"):
        if name == "fourth":
            # In one offer one ends, one begins.
            no_longer_send(alice, called)
        else:
            alice.stop_sending(called)
            assert not world.worker.uptracks
        alice.announce("mic", AUDIO, MICROPHONE)
        alice.send_on(name, "audio")
        sids.append(alice.track("mic").sid)
        assert [track.sid for track in bob.people[alice.sid].tracks] == [sids[-1]]
        assert len(world.worker.uptracks) == len(world.worker.downtracks) == 1
        called = name
    assert len(set(sids)) == 4


def test_what_a_native_client_calls_otherwise_and_has_never_sent_waits_to_be_announced(world: World) -> None:
    alice = native(world, "alice")
    alice.announce("mic", AUDIO, MICROPHONE)
    alice.send_on("other", "audio")
    assert not world.worker.uptracks
    alice.announce("other", AUDIO, MICROPHONE)
    assert len(world.worker.uptracks) == 1


def test_of_what_was_sent_so_many_names_are_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_SENT_CIDS_MAX", 2)
    alice = native(world, "alice")
    for cid in ("a", "b", "a", "c"):
        alice.publish_audio(cid)
        alice.stop_sending(cid)
    assert list(alice.record.sent_cids) == ["a", "c"]


def test_a_parked_section_that_is_withdrawn_is_not_used(world: World) -> None:
    alice = world.join("alice")
    alice.send_on("mic", "audio")
    alice.stop_sending("mic")
    alice.announce("mic", AUDIO, MICROPHONE)
    assert not world.worker.uptracks


def test_a_client_that_names_no_track_gets_the_oldest_of_its_kind(world: World) -> None:
    alice = world.join("alice")
    alice.announce("a1", AUDIO, MICROPHONE)
    alice.announce("v1", VIDEO, CAMERA)
    offer = sdp.parse(alice.description().sdp)
    nameless = [
        sdp.Media(
            kind=kind,
            mid=kind,
            direction=sdp.Direction.SENDONLY,
            codecs=sdp.supported(kind).codecs,
            ice_ufrag=offer.media[0].ice_ufrag,
            ice_pwd=offer.media[0].ice_pwd,
            fingerprints=offer.media[0].fingerprints,
            setup=sdp.Setup.ACTPASS,
            rtcp_mux=True,
        )
        for kind in ("video", "audio")
    ]
    session = sdp.Session(
        groups=(sdp.Group(semantics="BUNDLE", mids=tuple(media.mid or "" for media in (*offer.media, *nameless))),),
        media=(*offer.media, *nameless),
    )
    alice.say(offer=rtc.SessionDescription(type="offer", sdp=sdp.write(session), id=9))
    assert {track.kind: track.info.mid for track in alice.record.tracks.values()} == {
        Kind.AUDIO: "audio",
        Kind.VIDEO: "video",
    }


def test_several_tracks_of_one_offer_are_told_and_negotiated_once(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    for cid in ("a", "b", "c"):
        alice.announce(cid, VIDEO, CAMERA)
        alice.sections.append(type(alice.sections[0])(str(len(alice.sections)), "video", sdp.Direction.SENDONLY, cid))
    bob.forget()
    alice.offer()
    world.settle()
    assert len(bob.heard("update")) == 1
    assert len(bob.heard("offer")) == 1
    assert len(world.worker.downtracks) == 3
    assert world.of(TrackChanged) == [TrackChanged("alice", "camera", "published")] * 3


@pytest.mark.parametrize(
    ("codec", "layers", "mode"),
    [
        ("VP8", 1, LayerMode.SINGLE),
        ("VP8", 2, LayerMode.SIMULCAST),
        ("VP8", 3, LayerMode.SIMULCAST),
        ("VP9", 1, LayerMode.SVC),
        ("AV1", 1, LayerMode.SVC),
        ("VP9", 3, LayerMode.SVC),
    ],
)
def test_how_layers_arrive_follows_from_codec_and_streams(
    world: World, codec: str, layers: int, mode: LayerMode
) -> None:
    alice = world.join("alice")
    declared = ((LOW, 320, 180), (MEDIUM, 640, 360), (HIGH, 1280, 720))[:layers]
    alice.publish_video(layers=declared, codec=codec)
    assert uptrack(world).mode is mode
    assert len(uptrack(world).layers) == layers


@pytest.mark.parametrize("codec", ["VP9", "AV1"])
@pytest.mark.parametrize(
    ("said", "mode", "rids"),
    [
        (models.VideoLayer.Mode.MODE_UNUSED, LayerMode.SVC, ()),
        (models.VideoLayer.Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM, LayerMode.SVC, ()),
        (models.VideoLayer.Mode.ONE_SPATIAL_LAYER_PER_STREAM, LayerMode.SIMULCAST, ("q", "h", "f")),
    ],
)
def test_an_encoding_for_each_layer_is_one_stream_of_svc_unless_the_client_says_otherwise(
    world: World, codec: str, said: models.VideoLayer.Mode, mode: LayerMode, rids: tuple[str, ...]
) -> None:
    alice = world.join("alice")
    asked = rtc.SimulcastCodec(codec=codec.lower(), cid="cam", video_layer_mode=said)
    info = alice.publish_video(codec=codec, simulcast_codecs=[asked])
    assert (uptrack(world).mode, uptrack(world).rids) == (mode, rids)
    assert [layer.width for layer in uptrack(world).layers] == [320, 640, 1280]
    is_svc = mode is LayerMode.SVC
    modes = models.VideoLayer.Mode
    told = modes.MULTIPLE_SPATIAL_LAYERS_PER_STREAM if is_svc else modes.ONE_SPATIAL_LAYER_PER_STREAM
    assert [one.video_layer_mode for one in info.codecs] == [told]


def test_one_svc_stream_brings_all_declared_layers(world: World) -> None:
    alice = world.join("alice")
    declared = [
        models.VideoLayer(quality=q, width=w, height=w // 2) for q, w in ((HIGH, 1280), (LOW, 320), (MEDIUM, 640))
    ]
    alice.announce("cam", VIDEO, CAMERA, layers=declared)
    alice.send_on("cam", "video", codecs=("VP9",))
    assert uptrack(world).mode is LayerMode.SVC
    assert [layer.width for layer in uptrack(world).layers] == [320, 640, 1280]
    (codec,) = alice.track("cam").codecs
    assert codec.video_layer_mode == models.VideoLayer.Mode.MULTIPLE_SPATIAL_LAYERS_PER_STREAM


def test_of_more_layers_than_streams_the_lower_ones_are_sent(world: World) -> None:
    alice = world.join("alice")
    declared = [models.VideoLayer(quality=q, width=w) for q, w in ((LOW, 320), (MEDIUM, 640), (HIGH, 1280))]
    alice.announce("cam", VIDEO, CAMERA, layers=declared)
    alice.send_on("cam", "video", rids=("q", "h"))
    assert [layer.width for layer in uptrack(world).layers] == [320, 640]


def test_a_screen_is_known_as_one(world: World) -> None:
    world.join("alice").publish_video(source=SCREEN)
    assert uptrack(world).content is Content.SCREEN


def test_the_codec_that_was_asked_for_goes_first(world: World) -> None:
    alice = world.join("alice")
    codec = rtc.SimulcastCodec(codec="h264", cid="cam")
    alice.announce("cam", VIDEO, CAMERA, simulcast_codecs=[codec])
    alice.send_on("cam", "video", codecs=("VP8", "H264"))
    assert uptrack(world).codecs[0].mime == "video/H264"
    assert alice.track("cam").mime_type == "video/H264"


def test_a_codec_that_the_settings_do_not_allow_is_not_agreed_to() -> None:
    world = World(RoomSettings(codecs=("audio/opus", "video/VP8")))
    alice = world.join("alice")
    assert [codec.mime for codec in alice.heard("join")[0].enabled_publish_codecs] == ["audio/opus", "video/VP8"]
    alice.announce("cam", VIDEO, CAMERA)
    alice.send_on("cam", "video", codecs=("VP8", "VP9", "H264"))
    assert {codec.mime for codec in uptrack(world).codecs} == {"video/VP8"}


def test_media_of_another_codec_than_expected_is_told(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.announce("cam", VIDEO, CAMERA)
    alice.send_on("cam", "video", codecs=("VP8", "VP9"))
    world.event(border.UptrackMedia(uptrack=uptrack(world).uptrack, mime="video/VP9", layers=(0,)))
    assert bob.people[alice.sid].tracks[0].mime_type == "video/VP9"
    world.event(border.UptrackMedia(uptrack=12345, mime="video/VP9", layers=(0,)))


def test_an_offer_that_cannot_be_used_is_answered_with_why_and_a_fresh_start(world: World) -> None:
    alice = world.join("alice")
    for text in ("", "v=0", "garbage", "x" * 300_000):
        alice.say(offer=rtc.SessionDescription(type="offer", sdp=text, id=2))
    assert len([effect for effect in world.of(Dropped) if effect.reason.startswith("sdp_")]) == 4
    assert refusal(alice).message.startswith("The offer cannot be used: ")
    assert last_leave(alice).action == rtc.LeaveRequest.Action.RECONNECT
    alice.publish_audio()
    assert len(world.worker.uptracks) == 1


def test_who_begins_or_ends_publishing_is_counted_within_a_second(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    world.wait(2)

    def told() -> list[int]:
        world.wait(1)
        counts = [update.room.num_publishers for update in bob.heard("room_update")]
        bob.forget()
        return counts

    bob.forget()
    alice.send_on("mic", "audio")
    assert told() == [], "not announced yet"
    alice.announce("mic", AUDIO, MICROPHONE)
    assert told() == [1]
    alice.publish_video()
    alice.stop_sending("mic")
    assert told() == [], "she publishes as before"
    silenced = without_permission(alice.grants, can_publish=False)
    request = api.UpdateParticipantRequest(identity="alice", permission=silenced)
    world.apply(world.room.update_participant(request, world.now))
    assert told() == [0]
    spy = world.join("spy", hidden=True)
    world.wait(2)
    bob.forget()
    spy.publish_audio()
    assert told() == []


# --- muting and changing --------------------------------------------------------------------------------------------


def test_a_mute_is_told_to_all_and_to_the_worker_once(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_audio().sid
    bob.forget()
    for muted in (True, True, False):
        alice.say(mute=rtc.MuteTrackRequest(sid=sid, muted=muted))
    assert [update.participants[0].tracks[0].muted for update in bob.heard("update")] == [True, False]
    assert [command.muted for command in world.worker.of(border.UpdateUptrack)] == [True, False]
    assert world.of(TrackChanged)[1:] == [
        TrackChanged("alice", "microphone", "muted"),
        TrackChanged("alice", "microphone", "unmuted"),
    ]


def test_one_cannot_mute_what_is_anothers(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_audio().sid
    bob.say(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
    assert not alice.track("mic").muted


def test_a_mute_before_media_is_kept(world: World) -> None:
    alice = world.join("alice")
    alice.announce("mic", AUDIO, MICROPHONE)
    alice.say(mute=rtc.MuteTrackRequest(sid=alice.track("mic").sid, muted=True))
    alice.send_on("mic", "audio")
    assert uptrack(world).muted


def test_an_administrator_mutes_and_the_client_is_told_to(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_audio().sid
    world.apply(world.room.mute("alice", sid, muted=True))
    (message,) = alice.heard("mute")
    assert (message.sid, message.muted) == (sid, True)
    assert bob.people[alice.sid].tracks[0].muted
    world.apply(world.room.mute("alice", "TR_none", muted=True))
    with pytest.raises(NotFound):
        world.room.mute("nobody", sid, muted=True)


def test_an_administrator_unmutes_only_where_that_is_allowed() -> None:
    for allowed in (False, True):
        world = World(RoomSettings(enable_remote_unmute=allowed))
        alice = world.join("alice")
        sid = alice.publish_audio(muted=True).sid
        if allowed:
            world.apply(world.room.mute("alice", sid, muted=False))
            assert not alice.track("mic").muted
        else:
            with pytest.raises(PreconditionFailed, match="remote unmute not enabled"):
                world.room.mute("alice", sid, muted=False)


def test_a_mute_while_the_client_was_away_is_told_when_it_is_back(world: World) -> None:
    alice = world.join("alice")
    sid = alice.publish_audio().sid
    world.lose_signal(alice)
    world.apply(world.room.mute("alice", sid, muted=True))
    alice.forget()
    world.resume(alice)
    assert alice.order()[:3] == ["reconnect", "mute", "update"]
    assert alice.heard("mute")[0] == rtc.MuteTrackRequest(sid=sid, muted=True)


def test_what_a_client_muted_itself_is_not_muted_again_when_it_is_back(world: World) -> None:
    # Seen with the Python SDK: it was unmuted during the outage, and our word muted it for good.
    alice = world.join("alice")
    sid = alice.publish_audio().sid
    alice.say(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
    world.lose_signal(alice)
    alice.forget()
    world.resume(alice)
    assert not alice.heard("mute")
    # What an administrator muted holds until the client says otherwise.
    world.apply(world.room.mute("alice", sid, muted=True))
    alice.forget()
    world.resume(alice)
    assert alice.heard("mute")
    alice.say(mute=rtc.MuteTrackRequest(sid=sid, muted=False))
    alice.say(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
    alice.forget()
    world.resume(alice)
    assert not alice.heard("mute")


def test_new_sizes_of_layers_are_told_to_all_and_to_the_worker(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video().sid
    layers = [models.VideoLayer(quality=q, width=w, height=w) for q, w in ((HIGH, 900), (LOW, 300), (MEDIUM, 600))]
    alice.say(update_layers=rtc.UpdateVideoLayers(track_sid=sid, layers=layers))
    assert [layer.width for layer in bob.people[alice.sid].tracks[0].layers] == [300, 600, 900]
    (command,) = world.worker.of(border.UpdateUptrack)
    assert command.layers is not None
    assert [(layer.spatial, layer.width) for layer in command.layers] == [(0, 300), (1, 600), (2, 900)]


def test_features_and_size_are_told(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    audio, video = alice.publish_audio().sid, alice.publish_video().sid
    features = models.AudioTrackFeature
    alice.say(update_audio_track=rtc.UpdateLocalAudioTrack(track_sid=audio, features=[features.TF_STEREO]))
    alice.say(update_video_track=rtc.UpdateLocalVideoTrack(track_sid=video, width=99, height=55))
    told = len(bob.inbox)
    alice.say(update_video_track=rtc.UpdateLocalVideoTrack(track_sid=video, width=99, height=55))
    assert len(bob.inbox) == told, "nothing has changed"
    tracks = {track.sid: track for track in bob.people[alice.sid].tracks}
    assert (list(tracks[audio].audio_features), tracks[audio].stereo) == ([features.TF_STEREO], True)
    assert (tracks[video].width, tracks[video].height) == (99, 55)


# --- a further codec ------------------------------------------------------------------------------------------------


def test_a_backup_codec_is_a_further_section_of_the_same_track(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video(codec="vp9", layers=((HIGH, 640, 360),)).sid
    before = bob.record.subscriptions[sid].uptrack
    alice.announce("cam-vp8", VIDEO, CAMERA, sid=sid, simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid="cam-vp8")])
    assert alice.heard("track_published")[-1].track.sid == sid
    alice.send_on("cam-vp8", "video")
    assert len(world.worker.uptracks) == 2
    told = bob.people[alice.sid].tracks[0]
    assert [(codec.mime_type, codec.cid, bool(codec.mid)) for codec in told.codecs] == [
        ("video/VP9", "cam", True),
        ("video/VP8", "cam-vp8", True),
    ]
    assert told.mime_type == "video/VP9"
    # Who takes the first codec keeps it, and nobody is told of a second track.
    assert bob.record.subscriptions[sid].uptrack == before
    assert world.of(TrackChanged) == [TrackChanged("alice", "camera", "published")]


def test_when_one_codec_ends_its_subscribers_go_on_with_the_other(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video(codec="vp9", layers=((HIGH, 640, 360),)).sid
    alice.announce("cam-vp8", VIDEO, CAMERA, sid=sid, simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid="cam-vp8")])
    alice.send_on("cam-vp8", "video")
    alice.stop_sending("cam")
    (left,) = world.worker.uptracks.values()
    assert left.codecs[0].mime == "video/VP8"
    (copy,) = world.worker.downtracks.values()
    assert copy.uptrack == left.uptrack
    assert bob.record.subscriptions[sid].sent is not None
    assert sid in alice.record.tracks


def test_codecs_that_end_together_are_told_together(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    for number in range(5):
        sid = alice.publish_video(f"cam{number}", codec="vp9", layers=((HIGH, 640, 360),)).sid
        backup = rtc.SimulcastCodec(codec="vp8", cid=f"backup{number}")
        alice.announce(f"backup{number}", VIDEO, CAMERA, sid=sid, simulcast_codecs=[backup])
        alice.send_on(f"backup{number}", "video")
    bob.forget()
    for section in alice.sections:
        if section.cid.startswith("backup"):
            section.direction, section.cid = sdp.Direction.INACTIVE, ""
    alice.offer()
    world.settle()
    assert len(world.worker.uptracks) == 5
    assert len(bob.heard("update")) == 1


# --- ending ---------------------------------------------------------------------------------------------------------


def test_a_section_that_stops_ends_its_track_for_all(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    video = alice.publish_video().sid
    alice.stop_sending("mic")
    assert [track.sid for track in bob.people[alice.sid].tracks] == [video]
    assert set(bob.record.subscriptions) == {video}
    assert len(world.worker.uptracks) == len(world.worker.downtracks) == 1
    assert world.notified[-1].event == "track_unpublished"
    assert TrackChanged("alice", "microphone", "unpublished") in world.effects
    assert not alice.heard("track_unpublished")


def test_another_track_on_the_same_section_replaces_the_first(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    first = alice.publish_audio("mic1").sid
    alice.announce("mic2", AUDIO, MICROPHONE)
    next(section for section in alice.sections if section.cid == "mic1").cid = "mic2"
    alice.offer()
    world.settle()
    second = alice.track("mic2").sid
    assert [track.sid for track in bob.people[alice.sid].tracks] == [second] != [first]
    assert len(world.worker.uptracks) == 1
    assert set(bob.record.subscriptions) == {second}
