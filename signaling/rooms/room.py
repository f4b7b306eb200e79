"""A room: what comes in, and the effects that go out. One object per room, no I/O, no clock.

Every method takes what happened and the moment, and returns all that follows, in order. The rules are in the modules
beside this one; here is only which of them a message, an event or a timer concerns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any

from livekit.protocol import models, rtc
from livekit.protocol import room as api

from sfu import border
from signaling.errors import InvalidRequest, NotFound, PreconditionFailed
from signaling.rooms import data, demand, own_state, presence, publishing, quality, subscribing
from signaling.rooms.core import Moment, Reason, RoomCore, ServerFacts, Sources, WorkerSide
from signaling.rooms.effects import Effect, Ended, RpcEnded, SessionId
from signaling.rooms.names import check_size
from signaling.rooms.presence import JoinParameters
from signaling.rooms.settings import RoomSettings
from signaling.rooms.state import Participant, RoomRecord

_Action = rtc.LeaveRequest.Action


class Room:
    """`RoomCore` has the records; this is the only way to them from outside."""

    def __init__(
        self, record: RoomRecord, settings: RoomSettings, server: ServerFacts, worker: WorkerSide, sources: Sources
    ) -> None:
        self.core = RoomCore(record, settings, server, worker, sources)
        self._cache = data.ReliableCache(settings.reliable_cache_seconds, settings.reliable_cache_max_bytes)

    # --- a room's life -----------------------------------------------------------------------------------------------

    def open(self, now: Moment) -> list[Effect]:
        """Begin: nobody is there yet."""
        core = self.core
        core.notify("room_started")
        core.changed.add(core.record.sid)
        presence.keep_open(core, now)
        return self._effects()

    def revive(self, participants: Iterable[Participant], now: Moment) -> list[Effect]:
        """Go on after a restart of signaling: media has lived on, signal connections have not."""
        core = self.core
        for participant in participants:
            participant.session = None
            core.participants[participant.sid] = participant
            core.by_identity[participant.identity] = participant
            for connection in (participant.publisher, participant.subscriber):
                if connection is not None and connection.is_added:
                    core.by_transport[connection.transport] = participant
            core.by_track.update({sid: (participant, track) for sid, track in participant.tracks.items()})
            core.by_data_track.update({t.info.sid: (participant, t) for t in participant.data_tracks.values()})
            for track in participant.tracks.values():
                core.by_uptrack.update({uplink.uptrack: (participant, track, uplink) for uplink in track.uplinks})
            for subscription in participant.subscriptions.values():
                core.by_downtrack[subscription.downtrack] = (participant, subscription)
            core.timers.set(("absent", participant.sid), now.seconds + core.settings.signal_absence_seconds)
            if not participant.primary.was_connected:
                core.timers.set(("connect", participant.sid), now.seconds + core.settings.connect_seconds)
        presence.keep_open(core, now)
        return self._effects()

    def close(
        self, reason: models.DisconnectReason, now: Moment, action: rtc.LeaveRequest.Action = _Action.DISCONNECT
    ) -> list[Effect]:
        """End: everybody is told to go."""
        self._everybody_out(reason, now, action)
        self._end()
        return self._effects()

    def worker_lost(self, now: Moment) -> list[Effect]:
        """The worker is gone with all media: clients come back afresh, to another one. The room lives on."""
        self._everybody_out(Reason.STATE_MISMATCH, now, _Action.RECONNECT)
        return self._effects()

    def move(self, worker: WorkerSide) -> None:
        """Newcomers are served by another worker from now on."""
        self.core.worker = worker

    def _everybody_out(self, reason: models.DisconnectReason, now: Moment, action: rtc.LeaveRequest.Action) -> None:
        for participant in tuple(self.core.participants.values()):
            presence.leave(self.core, participant, reason, now, is_told=True, action=action)

    def _end(self) -> None:
        core = self.core
        if not core.is_over:
            core.is_over = True
            core.notify("room_finished")
            core.out.append(Ended())

    # --- signal connections ------------------------------------------------------------------------------------------

    def join(self, session: SessionId, parameters: JoinParameters, now: Moment) -> list[Effect]:
        """Raises a `Refusal`; `JoinParameters` were checked by `presence.check`."""
        presence.check_place(self.core, parameters.grants, now)
        presence.join(self.core, session, parameters, now)
        self._follow_up(now)
        return self._effects()

    def resume(self, session: SessionId, parameters: JoinParameters, now: Moment) -> list[Effect]:
        presence.resume(self.core, session, parameters, self._cache, now)
        participant, permission = self.core.by_session.get(session), parameters.grants.permission()
        # Whoever admitted him to a managed room may have changed his rights; other tokens may be older than what holds.
        if participant is not None and parameters.grants.managed and permission != participant.grants.permission():
            own_state.change(self.core, participant, permission=permission, now=now)
        self._follow_up(now)
        return self._effects()

    def request(self, session: SessionId, request: rtc.SignalRequest, now: Moment) -> list[Effect]:
        """What a client says. From a connection that the room does not know any more, nothing."""
        participant = self.core.by_session.get(session)
        if participant is not None:
            presence.answer_held(self.core, participant)
            self._handle(participant, request, now)
            self._follow_up(now)
        return self._effects()

    def _follow_up(self, now: Moment) -> None:
        """See to what rules have left that do not look at the time."""
        core = self.core
        # Publishers were asked for a further codec: it has to come in time.
        while core.backups_asked:
            core.timers.set(("backup", core.backups_asked.pop()), now.seconds + core.settings.backup_codec_seconds)
        while core.offers_made:
            core.timers.set(("offered", core.offers_made.pop()), now.seconds + core.settings.answer_seconds)
        if core.publishers_changed:
            presence.counts_changed(core, now)

    def signal_closed(self, session: SessionId, now: Moment) -> list[Effect]:
        presence.signal_closed(self.core, session, now)
        self._follow_up(now)
        return self._effects()

    def _handle(self, participant: Participant, request: rtc.SignalRequest, now: Moment) -> None:
        core = self.core
        kind = request.WhichOneof("message")
        if kind is None:
            core.drop("signal_unknown")
            return
        message = getattr(request, kind)
        rule = _RULES.get(kind)
        if rule is not None:
            rule(core, participant, message)
            return
        match kind:
            case "offer":
                publishing.offer(core, participant, message)
            case "update_metadata":
                own_state.update_metadata(core, participant, message, now)
            case "ping":
                core.send(participant, rtc.SignalResponse(pong=now.unix_ms))
            case "ping_req":
                pong = rtc.Pong(last_ping_timestamp=message.timestamp, timestamp=now.unix_ms)
                core.send(participant, rtc.SignalResponse(pong_resp=pong))
            case "leave":
                # The Go SDK waits for the echo.
                echo = rtc.LeaveRequest(reason=Reason.CLIENT_INITIATED, action=_Action.DISCONNECT)
                core.send(participant, rtc.SignalResponse(leave=echo))
                presence.leave(core, participant, Reason.CLIENT_INITIATED, now)
            case "sync_state":
                presence.sync_state(core, participant, message, self._cache)
            case "simulate":
                self._simulate(participant, message, now)
            case _:
                core.drop("signal_unknown")

    def _simulate(self, participant: Participant, scenario: rtc.SimulateScenario, now: Moment) -> None:
        """Faults that SDKs ask for in their tests; what the SDK does by itself is not repeated here."""
        core = self.core
        match scenario.WhichOneof("scenario"):
            case "speaker_update" if not participant.is_hidden:
                seconds = min(max(scenario.speaker_update, 0), _SPEAKS_SECONDS_MAX)
                core.timers.set(("speaks", participant.sid), now.seconds + seconds)
                core.speaking[participant.sid] = _SPEAKS_LEVEL
                speaker = models.SpeakerInfo(sid=participant.sid, level=_SPEAKS_LEVEL, active=True)
                core.broadcast(rtc.SignalResponse(speakers_changed=rtc.SpeakersChanged(speakers=[speaker])))
            case "migration" | "node_failure":
                presence.leave(core, participant, Reason.UNKNOWN_REASON, now)
            case "server_leave":
                presence.leave(core, participant, Reason.SERVER_SHUTDOWN, now, is_told=True)
            case "switch_candidate_protocol":
                if scenario.switch_candidate_protocol != rtc.CandidateProtocol.UDP:
                    core.record.prefers_tcp.add(participant.identity)
            case "subscriber_bandwidth":
                bound = border.BoundDownlink(
                    transport=participant.receiving.transport,
                    max_bps=min(scenario.subscriber_bandwidth, _BPS_MAX) if scenario.subscriber_bandwidth > 0 else None,
                )
                core.command(bound)
            case "disconnect_signal_on_resume" | "disconnect_signal_on_resume_no_messages":
                participant.fail_resume = True
            case _:
                core.drop("simulation_unknown")

    # --- the worker --------------------------------------------------------------------------------------------------

    def event(self, event: border.AnyEvent, now: Moment) -> list[Effect]:
        core = self.core
        match event:
            case border.DataMessage():
                sender = core.by_transport.get(event.transport)
                if sender is not None:
                    data.received(core, self._cache, sender, event, now)
            case border.TransportState():
                presence.transport_changed(core, event, now)
            case border.Unanswered():
                presence.unanswered(core, event, now)
            case border.DataChannelOpen():
                receiver = core.by_transport.get(event.transport)
                if receiver is not None:
                    data.channel_open(core, self._cache, receiver, event)
            case border.DataChannelStalled(label=data.RELIABLE):
                # The worker has reset it, with what was queued: nothing more would reach him on it.
                if (receiver := core.by_transport.get(event.transport)) is not None:
                    presence.come_back(core, receiver, now)
            case border.UptrackMedia():
                publishing.media_arrived(core, event)
            case border.UptrackDemand():
                demand.demand_changed(core, event)
            case border.DowntrackState():
                subscribing.state_changed(core, event)
            case border.Speakers():
                quality.speakers(core, event)
            case _:
                pass
        self._follow_up(now)
        return self._effects()

    def quality(self, reports: Iterable[border.TransportQuality]) -> list[Effect]:
        quality.reported(self.core, reports)
        return self._effects()

    def attach(self, snapshot: border.Snapshot, unshown: Set[int], now: Moment) -> list[Effect]:
        """Take what lives on the worker for true, after events may have been missed.

        Of what was added or removed since the snapshot was asked for, `unshown`, it says nothing.
        """
        core = self.core
        self._make_good(snapshot, unshown, now)
        alive = {summary.transport: summary for summary in snapshot.transports}
        for transport, participant in tuple(core.by_transport.items()):
            if transport in unshown:
                continue
            summary = alive.get(transport)
            state = border.TransportStatus.CLOSED if summary is None else summary.state
            event = border.TransportState(transport=transport, state=state, reason="found_so")
            presence.transport_changed(core, event, now)
            if summary is not None and data.RELIABLE in summary.channels:
                opened = border.DataChannelOpen(transport=transport, label=data.RELIABLE)
                data.channel_open(core, self._cache, participant, opened)
        for uptrack in snapshot.uptracks:
            found = core.by_uptrack.get(uptrack.uptrack)
            if uptrack.layers:
                media = border.UptrackMedia(uptrack=uptrack.uptrack, mime=uptrack.mime, layers=uptrack.layers)
                publishing.media_arrived(core, media)
            if found is not None and found[2].max_spatial != uptrack.max_spatial:
                demand.demand_changed(
                    core, border.UptrackDemand(uptrack=uptrack.uptrack, max_spatial=uptrack.max_spatial)
                )
        for downtrack in snapshot.downtracks:
            found_copy = core.by_downtrack.get(downtrack.downtrack)
            # Of one of which the worker never said anything it says that it is active.
            if found_copy is not None and (found_copy[1].is_active is not False) != downtrack.active:
                found_so = border.DowntrackState(
                    downtrack=downtrack.downtrack, active=downtrack.active, reason="found_so"
                )
                subscribing.state_changed(core, found_so)
        self._follow_up(now)
        return self._effects()

    def _make_good(self, snapshot: border.Snapshot, unshown: Set[int], now: Moment) -> None:
        """What we do not know of goes; whoever misses something comes back afresh and gets it anew."""
        core = self.core
        ours = core.by_transport
        shown = [one for one in snapshot.uptracks if one.transport in ours and one.uptrack not in unshown]
        unknown = {one.uptrack for one in shown if one.uptrack not in core.by_uptrack}
        for uptrack in unknown:
            core.command(border.RemoveUptrack(uptrack=uptrack))
        sent = {number: found for number, found in core.by_downtrack.items() if found[1].sent is not None}
        for one in snapshot.downtracks:
            # Those of an uptrack that goes end with it.
            ends = one.uptrack in unknown or one.uptrack in unshown or one.downtrack in unshown
            if one.transport in ours and one.downtrack not in sent and not ends:
                core.command(border.RemoveDowntrack(downtrack=one.downtrack))
        uptracks = unshown | {one.uptrack for one in snapshot.uptracks}
        downtracks = unshown | {one.downtrack for one in snapshot.downtracks}
        without = [found[0] for number, found in core.by_uptrack.items() if number not in uptracks]
        without += [found[0] for number, found in sent.items() if number not in downtracks]
        for participant in without:
            presence.come_back(core, participant, now)

    # --- time --------------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When `timeout` wants to be called next."""
        return self.core.timers.next()

    def timeout(self, now: Moment) -> list[Effect]:
        core = self.core
        while (key := core.timers.pop_due(now.seconds)) is not None:
            kind, sid = key
            participant = core.participants.get(sid)
            match kind:
                case "room":
                    if not core.is_kept:
                        # Agents and recorders do not stay alone.
                        self._everybody_out(Reason.ROOM_CLOSED, now, _Action.DISCONNECT)
                        self._end()
                case "counts":
                    core.room_changed()
                case "updates":
                    core.tell_waiting()
                case "backup":
                    subscribing.backup_overdue(core, sid)
                case "rpc":
                    if core.server_calls.pop(sid, None) is not None:
                        core.out.append(RpcEnded(sid, "", "response timeout", data.RpcCode.RESPONSE_TIMEOUT))
                case "answer" if participant is not None:
                    presence.answer_held(core, participant)
                case "speaks" if participant is not None:
                    quality.silenced(core, participant)
                case "refresh" if participant is not None:
                    presence.refresh(core, participant, now)
                case "connect" if participant is not None:
                    presence.leave(core, participant, Reason.JOIN_FAILURE, now, is_told=True, action=_Action.RECONNECT)
                case "offered" if participant is not None:
                    presence.answer_overdue(core, participant, now)
                case "gone" | "absent" if participant is not None:
                    presence.leave(core, participant, Reason.CONNECTION_TIMEOUT, now)
                case _:
                    pass
        self._follow_up(now)
        return self._effects()

    # --- administrators ----------------------------------------------------------------------------------------------

    def participant(self, identity: str) -> Participant:
        """Raises `NotFound`."""
        participant = self.core.by_identity.get(identity)
        if participant is None:
            raise NotFound("participant does not exist")
        return participant

    def remove(
        self,
        identity: str,
        now: Moment,
        reason: models.DisconnectReason = Reason.PARTICIPANT_REMOVED,
        revoked_before: float = 0,
    ) -> list[Effect]:
        """`revoked_before`: Unix seconds, until when his tokens count as revoked; 0: now."""
        participant = self.participant(identity)
        self.core.cut_off(participant, revoked_before or now.unix_ms / 1000, None)
        presence.leave(self.core, participant, reason, now, is_told=True)
        self._follow_up(now)
        return self._effects()

    def oldest_idle(self) -> Participant | None:
        """Of those who neither send nor receive, the one who came first."""
        return next(filter(presence.is_idle, self.core.participants.values()), None)

    def send_away(self, identity: str, now: Moment) -> list[Effect]:
        """For want of room on the server; he may come back when there is some."""
        presence.leave(self.core, self.participant(identity), Reason.SERVER_SHUTDOWN, now, is_told=True)
        self._follow_up(now)
        return self._effects()

    def mute(self, identity: str, track_sid: str, muted: bool) -> list[Effect]:
        """Mute a track and tell its publisher to. An unknown track is no error, as in LiveKit."""
        participant = self.participant(identity)
        if not muted and not self.core.settings.enable_remote_unmute:
            raise PreconditionFailed("remote unmute not enabled")
        track = participant.tracks.get(track_sid)
        if track is not None:
            if track.info.muted != muted:
                message = rtc.MuteTrackRequest(sid=track_sid, muted=muted)
                self.core.send(participant, rtc.SignalResponse(mute=message))
            publishing.set_muted(self.core, participant, track, muted, by_server=True)
        return self._effects()

    def update_participant(self, request: api.UpdateParticipantRequest, now: Moment) -> list[Effect]:
        own_state.change(
            self.core,
            self.participant(request.identity),
            name=request.name,
            metadata=request.metadata,
            attributes=request.attributes,
            permission=request.permission if request.HasField("permission") else None,
            now=now,
        )
        self._follow_up(now)
        return self._effects()

    def update_subscriptions(self, request: api.UpdateSubscriptionsRequest) -> list[Effect]:
        update = rtc.UpdateSubscription(
            track_sids=request.track_sids,
            subscribe=request.subscribe,
            participant_tracks=request.participant_tracks,
        )
        subscribing.update_subscription(self.core, self.participant(request.identity), update)
        return self._effects()

    def update_metadata(self, metadata: str) -> list[Effect]:
        check_size("metadata", metadata.encode(), self.core.settings.metadata_max_bytes)
        self.core.record.metadata = metadata
        self.core.room_changed()
        return self._effects()

    def send_data(self, request: api.SendDataRequest, now: Moment) -> list[Effect]:
        packet = models.DataPacket(kind=request.kind, destination_identities=request.destination_identities)
        packet.user.payload = request.data
        packet.user.destination_sids.extend(request.destination_sids)
        packet.user.destination_identities.extend(request.destination_identities)
        packet.user.nonce = request.nonce
        if request.HasField("topic"):
            packet.user.topic = request.topic
        data.from_server(self.core, self._cache, packet, now)
        return self._effects()

    def call(self, request: api.PerformRpcRequest, request_id: str, now: Moment) -> list[Effect]:
        """Call a method of a participant; `RpcEnded` follows, at the latest at the time-out."""
        callee = self.participant(request.destination_identity)
        if not request.method:
            raise InvalidRequest("A call needs a method.")
        check_size("payload", request.payload.encode(), data.PAYLOAD_MAX_BYTES)
        timeout_ms = request.response_timeout_ms or _RPC_TIMEOUT_MS
        self.core.server_calls[request_id] = callee.identity
        self.core.timers.set(("rpc", request_id), now.seconds + timeout_ms / 1000)
        packet = models.DataPacket(kind=models.DataPacket.Kind.RELIABLE, destination_identities=[callee.identity])
        packet.rpc_request.CopyFrom(
            models.RpcRequest(
                id=request_id,
                method=request.method,
                payload=request.payload,
                response_timeout_ms=timeout_ms,
                version=1,
            )
        )
        data.from_server(self.core, self._cache, packet, now)
        return self._effects()

    def _effects(self) -> list[Effect]:
        effects = self.core.out
        self.core.out = []
        return effects


_RPC_TIMEOUT_MS = 10_000
_BPS_MAX = 2**40
_SPEAKS_LEVEL = 0.5
_SPEAKS_SECONDS_MAX = 60

_RULES: dict[str, Callable[[RoomCore, Participant, Any], None]] = {
    "add_track": publishing.add_track,
    "mute": publishing.mute,
    "update_layers": publishing.update_layers,
    "update_audio_track": publishing.update_audio_track,
    "update_video_track": publishing.update_video_track,
    "answer": subscribing.answer,
    "subscription": subscribing.update_subscription,
    "track_setting": subscribing.track_setting,
    "subscription_permission": subscribing.subscription_permission,
    "publish_data_track_request": data.publish_track,
    "unpublish_data_track_request": data.unpublish_track,
    "update_data_subscription": data.update_subscription,
    # ICE-lite never checks addresses, so clients' candidates are of no use.
    "trickle": lambda room, participant, message: None,
}
"""Messages that one rule answers, without looking at the time."""
