"""Bombs and garbage: whoever sends them gets a clear answer, and a call beside them goes on as if nothing had come."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import urllib.parse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from livekit import rtc as sdk
from livekit.protocol import models, rtc
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from tests.e2e.harness.media import Tone, hear_tone
from tests.e2e.harness.people import Party
from tests.e2e.harness.server import Endpoint
from tests.e2e.harness.signal_client import SignalClient, dual_path, signal_connection

pytestmark = pytest.mark.e2e


@pytest.fixture
async def call(party: Party) -> AsyncIterator[None]:
    """A call that must not suffer: checked again when the test is over."""
    alice, bob = await party.join("alice"), await party.join("bob")
    tone = Tone(440)
    party.closes(tone.stop)
    await alice.publish(tone.track, source=sdk.TrackSource.SOURCE_MICROPHONE)
    heard = await bob.track("alice", "audio")
    await hear_tone(heard, 440)
    before = await bob.arrived()
    yield
    await hear_tone(heard, 440)
    after = await bob.arrived()
    assert {stream: lost for stream, (_, lost) in after.items()} == {
        stream: lost for stream, (_, lost) in before.items()
    }
    for person in (alice, bob):
        assert not person.events("reconnecting")
        assert not person.events("disconnected")
    async with asyncio.timeout(2):
        await alice.me.publish_data(b"still here")
        await bob.event("data_received")


@asynccontextmanager
async def attacker(server: Endpoint, room: str, *, text: bool = False) -> AsyncIterator[SignalClient]:
    token = server.token(room, "mallory", can_update_own_metadata=True)
    async with signal_connection(server, dual_path(), token, text=text) as client:
        await client.receive()
        yield client


async def closed(client: SignalClient, seconds: float = 10) -> tuple[int, str]:
    """The code and sentence with which the server ends the connection."""
    try:
        heard = await client.everything(seconds)
    except ConnectionClosed as ended:
        return (ended.rcvd.code, ended.rcvd.reason) if ended.rcvd is not None else (0, "")
    raise AssertionError(f"still open; heard {heard[-3:]}")


def check_farewell(ended: ConnectionClosed) -> None:
    """A connection is not dropped without a word."""
    assert ended.rcvd is not None
    assert len(ended.rcvd.reason.split()) > 2


BOMBS = {
    "gzip that unpacks to 20 MB": gzip.compress(bytes(20_000_000)),
    "gzip that is cut off": gzip.compress(b"x" * 1000)[:-12],
    "gzip in gzip": gzip.compress(gzip.compress(bytes(10_000_000))),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_packed_join_request_is_bounded(server: Endpoint, room: str, call: None, bomb: str) -> None:
    """S-43"""
    wrapped = rtc.WrappedJoinRequest(compression=rtc.WrappedJoinRequest.GZIP, join_request=BOMBS[bomb])
    text = urllib.parse.quote(base64.urlsafe_b64encode(wrapped.SerializeToString()).decode())
    with pytest.raises(InvalidStatus) as refused:
        async with signal_connection(server, f"/rtc/v1?join_request={text}", server.token(room, "mallory")):
            pass
    assert refused.value.response.status_code in {400, 413}
    assert len(refused.value.response.body.split()) > 2


async def test_an_endless_request_line_is_refused(server: Endpoint, room: str, call: None) -> None:
    with pytest.raises((InvalidStatus, InvalidMessage, ConnectionClosed)) as refused:
        async with signal_connection(server, dual_path(attributes="A" * 1_000_000), server.token(room, "mallory")):
            pass
    if isinstance(refused.value, InvalidStatus):
        assert refused.value.response.status_code in {400, 413, 414, 431}


async def test_a_message_that_is_too_long_closes_the_connection(server: Endpoint, room: str, call: None) -> None:
    """S-41"""
    async with attacker(server, room) as client:
        with contextlib.suppress(ConnectionClosed):
            await client.socket.send(bytes(8_000_000))
        code, _ = await closed(client)
    assert code == 1009


@pytest.mark.parametrize(
    "frame", [b"\xff" * 200, "no json", "[" * 100_000, '{"addTrack": 7}'], ids=lambda f: repr(f[:9])
)
async def test_garbage_closes_the_connection_with_a_sentence(
    server: Endpoint, room: str, call: None, frame: str | bytes
) -> None:
    """S-42"""
    async with attacker(server, room) as client:
        await client.socket.send(frame)
        code, reason = await closed(client)
    assert code in {1003, 1007, 1008}
    assert len(reason.split()) > 2


HEAD = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
SDP_BOMBS = {
    "thousands of sections": HEAD + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n" * 5000,
    "thousands of attributes": HEAD + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" + "a=ssrc:1 cname:x\r\n" * 30_000,
    "thousands of codecs": HEAD + "m=audio 9 UDP/TLS/RTP/SAVPF " + " ".join(map(str, range(96, 20_000))) + "\r\n",
    "one endless line": HEAD + "a=" + "x" * 300_000 + "\r\n",
    "no description": "\x00\x01 what?",
}


@pytest.mark.parametrize("bomb", SDP_BOMBS)
async def test_a_description_is_bounded(server: Endpoint, room: str, call: None, bomb: str) -> None:
    """S-45"""
    async with attacker(server, room) as client:
        await client.send(offer=rtc.SessionDescription(type="offer", sdp=SDP_BOMBS[bomb]))
        try:
            answer = await client.until("request_response", seconds=5)
            assert len(answer.message.split()) > 2
            assert (await client.until("leave", seconds=5)).action == rtc.LeaveRequest.RECONNECT
        except ConnectionClosed as ended:
            check_farewell(ended)


FLOODS: dict[str, dict[str, Any]] = {
    "a hundred thousand subscriptions": {
        "subscription": rtc.UpdateSubscription(track_sids=[f"TR_{n}" for n in range(20_000)], subscribe=True)
    },
    "settings of tracks that are not there": {
        "track_setting": rtc.UpdateTrackSettings(track_sids=[f"TR_{n}" for n in range(20_000)])
    },
    "permissions without end": {
        "subscription_permission": rtc.SubscriptionPermission(
            track_permissions=[rtc.TrackPermission(participant_identity=f"p{n}") for n in range(20_000)]
        )
    },
    "attributes without end": {
        "update_metadata": rtc.UpdateParticipantMetadata(
            attributes={f"key {n}": "value" * 5 for n in range(5_000)}, request_id=1
        )
    },
    "a track with endless layers": {
        "add_track": rtc.AddTrackRequest(
            cid="c", type=models.VIDEO, layers=[models.VideoLayer(quality="LOW", width=1, height=1)] * 20_000
        )
    },
    "endless candidates": {"trickle": rtc.TrickleRequest(candidateInit='{"candidate":"' + "x" * 200_000 + '"}')},
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_message_s_lists_are_bounded(server: Endpoint, room: str, call: None, flood: str) -> None:
    """S-42"""
    async with attacker(server, room) as client:
        try:
            for _ in range(20):
                await client.send(**FLOODS[flood])
            await client.send(ping_req=rtc.Ping(timestamp=77))
            await client.until("pong_resp", lambda pong: pong.last_ping_timestamp == 77, seconds=20)
        except ConnectionClosed as ended:
            check_farewell(ended)


async def test_tracks_are_bounded_in_number(server: Endpoint, room: str, call: None) -> None:
    """S-44"""
    async with attacker(server, room) as client:
        published = refused = 0
        for number in range(300):
            await client.send(add_track=rtc.AddTrackRequest(cid=f"c{number}", type=models.AUDIO, name="n"))
        await client.send(ping_req=rtc.Ping(timestamp=77))
        try:
            await client.until("pong_resp", lambda pong: pong.last_ping_timestamp == 77)
        except ConnectionClosed as ended:
            check_farewell(ended)
        for message in client.heard:
            published += message.WhichOneof("message") == "track_published"
            refused += message.WhichOneof("message") == "request_response"
        assert published < 300


async def test_a_flood_of_messages_is_stopped_or_served_and_hurts_nobody(
    server: Endpoint, room: str, call: None
) -> None:
    """S-44"""
    async with attacker(server, room) as client:
        try:
            for number in range(20_000):
                await client.socket.send(rtc.SignalRequest(ping=number).SerializeToString())
            await client.everything(2)
        except ConnectionClosed as ended:
            check_farewell(ended)


async def test_a_body_that_is_too_large_or_too_deep_is_refused(server: Endpoint, room: str, call: None) -> None:
    """S-55"""
    url = f"{server.url}/twirp/livekit.RoomService/CreateRoom"
    async with httpx2.AsyncClient(timeout=20) as client:
        headers = {"Authorization": f"Bearer {server.token(room, 'admin', room_create=True)}"}
        large = await client.post(url, content=b'{"name":"' + b"x" * 20_000_000 + b'"}', headers={**headers, **JSON})
        assert (large.status_code, json.loads(large.text)["code"]) == (400, "invalid_argument")
        deep = await client.post(url, content=b'{"a":' * 50_000 + b"1" + b"}" * 50_000, headers={**headers, **JSON})
        assert deep.status_code == 400
        assert json.loads(deep.text)["code"] == "malformed"


JSON = {"Content-Type": "application/json"}


async def test_a_join_request_may_lack_its_padding(server: Endpoint, room: str) -> None:
    from tests.e2e.harness.signal_client import join_request, single_path

    for name in ("a", "ab", "abc"):
        path = single_path(join_request(participant_attributes={"k": name}), compressed=False, padded=False)
        token = server.token(room, "alice", can_update_own_metadata=True)
        async with signal_connection(server, path, token) as client:
            assert dict((await client.receive()).join.participant.attributes) == {"k": name}
