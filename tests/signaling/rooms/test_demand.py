"""How fine a publisher must send: the worker's highest layer as qualities of each codec."""

from __future__ import annotations

import pytest
from livekit.protocol import models, rtc

from sfu import border
from tests.signaling.rooms.world import HIGH, LOW, MEDIUM, THREE_LAYERS, Client, World

QUALITIES = [LOW, MEDIUM, HIGH]


def demand(world: World, client: Client, cid: str, layer: int | None) -> rtc.SubscribedQualityUpdate:
    uptrack = client.record.tracks[client.track(cid).sid].uplinks[-1].uptrack
    world.event(border.UptrackDemand(uptrack=uptrack, max_spatial=layer))
    update: rtc.SubscribedQualityUpdate = client.heard("subscribed_quality_update")[-1]
    return update


@pytest.mark.parametrize(
    ("layers", "layer", "enabled"),
    [
        (3, None, [False, False, False]),
        (3, 0, [True, False, False]),
        (3, 1, [True, True, False]),
        (3, 2, [True, True, True]),
        # With two layers high is the upper one; there is no third to ask for.
        (2, None, [False, False, False]),
        (2, 0, [True, False, False]),
        (2, 1, [True, True, True]),
        (1, None, [False, False, False]),
        (1, 0, [True, True, True]),
    ],
)
def test_qualities_map_to_the_layers_there_are(layers: int, layer: int | None, enabled: list[bool]) -> None:
    world = World()
    alice = world.join("alice")
    sid = alice.publish_video(layers=THREE_LAYERS[:layers]).sid
    update = demand(world, alice, "cam", layer)
    assert update.track_sid == sid
    assert [(one.quality, one.enabled) for one in update.subscribed_qualities] == list(
        zip(QUALITIES, enabled, strict=True)
    )
    (codec,) = update.subscribed_codecs
    assert codec.codec == "vp8"
    assert list(codec.qualities) == list(update.subscribed_qualities)


def test_each_codec_of_a_track_has_its_own_demand() -> None:
    world = World()
    alice = world.join("alice")
    sid = alice.publish_video(codec="vp9", layers=((HIGH, 640, 360),)).sid
    codec = rtc.SimulcastCodec(codec="vp8", cid="cam2")
    alice.announce("cam2", models.TrackType.VIDEO, models.TrackSource.CAMERA, sid=sid, simulcast_codecs=[codec])
    alice.send_on("cam2", "video")
    demand(world, alice, "cam", 0)
    first = alice.record.tracks[sid].uplinks[0].uptrack
    world.event(border.UptrackDemand(uptrack=first, max_spatial=None))
    update = alice.heard("subscribed_quality_update")[-1]
    assert [(one.codec, any(q.enabled for q in one.qualities)) for one in update.subscribed_codecs] == [
        ("vp9", False),
        ("vp8", True),
    ]


def test_audio_has_no_qualities() -> None:
    world = World()
    alice = world.join("alice")
    sid = alice.publish_audio().sid
    uptrack = alice.record.tracks[sid].uplinks[0].uptrack
    world.event(border.UptrackDemand(uptrack=uptrack, max_spatial=0))
    assert not alice.heard("subscribed_quality_update")


def test_the_demand_is_told_again_after_a_resume() -> None:
    world = World()
    alice = world.join("alice")
    alice.publish_video()
    world.lose_signal(alice)
    uptrack = next(iter(world.worker.uptracks))
    world.event(border.UptrackDemand(uptrack=uptrack, max_spatial=1))
    alice.forget()
    world.resume(alice)
    (update,) = alice.heard("subscribed_quality_update")
    assert [one.enabled for one in update.subscribed_qualities] == [True, True, False]
