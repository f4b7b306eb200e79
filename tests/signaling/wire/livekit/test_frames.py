"""Signal frames in both forms: what is read, what is refused, and that nothing else can happen."""

from __future__ import annotations

import json

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from signaling.errors import InvalidRequest
from signaling.rooms.told import Told
from signaling.wire.livekit.frames import Frame, JoinFrame, read

RANDOM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
REQUEST = rtc.SignalRequest(
    add_track=rtc.AddTrackRequest(
        cid="c", type=models.TrackType.VIDEO, layers=[models.VideoLayer(quality=models.VideoQuality.HIGH, width=640)]
    )
)


def test_both_forms_say_the_same() -> None:
    assert read(REQUEST.SerializeToString()) == REQUEST
    assert read(json_format.MessageToJson(REQUEST)) == REQUEST
    assert read(json_format.MessageToJson(REQUEST, preserving_proto_field_name=True)) == REQUEST


def test_an_answer_is_written_in_both_forms() -> None:
    message = rtc.SignalResponse(pong_resp=rtc.Pong(last_ping_timestamp=1, timestamp=2**53))
    frame = Frame(message)
    assert rtc.SignalResponse.FromString(frame.binary) == message
    assert json.loads(frame.text) == {"pongResp": {"lastPingTimestamp": "1", "timestamp": str(2**53)}}
    assert json_format.Parse(frame.text, rtc.SignalResponse()) == message


def test_a_message_to_many_is_written_once() -> None:
    frame = Frame(rtc.SignalResponse(pong=1))
    assert frame.binary is frame.binary
    assert frame.text is frame.text


def test_what_a_newer_client_says_is_passed_over() -> None:
    unknown = b"\xfa\x3f\x03abc"
    assert read(REQUEST.SerializeToString() + unknown).add_track == REQUEST.add_track
    assert read('{"ofTheFuture": {"a": 1}, "ping": "5"}').ping == 5


def test_nothing_unknown_is_kept_in_what_others_are_told() -> None:
    unknown = b"\xfa\x3f\x03abc"
    request = rtc.SignalRequest(update_layers=rtc.UpdateVideoLayers(layers=[models.VideoLayer(width=640)]))
    request.update_layers.layers[0].MergeFromString(unknown)
    assert unknown in request.SerializeToString()
    assert unknown not in read(request.SerializeToString()).SerializeToString()


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
        # A string that is no UTF-8, three levels down.
        b"\x22\x04\x0a\x02\xff\xfe",
        # Groups nest without end.
        b"\x0b" * 10_000,
        b"\x12\x80",
        "",
        "null",
        "[]",
        "5",
        '"offer"',
        "{",
        '{"offer": 5}',
        '{"addTrack": {"layers": {}}}',
        '{"addTrack": {"type": "NOTHING", "cid": 7}}',
        '{"ping": "x"}',
        '{"ping": 1e400}',
        '{"mute": {"muted": "yes"}}',
        '{"offer": {}, "answer": {}}',
        '{"offer": {"sdp": "\\ud800"}}',
        '{"updateMetadata": {"attributes": {"a": {}}}}',
        '{"updateMetadata": {"attributes": []}}',
        '{"ping": ' + "9" * 5_000 + "}",
        "[" * 100_000,
        '{"syncState":' * 50_000,
    ],
)
def test_what_is_no_signal_message_is_refused(frame: bytes | str) -> None:
    with pytest.raises(InvalidRequest):
        read(frame)


@RANDOM
@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_frame_is_read_or_refused(frame: bytes | str) -> None:
    """S-42"""
    try:
        request = read(frame)
    except InvalidRequest:
        return
    assert isinstance(request, rtc.SignalRequest)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = [field.json_name for field in rtc.SignalRequest.DESCRIPTOR.fields]
_INNER = sorted(
    {
        f.json_name
        for field in rtc.SignalRequest.DESCRIPTOR.fields
        if field.message_type
        for f in field.message_type.fields
    }
)


@RANDOM
@given(st.dictionaries(st.sampled_from(_NAMES), st.dictionaries(st.sampled_from(_INNER), _JSON) | _JSON, max_size=2))
def test_any_json_under_known_names_is_read_or_refused(fields: dict[str, object]) -> None:
    try:
        request = read(json.dumps(fields))
    except InvalidRequest:
        return
    assert request.IsInitialized()


@pytest.mark.parametrize("people", [0, 1, 3_000])
def test_a_join_with_others_in_bytes_reads_as_one_that_was_made_whole(people: int) -> None:
    others = [models.ParticipantInfo(sid=f"PA_{number}", identity="é" * (number % 300)) for number in range(people)]
    response = rtc.JoinResponse(participant=models.ParticipantInfo(sid="PA_me"), ping_interval=5)
    frame = JoinFrame(response, [Told(info).entry for info in others])
    whole = rtc.SignalResponse(join=response)
    whole.join.other_participants.extend(others)
    assert rtc.SignalResponse.FromString(frame.binary) == whole
    assert json.loads(frame.text) == json.loads(Frame(whole).text)
