"""The parameters of a signal connection: as SDKs send them, and as nobody should."""

from __future__ import annotations

import base64
import gzip
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from signaling.errors import InvalidRequest, Refusal, TooLarge
from signaling.rooms.grants import Grants
from signaling.rooms.presence import JoinParameters
from signaling.wire.livekit import connecting

GRANTS = Grants(key="devkey", identity="alice", room="lobby", room_join=True)
GZIP = rtc.WrappedJoinRequest.Compression.GZIP
MIB = 1024 * 1024
MOST = MIB
RANDOM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

REQUEST = rtc.JoinRequest(
    client_info=models.ClientInfo(sdk=models.ClientInfo.SDK.JS, protocol=17, client_protocol=2),
    connection_settings=rtc.ConnectionSettings(auto_subscribe=True, adaptive_stream=True),
    metadata="m",
    participant_attributes={"a": "b"},
    add_track_requests=[rtc.AddTrackRequest(cid="c")],
    publisher_offer=rtc.SessionDescription(type="offer", sdp="v=0", id=1),
)


def unwrapped(text: str) -> rtc.JoinRequest:
    return connecting.unwrap(text, MOST)


def wrapped(body: bytes, *, compressed: bool = False, padded: bool = True) -> str:
    packed = rtc.WrappedJoinRequest(join_request=body)
    if compressed:
        packed.compression = GZIP
        packed.join_request = body if body[:2] == b"\x1f\x8b" else gzip.compress(body)
    text = base64.urlsafe_b64encode(packed.SerializeToString()).decode()
    return text if padded else text.rstrip("=")


def read(query: dict[str, str], *, is_v1: bool = False) -> JoinParameters:
    return connecting.parameters(query, GRANTS, is_v1=is_v1, unpacked_max_bytes=MOST)


# --- join_request ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("extra", ["", "x", "xx", "xxx"])
def test_a_join_request_is_read_packed_or_not_padded_or_not(compressed: bool, padded: bool, extra: str) -> None:
    request = rtc.JoinRequest()
    request.CopyFrom(REQUEST)
    request.metadata = "m" + extra
    assert unwrapped(wrapped(request.SerializeToString(), compressed=compressed, padded=padded)) == request


def test_nothing_unknown_is_kept_of_a_join_request() -> None:
    unknown = b"\xfa\x3f\x03abc"
    request = rtc.JoinRequest()
    request.CopyFrom(REQUEST)
    request.client_info.MergeFromString(unknown)
    request.add_track_requests[0].layers.add(width=640).MergeFromString(unknown)
    found = unwrapped(wrapped(request.SerializeToString()))
    assert unknown in request.SerializeToString()
    assert unknown not in found.SerializeToString()
    assert found.add_track_requests[0].layers[0].width == 640


def test_the_standard_alphabet_is_taken_too() -> None:
    body = rtc.JoinRequest(metadata="ÿþ?>" * 20).SerializeToString()
    text = wrapped(body)
    assert set("-_") & set(text)
    assert unwrapped(text.replace("-", "+").replace("_", "/")).metadata == "ÿþ?>" * 20


@pytest.mark.parametrize("is_v1", [True, False])
def test_what_a_join_request_says_is_passed_on(is_v1: bool) -> None:
    found = read({"join_request": wrapped(REQUEST.SerializeToString())}, is_v1=is_v1)
    assert found == JoinParameters(
        grants=GRANTS,
        client=REQUEST.client_info,
        is_single=True,
        auto_subscribe=True,
        adaptive_stream=True,
        auto_subscribe_data=True,
        metadata="m",
        attributes={"a": "b"},
        offer=REQUEST.publisher_offer,
        add_tracks=(REQUEST.add_track_requests[0],),
    )


def test_a_resume_names_the_participant_and_brings_its_state() -> None:
    state = rtc.SyncState(track_sids_disabled=["TR_1"])
    request = rtc.JoinRequest(reconnect=True, participant_sid="PA_1", sync_state=state)
    found = read({"join_request": wrapped(request.SerializeToString())}, is_v1=True)
    assert (found.is_reconnect, found.participant_sid, found.sync_state) == (True, "PA_1", state)


@pytest.mark.parametrize("value", [True, False])
def test_data_tracks_are_subscribed_to_unless_the_client_says_no(value: bool) -> None:
    request = rtc.JoinRequest(connection_settings=rtc.ConnectionSettings(auto_subscribe_data_track=value))
    assert read({"join_request": wrapped(request.SerializeToString())}, is_v1=True).auto_subscribe_data is value


def test_the_new_path_needs_a_join_request() -> None:
    with pytest.raises(InvalidRequest, match="`join_request` is missing"):
        read({"access_token": "x"}, is_v1=True)


@pytest.mark.parametrize(
    "text",
    [
        "%%%",
        "A",
        "AAAAA",
        "ÄÖÜ",
        "\ud800",
        "x" * 100_001,
        wrapped(b"\xff\xff\xff\xff"),
        wrapped(b"not gzip", compressed=False).replace("A", "!"),
        base64.urlsafe_b64encode(b"\x0a\xff\xff\xff\xff\x0f").decode(),
        wrapped(gzip.compress(REQUEST.SerializeToString(), mtime=0)[:-9], compressed=True),
        wrapped(gzip.compress(b"\x0a\xff\xff\xff\xff\x0f", mtime=0), compressed=True),
        wrapped(gzip.compress(b"x" * 100, mtime=0)[:12] + b"\x00" * 40, compressed=True),
    ],
)
def test_an_unreadable_join_request_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        unwrapped(text)


def test_garbage_that_claims_to_be_gzip_is_refused() -> None:
    packed = rtc.WrappedJoinRequest(compression=GZIP, join_request=b"garbage")
    with pytest.raises(InvalidRequest):
        unwrapped(base64.urlsafe_b64encode(packed.SerializeToString()).decode())


@pytest.mark.parametrize("size", [MOST + 1, 64 * MIB])
def test_a_bomb_is_refused_before_it_has_unpacked(size: int) -> None:
    """S-43"""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    chunk = b"\x00" * MIB
    packed = b"".join([*(compressor.compress(chunk) for _ in range(size // MIB)), compressor.compress(b"\x00")])
    packed += compressor.flush()
    text = wrapped(packed, compressed=True)
    tracemalloc.start()
    try:
        with pytest.raises((TooLarge, InvalidRequest)):
            unwrapped(text)
        assert tracemalloc.get_traced_memory()[1] < 3 * MOST
    finally:
        tracemalloc.stop()


def test_a_request_of_just_the_limit_is_read() -> None:
    body = rtc.JoinRequest(metadata="x" * (MOST - 4)).SerializeToString()
    assert len(body) == MOST
    assert len(unwrapped(wrapped(body, compressed=True)).metadata) == MOST - 4


@RANDOM
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(body: bytes, compressed: bool) -> None:
    for text in (wrapped(body, compressed=compressed), base64.urlsafe_b64encode(body).decode()):
        try:
            read({"join_request": text}, is_v1=True)
        except Refusal:
            continue


# --- the query of the old path --------------------------------------------------------------------------------------


def test_the_query_is_read() -> None:
    attributes = base64.urlsafe_b64encode(json.dumps({"a": "b", "ä": "ö"}).encode()).decode()
    found = read(
        {
            "protocol": "16",
            "client_protocol": "1",
            "sdk": "go",
            "version": "2.1",
            "os": "linux",
            "os_version": "6",
            "device_model": "box",
            "browser": "none",
            "browser_version": "0",
            "network": "wifi",
            "capabilities": "CAP_PACKET_TRAILER,CAP_OF_THE_FUTURE",
            "auto_subscribe": "0",
            "adaptive_stream": "1",
            "auto_subscribe_data_track": "0",
            "attributes": attributes,
            "reconnect": "1",
            "sid": "PA_1",
        }
    )
    assert found == JoinParameters(
        grants=GRANTS,
        client=models.ClientInfo(
            sdk=models.ClientInfo.SDK.GO,
            version="2.1",
            protocol=16,
            client_protocol=1,
            os="linux",
            os_version="6",
            device_model="box",
            browser="none",
            browser_version="0",
            network="wifi",
            capabilities=[models.ClientInfo.Capability.CAP_PACKET_TRAILER],
        ),
        is_single=False,
        auto_subscribe=False,
        adaptive_stream=True,
        auto_subscribe_data=False,
        attributes={"a": "b", "ä": "ö"},
        is_reconnect=True,
        participant_sid="PA_1",
    )


def test_an_empty_query_subscribes_to_everything() -> None:
    found = read({})
    assert (found.auto_subscribe, found.auto_subscribe_data, found.adaptive_stream) == (True, True, False)
    assert (found.client.protocol, found.is_reconnect, found.attributes) == (0, False, {})


@pytest.mark.parametrize("text", ["-1", "1e3", "٣", "9" * 30, "abc", "", "0x10", "1.0"])
def test_a_protocol_that_is_no_number_counts_as_none(text: str) -> None:
    assert read({"protocol": text}).client.protocol == 0


def packed_json(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        "!",
        "AAAAA",
        packed_json([]),
        packed_json("a"),
        packed_json({"a": 1}),
        packed_json({"a": None}),
        packed_json({"a": "\ud800"}),
        packed_json({"\udc00": "a"}),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[" * 20_000).decode(),
        "ä",
    ],
)
def test_unreadable_attributes_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="attributes"):
        read({"attributes": text})


_KEYS = ("protocol", "client_protocol", "sdk", "capabilities", "auto_subscribe", "attributes", "reconnect", "sid", "os")


@RANDOM
@given(st.dictionaries(st.sampled_from(_KEYS), st.text(), max_size=5))
def test_any_query_is_read_or_refused(query: dict[str, str]) -> None:
    try:
        found = read(query)
    except Refusal:
        return
    assert isinstance(found.client.SerializeToString(), bytes)
