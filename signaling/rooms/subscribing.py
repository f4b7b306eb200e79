"""What participants receive: who gets which track, in which section, and what they said of it.

A subscription exists as soon as a track may and shall reach a subscriber; it is sent once a media section carries it.
In dual mode we offer; in single mode the client offers, and is asked to when something waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from livekit.protocol import models, rtc
from msgspec import structs

from sfu import border
from sfu.border import ChannelSpec, Kind, Want
from sfu.sdp import SdpError
from signaling.rooms import data, demand
from signaling.rooms.core import RoomCore
from signaling.rooms.negotiation import ClientOffered, ServerOffered
from signaling.rooms.state import Connection, Participant, Subscription, Track, Uplink
from signaling.rooms.transport import Offer, SendParameters, Wanted

CHANNELS = (
    ChannelSpec(label="_reliable", ordered=True, max_retransmits=None),
    ChannelSpec(label="_lossy", ordered=False, max_retransmits=0),
    ChannelSpec(label="_data_track", ordered=False, max_retransmits=0),
)
"""What we open on a connection of our own; elsewhere clients open them."""
_UNKNOWN_MAX = 100
"""Tracks that are not there and are answered for, of one request."""


# --- who gets what --------------------------------------------------------------------------------------------------


def consider(room: RoomCore, publisher: Participant, tracks: Iterable[Track]) -> None:
    """Make or end everybody's subscriptions to these tracks, as wishes and rules have it."""
    for subscriber in room.others(publisher):
        changes = [_reconcile(room, subscriber, publisher, track) for track in tracks]
        if any(changes):
            negotiate(room, subscriber)


def consider_all(room: RoomCore, subscriber: Participant) -> None:
    """As `consider`, for one subscriber and every track in the room."""
    if _reconcile_all(room, subscriber):
        negotiate(room, subscriber)


def begin(room: RoomCore, subscriber: Participant) -> None:
    """Subscribe a newcomer; its first offer or answer carries everything."""
    _reconcile_all(room, subscriber)


def _reconcile_all(room: RoomCore, subscriber: Participant) -> bool:
    changes = [_reconcile(room, subscriber, publisher, track) for publisher, track in room.by_track.values()]
    return any(changes)


def _reconcile(room: RoomCore, subscriber: Participant, publisher: Participant, track: Track) -> bool:
    if subscriber is publisher or not track.is_published:
        return False
    wished = subscriber.wishes.get(track.sid, subscriber.auto_subscribe) and may_receive(publisher, subscriber)
    # To those who do not see the publisher there is no track to be refused.
    allowed = publisher.is_hidden or allows(room, publisher, subscriber, track)
    has = track.sid in subscriber.subscriptions
    if publisher.is_hidden:
        subscriber.refused_to.discard(track.sid)
    if wished and allowed and not has:
        _subscribe(room, subscriber, publisher, track)
        return True
    if not allowed and (wished or has) and track.sid not in subscriber.refused_to:
        subscriber.refused_to.add(track.sid)
        _tell_permission(room, subscriber, publisher, track, allowed=False)
    if has and not (wished and allowed):
        _unsubscribe(room, subscriber, track.sid)
        return True
    return False


def may_receive(publisher: Participant, subscriber: Participant) -> bool:
    """Nobody receives from one who is not seen: a client could not tell whose media that is."""
    return subscriber.grants.can_subscribe and not publisher.is_hidden


def allows(room: RoomCore, publisher: Participant, subscriber: Participant, track: Track) -> bool:
    """Whether the publisher lets the subscriber have the track."""
    permissions = publisher.permissions
    if permissions is None or permissions.all_participants:
        return True
    permitted = room.permitted.get(publisher.sid)
    if permitted is None:
        permitted = room.permitted[publisher.sid] = _by_name(permissions)
    for name in (subscriber.identity, subscriber.sid):
        tracks = permitted.get(name, frozenset())
        if tracks is None or track.sid in tracks:
            return True
    return False


def _by_name(permissions: rtc.SubscriptionPermission) -> dict[str, frozenset[str] | None]:
    permitted: dict[str, frozenset[str] | None] = {}
    for permission in permissions.track_permissions:
        name = permission.participant_identity or permission.participant_sid
        known = permitted.get(name, frozenset())
        if permission.all_tracks or known is None:
            permitted[name] = None
        else:
            permitted[name] = known.union(permission.track_sids)
    return permitted


def _subscribe(room: RoomCore, subscriber: Participant, publisher: Participant, track: Track) -> None:
    uplink = track.uplinks[-1 if _is_for_all(track) else 0]
    is_video = track.kind is Kind.VIDEO
    subscription = Subscription(
        track_sid=track.sid,
        publisher_sid=publisher.sid,
        kind=track.kind,
        downtrack=room.sources.number(),
        ssrc=room.sources.ssrc(),
        rtx_ssrc=room.sources.ssrc() if is_video else None,
        uptrack=uplink.uptrack,
        stream_id=f"{publisher.sid}|{track.sid}",
        codecs=uplink.codecs,
        want=subscriber.settings.get(track.sid, Want()),
    )
    subscriber.subscriptions[track.sid] = subscription
    room.by_downtrack[subscription.downtrack] = (subscriber, subscription)
    subscriber.refused_to.discard(track.sid)
    room.touch(subscriber)
    _tell_permission(room, subscriber, publisher, track, allowed=True)


def _unsubscribe(room: RoomCore, subscriber: Participant, track_sid: str, *, with_uptrack: bool = False) -> None:
    """`with_uptrack`: the worker ends the downtrack by itself, as its uptrack ends."""
    subscription = subscriber.subscriptions.pop(track_sid)
    room.by_downtrack.pop(subscription.downtrack, None)
    if subscription.sent is not None and not with_uptrack:
        room.command(border.RemoveDowntrack(downtrack=subscription.downtrack))
    room.touch(subscriber)


def _tell_permission(
    room: RoomCore, subscriber: Participant, publisher: Participant, track: Track, *, allowed: bool
) -> None:
    if subscriber.session is None:
        subscriber.untold_permissions.add(track.sid)
        return
    update = rtc.SubscriptionPermissionUpdate(participant_sid=publisher.sid, track_sid=track.sid, allowed=allowed)
    room.send(subscriber, rtc.SignalResponse(subscription_permission_update=update))


def tell_missed(room: RoomCore, subscriber: Participant) -> None:
    """After a resume: what changed for the subscriber while nothing could be told, and what is paused."""
    untold = subscriber.untold_permissions | subscriber.refused_to
    subscriber.untold_permissions = set()
    for sid in sorted(untold):
        found = room.by_track.get(sid)
        if found is not None:
            publisher, track = found
            _tell_permission(room, subscriber, publisher, track, allowed=sid not in subscriber.refused_to)
    states = [_stream_state(one) for one in subscriber.subscriptions.values() if one.is_active is not None]
    if states:
        message = rtc.StreamStateUpdate(stream_states=states)
        room.send(subscriber, rtc.SignalResponse(stream_state_update=message))
    for subscription in subscriber.subscriptions.values():
        if subscription.is_unmade:
            _tell_unmade(room, subscriber, subscription)


def tracks_ended(room: RoomCore, tracks: Iterable[Track]) -> None:
    """Every subscriber loses these tracks."""
    sids = [track.sid for track in tracks]
    for subscriber in room.participants.values():
        has_lost = False
        for sid in sids:
            subscriber.wishes.pop(sid, None)
            subscriber.settings.pop(sid, None)
            subscriber.refused_to.discard(sid)
            subscriber.untold_permissions.discard(sid)
            if sid in subscriber.subscriptions:
                _unsubscribe(room, subscriber, sid, with_uptrack=True)
                has_lost = True
        if has_lost:
            negotiate(room, subscriber)


def uplink_ended(room: RoomCore, track: Track, uplink: Uplink) -> None:
    """One codec of a track has stopped: those who watched it go on with another."""
    for subscriber in room.participants.values():
        subscription = subscriber.subscriptions.get(track.sid)
        if subscription is not None and subscription.uptrack == uplink.uptrack:
            _move(room, subscription, track.uplinks[0])
            negotiate(room, subscriber)


# --- negotiation ----------------------------------------------------------------------------------------------------


def wanted(room: RoomCore, subscriber: Participant) -> tuple[Wanted, ...]:
    return tuple(
        Wanted(
            downtrack_id=subscription.downtrack,
            track_sid=subscription.track_sid,
            stream_id=subscription.stream_id,
            kind=subscription.kind,
            codecs=subscription.codecs,
            ssrc=subscription.ssrc,
            rtx_ssrc=subscription.rtx_ssrc,
            mime=_mime(room, subscription),
        )
        for subscription in subscriber.subscriptions.values()
        if not (subscription.is_refused or subscription.is_unmade)
    )


def _mime(room: RoomCore, subscription: Subscription) -> str:
    """The video codec that comes, as its publisher announced it or as it was seen; "" before."""
    found = room.by_uptrack.get(subscription.uptrack)
    if found is None or subscription.kind is not Kind.VIDEO:
        return ""
    _, track, uplink = found
    return uplink.mime if uplink.has_media or track.cids.get(uplink.section.cid) else ""


def negotiate(room: RoomCore, subscriber: Participant) -> None:
    """Bring the subscriber's sections in line with its subscriptions, or have the client do it."""
    if subscriber.is_single:
        _ask_for_sections(room, subscriber)
    else:
        offer(room, subscriber)


def _fit(room: RoomCore, subscriber: Participant) -> bool:
    """Have those wait for which the client's descriptions have no room; tell whether one that waited has room now.

    A client that is asked for more than it may send would be told to come back afresh, and then be asked again. What is
    received goes on; of the others who came first goes first, and sound goes before video.
    """
    negotiation: ClientOffered | ServerOffered = subscriber.subscribing or subscriber.publishing
    by_kind: dict[Kind, list[Subscription]] = {kind: [] for kind in Kind}
    for subscription in subscriber.subscriptions.values():
        if not subscription.is_refused:
            by_kind[subscription.kind].append(subscription)
    ids = {kind: {one.downtrack for one in those} for kind, those in by_kind.items()}
    capacity = negotiation.capacity(ids, room.description_limits)
    has_come = False
    for kind, those in by_kind.items():
        for rank, subscription in enumerate(sorted(those, key=lambda one: (one.sent is None, one.is_unmade))):
            is_unmade = rank >= capacity[kind]
            if is_unmade == subscription.is_unmade:
                continue
            subscription.is_unmade = is_unmade
            room.touch(subscriber)
            has_come = has_come or not is_unmade
            if is_unmade:
                _tell_unmade(room, subscriber, subscription)
    return has_come


def _tell_unmade(room: RoomCore, subscriber: Participant, subscription: Subscription) -> None:
    reply = rtc.SubscriptionResponse(track_sid=subscription.track_sid, err=models.SubscriptionError.SE_UNKNOWN)
    room.send(subscriber, rtc.SignalResponse(subscription_response=reply))


def _ask_for_sections(room: RoomCore, subscriber: Participant) -> None:
    """Ask for what is missing and not asked for yet. Zero and zero still means: offer again."""
    if not subscriber.publisher.is_added:
        # The first offer is on its way and will be answered with everything.
        return
    _fit(room, subscriber)
    missing = subscriber.publishing.missing(wanted(room, subscriber))
    if not missing.again:
        return
    audio = max(0, missing.audio - subscriber.asked_audio)
    video = max(0, missing.video - subscriber.asked_video)
    subscriber.asked_audio += audio
    subscriber.asked_video += video
    room.touch(subscriber)
    requirement = rtc.MediaSectionsRequirement(num_audios=audio, num_videos=video)
    room.send(subscriber, rtc.SignalResponse(media_sections_requirement=requirement))


def after_offer(room: RoomCore, subscriber: Participant) -> None:
    """The client's offer is answered: what it has added counts against what it was asked for."""
    audio, video = (subscriber.publishing.receiving(kind) for kind in (Kind.AUDIO, Kind.VIDEO))
    subscriber.asked_audio = max(0, subscriber.asked_audio - max(0, audio - subscriber.sections_audio))
    subscriber.asked_video = max(0, subscriber.asked_video - max(0, video - subscriber.sections_video))
    subscriber.sections_audio, subscriber.sections_video = audio, video
    _fit(room, subscriber)
    missing = subscriber.publishing.missing(wanted(room, subscriber))
    if (
        missing.audio > subscriber.asked_audio
        or missing.video > subscriber.asked_video
        or (missing.again and not (subscriber.asked_audio or subscriber.asked_video))
    ):
        _ask_for_sections(room, subscriber)


def offer(room: RoomCore, subscriber: Participant) -> None:
    """Offer what the subscriber shall receive; what changes before the answer comes is offered after it."""
    connection, negotiation = subscriber.subscriber, subscriber.subscribing
    if connection is None or negotiation is None or (subscriber.session is None and connection.is_added):
        # Without a signal connection nobody could answer; a resume offers anew.
        return
    _fit(room, subscriber)
    made = negotiation.offer(wanted(room, subscriber))
    room.touch(subscriber)
    if made is None:
        return
    if not connection.is_added:
        _add(room, subscriber, connection, made)
    elif made.ice_restart:
        room.command(border.RestartIce(transport=connection.transport, local=made.local.ice))
    description = rtc.SessionDescription(type="offer", sdp=made.sdp, id=made.id, mid_to_track_id=made.mid_to_track_id)
    room.send(subscriber, rtc.SignalResponse(offer=description))
    room.offers_made.add(subscriber.sid)


def _add(room: RoomCore, subscriber: Participant, connection: Connection, made: Offer) -> None:
    connection.is_added = True
    room.by_transport[connection.transport] = subscriber
    room.command(border.AddTransport(transport=connection.transport, room=room.record.number, local=made.local.ice))
    room.command(border.OpenDataChannels(transport=connection.transport, channels=CHANNELS))
    data.receiving_added(room, subscriber)


def answer(room: RoomCore, subscriber: Participant, description: rtc.SessionDescription) -> None:
    """Take the client's answer to our offer."""
    connection, negotiation = subscriber.subscriber, subscriber.subscribing
    if connection is None or negotiation is None:
        room.drop("answer_in_single_mode")
        return
    try:
        accepted = negotiation.accept(description.sdp, description.id, room.description_limits)
    except SdpError as error:
        room.drop(f"sdp_{error.code}")
        hopeless(room, subscriber, f"The answer cannot be used: {error.message}.")
        return
    if accepted is None:
        room.drop("answer_stale")
        return
    room.offers_made.discard(subscriber.sid)
    room.timers.clear(("offered", subscriber.sid))
    room.command(border.SetRemote(transport=connection.transport, remote=accepted.remote))
    room.touch(subscriber)
    bind(room, subscriber, accepted.bound, accepted.unsupported)
    if _fit(room, subscriber) or negotiation.needs_offer:
        offer(room, subscriber)


def hopeless(room: RoomCore, participant: Participant, message: str) -> None:
    """A description that cannot be used: the client is told why, and to come back afresh."""
    leave = rtc.LeaveRequest(
        can_reconnect=True,
        reason=models.DisconnectReason.STATE_MISMATCH,
        action=rtc.LeaveRequest.Action.RECONNECT,
    )
    response = rtc.RequestResponse(reason=rtc.RequestResponse.Reason.UNCLASSIFIED_ERROR, message=message)
    room.send(participant, rtc.SignalResponse(request_response=response))
    room.send(participant, rtc.SignalResponse(leave=leave))


def bind(
    room: RoomCore, subscriber: Participant, bound: Mapping[int, SendParameters], unsupported: Iterable[int]
) -> None:
    """Have the worker send what has a section now, and nothing else."""
    by_downtrack = {subscription.downtrack: subscription for subscription in subscriber.subscriptions.values()}
    is_renewed = False
    for downtrack in [number for number, one in by_downtrack.items() if one.sent is not None and number not in bound]:
        # The client has taken its section away.
        _renew(room, by_downtrack[downtrack])
    for downtrack, parameters in bound.items():
        subscription = by_downtrack.get(downtrack)
        if subscription is None or (subscription.sent is not None and _same_on_wire(subscription.sent, parameters)):
            continue
        if subscription.sent is not None:
            _renew(room, subscription)
            is_renewed = True
            continue
        subscription.sent = parameters
        room.command(
            border.AddDowntrack(
                downtrack=downtrack,
                uptrack=subscription.uptrack,
                transport=subscriber.receiving.transport,
                mid=parameters.mid,
                ssrc=subscription.ssrc,
                rtx_ssrc=subscription.rtx_ssrc,
                codecs=parameters.codecs,
                extensions=parameters.extensions,
                want=subscription.want,
            )
        )
        _tell_publisher(room, subscription)
    for downtrack in unsupported:
        subscription = by_downtrack.get(downtrack)
        if subscription is not None and not subscription.is_refused:
            _fall_back(room, subscriber, subscription)
    room.touch(subscriber)
    if is_renewed:
        negotiate(room, subscriber)


def _same_on_wire(old: SendParameters, new: SendParameters) -> bool:
    """Whether packets look the same.

    What a decoder is told (`fmtp`) may change with each offer; the sender cannot. Nor does the order say anything of
    packets: Pion gives extensions and codecs in another one with each answer.
    """

    def plain(parameters: SendParameters) -> SendParameters:
        codecs = sorted(parameters.codecs, key=lambda codec: codec.pt)
        return replace(
            parameters,
            codecs=tuple(structs.replace(codec, fmtp="", feedback=tuple(sorted(codec.feedback))) for codec in codecs),
            extensions=tuple(sorted(parameters.extensions, key=lambda extension: extension.id)),
        )

    return plain(old) == plain(new)


def _renew(room: RoomCore, subscription: Subscription) -> None:
    """End the downtrack and have the next section start another one.

    Under a new SSRC: the receiver could not follow the old one's sequence numbers from a second beginning, and SRTP
    would use nonces twice (RFC 7714 §8.1).
    """
    if subscription.sent is not None:
        room.command(border.RemoveDowntrack(downtrack=subscription.downtrack))
    room.by_downtrack_moved(subscription, room.sources.number())
    subscription.ssrc = room.sources.ssrc()
    subscription.rtx_ssrc = room.sources.ssrc() if subscription.kind is Kind.VIDEO else None
    subscription.sent = None
    subscription.is_active = None


def tell_subscribed(room: RoomCore, publisher: Participant) -> None:
    """After a resume: which tracks have got their first subscriber meanwhile."""
    for track in publisher.tracks.values():
        if track.is_published and not track.told_subscribed:
            copies = (other.subscriptions.get(track.sid) for other in room.others(publisher))
            sent = next((copy for copy in copies if copy is not None and copy.sent is not None), None)
            if sent is not None:
                _tell_publisher(room, sent)


def _tell_publisher(room: RoomCore, subscription: Subscription) -> None:
    found = room.by_track.get(subscription.track_sid)
    if found is not None and not found[1].told_subscribed:
        publisher, track = found
        if publisher.session is None:
            return
        track.told_subscribed = True
        room.touch(publisher)
        message = rtc.TrackSubscribed(track_sid=track.sid)
        room.send(publisher, rtc.SignalResponse(track_subscribed=message))


# --- codecs that a client does not take -----------------------------------------------------------------------------


def _fall_back(room: RoomCore, subscriber: Participant, subscription: Subscription) -> None:
    """Give the subscriber another codec of the track, asking the publisher for one if there is none."""
    found = room.by_track.get(subscription.track_sid)
    if found is None:
        return
    publisher, track = found
    subscription.refused.add(subscription.uptrack)
    other = next((uplink for uplink in track.uplinks if uplink.uptrack not in subscription.refused), None)
    if other is not None:
        _move(room, subscription, other)
        negotiate(room, subscriber)
        return
    subscription.is_refused = True
    if not demand.backup_wanted(room, publisher, track):
        _tell_unsupported(room, subscriber, track)


def _tell_unsupported(room: RoomCore, subscriber: Participant, track: Track) -> None:
    error = models.SubscriptionError.SE_CODEC_UNSUPPORTED
    reply = rtc.SubscriptionResponse(track_sid=track.sid, err=error)
    room.send(subscriber, rtc.SignalResponse(subscription_response=reply))


def backup_overdue(room: RoomCore, track_sid: str) -> None:
    """The publisher did not send the codec that it was asked for: those who wait for it are told. It may still come."""
    found = room.by_track.get(track_sid)
    if found is None:
        return
    for subscriber in room.participants.values():
        subscription = subscriber.subscriptions.get(track_sid)
        if subscription is not None and subscription.is_refused:
            _tell_unsupported(room, subscriber, found[1])


def codec_added(room: RoomCore, track: Track, uplink: Uplink) -> None:
    """A further codec of a track has come: for those who cannot take the others, or for all if its publisher wants."""
    is_for_all = _is_for_all(track)
    for subscriber in room.participants.values():
        subscription = subscriber.subscriptions.get(track.sid)
        if subscription is not None and (subscription.is_refused or is_for_all):
            _move(room, subscription, uplink)
            negotiate(room, subscriber)


def codec_seen(room: RoomCore, track: Track, uplink: Uplink) -> None:
    """Media of another codec has come than was announced: some take it now, others do not any more."""
    for subscriber in room.participants.values():
        subscription = subscriber.subscriptions.get(track.sid)
        if subscription is None or subscription.uptrack != uplink.uptrack or subscription.kind is not Kind.VIDEO:
            continue
        if subscription.is_refused:
            subscription.refused.discard(uplink.uptrack)
            _move(room, subscription, uplink)
            negotiate(room, subscriber)
        elif subscription.sent is not None and not any(
            codec.mime.lower() == uplink.mime.lower() for codec in subscription.sent.codecs
        ):
            _renew(room, subscription)
            _fall_back(room, subscriber, subscription)
            negotiate(room, subscriber)


def _is_for_all(track: Track) -> bool:
    """The publisher wants to send one codec only: once somebody needs the backup, everybody gets it."""
    return track.info.backup_codec_policy == models.BackupCodecPolicy.REGRESSION


def _move(room: RoomCore, subscription: Subscription, uplink: Uplink) -> None:
    _renew(room, subscription)
    subscription.uptrack = uplink.uptrack
    subscription.codecs = uplink.codecs
    subscription.is_refused = False


# --- what the client says -------------------------------------------------------------------------------------------


def update_subscription(room: RoomCore, subscriber: Participant, request: rtc.UpdateSubscription) -> None:
    sids = [*request.track_sids, *(sid for tracks in request.participant_tracks for sid in tracks.track_sids)]
    if len(sids) > room.settings.subscription_sids_max:
        room.drop("subscription_too_long")
        del sids[room.settings.subscription_sids_max :]
    changed = False
    unknown = 0
    for sid in dict.fromkeys(sids):
        found = room.by_track.get(sid)
        if found is None:
            unknown += 1
            if request.subscribe and unknown <= _UNKNOWN_MAX:
                error = models.SubscriptionError.SE_TRACK_NOTFOUND
                reply = rtc.SubscriptionResponse(track_sid=sid, err=error)
                room.send(subscriber, rtc.SignalResponse(subscription_response=reply))
            continue
        publisher, track = found
        if subscriber.wishes.get(sid) is not request.subscribe:
            subscriber.wishes[sid] = request.subscribe
            room.changed_little.add(subscriber.sid)
        changed = _reconcile(room, subscriber, publisher, track) or changed
    if changed:
        negotiate(room, subscriber)


def track_setting(room: RoomCore, subscriber: Participant, request: rtc.UpdateTrackSettings) -> None:
    # Proto3 cannot tell "low" from "not said"; with a size, quality does not count.
    want = Want(
        disabled=request.disabled,
        quality=int(request.quality),
        width=request.width,
        height=request.height,
        fps=request.fps,
        priority=request.priority,
    )
    for sid in dict.fromkeys(request.track_sids):
        if sid not in room.by_track or subscriber.settings.get(sid) == want:
            continue
        subscriber.settings[sid] = want
        room.changed_little.add(subscriber.sid)
        subscription = subscriber.subscriptions.get(sid)
        if subscription is not None and subscription.want != want:
            subscription.want = want
            if subscription.sent is not None:
                room.command(border.SetDowntrack(downtrack=subscription.downtrack, want=want))


def subscription_permission(room: RoomCore, publisher: Participant, request: rtc.SubscriptionPermission) -> None:
    """The publisher says who may have its tracks."""
    publisher.permissions = request
    room.permitted.pop(publisher.sid, None)
    room.touch(publisher)
    consider(room, publisher, tuple(publisher.tracks.values()))


# --- what the worker says -------------------------------------------------------------------------------------------


def state_changed(room: RoomCore, event: border.DowntrackState) -> None:
    """The worker paused a copy, or sends it again."""
    found = room.by_downtrack.get(event.downtrack)
    if found is None:
        return
    subscriber, subscription = found
    subscription.is_active = event.active
    room.changed_little.add(subscriber.sid)
    message = rtc.StreamStateUpdate(stream_states=[_stream_state(subscription)])
    room.send(subscriber, rtc.SignalResponse(stream_state_update=message))


def _stream_state(subscription: Subscription) -> rtc.StreamStateInfo:
    return rtc.StreamStateInfo(
        participant_sid=subscription.publisher_sid,
        track_sid=subscription.track_sid,
        state=rtc.StreamState.ACTIVE if subscription.is_active else rtc.StreamState.PAUSED,
    )
