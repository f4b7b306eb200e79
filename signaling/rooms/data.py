"""Data between participants: packets over the data channels, data tracks, and calls made by the server.

The server enters who sent a packet, whatever the packet says, and never looks into what streams, RPC and encrypted
packets carry. Reliable packets keep their sender's numbers; a short cache serves those who come back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from sfu import border
from signaling.rooms.core import Moment, RoomCore
from signaling.rooms.effects import RpcEnded
from signaling.rooms.names import has_controls
from signaling.rooms.state import DataTrack, Participant

RELIABLE = "_reliable"
LOSSY = "_lossy"
_KINDS = {RELIABLE: models.DataPacket.Kind.RELIABLE, LOSSY: models.DataPacket.Kind.LOSSY}
_NOT_FOR_CLIENTS = ("speaker",)
_AT_ONCE = 200
"""So many get a packet with one command: a worker does commands whole, and media waits milliseconds at most."""
_Described = models.DataTrackInfo | rtc.PublishDataTrackRequest


@dataclass(frozen=True)
class Kept:
    """A reliable packet as it went out. `to`: identities, or None for everybody."""

    at: float
    sender_sid: str
    sequence: int
    to: frozenset[str] | None
    payload: bytes


@dataclass
class ReliableCache:
    """The last reliable packets of a room, bounded by age and size."""

    max_seconds: float
    max_bytes: int
    kept: deque[Kept] = field(default_factory=deque)
    size_bytes: int = 0

    def keep(self, packet: Kept) -> None:
        self.kept.append(packet)
        self.size_bytes += len(packet.payload)
        while self.kept and (self.size_bytes > self.max_bytes or self.kept[0].at < packet.at - self.max_seconds):
            self.size_bytes -= len(self.kept.popleft().payload)

    def for_one(self, participant: Participant) -> Iterable[Kept]:
        for packet in self.kept:
            is_for_him = packet.to is None or participant.identity in packet.to
            if is_for_him and packet.sender_sid != participant.sid:
                yield packet


# --- packets --------------------------------------------------------------------------------------------------------


def received(room: RoomCore, cache: ReliableCache, sender: Participant, event: border.DataMessage, now: Moment) -> None:
    kind = _KINDS.get(event.label)
    if kind is None:
        room.drop("data_channel_unknown")
        return
    if not sender.grants.can_publish_data:
        room.drop("data_not_allowed")
        return
    try:
        packet = models.DataPacket.FromString(event.payload)
    except DecodeError:
        room.drop("data_malformed")
        return
    if packet.WhichOneof("value") in (None, *_NOT_FOR_CLIENTS):
        room.drop("data_kind_unknown")
        return
    if event.label == RELIABLE and packet.sequence:
        if packet.sequence <= sender.last_sequence:
            room.drop("data_repeated")
            return
        sender.last_sequence = packet.sequence
        room.changed_little.add(sender.sid)
    packet.participant_sid = sender.sid
    packet.participant_identity = sender.identity
    packet.kind = kind
    to = _destinations(room, packet)
    if packet.WhichOneof("value") == "user":
        packet.user.participant_sid = sender.sid
        packet.user.participant_identity = sender.identity
    if packet.WhichOneof("value") == "rpc_response" and _answers_server(room, packet, sender, to):
        return
    _deliver(room, cache, packet, event.label, to, now)


def from_server(room: RoomCore, cache: ReliableCache, packet: models.DataPacket, now: Moment) -> None:
    """Send a packet that no participant has sent."""
    label = LOSSY if packet.kind == models.DataPacket.Kind.LOSSY else RELIABLE
    _deliver(room, cache, packet, label, _destinations(room, packet), now)


def _destinations(room: RoomCore, packet: models.DataPacket) -> frozenset[str] | None:
    """Whom the packet is for; None: everybody. Old clients name them in the user packet, by sid or identity."""
    identities = set(packet.destination_identities)
    if packet.WhichOneof("value") == "user":
        user = packet.user
        identities |= set(user.destination_identities)
        found = (room.participants.get(sid) for sid in user.destination_sids)
        named = bool(user.destination_sids)
        identities |= {participant.identity for participant in found if participant is not None}
        if named and not identities:
            # All those that were named have left: nobody is not everybody.
            return frozenset()
    return frozenset(identities) if identities else None


def _deliver(
    room: RoomCore,
    cache: ReliableCache,
    packet: models.DataPacket,
    label: str,
    to: frozenset[str] | None,
    now: Moment,
) -> None:
    payload = packet.SerializeToString()
    receivers = [
        receiver
        for receiver in _receivers(room, to)
        if receiver.sid != packet.participant_sid and receiver.receiving.is_added
    ]
    if label == RELIABLE:
        cache.keep(Kept(now.seconds, packet.participant_sid, packet.sequence, to, payload))
        receivers = [receiver for receiver in receivers if receiver.has_reliable]
    transports = tuple(receiver.receiving.transport for receiver in receivers)
    for start in range(0, len(transports), _AT_ONCE):
        some = transports[start : start + _AT_ONCE]
        room.command(border.SendData(transports=some, label=label, payload=payload))


def _receivers(room: RoomCore, to: frozenset[str] | None) -> Iterable[Participant]:
    if to is None:
        return room.participants.values()
    return [room.by_identity[identity] for identity in to if identity in room.by_identity]


def channel_open(room: RoomCore, cache: ReliableCache, receiver: Participant, event: border.DataChannelOpen) -> None:
    """A channel towards a receiver is open. A newcomer gets what was said since he joined."""
    if event.label != RELIABLE or event.transport != receiver.receiving.transport or receiver.has_reliable:
        return
    receiver.has_reliable = True
    room.touch(receiver)
    for packet in cache.for_one(receiver):
        if packet.at >= receiver.joined_at:
            _send_again(room, receiver, packet)


def replay(
    room: RoomCore, cache: ReliableCache, receiver: Participant, states: Iterable[rtc.DataChannelReceiveState]
) -> None:
    """After a resume: what the receiver has missed, by the last number he saw of each sender."""
    seen = {state.publisher_sid: state.last_seq for state in states}
    for packet in cache.for_one(receiver):
        if packet.sender_sid in seen and packet.sequence > seen[packet.sender_sid]:
            _send_again(room, receiver, packet)


def _send_again(room: RoomCore, receiver: Participant, packet: Kept) -> None:
    transport = receiver.receiving.transport
    room.command(border.SendData(transports=(transport,), label=RELIABLE, payload=packet.payload))


# --- calls made by the server ---------------------------------------------------------------------------------------


SERVER_IDENTITY = ""
"""Who calls: RPC answers that are addressed to nobody are the server's."""
PAYLOAD_MAX_BYTES = 15_360
"""Of a call, as SDKs have it: more they do not send either."""


class RpcCode(IntEnum):
    """Errors that are not the application's own; `RpcError.ErrorCode` of LiveKit's SDKs."""

    UNSUPPORTED_METHOD = 1400
    CONNECTION_TIMEOUT = 1501
    RESPONSE_TIMEOUT = 1502
    RECIPIENT_DISCONNECTED = 1503


def _answers_server(room: RoomCore, packet: models.DataPacket, sender: Participant, to: frozenset[str] | None) -> bool:
    answer = packet.rpc_response
    callee = room.server_calls.get(answer.request_id)
    if callee is None or callee != sender.identity or (to is not None and to != {SERVER_IDENTITY}):
        return False
    del room.server_calls[answer.request_id]
    error = answer.error.message or str(answer.error.code) if answer.HasField("error") else ""
    room.out.append(RpcEnded(answer.request_id, answer.payload, error, answer.error.code))
    return True


# --- data tracks ----------------------------------------------------------------------------------------------------


def publish_track(room: RoomCore, publisher: Participant, request: rtc.PublishDataTrackRequest) -> None:
    publish_tracks(room, publisher, [request])


def publish_tracks(room: RoomCore, publisher: Participant, requests: Iterable[rtc.PublishDataTrackRequest]) -> None:
    """Each is answered; the others are told of all of them together."""
    begun = [track for request in requests if (track := _take_track(room, publisher, request)) is not None]
    if not begun:
        return
    room.announce(publisher)
    for other in room.others(publisher):
        _consider(room, other, [(publisher, track) for track in begun])


def _take_track(room: RoomCore, publisher: Participant, request: rtc.PublishDataTrackRequest) -> DataTrack | None:
    info = models.DataTrackInfo(
        pub_handle=request.pub_handle,
        sid=room.sources.sid("DTR_"),
        name=request.name,
        encryption=request.encryption,
    )
    _describe(info, request)
    refusal = _track_refusal(room, publisher, info)
    if refusal is not None:
        reason, message = refusal
        reply = rtc.RequestResponse(reason=reason, message=message, publish_data_track=request)
        room.send(publisher, rtc.SignalResponse(request_response=reply))
        return None
    track = DataTrack(info=info, data_uptrack=room.sources.number())
    publisher.data_tracks[info.pub_handle] = track
    room.by_data_track[info.sid] = (publisher, track)
    if publisher.publisher.is_added:
        _begin_track(room, publisher, track)
    room.send(publisher, rtc.SignalResponse(publish_data_track_response=rtc.PublishDataTrackResponse(info=info)))
    return track


def asked_again(info: models.DataTrackInfo) -> rtc.PublishDataTrackRequest:
    """Return the request that such a track was published with."""
    request = rtc.PublishDataTrackRequest(pub_handle=info.pub_handle, name=info.name, encryption=info.encryption)
    _describe(request, info)
    return request


def _describe(target: _Described, source: _Described) -> None:
    """Copy what frames are made of, as far as it is told: an empty message would say something too."""
    if source.HasField("frame_encoding"):
        target.frame_encoding.CopyFrom(source.frame_encoding)
    if source.HasField("schema"):
        target.schema.CopyFrom(source.schema)


def _begin_track(room: RoomCore, publisher: Participant, track: DataTrack) -> None:
    room.command(
        border.AddDataUptrack(
            data_uptrack=track.data_uptrack,
            transport=publisher.publisher.transport,
            pub_handle=track.info.pub_handle,
        )
    )


def publishing_added(room: RoomCore, publisher: Participant) -> None:
    """The connection on which the publisher sends exists now: its data tracks begin."""
    for track in publisher.data_tracks.values():
        _begin_track(room, publisher, track)
        for other in room.others(publisher):
            _start_track(room, other, publisher, track)


def _track_refusal(
    room: RoomCore, publisher: Participant, info: models.DataTrackInfo
) -> tuple[rtc.RequestResponse.Reason, str] | None:
    reasons = rtc.RequestResponse.Reason
    if not publisher.grants.can_publish_data:
        return reasons.NOT_ALLOWED, "The token does not allow to publish data."
    if not 0 < info.pub_handle <= _MAX_HANDLE:
        return reasons.INVALID_HANDLE, "A data track's handle is between 1 and 65535."
    if info.pub_handle in publisher.data_tracks:
        return reasons.DUPLICATE_HANDLE, "This handle is in use for another data track."
    if not 0 < len(info.name.encode()) <= room.settings.name_max_bytes:
        return reasons.INVALID_NAME, "A data track needs a name of a sensible length."
    if has_controls(info.name):
        return reasons.INVALID_NAME, "The name of the data track has control characters."
    if any(track.info.name == info.name for track in publisher.data_tracks.values()):
        return reasons.DUPLICATE_NAME, "Another data track of this participant has that name."
    if len(publisher.data_tracks) >= room.settings.data_tracks_max:
        most = room.settings.data_tracks_max
        return reasons.LIMIT_EXCEEDED, f"One participant may publish {most} data tracks at most."
    excess = room.excess_of(info)
    return (reasons.LIMIT_EXCEEDED, excess) if excess else None


_MAX_HANDLE = 0xFFFF


def unpublish_track(room: RoomCore, publisher: Participant, request: rtc.UnpublishDataTrackRequest) -> None:
    track = publisher.data_tracks.get(request.pub_handle)
    if track is None:
        reply = rtc.RequestResponse(
            reason=rtc.RequestResponse.Reason.NOT_FOUND,
            message="There is no data track of that handle.",
            unpublish_data_track=request,
        )
        room.send(publisher, rtc.SignalResponse(request_response=reply))
        return
    end_tracks(room, publisher, [track])
    message = rtc.UnpublishDataTrackResponse(info=track.info)
    room.send(publisher, rtc.SignalResponse(unpublish_data_track_response=message))
    room.announce(publisher)


def end_tracks(room: RoomCore, publisher: Participant, tracks: Collection[DataTrack]) -> None:
    if not tracks:
        return
    sids = [track.info.sid for track in tracks]
    for track in tracks:
        publisher.data_tracks.pop(track.info.pub_handle, None)
        room.by_data_track.pop(track.info.sid, None)
        if publisher.publisher.is_added:
            room.command(border.RemoveDataUptrack(data_uptrack=track.data_uptrack))
    room.touch(publisher)
    for other in room.others(publisher):
        for sid in sids:
            other.data_wishes.pop(sid, None)
        lost = [sid for sid in sids if other.data_subscriptions.pop(sid, None) is not None]
        if lost:
            room.touch(other)
            tell_handles(room, other)


def update_subscription(room: RoomCore, subscriber: Participant, request: rtc.UpdateDataSubscription) -> None:
    wishes = {
        update.track_sid: update.subscribe for update in request.updates if update.track_sid in room.by_data_track
    }
    if not wishes.items() <= subscriber.data_wishes.items():
        subscriber.data_wishes |= wishes
        room.changed_little.add(subscriber.sid)
    for sid in wishes:
        _reconcile(room, subscriber, *room.by_data_track[sid])
    # Also where nothing changed: handles told before they were asked for mean nothing to the Rust SDK.
    tell_handles(room, subscriber)


def consider_tracks(room: RoomCore, subscriber: Participant) -> None:
    """Subscribe to whatever is there and wanted, or end what is not allowed any more."""
    _consider(room, subscriber, room.by_data_track.values())


def consider_publisher(room: RoomCore, publisher: Participant) -> None:
    """As `consider_tracks`, for everybody and one publisher's tracks."""
    for other in room.others(publisher):
        _consider(room, other, [(publisher, track) for track in publisher.data_tracks.values()])


def _consider(room: RoomCore, subscriber: Participant, tracks: Iterable[tuple[Participant, DataTrack]]) -> None:
    changes = [_reconcile(room, subscriber, publisher, track) for publisher, track in tracks]
    if any(changes):
        tell_handles(room, subscriber)


def _reconcile(room: RoomCore, subscriber: Participant, publisher: Participant, track: DataTrack) -> bool:
    """Make or end a subscription, as wishes and rules have it; tell whether something changed."""
    if publisher is subscriber:
        return False
    sid = track.info.sid
    may_receive = subscriber.grants.can_subscribe and not publisher.is_hidden
    wished = subscriber.data_wishes.get(sid, subscriber.auto_subscribe_data) and may_receive
    has = sid in subscriber.data_subscriptions
    if wished == has:
        return False
    if wished:
        subscriber.data_subscriptions[sid] = _free_handle(subscriber)
        _start_track(room, subscriber, publisher, track)
    else:
        del subscriber.data_subscriptions[sid]
        if subscriber.receiving.is_added and publisher.publisher.is_added:
            transport = subscriber.receiving.transport
            room.command(border.RemoveDataDowntrack(data_uptrack=track.data_uptrack, transport=transport))
    room.touch(subscriber)
    return True


def _free_handle(subscriber: Participant) -> int:
    taken = set(subscriber.data_subscriptions.values())
    handle = subscriber.next_data_handle
    while handle in taken:
        handle = handle % _MAX_HANDLE + 1
    subscriber.next_data_handle = handle % _MAX_HANDLE + 1
    return handle


def _start_track(room: RoomCore, subscriber: Participant, publisher: Participant, track: DataTrack) -> None:
    """Have the worker forward a track that is subscribed to, once both connections exist."""
    handle = subscriber.data_subscriptions.get(track.info.sid)
    if handle is not None and subscriber.receiving.is_added and publisher.publisher.is_added:
        transport = subscriber.receiving.transport
        room.command(border.AddDataDowntrack(data_uptrack=track.data_uptrack, transport=transport, handle=handle))


def receiving_added(room: RoomCore, subscriber: Participant) -> None:
    """The connection towards the subscriber exists now: what it was waiting for starts."""
    for sid in subscriber.data_subscriptions:
        publisher, track = room.by_data_track[sid]
        _start_track(room, subscriber, publisher, track)


def tell_handles(room: RoomCore, subscriber: Participant) -> None:
    if subscriber.session is None:
        subscriber.untold_handles = True
        return
    subscriber.untold_handles = False
    message = rtc.DataTrackSubscriberHandles()
    for sid, handle in subscriber.data_subscriptions.items():
        publisher, _ = room.by_data_track[sid]
        entry = message.sub_handles[handle]
        entry.publisher_identity = publisher.identity
        entry.publisher_sid = publisher.sid
        entry.track_sid = sid
    room.send(subscriber, rtc.SignalResponse(data_track_subscriber_handles=message))
