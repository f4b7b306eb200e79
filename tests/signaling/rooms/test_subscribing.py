"""What participants receive: who gets which track, in which section, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from livekit.protocol import models, rtc
from livekit.protocol import room as api

from sfu import border, sdp
from sfu.border import Want
from signaling.rooms.effects import Dropped
from tests.signaling.rooms.world import (
    HIGH,
    LOW,
    MEDIUM,
    SCREEN,
    Client,
    World,
    answer_to,
    last_leave,
    without_permission,
)

ERRORS = models.SubscriptionError
STREAM = rtc.StreamState
_SIMULCAST = models.BackupCodecPolicy.SIMULCAST


def msids(text: str) -> dict[str, tuple[str, str | None]]:
    """Stream and track id by mid."""
    return {m.mid or "": (m.msids[0].stream, m.msids[0].track) for m in sdp.parse(text).media if m.msids}


# --- how a track reaches a subscriber -------------------------------------------------------------------------------


def test_in_dual_mode_update_permission_and_offer_come_in_this_order(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    bob.forget()
    alice.forget()
    sid = alice.publish_video().sid
    assert bob.order() == ["update", "subscription_permission_update", "offer"]
    permission = bob.heard("subscription_permission_update")[0]
    assert (permission.participant_sid, permission.track_sid, permission.allowed) == (alice.sid, sid, True)
    (offer,) = bob.heard("offer")
    assert msids(offer.sdp) == {"1": (f"{alice.sid}|{sid}", sid)}
    assert dict(offer.mid_to_track_id) == {"1": sid}
    (copy,) = world.worker.downtracks.values()
    assert (copy.mid, copy.transport) == ("1", bob.record.receiving.transport)
    assert [codec.mime for codec in copy.codecs] == ["video/VP8"]
    section = sdp.parse(offer.sdp).media[1]
    assert [source.ssrc for source in section.ssrcs] == [copy.ssrc, copy.rtx_ssrc]
    assert [message.track_sid for message in alice.heard("track_subscribed")] == [sid]


def test_in_single_mode_the_client_is_asked_to_offer_and_the_answer_names_the_track(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    bob.forget()
    sid = alice.publish_audio().sid
    assert bob.order() == ["update", "subscription_permission_update", "media_sections_requirement", "answer"]
    wanted = bob.heard("media_sections_requirement")[0]
    assert (wanted.num_audios, wanted.num_videos) == (0, 0)
    (answer,) = bob.heard("answer")
    assert msids(answer.sdp) == {"0": (f"{alice.sid}|{sid}", sid)}
    assert dict(answer.mid_to_track_id) == {"0": sid}
    assert answer.id == bob.offers


def test_in_single_mode_sections_that_lack_are_asked_for_once(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    bob.answers_by_itself = False
    for number in range(5):
        alice.publish_video(f"v{number}")
    asked = [message.num_videos for message in bob.heard("media_sections_requirement")]
    assert sum(asked) == 2
    bob.catch_up()
    world.settle()
    assert len(world.worker.downtracks) == 5


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("kind", ["audio", "video"])
def test_in_single_mode_sections_that_lacked_while_the_signal_was_away_are_asked_for_after_the_resume(
    world: World, kind: str, restarts: bool
) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    publish = alice.publish_audio if kind == "audio" else alice.publish_video
    for number in range(3):
        publish(f"t{number}")
    world.lose_signal(bob)
    publish("t3")
    if restarts:
        world.restart()
        world.resume(alice)
    world.resume(bob)
    bob.offer()
    world.settle()
    assert len(world.worker.downtracks) == 4
    publish("t4")
    assert len(world.worker.downtracks) == 5


def test_in_single_mode_a_section_that_was_asked_for_without_being_heard_is_asked_for_again(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    for number in range(3):
        alice.publish_video(f"v{number}")
    bob.answers_by_itself = False
    alice.publish_video("v3")
    bob.asked, bob.must_offer, bob.answers_by_itself = [0, 0], False, True
    world.lose_signal(bob)
    world.resume(bob)
    bob.offer()
    world.settle()
    assert len(world.worker.downtracks) == 4


def test_a_newcomer_gets_what_is_there_with_the_first_description(world: World) -> None:
    alice = world.join("alice")
    audio, video = alice.publish_audio().sid, alice.publish_video().sid
    single, dual = world.join("bob"), world.join("carol", single=False)
    assert set(single.heard("answer")[0].mid_to_track_id.values()) == {audio, video}
    assert set(dual.heard("offer")[0].mid_to_track_id.values()) == {audio, video}
    assert len(world.worker.downtracks) == 4
    assert len(alice.heard("track_subscribed")) == 2


def test_while_an_offer_is_out_changes_wait_for_its_answer(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    bob.answers_by_itself = False
    bob.forget()
    for number in range(4):
        alice.publish_video(f"v{number}")
    assert len(bob.heard("offer")) == 1
    bob.catch_up()
    world.settle()
    assert len(bob.heard("offer")) == 2
    assert len(world.worker.downtracks) == 4


def test_an_answer_to_an_old_offer_is_dropped(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    alice.publish_audio()
    offer = bob.heard("offer")[-1]
    bob.answer(rtc.SessionDescription(type="offer", sdp=offer.sdp, id=offer.id))
    world.settle()
    assert Dropped("answer_stale") in world.effects
    assert len(world.worker.downtracks) == 1


def test_who_does_not_answer_an_offer_is_told_to_come_back_afresh(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    bob.answers_by_itself = False
    alice.publish_audio("first")
    world.wait(10)
    # Waits for that answer and gives no more time for it.
    alice.publish_audio("second")
    world.wait(4.9)
    assert not bob.heard("leave")
    world.wait(0.2)
    (leave,) = bob.heard("leave")
    assert (leave.reason, leave.action) == (models.DisconnectReason.STATE_MISMATCH, rtc.LeaveRequest.Action.RECONNECT)
    assert bob.sid not in world.room.core.participants


def test_who_answers_in_time_stays_and_has_as_long_for_the_next_offer(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    bob.answers_by_itself = False
    alice.publish_audio("first")
    alice.publish_audio("second")
    world.wait(14)
    assert bob.unanswered is not None
    bob.answer(bob.unanswered)
    world.settle()
    world.wait(14)
    bob.catch_up()
    world.settle()
    world.wait(60)
    assert not bob.heard("leave")
    assert len(world.worker.downtracks) == 2


def test_an_offer_that_was_lost_with_the_signal_connection_is_not_waited_for(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    bob.answers_by_itself = False
    alice.publish_audio()
    world.lose_signal(bob)
    world.wait(20)
    world.resume(bob)
    world.wait(14)
    bob.catch_up()
    world.settle()
    world.wait(60)
    assert not bob.heard("leave")
    assert len(world.worker.downtracks) == 1


def test_an_offer_that_an_administrator_has_caused_is_waited_for_as_long(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    alice.publish_audio()
    bob.answers_by_itself = False
    world.apply(world.room.remove("alice", world.now))
    world.wait(14.9)
    assert not bob.heard("leave")
    world.wait(0.2)
    assert bob.heard("leave")


def _answered(offer: rtc.SessionDescription, change: Callable[[sdp.Media], sdp.Media]) -> rtc.SessionDescription:
    """A client's answer with each of its sections changed."""
    session = sdp.parse(answer_to(offer.sdp))
    changed = msgspec.structs.replace(session, media=tuple(map(change, session.media)))
    return rtc.SessionDescription(type="answer", sdp=sdp.write(changed), id=offer.id)


def test_what_is_sent_goes_on_when_a_later_answer_only_gives_it_in_another_order(world: World) -> None:
    """As Pion's do: what it lists comes out of a map of Go's."""

    def reordered(media: sdp.Media) -> sdp.Media:
        return msgspec.structs.replace(
            media, extensions=media.extensions[::-1], codecs=media.codecs[::-1], formats=media.formats[::-1]
        )

    alice, bob = world.join("alice"), world.join("bob", single=False)
    alice.publish_audio()
    alice.publish_video()
    before = dict(world.worker.downtracks)
    assert all(len(copy.extensions) > 1 for copy in before.values())
    bob.answers_by_itself = False
    alice.publish_video("second")
    offers = len(bob.heard("offer"))
    bob.say(answer=_answered(bob.heard("offer")[-1], reordered))
    world.settle()
    assert {number: world.worker.downtracks[number] for number in before} == before
    assert len(world.worker.downtracks) == 3
    assert len(bob.heard("offer")) == offers


def test_what_looks_different_on_the_wire_is_sent_anew_under_another_ssrc(world: World) -> None:
    def without_level(media: sdp.Media) -> sdp.Media:
        kept = tuple(extension for extension in media.extensions if "audio-level" not in extension.uri)
        return msgspec.structs.replace(media, extensions=kept)

    alice, bob = world.join("alice"), world.join("bob", single=False)
    alice.publish_audio()
    (before,) = world.worker.downtracks.values()
    bob.answers_by_itself = False
    alice.publish_video()
    bob.say(answer=_answered(bob.heard("offer")[-1], without_level))
    bob.answers_by_itself = True
    bob.answer(bob.heard("offer")[-1])
    world.settle()
    (after,) = [copy for copy in world.worker.downtracks.values() if copy.uptrack == before.uptrack]
    assert after.ssrc != before.ssrc


def test_an_answer_in_single_mode_is_dropped(world: World) -> None:
    world.join("bob").say(answer=rtc.SessionDescription(type="answer", sdp="v=0"))
    assert Dropped("answer_in_single_mode") in world.effects


def test_an_answer_that_cannot_be_used_is_told_with_why(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    bob.answers_by_itself = False
    alice.publish_audio()
    offer = bob.heard("offer")[-1]
    bob.say(answer=rtc.SessionDescription(type="answer", sdp="v=0", id=offer.id))
    assert bob.heard("request_response")[-1].message.startswith("The answer cannot be used: ")
    assert last_leave(bob).action == rtc.LeaveRequest.Action.RECONNECT


def test_a_section_that_the_client_takes_away_is_not_sent_on_any_more(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    alice.publish_audio()
    assert len(world.worker.downtracks) == 1
    taken = next(iter(bob.heard("answer")[-1].mid_to_track_id))
    next(section for section in bob.sections if section.mid == taken).direction = sdp.Direction.INACTIVE
    bob.offer()
    world.settle()
    (copy,) = world.worker.downtracks.values()
    assert copy.mid != taken


@pytest.mark.parametrize("restarts", [False, True])
def test_a_publisher_hears_of_the_first_subscriber_who_came_while_his_signal_was_away(
    world: World, restarts: bool
) -> None:
    alice = world.join("alice")
    sid, other = alice.publish_audio().sid, alice.publish_video().sid
    world.lose_signal(alice)
    bob = world.enter(world.client("bob"), auto_subscribe=False)
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert len(world.worker.downtracks) == 1
    if restarts:
        world.restart()
    for _ in range(2):
        world.resume(alice)
        assert [message.track_sid for message in alice.heard("track_subscribed")] == [sid]
        world.lose_signal(alice)
    world.resume(alice)
    world.resume(bob)
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[other], subscribe=True))
    assert [message.track_sid for message in alice.heard("track_subscribed")] == [sid, other]


# --- wishes ---------------------------------------------------------------------------------------------------------


def test_without_auto_subscribe_nothing_comes_until_it_is_asked_for(world: World) -> None:
    alice = world.join("alice")
    sid = alice.publish_audio().sid
    bob = world.enter(world.client("bob"), auto_subscribe=False)
    assert not world.worker.downtracks
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert len(world.worker.downtracks) == 1
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
    assert not world.worker.downtracks
    assert len(alice.heard("track_subscribed")) == 1


def test_tracks_may_be_named_by_participant(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sids = [alice.publish_audio().sid, alice.publish_video().sid]
    named = models.ParticipantTracks(participant_sid=alice.sid, track_sids=sids)
    bob.say(subscription=rtc.UpdateSubscription(participant_tracks=[named], subscribe=False))
    assert not bob.record.subscriptions


def test_several_wishes_are_one_negotiation(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    sids = [alice.publish_video(f"v{number}").sid for number in range(3)]
    bob.forget()
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[*sids, *sids], subscribe=False))
    assert len(bob.heard("offer")) == 1


def test_an_unknown_track_is_told_as_not_found(world: World) -> None:
    bob = world.join("bob")
    bob.say(subscription=rtc.UpdateSubscription(track_sids=["TR_none", "TR_none"], subscribe=True))
    (response,) = bob.heard("subscription_response")
    assert (response.track_sid, response.err) == ("TR_none", ERRORS.SE_TRACK_NOTFOUND)
    bob.say(subscription=rtc.UpdateSubscription(track_sids=["TR_none"], subscribe=False))
    assert len(bob.heard("subscription_response")) == 1


def test_ones_own_track_is_not_subscribed_to(world: World) -> None:
    alice = world.join("alice")
    sid = alice.publish_audio().sid
    alice.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert not alice.record.subscriptions


def test_after_an_unsubscribe_the_same_track_comes_on_another_section_or_after_a_round(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    sid = alice.publish_video().sid
    for subscribe in (False, True):
        bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=subscribe))
    (copy,) = world.worker.downtracks.values()
    assert bob.heard("offer")[-1].mid_to_track_id[copy.mid] == sid


def test_an_administrator_subscribes_for_somebody(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_audio().sid
    for subscribe, count in ((False, 0), (True, 1)):
        request = api.UpdateSubscriptionsRequest(identity="bob", track_sids=[sid], subscribe=subscribe)
        world.apply(world.room.update_subscriptions(request))
        world.settle()
        assert len(bob.record.subscriptions) == len(world.worker.downtracks) == count


# --- settings of a track --------------------------------------------------------------------------------------------


def test_what_a_client_says_of_a_track_reaches_the_worker(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video().sid
    wish = rtc.UpdateTrackSettings(track_sids=[sid], quality=MEDIUM, width=640, height=360, fps=15, priority=2)
    bob.say(track_setting=wish)
    expected = Want(quality=1, width=640, height=360, fps=15, priority=2)
    assert [copy.want for copy in world.worker.downtracks.values()] == [expected]
    bob.say(track_setting=wish)
    assert len(world.worker.of(border.SetDowntrack)) == 1
    bob.say(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], disabled=True))
    assert [copy.want for copy in world.worker.downtracks.values()] == [Want(disabled=True, quality=0)]


def test_what_was_said_of_a_track_holds_when_it_is_subscribed_to_again(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video().sid
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
    bob.say(track_setting=rtc.UpdateTrackSettings(track_sids=[sid, "TR_none"], quality=LOW))
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert [copy.want for copy in world.worker.downtracks.values()] == [Want(quality=0)]
    assert set(bob.record.settings) == {sid}


# --- permission -----------------------------------------------------------------------------------------------------


def permit(client: Client, *permissions: rtc.TrackPermission, everybody: bool = False) -> None:
    client.say(
        subscription_permission=rtc.SubscriptionPermission(all_participants=everybody, track_permissions=permissions)
    )


def test_a_publisher_lets_only_some_have_his_tracks(world: World) -> None:
    alice, bob, carol = world.join("alice"), world.join("bob"), world.join("carol", single=False)
    audio, video = alice.publish_audio().sid, alice.publish_video().sid
    permit(
        alice,
        rtc.TrackPermission(participant_identity="bob", all_tracks=True),
        rtc.TrackPermission(participant_sid=carol.sid, track_sids=[audio]),
    )
    assert set(bob.record.subscriptions) == {audio, video}
    assert set(carol.record.subscriptions) == {audio}
    assert carol.refused == {video}
    assert bob.refused == set()
    assert len(world.worker.downtracks) == 3
    permit(alice, everybody=True)
    assert set(carol.record.subscriptions) == {audio, video}
    assert carol.refused == set()
    permit(alice)
    assert not world.worker.downtracks
    assert bob.refused == carol.refused == {audio, video}


def test_what_is_not_permitted_cannot_be_asked_for_and_is_told_once(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    permit(alice)
    sid = alice.publish_audio().sid
    for _ in range(2):
        bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert [message.allowed for message in bob.heard("subscription_permission_update")] == [False]
    assert not bob.record.subscriptions


def test_newcomers_are_held_to_it_too(world: World) -> None:
    alice = world.join("alice")
    sid = alice.publish_audio().sid
    permit(alice, rtc.TrackPermission(participant_identity="bob", all_tracks=True))
    bob, carol = world.join("bob"), world.join("carol")
    assert (set(bob.record.subscriptions), set(carol.record.subscriptions)) == ({sid}, set())
    assert carol.refused == {sid}


def test_a_permission_that_changed_meanwhile_is_told_at_the_resume(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_audio().sid
    world.lose_signal(bob)
    permit(alice)
    world.resume(bob)
    assert bob.refused == {sid}
    world.lose_signal(bob)
    permit(alice, everybody=True)
    world.resume(bob)
    assert bob.refused == set()


def test_who_may_not_subscribe_gets_nothing(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", can_subscribe=False)
    sid = alice.publish_audio().sid
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert not world.worker.downtracks
    request = api.UpdateParticipantRequest(
        identity="bob", permission=without_permission(bob.grants, can_subscribe=True)
    )
    world.apply(world.room.update_participant(request, world.now))
    world.settle()
    assert len(world.worker.downtracks) == 1


# --- codecs ---------------------------------------------------------------------------------------------------------


def test_a_codec_that_a_client_does_not_take_is_told_if_there_is_no_other(world: World) -> None:
    alice = world.join("alice")
    bob = world.client("bob", single=False)
    bob.codecs = ("VP8",)
    world.enter(bob)
    sid = alice.publish_video(codec="av1", layers=((HIGH, 640, 360),)).sid
    (response,) = bob.heard("subscription_response")
    assert (response.track_sid, response.err) == (sid, ERRORS.SE_CODEC_UNSUPPORTED)
    assert not world.worker.downtracks
    assert bob.record.subscriptions[sid].is_refused


@pytest.mark.parametrize("single", [True, False])
def test_a_backup_codec_is_asked_for_when_somebody_needs_it_and_then_sent(world: World, single: bool) -> None:
    alice = world.join("alice")
    bob = world.client("bob", single=single)
    bob.codecs = ("VP8",)
    for section in bob.sections:
        section.codecs = ("VP8",) if section.kind == "video" else ()
    world.enter(bob)
    world.connect(bob)
    codecs = [rtc.SimulcastCodec(codec="av1", cid="cam"), rtc.SimulcastCodec(codec="vp8", cid="")]
    sid = alice.publish_video(codec="av1", layers=((HIGH, 640, 360),), simulcast_codecs=codecs).sid
    asked = alice.heard("subscribed_quality_update")[-1]
    assert [(one.codec, [q.enabled for q in one.qualities]) for one in asked.subscribed_codecs][1] == (
        "vp8",
        [True] * 3,
    )
    assert not bob.heard("subscription_response")
    alice.announce(
        "cam2",
        models.TrackType.VIDEO,
        models.TrackSource.CAMERA,
        sid=sid,
        simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid="cam2")],
    )
    alice.send_on("cam2", "video")
    (copy,) = world.worker.downtracks.values()
    assert copy.codecs[0].mime == "video/VP8"
    assert world.worker.uptracks[copy.uptrack].codecs[0].mime == "video/VP8"
    world.wait(60)
    assert not bob.heard("subscription_response")


def _without_av1(world: World, identity: str = "bob") -> Client:
    client = world.client(identity, single=False)
    client.codecs = ("VP8",)
    world.enter(client)
    world.connect(client)
    return client


def _publish_av1(alice: Client, *backups: str, policy: models.BackupCodecPolicy = _SIMULCAST) -> str:
    codecs = [rtc.SimulcastCodec(codec="av1", cid="cam"), *(rtc.SimulcastCodec(codec=codec) for codec in backups)]
    layers = ((HIGH, 640, 360),)
    return alice.publish_video(codec="av1", layers=layers, simulcast_codecs=codecs, backup_codec_policy=policy).sid


def _send_backup(alice: Client, sid: str, codec: str) -> None:
    cid = f"cam-{codec}"
    alice.announce(
        cid,
        models.TrackType.VIDEO,
        models.TrackSource.CAMERA,
        sid=sid,
        simulcast_codecs=[rtc.SimulcastCodec(codec=codec, cid=cid)],
    )
    alice.send_on(cid, "video", codecs=(codec.upper(),))


def test_what_a_section_could_carry_does_not_serve_who_cannot_take_what_it_carries(world: World) -> None:
    """As browsers publish: every codec they know stands in the section, the one they send first."""
    alice, bob = world.join("alice"), _without_av1(world)
    alice.announce(
        "cam",
        models.TrackType.VIDEO,
        models.TrackSource.CAMERA,
        simulcast_codecs=[rtc.SimulcastCodec(codec="av1", cid="cam")],
    )
    alice.send_on("cam", "video", codecs=("AV1", "VP8"))
    (response,) = bob.heard("subscription_response")
    assert response.err == ERRORS.SE_CODEC_UNSUPPORTED
    assert not world.worker.downtracks
    # The publisher sends another one after all.
    (uptrack,) = world.worker.uptracks
    world.event(border.UptrackMedia(uptrack=uptrack, mime="video/VP8", layers=(0,)))
    (copy,) = world.worker.downtracks.values()
    assert copy.codecs[0].mime == "video/VP8"
    world.event(border.UptrackMedia(uptrack=uptrack, mime="video/AV1", layers=(0,)))
    assert not world.worker.downtracks
    assert len(bob.heard("subscription_response")) == 2


def test_who_waits_for_a_backup_codec_that_does_not_come_is_told_and_gets_it_if_it_comes_late(world: World) -> None:
    alice, bob = world.join("alice"), _without_av1(world)
    sid = _publish_av1(alice, "vp8")
    world.wait(9)
    assert not bob.heard("subscription_response")
    world.wait(2)
    (response,) = bob.heard("subscription_response")
    assert (response.track_sid, response.err) == (sid, ERRORS.SE_CODEC_UNSUPPORTED)
    _send_backup(alice, sid, "vp8")
    (copy,) = world.worker.downtracks.values()
    assert copy.codecs[0].mime == "video/VP8"


def test_who_comes_after_a_backup_codec_did_not_come_is_told_too(world: World) -> None:
    alice, _ = world.join("alice"), _without_av1(world)
    sid = _publish_av1(alice, "vp8")
    world.wait(11)
    alice.forget()
    carol = _without_av1(world, "carol")
    asked = alice.heard("subscribed_quality_update")[-1]
    assert [one.codec for one in asked.subscribed_codecs] == ["av1", "vp8"]
    world.wait(9)
    assert not carol.heard("subscription_response")
    world.wait(2)
    (response,) = carol.heard("subscription_response")
    assert (response.track_sid, response.err) == (sid, ERRORS.SE_CODEC_UNSUPPORTED)
    _send_backup(alice, sid, "vp8")
    assert {copy.codecs[0].mime for copy in world.worker.downtracks.values()} == {"video/VP8"}
    alice.forget()
    late = _without_av1(world, "late")
    world.wait(60)
    assert not alice.heard("subscribed_quality_update"), "what flows is not asked for"
    assert not late.heard("subscription_response")


def test_others_who_come_meanwhile_do_not_make_who_waits_for_a_backup_codec_wait_longer(world: World) -> None:
    alice, bob = world.join("alice"), _without_av1(world)
    _publish_av1(alice, "vp8")
    world.wait(6)
    _without_av1(world, "carol")
    world.wait(5)
    assert bob.heard("subscription_response")


def test_a_second_backup_is_asked_for_when_the_first_does_not_serve_either(world: World) -> None:
    alice, bob = world.join("alice"), _without_av1(world)
    sid = _publish_av1(alice, "h264", "vp8")
    _send_backup(alice, sid, "h264")
    assert not world.worker.downtracks
    asked = alice.heard("subscribed_quality_update")[-1]
    assert [one.codec for one in asked.subscribed_codecs] == ["av1", "h264", "vp8"]
    _send_backup(alice, sid, "vp8")
    (copy,) = world.worker.downtracks.values()
    assert copy.codecs[0].mime == "video/VP8"
    assert not bob.heard("subscription_response")


def test_with_regression_all_go_over_to_the_backup_and_the_first_codec_is_not_asked_for_any_more(world: World) -> None:
    alice, carol, bob = world.join("alice"), world.join("carol"), _without_av1(world)
    sid = _publish_av1(alice, "vp8", policy=models.BackupCodecPolicy.REGRESSION)
    assert [copy.codecs[0].mime for copy in world.worker.downtracks.values()] == ["video/AV1"]
    _send_backup(alice, sid, "vp8")
    dave = world.join("dave")
    copies = {number: copy.codecs[0].mime for number, copy in world.worker.downtracks.items()}
    numbers = {client.record.subscriptions[sid].downtrack for client in (bob, carol, dave)}
    assert copies == dict.fromkeys(numbers, "video/VP8")


# --- the end --------------------------------------------------------------------------------------------------------


def test_nobody_receives_from_one_who_hides(world: World) -> None:
    spy, bob = world.join("spy", hidden=True), world.join("bob")
    sid = spy.publish_audio().sid
    bob.say(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert not world.worker.downtracks
    assert set(bob.people) == {bob.sid}


def test_a_screen_share_and_a_camera_are_told_apart_by_their_ids(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob", single=False)
    camera, screen = alice.publish_video("c").sid, alice.publish_video("s", source=SCREEN).sid
    streams = set(msids(bob.heard("offer")[-1].sdp).values())
    assert streams == {(f"{alice.sid}|{camera}", camera), (f"{alice.sid}|{screen}", screen)}


def test_the_worker_says_what_is_paused_and_the_subscriber_is_told(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video().sid
    number = bob.record.subscriptions[sid].downtrack
    for active in (True, False):
        world.event(border.DowntrackState(downtrack=number, active=active, reason="bandwidth"))
    updates = [update.stream_states[0] for update in bob.heard("stream_state_update")]
    assert [(one.participant_sid, one.track_sid, one.state) for one in updates] == [
        (alice.sid, sid, STREAM.ACTIVE),
        (alice.sid, sid, STREAM.PAUSED),
    ]
    world.event(border.DowntrackState(downtrack=1, active=True, reason=""))
    world.lose_signal(bob)
    bob.forget()
    world.resume(bob)
    (update,) = bob.heard("stream_state_update")
    assert [one.state for one in update.stream_states] == [STREAM.PAUSED]


def test_what_was_paused_and_is_sent_anew_is_not_told_as_paused(world: World) -> None:
    alice, bob = world.join("alice"), world.join("bob")
    sid = alice.publish_video().sid
    number = bob.record.subscriptions[sid].downtrack
    world.event(border.DowntrackState(downtrack=number, active=False, reason="bandwidth"))
    mid = next(section for section in bob.sections if section.mid == world.worker.downtracks[number].mid)
    mid.direction = sdp.Direction.INACTIVE
    bob.offer()
    world.settle()
    mid.direction = sdp.Direction.RECVONLY
    bob.offer()
    world.settle()
    assert bob.record.subscriptions[sid].downtrack != number
    assert bob.record.subscriptions[sid].sent is not None
    bob.forget()
    world.lose_signal(bob)
    world.resume(bob)
    states = [one.state for update in bob.heard("stream_state_update") for one in update.stream_states]
    assert STREAM.PAUSED not in states
