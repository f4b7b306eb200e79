"""The signal connection against a server that keeps to nothing: each breach is a sentence, none is a traceback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus

import pytest
from livekit.protocol import rtc
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from signaling.probe import signal
from signaling.probe.failure import ProbeFailure, Step
from signaling.probe.participant import JoinOptions, Participant
from signaling.probe.signal import SignalClient

Handler = Callable[[ServerConnection], Awaitable[None]]
JOIN = rtc.SignalResponse(join=rtc.JoinResponse(subscriber_primary=True, ping_interval=5))


@contextlib.asynccontextmanager
async def server(handler: Handler, refuse: tuple[HTTPStatus, str] | None = None) -> AsyncIterator[str]:
    def check(connection: ServerConnection, request: Request) -> Response | None:
        return connection.respond(*refuse) if refuse else None

    async with serve(handler, "127.0.0.1", 0, process_request=check) as listening:
        yield f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def silent(connection: ServerConnection) -> None:
    await connection.wait_closed()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("ws://host:7880", "ws://host:7880/rtc?a=1"),
        ("http://host:7880/", "ws://host:7880/rtc?a=1"),
        ("https://host/call", "wss://host/call/rtc?a=1"),
        ("host:7880", "ws://host:7880/rtc?a=1"),
    ],
)
def test_urls_of_all_kinds_lead_to_the_socket(url: str, target: str) -> None:
    assert signal.websocket_url(url, "/rtc", {"a": "1"}) == target


@pytest.mark.parametrize("url", ["ftp://host", "ws://", "", "http:///x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http"):
        signal.websocket_url(url, "/rtc", {})


@pytest.mark.parametrize("packed", [True, False])
def test_a_join_request_unpacks_to_what_was_asked(packed: bool) -> None:
    text = signal.single_query("v=0", participant_sid="PA_1", packed=packed)["join_request"]
    wrapped = rtc.WrappedJoinRequest.FromString(base64.urlsafe_b64decode(text))
    raw = gzip.decompress(wrapped.join_request) if packed else wrapped.join_request
    join = rtc.JoinRequest.FromString(raw)
    assert (join.publisher_offer.sdp, join.participant_sid, join.reconnect) == ("v=0", "PA_1", True)
    assert join.connection_settings.auto_subscribe


async def failure_of(url: str, *, timeout_seconds: float = 2.0) -> ProbeFailure:
    participant = Participant(url, "token", JoinOptions(timeout_seconds=timeout_seconds))
    try:
        with pytest.raises(ProbeFailure) as caught:
            await participant.join()
    finally:
        await participant.close()
    return caught.value


async def test_a_refusal_is_told_with_status_and_reason() -> None:
    async with server(silent, (HTTPStatus.UNAUTHORIZED, "the token has expired\n")) as url:
        failure = await failure_of(url)
    assert failure.step is Step.SIGNAL
    assert failure.sentence == "The server refused /rtc with status 401: the token has expired."


async def test_nobody_there_is_told() -> None:
    async with server(silent) as url:
        pass
    assert "No WebSocket at" in (await failure_of(url)).sentence


async def test_a_server_that_says_nothing_runs_into_the_step_s_time() -> None:
    async with server(silent) as url:
        failure = await failure_of(url, timeout_seconds=0.3)
    assert failure.sentence == "The server sent no join message within 0.3 s."


def first(message: bytes | str) -> Handler:
    async def handle(connection: ServerConnection) -> None:
        await connection.send(message)
        await connection.wait_closed()

    return handle


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (rtc.SignalResponse(refresh_token="x").SerializeToString(), "first message is refresh_token, not join"),
        (b"\xff\xff\xff", "no SignalResponse"),
        ("{}", "text frame"),
        (
            rtc.SignalResponse(join=rtc.JoinResponse(subscriber_primary=False)).SerializeToString(),
            "wrong subscriber_primary for dual mode",
        ),
    ],
)
async def test_a_wrong_first_message_is_named(message: bytes | str, says: str) -> None:
    async with server(first(message)) as url:
        failure = await failure_of(url)
    assert failure.step is Step.SIGNAL
    assert says in failure.sentence


async def test_a_server_that_hangs_up_is_told() -> None:
    async def hang_up(connection: ServerConnection) -> None:
        await connection.close()

    async with server(hang_up) as url:
        assert "closed the signal connection" in (await failure_of(url)).sentence


async def test_being_told_to_leave_ends_the_join_at_once() -> None:
    async def dismiss(connection: ServerConnection) -> None:
        await connection.send(JOIN.SerializeToString())
        leave = rtc.LeaveRequest(reason="JOIN_FAILURE")
        await connection.send(rtc.SignalResponse(leave=leave).SerializeToString())
        await connection.wait_closed()

    async with server(dismiss) as url:
        failure = await failure_of(url, timeout_seconds=60)
    assert failure.sentence == "The server told us to leave (JOIN_FAILURE)."


async def test_an_offer_that_cannot_be_read_ends_the_join() -> None:
    async def offer(connection: ServerConnection) -> None:
        await connection.send(JOIN.SerializeToString())
        description = rtc.SessionDescription(type="offer", sdp="v=0\r\nm=audio x")
        await connection.send(rtc.SignalResponse(offer=description).SerializeToString())
        await connection.wait_closed()

    async with server(offer) as url:
        failure = await failure_of(url, timeout_seconds=60)
    assert "offer cannot be read" in failure.sentence


async def test_an_offer_with_no_way_to_the_server_fails_at_ice() -> None:
    sdp = f"""v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
t=0 0
a=ice-lite
a=group:BUNDLE 0
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=mid:0
a=sctp-port:5000
a=ice-ufrag:abcd
a=ice-pwd:{"p" * 22}
a=setup:actpass
a=fingerprint:sha-256 {":".join(["00"] * 32)}
a=end-of-candidates
""".replace("\n", "\r\n")

    async def offer(connection: ServerConnection) -> None:
        await connection.send(JOIN.SerializeToString())
        description = rtc.SessionDescription(type="offer", sdp=sdp)
        await connection.send(rtc.SignalResponse(offer=description).SerializeToString())
        await connection.wait_closed()

    async with server(offer) as url:
        failure = await failure_of(url, timeout_seconds=60)
    assert failure.step is Step.ICE
    assert failure.sentence.startswith("No path to the server over UDP: ")


async def test_pings_go_out_as_asked_and_the_answer_gives_the_round_trip() -> None:
    async def answer(connection: ServerConnection) -> None:
        request = rtc.SignalRequest.FromString(await connection.recv(decode=False))
        pong = rtc.Pong(last_ping_timestamp=request.ping_req.timestamp, timestamp=1)
        await connection.send(rtc.SignalResponse(pong_resp=pong).SerializeToString())
        await connection.send(rtc.SignalResponse(refresh_token="next").SerializeToString())
        await connection.wait_closed()

    async with server(answer) as url:
        client = await SignalClient.connect(url, "/rtc", {}, "token", 2)
        client.keep_alive(5)
        async with asyncio.timeout(5):
            assert (await client.receive()).refresh_token == "next"
        assert client.round_trip_seconds is not None
        assert 0 <= client.round_trip_seconds < 5
        await client.close()


async def test_a_wish_for_a_million_sections_is_refused() -> None:
    async def wish(connection: ServerConnection) -> None:
        await connection.send(JOIN.SerializeToString())
        wanted = rtc.MediaSectionsRequirement(num_audios=1_000_000)
        await connection.send(rtc.SignalResponse(media_sections_requirement=wanted).SerializeToString())
        await connection.wait_closed()

    async with server(wish) as url:
        failure = await failure_of(url, timeout_seconds=60)
    assert failure.sentence == "The server wants 1000000+0 sections."
