"""Coming and going: joining, resuming, losing the signal or the media, leaving; and who is told.

Who closes whom: a participant closes his tracks and both his connections; the last one to leave starts the room's
departure time-out. A signal connection that ends costs nothing while media lives: the client comes back and resumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from livekit.protocol import models, rtc

from sfu import border
from sfu.border import TransportStatus
from signaling.errors import InvalidRequest, Overloaded, PermissionDenied, TooLarge, Unauthenticated, Unavailable
from signaling.rooms import data, demand, publishing, quality, subscribing
from signaling.rooms.core import HEARS_DISCONNECTED, LARGE_ROOM, Moment, Reason, RoomCore, State
from signaling.rooms.effects import (
    CloseSignal,
    ParticipantConnected,
    ParticipantJoined,
    ParticipantLeft,
    RpcEnded,
    Send,
    SessionId,
    Welcome,
)
from signaling.rooms.grants import Grants
from signaling.rooms.names import check_size, check_text
from signaling.rooms.negotiation import ClientOffered, ServerOffered
from signaling.rooms.settings import RoomSettings
from signaling.rooms.state import Connection, Cutoff, Participant

_Action = rtc.LeaveRequest.Action
_KNOWS_ACTIONS = 13
"""Protocol version from which `leave.action` is understood."""
PING_INTERVAL_SECONDS = 5
PING_TIMEOUT_SECONDS = 15
_UNCLEAN = (
    Reason.CONNECTION_TIMEOUT,
    Reason.SIGNAL_CLOSE,
    Reason.JOIN_FAILURE,
    Reason.STATE_MISMATCH,
    Reason.UNKNOWN_REASON,
)
"""Whoever left for one of these may well come back."""
_HELD_SECONDS = 1.0
"""The Go SDK (2.18) reads on before it has applied the offer of its own join, and an answer that it reads by then is
lost to it. It has the offer once it says anything, which is its first candidate and follows at once."""
_CAPABILITIES_MAX = 16
_CLIENT_TEXT_MAX = 256
"""What a client says of itself is far shorter."""
_COUNTS_SECONDS = 1.0
_COUNTS_LARGE_SECONDS = 5.0


class RoomFull(PermissionDenied):
    code = "room_full"


@dataclass(frozen=True)
class JoinParameters:
    """What a client says when it connects. `offer` and `add_tracks` come with the join in single mode only."""

    grants: Grants
    client: models.ClientInfo
    is_single: bool
    auto_subscribe: bool = True
    adaptive_stream: bool = False
    auto_subscribe_data: bool = True
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    offer: rtc.SessionDescription | None = None
    add_tracks: tuple[rtc.AddTrackRequest, ...] = ()
    is_reconnect: bool = False
    participant_sid: str = ""
    sync_state: rtc.SyncState | None = None


def check(parameters: JoinParameters, settings: RoomSettings) -> None:
    """Refuse what no room may take, before there is one. Raises a `Refusal`."""
    grants = parameters.grants
    if not grants.room_join:
        raise Unauthenticated("permissions denied: the token has no `roomJoin` grant")
    if not grants.identity:
        raise InvalidRequest("identity cannot be empty")
    if not grants.room:
        raise InvalidRequest("room name cannot be empty: the token's grant names no room")
    for what, text in (("identity", grants.identity), ("room name", grants.room), ("name", grants.name)):
        check_text(what, text, settings.name_max_bytes)
    if (parameters.metadata or parameters.attributes) and not grants.can_update_own_metadata:
        raise Unauthenticated("permissions denied: metadata or attributes without `canUpdateOwnMetadata`")
    check_size("metadata", (parameters.metadata or grants.metadata).encode(), settings.metadata_max_bytes)
    check_attributes({**grants.attributes, **parameters.attributes}, settings)


def check_attributes(attributes: Mapping[str, str], settings: RoomSettings) -> None:
    size = sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())
    if size > settings.attributes_max_bytes:
        raise TooLarge(f"The attributes have {size} bytes; at most {settings.attributes_max_bytes} are taken.")


# --- coming ---------------------------------------------------------------------------------------------------------


def check_cutoff(cutoffs: Mapping[str, Cutoff], grants: Grants) -> Grants:
    """Return what a token still allows after what was decided about its bearer. Raises `Unauthenticated`."""
    cutoff = cutoffs.get(grants.identity)
    if cutoff is None or grants.managed:
        return grants
    if _is_later(grants, cutoff):
        return grants
    if cutoff.grants is None:
        raise Unauthenticated("invalid token: it is from before this participant was removed")
    return grants.within(cutoff.grants)


def _is_later(grants: Grants, cutoff: Cutoff) -> bool:
    if not grants.issued_at:
        return grants.expires_at > cutoff.expires_by
    if grants.issued_at % 1:
        # One that we have refreshed: it says the very moment.
        return grants.issued_at > cutoff.before
    # SDKs write whole seconds: one made out right after the decision names the second in which it fell.
    return grants.issued_at >= math.floor(cutoff.before)


def check_place(room: RoomCore, grants: Grants, now: Moment) -> None:
    """Raises `Unauthenticated` for a revoked token, `RoomFull`, `Overloaded`, `Unavailable` for two who throw
    each other out.

    Whoever takes the place of himself, or takes none, may come.
    """
    check_cutoff(room.record.cutoffs, grants)
    limit = min(room.record.participants_max or room.settings.participants_max, room.settings.participants_max)
    present = room.by_identity.get(grants.identity)
    if present is not None:
        at = present.replaced_at
        if at is not None and present.session is not None and now.seconds - at < room.settings.replaced_again_seconds:
            raise Unavailable("This identity has just joined from elsewhere; try again in a moment.")
        return
    if not room.overload.takes_joins:
        raise Overloaded("The server is overloaded and lets nobody else in; try again in a few seconds.")
    if not grants.takes_place:
        return
    if len(room.participants) >= limit and len(room.counted()) >= limit:
        raise RoomFull(f"The room is full: at most {limit} participants.")


def is_idle(participant: Participant) -> bool:
    """He neither sends nor receives."""
    return not (
        participant.tracks or participant.subscriptions or participant.data_tracks or participant.data_subscriptions
    )


def join(room: RoomCore, session: SessionId, parameters: JoinParameters, now: Moment) -> None:
    grants = check_cutoff(room.record.cutoffs, parameters.grants)
    parameters = replace(parameters, grants=grants)
    predecessor = room.by_identity.get(grants.identity)
    if predecessor is not None:
        was_there = predecessor.session is not None
        leave(room, predecessor, Reason.DUPLICATE_IDENTITY, now, is_told=True)
    participant = _newcomer(room, session, parameters, now)
    participant.replaced_at = now.seconds if predecessor is not None and was_there else None
    room.participants[participant.sid] = participant
    room.by_identity[participant.identity] = participant
    room.by_session[session] = participant
    room.record.was_joined = room.record.was_joined or not participant.is_dependent
    room.changed.add(room.record.sid)
    keep_open(room, now)

    room.out.append(Welcome(session, _join_response(room, participant), room.entries(participant)))
    participant.state = State.JOINED
    room.refresh_token(participant)
    room.announce_soon(participant, now)
    if room.speaking:
        quality.tell_speakers(room, participant)
    for request in parameters.add_tracks[: room.settings.tracks_max]:
        publishing.add_track(room, participant, request)
    subscribing.begin(room, participant)
    data.consider_tracks(room, participant)
    if parameters.offer is not None and parameters.offer.sdp:
        if parameters.client.sdk == models.ClientInfo.SDK.GO:
            participant.held_offer = parameters.offer
            room.timers.set(("answer", participant.sid), now.seconds + _HELD_SECONDS)
        else:
            publishing.offer(room, participant, parameters.offer)
    if not participant.is_single:
        subscribing.offer(room, participant)
    room.out.append(ParticipantJoined(participant.identity))
    room.timers.set(("connect", participant.sid), now.seconds + room.settings.connect_seconds)
    _schedule_refresh(room, participant, now)
    counts_changed(room, now)


def answer_held(room: RoomCore, participant: Participant) -> None:
    """Answer the offer that came with the join, if that has waited."""
    offer, participant.held_offer = participant.held_offer, None
    if offer is not None:
        room.timers.clear(("answer", participant.sid))
        publishing.offer(room, participant, offer)


def _newcomer(room: RoomCore, session: SessionId, parameters: JoinParameters, now: Moment) -> Participant:
    grants = parameters.grants
    credentials = room.sources.credentials
    local = room.local_transport(grants.identity)
    participant = Participant(
        sid=room.sources.sid("PA_"),
        grants=grants,
        client=_kept(parameters.client),
        is_single=parameters.is_single,
        auto_subscribe=parameters.auto_subscribe,
        adaptive_stream=parameters.adaptive_stream,
        auto_subscribe_data=parameters.auto_subscribe_data,
        name=grants.name,
        metadata=parameters.metadata or grants.metadata,
        attributes={key: value for key, value in {**grants.attributes, **parameters.attributes}.items() if value},
        joined_at_ms=now.unix_ms,
        joined_at=now.seconds,
        publisher=Connection(room.sources.number()),
        publishing=ClientOffered(local, new_credentials=credentials, mimes=room.settings.codecs),
        session=session,
    )
    if not parameters.is_single:
        participant.subscriber = Connection(room.sources.number())
        own = room.local_transport(grants.identity)
        participant.subscribing = ServerOffered(own, new_credentials=credentials)
    room.record.prefers_tcp.discard(grants.identity)
    return participant


def _kept(said: models.ClientInfo) -> models.ClientInfo:
    """What a client says of itself, as far as it is kept. Its capabilities are told to everybody."""
    client = models.ClientInfo()
    client.CopyFrom(said)
    for part, value in said.ListFields():
        if isinstance(value, str):
            setattr(client, part.name, value[:_CLIENT_TEXT_MAX])
    del client.capabilities[:]
    client.capabilities.extend(dict.fromkeys(said.capabilities[:_CAPABILITIES_MAX]))
    return client


def _join_response(room: RoomCore, participant: Participant) -> rtc.JoinResponse:
    """All but the others."""
    return rtc.JoinResponse(
        room=room.info(),
        participant=participant.info(),
        server_version=room.server.info.version,
        server_info=room.server.info,
        server_region=room.server.info.region,
        ice_servers=room.server.ice_servers,
        subscriber_primary=not participant.is_single,
        ping_interval=PING_INTERVAL_SECONDS,
        ping_timeout=PING_TIMEOUT_SECONDS,
        sif_trailer=room.server.sif_trailer,
        enabled_publish_codecs=room.codecs(),
        fast_publish=participant.grants.can_publish or participant.grants.can_publish_data,
    )


def _schedule_refresh(room: RoomCore, participant: Participant, now: Moment) -> None:
    room.timers.set(("refresh", participant.sid), now.seconds + room.settings.token_refresh_seconds)


def refresh(room: RoomCore, participant: Participant, now: Moment) -> None:
    room.refresh_token(participant)
    if participant.session is not None:
        _schedule_refresh(room, participant, now)


# --- coming back ----------------------------------------------------------------------------------------------------


def resume(
    room: RoomCore, session: SessionId, parameters: JoinParameters, cache: data.ReliableCache, now: Moment
) -> None:
    participant = room.participants.get(parameters.participant_sid)
    if (
        participant is None
        or participant.identity != parameters.grants.identity
        or participant.is_single != parameters.is_single
    ):
        room.out.extend(mismatch(session))
        return
    room.hang_up(participant, "resumed on another connection")
    participant.session = session
    room.by_session[session] = participant
    # It may never have heard what it was asked for; its next offer shows what is missing.
    participant.asked_audio = participant.asked_video = 0
    room.timers.clear(("absent", participant.sid))
    # He looks for a path already, and would never find it if he was asked to begin again.
    room.timers.set(("asked", participant.sid), now.seconds + room.settings.asked_again_seconds)
    if ("gone", participant.sid) in room.timers:
        # He is here again: now his media may take as long as a newcomer's.
        room.timers.set(("gone", participant.sid), now.seconds + room.settings.connect_seconds)
    if not participant.primary.was_connected:
        room.timers.set(("connect", participant.sid), now.seconds + room.settings.connect_seconds)
    reconnect = rtc.ReconnectResponse(
        ice_servers=room.server.ice_servers,
        server_info=room.server.info,
        last_message_seq=participant.last_sequence,
    )
    room.send(participant, rtc.SignalResponse(reconnect=reconnect))
    if participant.fail_resume:
        participant.fail_resume = False
        signal_closed(room, session, now)
        room.out.append(CloseSignal(session, "asked for by simulate"))
        return
    _tell_missed(room, participant)
    room.refresh_token(participant)
    if parameters.sync_state is not None:
        sync_state(room, participant, parameters.sync_state, cache)
    if participant.subscribing is not None:
        participant.subscribing.restart_ice()
        subscribing.offer(room, participant)
    _schedule_refresh(room, participant, now)
    room.touch(participant)


def _tell_missed(room: RoomCore, participant: Participant) -> None:
    """What a client must know to believe what holds now, whatever it was told last."""
    for track in participant.tracks.values():
        if track.muted_by_server:
            # Before his own record: a client that finds itself muted there takes it for an error. What he muted himself
            # he may have unmuted meanwhile.
            message = rtc.MuteTrackRequest(sid=track.sid, muted=True)
            room.send(participant, rtc.SignalResponse(mute=message))
    present = room.visible_to(participant)
    # Clients keep people by identity: news of a former one of that identity would be taken for the one who is here.
    identities = {info.identity for info in present} | {participant.identity}
    gone = [
        models.ParticipantInfo(
            sid=one.sid,
            identity=one.identity,
            version=one.version,
            state=State.DISCONNECTED,
            disconnect_reason=models.DisconnectReason.Name(one.reason),
        )
        for one in room.record.departed
        if participant.protocol >= HEARS_DISCONNECTED and one.identity not in identities
    ]
    seen = {info.sid: info for info in (*gone, *present)}
    everybody = [*seen.values(), room.told(participant)]
    room.send(participant, rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=everybody)))
    room.send(participant, rtc.SignalResponse(room_update=rtc.RoomUpdate(room=room.info())))
    quality.tell_speakers(room, participant, and_silence=True)
    subscribing.tell_missed(room, participant)
    subscribing.tell_subscribed(room, participant)
    if participant.untold_handles or participant.data_subscriptions:
        data.tell_handles(room, participant)
    for track in participant.tracks.values():
        demand.tell_demand(room, participant, track)


def mismatch(session: SessionId) -> list[Send | CloseSignal]:
    """What a client is told that comes back to something that is not there any more."""
    message = rtc.LeaveRequest(can_reconnect=True, reason=Reason.STATE_MISMATCH, action=_Action.RECONNECT)
    return [
        Send(session, rtc.SignalResponse(leave=message)),
        CloseSignal(session, "there is no such participant to resume"),
    ]


def sync_state(room: RoomCore, participant: Participant, state: rtc.SyncState, cache: data.ReliableCache) -> None:
    """What the client believes, after a resume; ours wins but for its own wishes."""
    for published in state.publish_tracks[: room.settings.tracks_max]:
        if published.track.sid and published.track.sid not in participant.tracks:
            message = rtc.TrackUnpublishedResponse(track_sid=published.track.sid)
            room.send(participant, rtc.SignalResponse(track_unpublished=message))
    if state.HasField("subscription"):
        subscribing.update_subscription(room, participant, state.subscription)
    if state.track_sids_disabled:
        disabled = rtc.UpdateTrackSettings(track_sids=state.track_sids_disabled, disabled=True)
        subscribing.track_setting(room, participant, disabled)
    requests = [
        data.asked_again(response.info)
        for response in state.publish_data_tracks[: room.settings.data_tracks_max]
        if response.info.pub_handle not in participant.data_tracks
    ]
    data.publish_tracks(room, participant, requests)
    if state.HasField("data_subscription"):
        data.update_subscription(room, participant, state.data_subscription)
    data.replay(room, cache, participant, state.datachannel_receive_states)


# --- losing signal or media -----------------------------------------------------------------------------------------


def signal_closed(room: RoomCore, session: SessionId, now: Moment) -> None:
    """The signal connection is gone, without a word."""
    participant = room.by_session.pop(session, None)
    if participant is None or participant.session != session:
        return
    participant.session = None
    room.timers.clear(("refresh", participant.sid))
    if not participant.primary.was_connected:
        leave(room, participant, Reason.SIGNAL_CLOSE, now)
        return
    room.timers.set(("absent", participant.sid), now.seconds + room.settings.signal_absence_seconds)
    room.timers.set(("lost", participant.sid), now.seconds + room.settings.media_absence_seconds)
    room.touch(participant)


def transport_changed(room: RoomCore, event: border.TransportState, now: Moment) -> None:
    participant = room.by_transport.get(event.transport)
    if participant is None:
        return
    is_publisher = participant.publisher.transport == event.transport
    connection = participant.publisher if is_publisher else participant.subscriber
    if connection is None:
        return
    match event.state:
        case TransportStatus.CONNECTED:
            connection.is_connected = connection.was_connected = True
            room.timers.clear(("gone", participant.sid))
            quality.lost(room, participant, event.state)
            if connection is participant.primary:
                _active(room, participant, now)
        case TransportStatus.DISCONNECTED:
            quality.lost(room, participant, event.state)
        case TransportStatus.FAILED:
            connection.is_connected = False
            quality.lost(room, participant, event.state)
            _media_failed(room, participant, now)
        case TransportStatus.CLOSED:
            # The worker has forgotten it: there is nothing to come back to.
            reason = Reason.CONNECTION_TIMEOUT if connection.was_connected else Reason.JOIN_FAILURE
            if event.reason == "closed_by_peer":
                reason = Reason.CLIENT_INITIATED
            leave(room, participant, reason, now, is_told=True, action=_Action.RECONNECT)
        case _:
            pass
    room.touch(participant)


def _active(room: RoomCore, participant: Participant, now: Moment) -> None:
    room.timers.clear(("connect", participant.sid))
    if participant.state != State.JOINED:
        return
    participant.state = State.ACTIVE
    room.announce_soon(participant, now)
    room.out.append(ParticipantConnected(participant.identity, now.seconds - participant.joined_at))
    room.notify("participant_joined", participant)
    for track in participant.tracks.values():
        if track.is_published:
            room.notify("track_published", participant, track.info)


def unanswered(room: RoomCore, event: border.Unanswered, now: Moment) -> None:
    """His network may have closed to media while his signal connection lives: he is to look for another path.

    Clients find out by themselves only after 15 s and more. One who was asked, or has just come back by himself, is
    left alone for a while, whatever came of it.
    """
    participant = room.by_transport.get(event.transport)
    if participant is None or participant.session is None or participant.protocol < _KNOWS_ACTIONS:
        return
    asked = ("asked", participant.sid)
    if asked in room.timers:
        return
    room.timers.set(asked, now.seconds + room.settings.asked_again_seconds)
    _send_to_resume(room, participant, now, "media unanswered")
    room.touch(participant)


def answer_overdue(room: RoomCore, participant: Participant, now: Moment) -> None:
    """Our offer was not answered, and no later one can be made before it is: he comes back afresh."""
    negotiation = participant.subscribing
    # After a resume he was made another one, with its own time.
    if participant.session is not None and negotiation is not None and negotiation.outstanding:
        come_back(room, participant, now)


def come_back(room: RoomCore, participant: Participant, now: Moment) -> None:
    """What he has on the worker is not what he believes: he begins afresh."""
    leave(room, participant, Reason.STATE_MISMATCH, now, is_told=True, action=_Action.RECONNECT)


def _media_failed(room: RoomCore, participant: Participant, now: Moment) -> None:
    if participant.session is not None:
        _send_to_resume(room, participant, now, "media failed")
    elif ("lost", participant.sid) not in room.timers and ("asked", participant.sid) not in room.timers:
        leave(room, participant, Reason.CONNECTION_TIMEOUT, now)
        return
    # Who lost both at once, with his network, notices as late as we do, and may never have heard what he was asked.
    room.timers.set(("gone", participant.sid), now.seconds + room.settings.media_absence_seconds)


def _send_to_resume(room: RoomCore, participant: Participant, now: Moment, why: str) -> None:
    _tell_leave(room, participant, Reason.CONNECTION_TIMEOUT, _Action.RESUME)
    room.hang_up(participant, why)
    room.timers.clear(("refresh", participant.sid))
    # Media may come back by itself, and the client not.
    room.timers.set(("absent", participant.sid), now.seconds + room.settings.signal_absence_seconds)


def _tell_leave(
    room: RoomCore, participant: Participant, reason: models.DisconnectReason, action: rtc.LeaveRequest.Action
) -> None:
    message = rtc.LeaveRequest(reason=reason, can_reconnect=action != _Action.DISCONNECT)
    if participant.protocol >= _KNOWS_ACTIONS:
        message.action = action
    room.send(participant, rtc.SignalResponse(leave=message))


# --- leaving --------------------------------------------------------------------------------------------------------


def leave(
    room: RoomCore,
    participant: Participant,
    reason: models.DisconnectReason,
    now: Moment,
    *,
    is_told: bool = False,
    action: rtc.LeaveRequest.Action = _Action.DISCONNECT,
) -> None:
    """Take a participant out of the room. `is_told`: he does not know yet."""
    if room.participants.get(participant.sid) is not participant:
        return
    was_active = participant.state == State.ACTIVE
    if is_told:
        _tell_leave(room, participant, reason, action)
    room.hang_up(participant, models.DisconnectReason.Name(reason).lower())
    published = [track for track in participant.tracks.values() if track.is_published]
    del room.participants[participant.sid]
    room.by_identity.pop(participant.identity, None)
    participant.state = State.DISCONNECTED
    participant.disconnect_reason = reason
    if not participant.is_hidden:
        room.depart(participant, now)
    room.announce_soon(participant, now)
    publishing.end_tracks(room, participant, list(participant.tracks.values()))
    room.speaking.pop(participant.sid, None)
    room.permitted.pop(participant.sid, None)
    data.end_tracks(room, participant, tuple(participant.data_tracks.values()))
    for subscription in participant.subscriptions.values():
        room.by_downtrack.pop(subscription.downtrack, None)
    for connection in (participant.publisher, participant.subscriber):
        if connection is not None and connection.is_added:
            room.by_transport.pop(connection.transport, None)
            room.command(border.RemoveTransport(transport=connection.transport))
    for request_id in [call for call, callee in room.server_calls.items() if callee == participant.identity]:
        del room.server_calls[request_id]
        room.timers.clear(("rpc", request_id))
        room.out.append(RpcEnded(request_id, "", "the participant has left", data.RpcCode.RECIPIENT_DISCONNECTED))
    room.offers_made.discard(participant.sid)
    for kind in ("connect", "gone", "absent", "refresh", "asked", "lost", "offered", "speaks"):
        room.timers.clear((kind, participant.sid))
    room.touch(participant)
    room.notify("participant_left" if was_active else "participant_connection_aborted", participant)
    is_sent_on = reason == Reason.SERVER_SHUTDOWN and action == _Action.RECONNECT
    clean = reason not in _UNCLEAN and not is_sent_on
    room.out.append(ParticipantLeft(participant.identity, reason, clean))
    keep_open(room, now)
    if published or participant.is_counted or participant.grants.is_recorder:
        counts_changed(room, now)


def keep_open(room: RoomCore, now: Moment) -> None:
    """A room is kept by those who are not there for others only; without any its time runs."""
    key = ("room", "")
    if room.is_kept:
        room.timers.clear(key)
    elif key not in room.timers:
        record = room.record
        wait = record.departure_timeout_seconds if record.was_joined else record.empty_timeout_seconds
        room.timers.set(key, now.seconds + wait)


def counts_changed(room: RoomCore, now: Moment) -> None:
    """Counts are told together, and in large rooms rarely."""
    key = ("counts", "")
    room.publishers_changed = False
    if key not in room.timers:
        wait = _COUNTS_LARGE_SECONDS if len(room.participants) > LARGE_ROOM else _COUNTS_SECONDS
        room.timers.set(key, now.seconds + wait)
