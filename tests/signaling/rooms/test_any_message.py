"""Whatever a client says, field by field: the room answers or drops it, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol import models, rtc
from livekit.protocol import room as api

from sfu import border
from signaling.errors import CallyardError
from tests.signaling.rooms.world import THREE_LAYERS, Client, World, user_packet

KINDS = [field.name for field in rtc.SignalRequest.DESCRIPTOR.fields]
RANDOM = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
_DEEPEST = 3

_KNOWN = ("", "alice", "bob", "nobody", "mic", "cam", "share", "vp8", "video/VP8", "av1", "red", "q", "offer", "answer")
_SIDS = tuple(f"{prefix}{number}" for prefix in ("PA_", "TR_VC", "TR_AM", "DTR_") for number in range(1, 9))
_ODD = ("\x00", "\r\n", "é" * 200, "x" * 70_000, "v=0\r\n", "a|b", "\u202e", "-1")
_TEXT = st.sampled_from((*_KNOWN, *_SIDS, *_ODD))
_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}


def value_of(field: Any, depth: int) -> st.SearchStrategy[Any]:
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        assert field.message_type is not None
        return message_of(field.message_type, depth + 1)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.sampled_from((b"", b"x", b"\xff" * 1000))
        return _TEXT
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return st.sampled_from((0.0, -1.0, 1e30, float("inf"), float("nan")))
    low, high = _BOUNDS[kind]
    return st.sampled_from((low, 0, 1, 2, 3, 100, 65_536, high)).map(lambda number: max(low, min(number, high)))


@st.composite
def message_of(draw: st.DrawFn, descriptor: Any, depth: int = 0) -> dict[str, Any]:
    """Some of a message's fields, each present or not, with usual and extreme values."""
    fields: dict[str, Any] = {}
    for field in descriptor.fields:
        if depth >= _DEEPEST and field.message_type is not None:
            continue
        if draw(st.integers(0, 2)) == 0:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            fields[field.name] = draw(st.dictionaries(value_of(key, depth), value_of(value, depth), max_size=2))
        elif field.is_repeated:
            fields[field.name] = draw(st.lists(value_of(field, depth), max_size=3))
        else:
            fields[field.name] = draw(value_of(field, depth))
    return fields


def build(kind: type[Message], fields: dict[str, Any]) -> Message:
    """Of two fields of one `oneof` the later stands."""
    return kind(**fields)


def busy_room(single: bool) -> tuple[World, Client, Client]:
    world = World()
    alice = world.join("alice", single=single, can_update_own_metadata=True)
    bob = world.join("bob", single=not single)
    for client in (alice, bob):
        client.publish_audio()
        client.publish_video(layers=THREE_LAYERS)
        client.say(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=1, name="d"))
    return world, alice, bob


def still_works(world: World, bob: Client) -> None:
    """Whatever one has said, the others and newcomers meet as before."""
    carol = world.join("carol")
    sid = bob.publish_audio("mic2").sid
    assert sid in carol.record.subscriptions
    assert carol.record.subscriptions[sid].sent is not None


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_each_message_with_all_fields_missing(kind: str, single: bool) -> None:
    world, alice, bob = busy_room(single)
    field = rtc.SignalRequest.DESCRIPTOR.fields_by_name[kind]
    request = rtc.SignalRequest()
    if field.message_type is not None:
        getattr(request, kind).SetInParent()
    else:
        setattr(request, kind, 0)
    assert request.WhichOneof("message") == kind
    world.queue.append((alice.session or 0, request))
    world.settle()
    still_works(world, bob)


@pytest.mark.parametrize("kind", KINDS)
@RANDOM
@given(data=st.data(), single=st.booleans())
def test_each_message_with_any_fields(kind: str, data: st.DataObject, single: bool) -> None:
    """S-42"""
    world, alice, bob = busy_room(single)
    field = rtc.SignalRequest.DESCRIPTOR.fields_by_name[kind]
    for _ in range(2):
        fields = data.draw(value_of(field, 0))
        if alice.session is not None:
            alice.answers_by_itself = True
            alice.say(**{kind: fields})
    world.wait(0.5)
    if bob.session is not None:
        still_works(world, bob)


@RANDOM
@given(data=st.data())
def test_any_join_is_taken_or_refused(data: st.DataObject) -> None:
    world = World()
    bob = world.join("bob")
    alice = world.client("alice", single=data.draw(st.booleans()))
    tracks = data.draw(st.lists(message_of(rtc.AddTrackRequest.DESCRIPTOR), max_size=3))
    description = data.draw(st.none() | message_of(rtc.SessionDescription.DESCRIPTOR))
    state = data.draw(st.none() | message_of(rtc.SyncState.DESCRIPTOR))
    more: dict[str, Any] = {
        "client": rtc.JoinRequest(client_info=data.draw(message_of(models.ClientInfo.DESCRIPTOR))).client_info,
        "offer": None if description is None else rtc.SessionDescription(**description),
        "add_tracks": tuple(rtc.AddTrackRequest(**fields) for fields in tracks),
        "sync_state": None if state is None else rtc.SyncState(**state),
    }
    world.enter_with(alice, **more)
    if alice.session is not None:
        world.resume(alice, sync_state=more["sync_state"])
    still_works(world, bob)


@RANDOM
@given(data=st.data(), label=st.sampled_from(("_reliable", "_lossy", "_data_track", "", "chat")))
def test_any_data_packet_is_passed_on_or_dropped(data: st.DataObject, label: str) -> None:
    world, alice, bob = busy_room(single=True)
    packet = models.DataPacket(**data.draw(message_of(models.DataPacket.DESCRIPTOR)))
    world.data(alice, packet, label)
    for sent in world.worker.data:
        passed = models.DataPacket.FromString(sent.payload)
        assert (passed.participant_sid, passed.participant_identity) == (alice.sid, "alice")
        assert alice.record.receiving.transport not in sent.transports
    still_works(world, bob)


@RANDOM
@given(payload=st.binary(max_size=100))
def test_any_data_bytes_are_passed_on_or_dropped(payload: bytes) -> None:
    """S-46"""
    world, alice, bob = busy_room(single=False)
    transport = alice.record.publisher.transport
    for label in ("_reliable", "_lossy", "other"):
        world.event(border.DataMessage(transport=transport, label=label, payload=payload))
    world.data(bob, user_packet(b"after"))
    assert models.DataPacket.FromString(world.worker.data[-1].payload).user.payload == b"after"


_ADMINISTRATION: dict[str, type[Message]] = {
    "update_participant": api.UpdateParticipantRequest,
    "update_subscriptions": api.UpdateSubscriptionsRequest,
    "send_data": api.SendDataRequest,
    "call": api.PerformRpcRequest,
}


@pytest.mark.parametrize("method", list(_ADMINISTRATION))
@RANDOM
@given(data=st.data())
def test_any_wish_of_an_administrator_is_carried_out_or_refused(method: str, data: st.DataObject) -> None:
    world, _, bob = busy_room(single=True)
    kind = _ADMINISTRATION[method]
    request = build(kind, data.draw(message_of(kind.DESCRIPTOR)))
    room = world.room
    arguments = {
        "update_participant": (request, world.now),
        "update_subscriptions": (request,),
        "send_data": (request, world.now),
        "call": (request, "call-1", world.now),
    }[method]
    try:
        world.apply(getattr(room, method)(*arguments))
    except CallyardError:
        return
    world.settle()
    world.wait(0.5)
    bob.say(ping=1)
    assert bob.inbox[-1].WhichOneof("message") == "pong"
