"""The signal endpoint over real sockets, with rooms that only take notes."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode

import httpx2
import pytest
import websockets
from google.protobuf import json_format
from livekit.protocol import models, rtc
from starlette.applications import Starlette

from sfu.sdp import Direction
from signaling.api.signal import signal_routes
from signaling.errors import InvalidRequest, NotFound, Refusal, TooLarge, Unauthenticated, Unavailable
from signaling.rooms.effects import SessionId
from signaling.rooms.grants import Grants
from signaling.rooms.presence import JoinParameters, RoomFull
from signaling.rooms.settings import RoomSettings
from signaling.runtime import Session, Telling
from signaling.settings import HttpSettings
from signaling.wire.livekit.frames import Frame
from tests.signaling.edge import Edge, until
from tests.signaling.listening import listening
from tests.signaling.rooms.world import Section, offer_of

HTTP = HttpSettings(websocket_message_max_bytes=65_536)

GRANTS = Grants(key="devkey", identity="alice", room="lobby", room_join=True)
JOIN = rtc.SignalResponse(join=rtc.JoinResponse(server_version="1"))
JOIN_REQUEST = base64.urlsafe_b64encode(rtc.WrappedJoinRequest().SerializeToString() or b"\x08\x00").decode()


@dataclass
class FakeRooms:
    """Notes what it is asked; says what it is told to say."""

    admission: Refusal | None = None
    refusal: Refusal | None = None
    fails: bool = False
    sessions: dict[SessionId, Session] = field(default_factory=dict)
    parameters: list[JoinParameters] = field(default_factory=list)
    addresses: list[str | None] = field(default_factory=list)
    requests: list[rtc.SignalRequest] = field(default_factory=list)
    gone: list[SessionId] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    first: Callable[[Session], None] | None = None
    told_bytes: int = 0
    told_messages: int = 0

    async def admit(self, parameters: JoinParameters, address: str | None) -> JoinParameters:
        self.parameters.append(parameters)
        self.addresses.append(address)
        if self.admission is not None:
            raise self.admission
        return parameters

    def connect(self, session: Session, parameters: JoinParameters) -> SessionId:
        if self.refusal is not None:
            raise self.refusal
        number = len(self.sessions) + 1
        self.sessions[number] = session
        session.send(Frame(JOIN))
        if self.first is not None:
            self.first(session)
        self.changed.set()
        return number

    def request(self, session: SessionId, request: rtc.SignalRequest) -> Telling:
        if self.fails:
            raise RuntimeError("a fault in a rule")
        self.requests.append(request)
        self.changed.set()
        return Telling(self.told_bytes, self.told_messages)

    def disconnected(self, session: SessionId) -> None:
        if session not in self.gone:
            self.gone.append(session)
        self.changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


def verify(token: str) -> Grants:
    if token != "good":
        raise Unauthenticated("invalid token: it is not good")
    return GRANTS


@dataclass
class Endpoint:
    port: int
    rooms: FakeRooms
    refused: list[str]

    def url(self, path: str = "/rtc", scheme: str = "ws", **query: str) -> str:
        return f"{scheme}://127.0.0.1:{self.port}{path}?{urlencode({'access_token': 'good', **query})}"

    def connect(self, path: str = "/rtc", **query: str) -> websockets.connect:
        return websockets.connect(self.url(path, **query))

    async def get(self, path: str, **query: str) -> httpx2.Response:
        async with httpx2.AsyncClient() as client:
            return await client.get(self.url(path, "http", **query))


@contextlib.asynccontextmanager
async def serving(rooms: FakeRooms | None = None, **settings: int) -> AsyncIterator[Endpoint]:
    fake = rooms or FakeRooms()
    refused: list[str] = []
    app = Starlette(routes=signal_routes(fake, verify, RoomSettings.model_validate(settings), refused.append))
    async with listening(app, HTTP) as (port, _):
        yield Endpoint(port, fake, refused)


async def closed(client: websockets.ClientConnection) -> tuple[int, str]:
    """Read until the server closes; return its code and sentence."""
    async with asyncio.timeout(20):
        with contextlib.suppress(websockets.ConnectionClosed):
            async for _ in client:
                pass
        await client.wait_closed()
    return client.close_code or 0, client.close_reason or ""


# --- before the upgrade ---------------------------------------------------------------------------------------------


async def refusal_of(endpoint: Endpoint, path: str, **query: str) -> tuple[int, str]:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with endpoint.connect(path, **query):
            pass
    response = refused.value.response
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    return response.status_code, (response.body or b"").decode()


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Unauthenticated("permissions denied: the token has no `roomJoin` grant"), 401),
        (InvalidRequest("identity cannot be empty"), 400),
        (NotFound("requested room does not exist"), 404),
        (RoomFull("The room is full: at most 2 participants."), 403),
        (TooLarge("The metadata has 5 bytes; at most 4 are taken."), 413),
        (Unavailable("No worker is up; one is being started."), 503),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_a_refusal_is_an_answer_with_status_and_sentence(refusal: Refusal, status: int, late: bool) -> None:
    rooms = FakeRooms(refusal=refusal) if late else FakeRooms(admission=refusal)
    async with serving(rooms) as endpoint:
        assert await refusal_of(endpoint, "/rtc") == (status, refusal.message)
        assert endpoint.refused == [refusal.code]
        if not late:
            for path in ("/rtc/validate", "/rtc/rtc/validate"):
                reply = await endpoint.get(path)
                assert (reply.status_code, reply.text) == (status, refusal.message)
    assert not rooms.gone


@pytest.mark.parametrize(
    ("path", "query", "status", "sentence"),
    [
        ("/rtc", {"access_token": "bad"}, 401, "it is not good"),
        ("/rtc", {"access_token": ""}, 401, "there is no access token"),
        ("/rtc/v1", {}, 400, "`join_request` is missing"),
        ("/rtc/v1", {"join_request": "%%%"}, 400, "`join_request` cannot be read"),
        ("/rtc", {"attributes": "AAAAA"}, 400, "`attributes` is not"),
    ],
)
async def test_what_cannot_be_read_is_refused_by_both_ways_of_asking(
    path: str, query: dict[str, str], status: int, sentence: str
) -> None:
    async with serving() as endpoint:
        code, text = await refusal_of(endpoint, path, **query)
        assert (code, sentence in text) == (status, True)
        reply = await endpoint.get(f"{path}/validate", **query)
        assert (reply.status_code, reply.text) == (status, text)
        assert not endpoint.rooms.sessions


async def test_validate_says_success_and_joins_nobody() -> None:
    async with serving() as endpoint:
        for path, query in (("/rtc/validate", {}), ("/rtc/v1/validate", {"join_request": JOIN_REQUEST})):
            reply = await endpoint.get(path, **query)
            assert (reply.status_code, reply.text) == (200, "success")
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert not endpoint.rooms.sessions
        assert [found.is_single for found in endpoint.rooms.parameters] == [False, True]
        assert endpoint.rooms.addresses == ["127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize("path", ["/rtc", "/rtc/v1", "/rtc/v2"])
async def test_a_plain_get_of_the_endpoint_finds_nothing(path: str) -> None:
    async with serving() as endpoint:
        assert (await endpoint.get(path)).status_code == 404


async def test_the_token_may_stand_in_the_header() -> None:
    async with serving() as endpoint:
        url = f"ws://127.0.0.1:{endpoint.port}/rtc"
        async with websockets.connect(url, additional_headers={"Authorization": "Bearer good"}) as client:
            assert rtc.SignalResponse.FromString(await client.recv(decode=False)) == JOIN
        for header in ("good", "Basic good", "Bearer", "Bearer bad"):
            with pytest.raises(websockets.InvalidStatus):
                await websockets.connect(url, additional_headers={"Authorization": header})


# --- talking --------------------------------------------------------------------------------------------------------


async def test_the_first_message_is_there_with_the_upgrade_and_messages_keep_their_order() -> None:
    async with serving() as endpoint, endpoint.connect(sdk="js", auto_subscribe="0") as client:
        assert rtc.SignalResponse.FromString(await client.recv(decode=False)) == JOIN
        assert not endpoint.rooms.parameters[0].auto_subscribe
        for number in range(50):
            await client.send(rtc.SignalRequest(ping=number).SerializeToString())
        await endpoint.rooms.until(lambda: len(endpoint.rooms.requests) == 50)
        assert [request.ping for request in endpoint.rooms.requests] == list(range(50))
        for number in range(50):
            endpoint.rooms.sessions[1].send(Frame(rtc.SignalResponse(pong=number)))
        pongs = [rtc.SignalResponse.FromString(await client.recv(decode=False)).pong for _ in range(50)]
        assert pongs == list(range(50))


async def test_who_speaks_json_is_answered_in_json() -> None:
    async with serving() as endpoint, endpoint.connect() as client:
        await client.recv()
        await client.send(json_format.MessageToJson(rtc.SignalRequest(ping=7)))
        await endpoint.rooms.until(lambda: bool(endpoint.rooms.requests))
        assert endpoint.rooms.requests[0].ping == 7
        endpoint.rooms.sessions[1].send(Frame(rtc.SignalResponse(pong=8)))
        assert json_format.Parse(await client.recv(decode=True), rtc.SignalResponse()).pong == 8
        await client.send(rtc.SignalRequest(ping=9).SerializeToString())
        await endpoint.rooms.until(lambda: len(endpoint.rooms.requests) == 2)
        endpoint.rooms.sessions[1].send(Frame(rtc.SignalResponse(pong=10)))
        assert rtc.SignalResponse.FromString(await client.recv(decode=False)).pong == 10


async def test_a_client_that_goes_is_reported_once_it_is_gone() -> None:
    async with serving() as endpoint:
        async with endpoint.connect() as client:
            await client.recv()
            assert not endpoint.rooms.gone
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])
        # What the room says to one who is gone goes nowhere.
        endpoint.rooms.sessions[1].send(Frame(JOIN))
        endpoint.rooms.sessions[1].close("late")


async def test_a_connection_that_is_cut_is_reported() -> None:
    async with serving() as endpoint:
        client = await endpoint.connect()
        await client.recv()
        raw = client.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.transport.abort()
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])


async def test_the_room_ends_a_connection_after_what_it_has_said() -> None:
    def leave(session: Session) -> None:
        session.send(Frame(rtc.SignalResponse(leave=rtc.LeaveRequest())))
        session.close("it is over")
        session.send(Frame(rtc.SignalResponse(pong=1)))

    async with serving(FakeRooms(first=leave)) as endpoint, endpoint.connect() as client:
        kinds = [rtc.SignalResponse.FromString(await client.recv(decode=False)).WhichOneof("message") for _ in range(2)]
        assert kinds == ["join", "leave"]
        assert await closed(client) == (1000, "it is over")
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])


async def test_a_long_reason_is_cut_to_what_a_close_frame_holds() -> None:
    def leave(session: Session) -> None:
        session.close("ä" * 200)

    async with serving(FakeRooms(first=leave)) as endpoint, endpoint.connect() as client:
        code, reason = await closed(client)
        assert (code, reason) == (1000, "ä" * 61)


async def test_a_fault_of_ours_ends_that_connection_only() -> None:
    async with serving() as endpoint, endpoint.connect() as first, endpoint.connect() as second:
        endpoint.rooms.fails = True
        await first.send(rtc.SignalRequest(ping=1).SerializeToString())
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])
        endpoint.rooms.fails = False
        await second.send(rtc.SignalRequest(ping=2).SerializeToString())
        await endpoint.rooms.until(lambda: len(endpoint.rooms.requests) == 1)
        assert endpoint.rooms.gone == [1]


# --- bad clients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [b"\xff", "{", '{"offer": 5}', "[]"])
async def test_a_malformed_message_closes_with_1007(frame: bytes | str) -> None:
    async with serving() as endpoint, endpoint.connect() as client:
        await client.send(frame)
        code, sentence = await closed(client)
        assert code == 1007
        assert sentence.startswith("The message is not a SignalRequest")
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])
        assert not endpoint.rooms.requests


async def test_text_that_is_no_utf8_closes_with_1007() -> None:
    async with serving() as endpoint, endpoint.connect() as client:
        await client.send(b"\xff\xfe", text=True)
        assert (await closed(client))[0] == 1007
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])


async def test_an_oversize_message_closes_with_1009() -> None:
    async with serving() as endpoint, endpoint.connect() as client:
        await client.send(b"x" * 65_537)
        assert (await closed(client))[0] == 1009
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])
        assert not endpoint.rooms.requests


async def test_a_flood_closes_with_1008_and_nobody_else_waits() -> None:
    """S-44"""
    async with (
        serving(signal_messages_per_second=5, signal_messages_burst=50) as endpoint,
        endpoint.connect() as flooding,
        endpoint.connect() as calm,
    ):
        ping = rtc.SignalRequest(ping=1).SerializeToString()
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(500):
                await flooding.send(ping)
        assert await closed(flooding) == (1008, "Too many signal messages.")
        # A second or two of refilling may have passed on a busy machine.
        assert 50 <= len(endpoint.rooms.requests) < 500
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])
        await calm.send(rtc.SignalRequest(ping=2).SerializeToString())
        await endpoint.rooms.until(lambda: endpoint.rooms.requests[-1].ping == 2)


async def test_long_messages_count_for_several() -> None:
    async with (
        serving(signal_messages_per_second=5, signal_messages_burst=50) as endpoint,
        endpoint.connect() as client,
    ):
        change = rtc.UpdateParticipantMetadata(metadata="x" * 60_000)
        message = rtc.SignalRequest(update_metadata=change).SerializeToString()
        with contextlib.suppress(websockets.ConnectionClosed):
            for _ in range(20):
                await client.send(message)
        assert (await closed(client))[0] == 1008
        assert 3 <= len(endpoint.rooms.requests) < 20


async def test_descriptions_count_for_fewer() -> None:
    async with (
        serving(signal_messages_per_second=5, signal_messages_burst=50) as endpoint,
        endpoint.connect() as client,
    ):
        description = rtc.SessionDescription(sdp="x" * 60_000)
        for message in (rtc.SignalRequest(offer=description), rtc.SignalRequest(answer=description)):
            for _ in range(10):
                await client.send(message.SerializeToString())
        await endpoint.rooms.until(lambda: len(endpoint.rooms.requests) == 20)
        assert not endpoint.rooms.gone


async def _is_read_later(
    rooms: FakeRooms, loud: websockets.ClientConnection, calm: websockets.ClientConnection
) -> None:
    """Of the loud one's messages the first has others be told much: the second waits 1.2 s, and nobody else does."""
    began = asyncio.get_running_loop().time()
    for number in (1, 2):
        await loud.send(rtc.SignalRequest(ping=number).SerializeToString())
    await rooms.until(lambda: len(rooms.requests) == 1)
    rooms.told_bytes = rooms.told_messages = 0
    await calm.send(rtc.SignalRequest(ping=7).SerializeToString())
    await rooms.until(lambda: len(rooms.requests) == 3)
    assert [request.ping for request in rooms.requests] == [1, 7, 2]
    assert asyncio.get_running_loop().time() - began >= 1.1


async def test_who_makes_others_be_told_much_is_read_as_slowly_as_they_may_read() -> None:
    """S-44"""
    # A quarter of the queue at once, and 20 KiB a second: here that is 1.2 s.
    rooms = FakeRooms(told_bytes=16_384 + 24_576)
    settings = {"signal_messages_per_second": 5, "signal_queue_max_bytes": 65_536}
    async with serving(rooms, **settings) as endpoint, endpoint.connect() as loud, endpoint.connect() as calm:
        await _is_read_later(rooms, loud, calm)
        # Nobody is closed for it.
        for session, client in ((1, loud), (2, calm)):
            rooms.sessions[session].send(Frame(rtc.SignalResponse(pong=8)))
            await client.recv()
            assert rtc.SignalResponse.FromString(await client.recv(decode=False)).pong == 8


async def test_who_has_many_be_told_is_read_no_faster() -> None:
    """S-44"""
    # A thousand at once, and a hundred a second: here that is 1.2 s.
    rooms = FakeRooms(told_messages=1_120)
    settings = {"signal_deliveries_per_second": 100, "signal_deliveries_burst": 1_000}
    async with serving(rooms, **settings) as endpoint, endpoint.connect() as loud, endpoint.connect() as calm:
        await _is_read_later(rooms, loud, calm)
        assert not rooms.gone


def upgraded(port: int, identity: str) -> socket.socket:
    """Ask for a signal connection; what comes is not read."""
    raw = socket.create_connection(("127.0.0.1", port))
    raw.sendall(
        f"GET /rtc?access_token={identity}&auto_subscribe=0 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return raw


async def test_a_thousand_mutes_before_hundreds_hold_up_nobody() -> None:
    """S-44"""
    edge = await Edge.start()
    app = Starlette(routes=signal_routes(edge.rooms, edge.grants, edge.rooms.settings.rooms, lambda _: None))
    async with listening(app, HTTP) as (port, _):
        url = f"ws://127.0.0.1:{port}/rtc?access_token=bob&auto_subscribe=0"
        async with websockets.connect(url, max_queue=None) as bob:
            silent = [upgraded(port, identity) for identity in ("alice", *(f"u{number}" for number in range(298)))]
            people = edge.hosted().room.core.by_identity
            await until(lambda: len(people) == 300)
            alice = people["alice"]
            announced = rtc.AddTrackRequest(cid="mic", type=models.TrackType.AUDIO)
            sound = offer_of([Section("0", "audio", Direction.SENDONLY, "mic")])
            assert alice.session is not None
            for request in (
                rtc.SignalRequest(add_track=announced),
                rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=sound, id=1)),
            ):
                edge.rooms.request(alice.session, request)
            (track,) = alice.tracks.values()
            assert track.is_published
            before = alice.version
            mutes = [
                rtc.SignalRequest(mute=rtc.MuteTrackRequest(sid=track.sid, muted=number % 2 == 0)).SerializeToString()
                for number in range(1_000)
            ]
            # Masked with zeros, which changes nothing (RFC 6455 §5.3).
            silent[0].sendall(b"".join(b"\x82" + bytes([0x80 | len(mute)]) + bytes(4) + mute for mute in mutes))
            # Of this process's time alone: others may have the machine meanwhile.
            began = time.process_time()
            await bob.send(rtc.SignalRequest(ping=1).SerializeToString())
            while rtc.SignalResponse.FromString(await bob.recv(decode=False)).WhichOneof("message") != "pong":
                pass
            assert time.process_time() - began < 0.1
            # Somebody else's turn came before all of it was said, and the rest of it waits.
            await asyncio.sleep(0.5)
            assert 0 < alice.version - before < 200
            assert alice.session is not None
            for raw in silent:
                raw.close()


async def test_a_slow_reader_is_cut_off_with_bounded_memory_and_may_come_back() -> None:
    """F-35"""
    big = Frame(rtc.SignalResponse(refresh_token="x" * 60_000))
    async with serving(signal_queue_max_bytes=65_536) as endpoint:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", endpoint.port))
        head = endpoint.url("").partition("?")[2]
        raw.sendall(
            f"GET /rtc?{head} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await endpoint.rooms.until(lambda: bool(endpoint.rooms.sessions))
        stuck = endpoint.rooms.sessions[1]
        for _ in range(2_000):
            stuck.send(big)
            if endpoint.rooms.gone:
                break
            await asyncio.sleep(0.001)
        # Gone for the room at once, not when TCP gives up.
        await endpoint.rooms.until(lambda: endpoint.rooms.gone == [1])
        async with endpoint.connect(reconnect="1", sid="PA_1") as again:
            assert rtc.SignalResponse.FromString(await again.recv(decode=False)) == JOIN
            assert endpoint.rooms.parameters[-1].participant_sid == "PA_1"
        raw.close()


async def test_nobody_is_too_slow_for_what_he_is_received_with() -> None:
    """S-49: who comes to a room about which much is to be told."""

    def receive(session: Session) -> None:
        for _ in range(2):
            session.send(Frame(rtc.SignalResponse(refresh_token="x" * 200_000)))

    async with (
        serving(FakeRooms(first=receive), signal_queue_max_bytes=65_536) as endpoint,
        endpoint.connect() as client,
    ):
        endpoint.rooms.sessions[1].send(Frame(rtc.SignalResponse(pong=1)))
        received = [rtc.SignalResponse.FromString(await client.recv(decode=False)) for _ in range(4)]
        assert [message.WhichOneof("message") for message in received] == [
            *("join", "refresh_token", "refresh_token"),
            "pong",
        ]


async def test_one_who_reads_late_finds_out_why() -> None:
    async with serving(signal_queue_max_bytes=65_536) as endpoint, endpoint.connect() as client:
        await client.recv()
        for _ in range(3):
            endpoint.rooms.sessions[1].send(Frame(rtc.SignalResponse(refresh_token="x" * 60_000)))
        code, sentence = await closed(client)
        assert code == 1013
        assert "may come back and resume" in sentence


async def test_one_who_never_reads_keeps_no_connection_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.http_server._CLOSING_SECONDS", 0.5)
    monkeypatch.setattr("signaling.api.signal._CLOSING_SECONDS", 0.2)
    big = Frame(rtc.SignalResponse(refresh_token="x" * 60_000))
    async with serving(signal_queue_max_bytes=65_536) as endpoint:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", endpoint.port))
        head = endpoint.url("").partition("?")[2]
        raw.sendall(
            f"GET /rtc?{head} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await endpoint.rooms.until(lambda: bool(endpoint.rooms.sessions))
        for _ in range(2_000):
            endpoint.rooms.sessions[1].send(big)
            if endpoint.rooms.gone:
                break
            await asyncio.sleep(0.001)
        # Its writes fail once the server has let go, although nothing was ever read.
        raw.setblocking(False)
        for _ in range(400):
            if is_cut(raw):
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the connection is still open")
        raw.close()


def is_cut(raw: socket.socket) -> bool:
    try:
        raw.send(b"\x82\x80abcd")
    except BlockingIOError:
        return False
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 413)])
async def test_a_join_request_may_unpack_to_just_so_much(over: int, status: int) -> None:
    """S-43"""
    assert RoomSettings().join_request_max_bytes == 1_048_576
    body = rtc.JoinRequest(participant_sid="x" * 65_532).SerializeToString()
    assert len(body) == 65_536
    packed = gzip.compress(body + b"\x08" * over)
    wrapped = rtc.WrappedJoinRequest(compression=rtc.WrappedJoinRequest.Compression.GZIP, join_request=packed)
    text = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
    async with serving(join_request_max_bytes=65_536) as endpoint:
        answer = await endpoint.get("/rtc/v1/validate", join_request=text)
        assert answer.status_code == status
        assert ("65536 bytes" in answer.text) is bool(over)
        beside = await endpoint.get("/rtc/validate")
        assert beside.status_code == 200
