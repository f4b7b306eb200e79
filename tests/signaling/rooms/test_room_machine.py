"""Random histories of a room: whatever happens in whatever order, records, worker and clients' views agree."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from livekit.protocol import models, rtc
from livekit.protocol import room as api

from sfu import border
from sfu.border import IceCredentials, TransportStatus
from sfu.node import Unshown
from signaling.rooms.core import RoomCore
from signaling.rooms.memory import Unpacker, pack
from signaling.rooms.negotiation import ClientOffered, ServerOffered
from signaling.rooms.state import Participant, Subscription, Track
from signaling.rooms.subscribing import may_receive
from tests.signaling.rooms.world import (
    LOW,
    MEDIUM,
    SCREEN,
    THREE_LAYERS,
    Client,
    World,
    user_packet,
    without_permission,
)

IDENTITIES = ("ann", "bob", "cyd", "dan", "eve")
UNPACKER = Unpacker(lambda: IceCredentials(ufrag="again", pwd="a" * 24))

_people = st.integers(0, 99)
_which = st.integers(0, 99)


class RoomMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.known: list[Client] = []
        """Those who believe that they are in the room, with a signal connection or without."""
        self.published = 0
        self.shown: border.Snapshot | None = None
        """What the worker answers, and has not yet."""
        self.unshown = Unshown()
        self.asked_at = 0

    # --- choosing ----------------------------------------------------------------------------------------------------

    @property
    def core(self) -> RoomCore:
        return self.world.room.core

    def anybody(self, which: int, *, online: bool | None = None) -> Client | None:
        pool = [one for one in self.known if online is None or (one.session is not None) is online]
        return pool[which % len(pool)] if pool else None

    def record(self, client: Client) -> Participant | None:
        return self.core.participants.get(client.sid)

    def a_track(self, which: int) -> Track | None:
        tracks = [track for one in self.core.participants.values() for track in one.tracks.values()]
        return tracks[which % len(tracks)] if tracks else None

    def transports(self, client: Client) -> list[int]:
        record = self.record(client)
        both = (record.publisher, record.subscriber) if record is not None else ()
        return [one.transport for one in both if one is not None and one.is_added]

    def tidy(self) -> None:
        """Clients who were told to go, or to come back afresh, have nothing to come back to."""
        action = rtc.LeaveRequest.Action
        for client in tuple(self.known):
            leaves = client.heard("leave")
            if client.session is None and leaves and leaves[-1].action != action.RESUME:
                self.known.remove(client)
            client.forget()

    # --- coming and going --------------------------------------------------------------------------------------------

    @rule(
        identity=st.sampled_from(IDENTITIES),
        single=st.booleans(),
        auto=st.booleans(),
        hidden=st.sampled_from((False, False, False, True)),
        subscribes=st.sampled_from((True, True, True, False)),
        connected=st.booleans(),
    )
    def join(self, identity: str, single: bool, auto: bool, hidden: bool, subscribes: bool, connected: bool) -> None:
        self.world.wait(2)
        client = self.world.client(
            identity, single=single, hidden=hidden, can_subscribe=subscribes, can_update_own_metadata=True
        )
        self.known = [one for one in self.known if one.identity != identity or one.session is not None]
        self.known.append(client)
        self.world.enter(client, auto_subscribe=auto)
        if connected:
            self.world.connect(client)
        self.tidy()

    @rule(which=_people)
    def leave(self, which: int) -> None:
        client = self.anybody(which, online=True)
        if client is not None:
            client.say(leave=rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED))
            self.known.remove(client)
            assert client.session is None

    @rule(which=_people)
    def lose_signal(self, which: int) -> None:
        client = self.anybody(which, online=True)
        if client is not None:
            self.world.lose_signal(client)
        self.tidy()

    @rule(which=_people)
    def resume(self, which: int) -> None:
        client = self.anybody(which)
        if client is not None:
            client.answers_by_itself, client.unanswered = True, None
            self.world.resume(client)
            if client.session is not None and client.is_single:
                client.ufrag += "x"
                client.offer()
                self.world.settle()
        self.tidy()

    @rule(
        which=_people, state=st.sampled_from([s for s in TransportStatus if s is not TransportStatus.NEW]), pick=_which
    )
    def media_changes(self, which: int, state: TransportStatus, pick: int) -> None:
        client = self.anybody(which)
        numbers = self.transports(client) if client is not None else []
        if numbers:
            self.world.transport(numbers[pick % len(numbers)], state, "by_chance")
        self.tidy()

    @rule(which=_people, pick=_which)
    def nobody_answers(self, which: int, pick: int) -> None:
        client = self.anybody(which)
        numbers = self.transports(client) if client is not None else []
        if numbers:
            self.world.unanswered(numbers[pick % len(numbers)])
        self.tidy()

    @rule(which=_people)
    def connect(self, which: int) -> None:
        client = self.anybody(which)
        if client is not None:
            self.world.connect(client)

    @rule(seconds=st.sampled_from((0.05, 0.5, 6.0, 25.0, 130.0)))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)
        self.tidy()

    @rule(lost=st.sampled_from((None, None, *IDENTITIES)))
    def restart(self, lost: str | None) -> None:
        """Signaling dies and comes back; meanwhile one participant's media may have failed."""
        self.world.restart()
        self.shown = None
        states = {} if lost is None else {lost: TransportStatus.FAILED}
        self.world.apply(self.world.room.attach(self.world.snapshot(**states), frozenset(), self.world.now))
        self.tidy()

    @rule()
    def ask_for_a_snapshot(self) -> None:
        """The connection to the worker broke and was made anew."""
        known = {
            connection.transport: TransportStatus.CONNECTED if connection.is_connected else TransportStatus.CONNECTING
            for record in self.core.participants.values()
            for connection in (record.publisher, record.subscriber)
            if connection is not None
        }
        shown = self.world.snapshot()
        transports = [
            msgspec.structs.replace(one, state=known.get(one.transport, one.state)) for one in shown.transports
        ]
        self.shown, self.unshown = msgspec.structs.replace(shown, transports=tuple(transports)), Unshown()
        self.unshown.sent([border.TakeSnapshot()])
        self.asked_at = len(self.world.worker.log)

    @precondition(lambda self: self.shown is not None)
    @rule()
    def snapshot_arrives(self) -> None:
        """It is right about what it shows: nobody has to leave, nothing has to go."""
        assert self.shown is not None
        shown, self.shown = self.shown, None
        people, commands = set(self.core.participants), list(self.world.worker.log)
        self.unshown.sent(commands[self.asked_at :])
        self.world.apply(self.world.room.attach(shown, self.unshown.end(), self.world.now))
        assert set(self.core.participants) == people
        assert self.world.worker.log == commands
        self.tidy()

    @rule(which=_people)
    def remove(self, which: int) -> None:
        client = self.anybody(which)
        if client is not None and client.identity in self.core.by_identity:
            self.world.apply(self.world.room.remove(client.identity, self.world.now))
        self.tidy()

    # --- publishing --------------------------------------------------------------------------------------------------

    @rule(which=_people, kind=st.sampled_from(("audio", "one", "three", "screen", "data")))
    def publish(self, which: int, kind: str) -> None:
        client = self.anybody(which, online=True)
        if client is None or len(client.sections) > 16:
            return
        self.published += 1
        cid = f"{kind}{self.published}"
        match kind:
            case "audio":
                client.announce(cid, models.TrackType.AUDIO, models.TrackSource.MICROPHONE)
                client.send_on(cid, "audio")
            case "one":
                client.announce(cid, models.TrackType.VIDEO, models.TrackSource.CAMERA)
                client.send_on(cid, "video")
            case "three":
                layers = [models.VideoLayer(quality=q, width=w, height=h) for q, w, h in THREE_LAYERS]
                # The offer may come first.
                client.send_on(cid, "video", rids=("q", "h", "f"))
                client.announce(cid, models.TrackType.VIDEO, models.TrackSource.CAMERA, layers=layers)
            case "screen":
                client.announce(cid, models.TrackType.VIDEO, SCREEN)
            case "data":
                request = rtc.PublishDataTrackRequest(pub_handle=self.published % 5 + 1, name=cid)
                client.say(publish_data_track_request=request)
        self.tidy()

    @rule(which=_people, pick=_which)
    def unpublish(self, which: int, pick: int) -> None:
        client = self.anybody(which, online=True)
        cids = [section.cid for section in client.sections if section.cid] if client is not None else []
        if client is not None and cids:
            client.stop_sending(cids[pick % len(cids)])

    @rule(which=_people, pick=st.integers(1, 5))
    def unpublish_data(self, which: int, pick: int) -> None:
        client = self.anybody(which, online=True)
        if client is not None:
            client.say(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=pick))

    @rule(which=_people, pick=_which, muted=st.booleans(), by_server=st.booleans())
    def mute(self, which: int, pick: int, muted: bool, by_server: bool) -> None:
        client = self.anybody(which, online=True)
        record = self.record(client) if client is not None else None
        if client is None or record is None or not record.tracks:
            return
        sid = list(record.tracks)[pick % len(record.tracks)]
        if by_server and muted:
            self.world.apply(self.world.room.mute(client.identity, sid, muted))
        else:
            client.say(mute=rtc.MuteTrackRequest(sid=sid, muted=muted))

    # --- subscribing -------------------------------------------------------------------------------------------------

    @rule(which=_people, pick=_which, subscribe=st.booleans())
    def subscribe(self, which: int, pick: int, subscribe: bool) -> None:
        client, track = self.anybody(which, online=True), self.a_track(pick)
        if client is not None and track is not None:
            client.say(subscription=rtc.UpdateSubscription(track_sids=[track.sid, "TR_none"], subscribe=subscribe))

    @rule(which=_people, pick=_which, quality=st.sampled_from((LOW, MEDIUM)), disabled=st.booleans())
    def wish(self, which: int, pick: int, quality: models.VideoQuality, disabled: bool) -> None:
        client, track = self.anybody(which, online=True), self.a_track(pick)
        if client is not None and track is not None:
            wish = rtc.UpdateTrackSettings(track_sids=[track.sid], quality=quality, disabled=disabled)
            client.say(track_setting=wish)

    @rule(
        which=_people, everybody=st.booleans(), who=st.sampled_from(IDENTITIES), pick=_which, all_tracks=st.booleans()
    )
    def permit(self, which: int, everybody: bool, who: str, pick: int, all_tracks: bool) -> None:
        client, track = self.anybody(which, online=True), self.a_track(pick)
        if client is not None:
            one = rtc.TrackPermission(
                participant_identity=who, all_tracks=all_tracks, track_sids=[track.sid] if track is not None else []
            )
            message = rtc.SubscriptionPermission(all_participants=everybody, track_permissions=[one])
            client.say(subscription_permission=message)

    @rule(which=_people, pick=_which, subscribe=st.booleans())
    def subscribe_to_data(self, which: int, pick: int, subscribe: bool) -> None:
        client = self.anybody(which, online=True)
        sids = [track.info.sid for one in self.core.participants.values() for track in one.data_tracks.values()]
        if client is not None and sids:
            update = rtc.UpdateDataSubscription.Update(track_sid=sids[pick % len(sids)], subscribe=subscribe)
            client.say(update_data_subscription=rtc.UpdateDataSubscription(updates=[update]))

    @rule(which=_people)
    def fall_silent(self, which: int) -> None:
        """The client is slow: it answers later."""
        client = self.anybody(which, online=True)
        if client is not None:
            client.answers_by_itself = False

    @rule(which=_people)
    def catch_up(self, which: int) -> None:
        client = self.anybody(which, online=True)
        if client is not None and not client.answers_by_itself:
            client.catch_up()
            self.world.settle()

    # --- changing ----------------------------------------------------------------------------------------------------

    @rule(
        which=_people,
        hidden=st.booleans(),
        can_subscribe=st.booleans(),
        can_publish=st.booleans(),
        can_publish_data=st.booleans(),
    )
    def change_permission(self, which: int, **rights: bool) -> None:
        client = self.anybody(which)
        record = self.record(client) if client is not None else None
        if client is not None and record is not None and self.core.by_identity.get(client.identity) is record:
            permission = without_permission(record.grants, **rights)
            request = api.UpdateParticipantRequest(room="lobby", identity=client.identity, permission=permission)
            self.world.apply(self.world.room.update_participant(request, self.world.now))
            self.world.settle()
        self.tidy()

    @rule(which=_people, text=st.sampled_from(("", "x", "yy")))
    def change_self(self, which: int, text: str) -> None:
        client = self.anybody(which, online=True)
        if client is not None:
            change = rtc.UpdateParticipantMetadata(metadata=text, name=text, attributes={"a": text}, request_id=5)
            client.say(update_metadata=change)

    # --- the worker --------------------------------------------------------------------------------------------------

    @rule(pick=_which, layer=st.sampled_from((None, 0, 1, 2)), active=st.booleans())
    def worker_says(self, pick: int, layer: int | None, active: bool) -> None:
        uptracks = list(self.core.by_uptrack)
        if uptracks:
            number = uptracks[pick % len(uptracks)]
            self.world.event(border.UptrackDemand(uptrack=number, max_spatial=layer))
            self.world.event(
                border.UptrackMedia(uptrack=number, mime="video/VP8" if active else "video/AV1", layers=(0,))
            )
            speaker = border.Speaker(uptrack=number, level=0.5, active=active)
            self.world.event(border.Speakers(room=7, speakers=(speaker,)))
        downtracks = list(self.core.by_downtrack)
        if downtracks:
            number = downtracks[pick % len(downtracks)]
            self.world.event(border.DowntrackState(downtrack=number, active=active, reason="by_chance"))
        transports = list(self.core.by_transport)
        reports = [border.TransportQuality(transport=number, has_media=True, loss_up=0.1) for number in transports]
        self.world.apply(self.world.room.quality(reports))

    @precondition(lambda self: self.core.by_transport)
    @rule(which=_people, pick=_which)
    def say_data(self, which: int, pick: int) -> None:
        client = self.anybody(which)
        record = self.record(client) if client is not None else None
        if client is not None and record is not None and record.publisher.is_added:
            self.world.data(client, user_packet(b"hello", sequence=pick))

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def indices_agree_with_records(self) -> None:
        core = self.core
        people = core.participants.values()
        assert core.by_identity == {one.identity: one for one in people}
        assert core.by_session == {one.session: one for one in people if one.session is not None}
        connections = [(c, one) for one in people for c in (one.publisher, one.subscriber) if c is not None]
        assert core.by_transport == {c.transport: one for c, one in connections if c.is_added}
        assert {number: found[2] for number, found in core.by_uptrack.items()} == {
            uplink.uptrack: uplink for one in people for track in one.tracks.values() for uplink in track.uplinks
        }
        assert {number: found[1] for number, found in core.by_downtrack.items()} == {
            copy.downtrack: copy for one in people for copy in one.subscriptions.values()
        }
        assert set(core.by_track) == {sid for one in people for sid in one.tracks}
        assert set(core.by_data_track) == {t.info.sid for one in people for t in one.data_tracks.values()}
        assert core.speaking.keys() <= core.participants.keys()

    @invariant()
    def the_worker_has_exactly_what_the_room_has(self) -> None:
        core, worker = self.core, self.world.worker
        assert worker.transports.keys() == core.by_transport.keys()
        assert worker.uptracks.keys() == core.by_uptrack.keys()
        for number, (publisher, track, _) in core.by_uptrack.items():
            assert worker.uptracks[number].transport == publisher.publisher.transport
            assert worker.uptracks[number].muted == track.info.muted
        sent = {number: found for number, found in core.by_downtrack.items() if found[1].sent is not None}
        assert worker.downtracks.keys() == sent.keys()
        for number, (subscriber, copy) in sent.items():
            added = worker.downtracks[number]
            assert (added.uptrack, added.transport, added.want) == (
                copy.uptrack,
                subscriber.receiving.transport,
                copy.want,
            )
        data = {t.data_uptrack: one for one in core.participants.values() for t in one.data_tracks.values()}
        started = {number for number, one in data.items() if one.publisher.is_added}
        assert worker.data_uptracks.keys() == started
        assert worker.data_downtracks == {
            (core.by_data_track[sid][1].data_uptrack, one.receiving.transport): handle
            for one in core.participants.values()
            for sid, handle in one.data_subscriptions.items()
            if one.receiving.is_added and core.by_data_track[sid][0].publisher.is_added
        }

    @invariant()
    def everybody_gets_what_he_wishes_and_may_have(self) -> None:
        people = self.core.participants.values()
        for subscriber in people:
            due = {
                track.sid
                for publisher in people
                for track in publisher.tracks.values()
                if publisher is not subscriber
                and track.is_published
                and may_receive(publisher, subscriber)
                and subscriber.wishes.get(track.sid, subscriber.auto_subscribe)
                and allows_plainly(publisher, subscriber, track)
            }
            assert set(subscriber.subscriptions) == due
            data_due = {
                track.info.sid
                for publisher in people
                for track in publisher.data_tracks.values()
                if publisher is not subscriber
                and may_receive(publisher, subscriber)
                and subscriber.data_wishes.get(track.info.sid, subscriber.auto_subscribe_data)
            }
            assert set(subscriber.data_subscriptions) == data_due
            assert len(set(subscriber.data_subscriptions.values())) == len(data_due)

    @invariant()
    def whoever_answers_gets_media(self) -> None:
        for client in self.known:
            record = self.record(client)
            if client.session is None or record is None or not client.answers_by_itself:
                continue
            assert not [copy for copy in record.subscriptions.values() if not is_served(copy)]

    @invariant()
    def rights_are_kept(self) -> None:
        for one in self.core.participants.values():
            assert all(one.grants.may_publish(track.info.source) for track in one.tracks.values())
            assert one.grants.can_publish_data or not one.data_tracks

    @invariant()
    def views_converge(self) -> None:
        self.world.wait(0.2)
        for client in self.known:
            record = self.record(client)
            if client.session is None:
                continue
            assert record is not None
            assert record.session == client.session
            truth = {info.sid: info for info in (*self.core.visible_to(record), record.info())}
            assert client.people == truth
            assert client.speaking == {
                sid for sid in self.core.speaking if sid == client.sid or not self.core.participants[sid].is_hidden
            }
            assert client.handles == {handle: sid for sid, handle in record.data_subscriptions.items()}
            assert client.refused == record.refused_to
            assert client.tokens[-1].permission() == record.grants.permission()

    @invariant()
    def memory_is_faithful(self) -> None:
        for one in self.core.participants.values():
            again = UNPACKER.participant(pack(one))
            for field in fields(Participant):
                assert same(getattr(one, field.name), getattr(again, field.name)), field.name
        assert UNPACKER.room(pack(self.core.record)) == self.core.record

    @invariant()
    def everybody_is_heard_of_again(self) -> None:
        """Nobody without signal or media stays for ever."""
        for one in self.core.participants.values():
            kinds = {kind for kind, sid in self.core.timers if sid == one.sid}
            assert one.session is not None or kinds & {"absent", "gone", "connect"}
            assert one.primary.was_connected or kinds & {"connect", "absent"}
        assert self.core.participants or ("room", "") in self.core.timers or self.core.is_over


def allows_plainly(publisher: Participant, subscriber: Participant, track: Track) -> bool:
    permissions = publisher.permissions
    return (
        permissions is None
        or permissions.all_participants
        or any(
            (one.participant_identity or one.participant_sid) in (subscriber.identity, subscriber.sid)
            and (one.all_tracks or track.sid in one.track_sids)
            for one in permissions.track_permissions
        )
    )


def is_served(copy: Subscription) -> bool:
    return copy.sent is not None or copy.is_refused


def same(one: Any, other: Any) -> bool:
    if isinstance(one, ClientOffered | ServerOffered):
        return isinstance(other, type(one)) and bool(one.state == other.state)
    return bool(one == other)


RoomMachine.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestRoomHistories = pytest.mark.slow(pytest.mark.timeout(600)(RoomMachine.TestCase))
