"""The signal endpoint of a whole server process, by clients that speak the wire themselves."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import jwt
import pytest
import websockets
from google.protobuf import json_format
from livekit.protocol import models, rtc

from sfu.sdp import Direction
from tests.signaling.api.v1.test_crashes import Line
from tests.signaling.rooms.world import Section, offer_of
from tests.signaling.test_app import Process, running

ACTIONS = rtc.LeaveRequest.Action


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(tmp_path_factory.mktemp("state")) as process:
        yield process


def token(identity: str = "alice", *, secret: str = "secret", seconds: int = 600, **video: Any) -> str:
    now = int(time.time())
    grant = {"roomJoin": True, "room": "lobby", **video}
    claims = {"iss": "devkey", "sub": identity, "nbf": now - 10, "exp": now + seconds, "video": grant}
    return jwt.encode(claims, secret, algorithm="HS256")


def join_request() -> str:
    sections = [Section(str(number), "audio", Direction.RECVONLY) for number in range(3)]
    request = rtc.JoinRequest(
        client_info=models.ClientInfo(protocol=17),
        connection_settings=rtc.ConnectionSettings(auto_subscribe=True),
        publisher_offer=rtc.SessionDescription(type="offer", sdp=offer_of(sections), id=1),
    )
    wrapped = rtc.WrappedJoinRequest(join_request=request.SerializeToString())
    return base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()


def url(server: Process, path: str, text: str, scheme: str = "ws") -> str:
    query = {"access_token": text, "protocol": "17"}
    if path.startswith("/rtc/v1"):
        query["join_request"] = join_request()
    return f"{scheme}://127.0.0.1:{server.port}{path}?{urlencode(query)}"


async def heard(client: websockets.ClientConnection, kind: str) -> rtc.SignalResponse:
    async with asyncio.timeout(20):
        while True:
            message = rtc.SignalResponse.FromString(await client.recv(decode=False))
            if message.WhichOneof("message") == kind:
                return message


REFUSALS = [
    ({"secret": "wrong"}, 401, "its signature does not hold"),
    ({"seconds": -120}, 401, "it has expired"),
    ({"roomJoin": False}, 401, "no `roomJoin` grant"),
    ({"identity": ""}, 400, "identity cannot be empty"),
    ({"room": ""}, 400, "room name cannot be empty"),
    ({"identity": "a\x00b"}, 400, "control characters"),
    ({"room": "x" * 300}, 413, "at most 256"),
]


@pytest.mark.parametrize("path", ["/rtc", "/rtc/v1"])
@pytest.mark.parametrize(("changed", "status", "sentence"), REFUSALS)
async def test_a_refusal_comes_before_the_upgrade_and_validate_says_the_same(
    server: Process, path: str, changed: dict[str, Any], status: int, sentence: str
) -> None:
    text = token(**changed)
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url(server, path, text))
    response = refused.value.response
    assert response.status_code == status
    assert sentence in (response.body or b"").decode()
    async with httpx2.AsyncClient() as http:
        reply = await http.get(url(server, f"{path}/validate", text, "http"))
    assert (reply.status_code, reply.text) == (status, (response.body or b"").decode())


@pytest.mark.parametrize("path", ["/rtc", "/rtc/v1"])
async def test_a_plain_request_finds_nothing_and_validate_finds_success(server: Process, path: str) -> None:
    async with httpx2.AsyncClient() as http:
        assert (await http.get(url(server, path, token(), "http"))).status_code == 404
        reply = await http.get(url(server, f"{path}/validate", token(), "http"))
        assert (reply.status_code, reply.text) == (200, "success")


@pytest.mark.parametrize("path", ["/rtc", "/rtc/v1"])
async def test_a_join_is_answered_at_once_and_pings_are(server: Process, path: str) -> None:
    async with websockets.connect(url(server, path, token("pinger"))) as client:
        first = rtc.SignalResponse.FromString(await client.recv(decode=False))
        assert first.join.participant.identity == "pinger"
        assert first.join.room.name == "lobby"
        assert first.join.server_info.protocol >= 16
        described = await heard(client, "answer" if path == "/rtc/v1" else "offer")
        text = described.answer.sdp or described.offer.sdp
        assert "a=ice-lite" in text
        assert "a=candidate:" in text
        await client.send(rtc.SignalRequest(ping_req=rtc.Ping(timestamp=5)).SerializeToString())
        assert (await heard(client, "pong_resp")).pong_resp.last_ping_timestamp == 5
        await client.send(json_format.MessageToJson(rtc.SignalRequest(ping=6)))
        async with asyncio.timeout(20):
            while isinstance(frame := await client.recv(), bytes):
                pass
        assert json_format.Parse(frame, rtc.SignalResponse()).pong > 0


@pytest.mark.parametrize(
    ("message", "code"),
    [(b"\xff", 1007), ("{", 1007), (b"\x00" * 5_000_000, 1009), ("x" * 5_000_000, 1009)],
)
async def test_bad_messages_close_their_connection_only(server: Process, message: bytes | str, code: int) -> None:
    async with websockets.connect(url(server, "/rtc", token("good"))) as good:
        await heard(good, "join")
        async with websockets.connect(url(server, "/rtc", token("bad"))) as bad:
            with contextlib.suppress(websockets.ConnectionClosed):
                await bad.send(message)
                async for _ in bad:
                    pass
            await bad.wait_closed()
            assert bad.close_code == code
        await good.send(rtc.SignalRequest(ping_req=rtc.Ping(timestamp=1)).SerializeToString())
        await heard(good, "pong_resp")


async def test_who_has_no_media_goes_with_his_signal_and_cannot_resume(server: Process) -> None:
    async with websockets.connect(url(server, "/rtc", token("short", room="short"))) as client:
        sid = (await heard(client, "join")).join.participant.sid
    again = f"{url(server, '/rtc', token('short', room='short'))}&reconnect=1&sid={sid}"
    async with websockets.connect(again) as client:
        first = rtc.SignalResponse.FromString(await client.recv(decode=False))
        assert (first.leave.reason, first.leave.action) == (models.DisconnectReason.STATE_MISMATCH, ACTIONS.RECONNECT)


async def test_slow_starters_are_closed_and_hold_nobody_up(server: Process) -> None:
    """S-40"""
    head = url(server, "/rtc", token()).partition(str(server.port))[2]
    beginnings = [b"", b"GET ", f"GET {head} HTTP/1.1\r\nUpgrade: websocket\r\n".encode()] * 20
    opened = [await asyncio.open_connection("127.0.0.1", server.port) for _ in beginnings]
    for (_, writer), beginning in zip(opened, beginnings, strict=True):
        writer.write(beginning)

    async def trickle(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(300):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(trickle(writer)) for _, writer in opened[::7]]
    async with websockets.connect(url(server, "/rtc", token("quick"))) as client:
        await heard(client, "join")
    for reader, writer in opened:
        with contextlib.suppress(ConnectionResetError):
            # A malformed head is answered before the time is up; every connection is closed either way.
            assert b"101 Switching" not in await asyncio.wait_for(reader.read(), 30)
        writer.close()
    for task in tasks:
        task.cancel()


async def test_draining_refuses_new_rooms_and_tells_those_who_stay_to_come_back(
    tmp_path: Path,
) -> None:
    settings = tmp_path / "callyard.yaml"
    settings.write_text("drain:\n  deadline_seconds: 3\n")
    with running(tmp_path, "--config", str(settings)) as process:
        async with websockets.connect(url(process, "/rtc", token())) as client:
            await heard(client, "join")
            process.child.send_signal(signal.SIGTERM)
            for _ in range(50):
                async with httpx2.AsyncClient() as http:
                    ready = await http.get(f"http://127.0.0.1:{process.port}/readyz")
                if ready.status_code == 503:
                    break
                await asyncio.sleep(0.05)
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(url(process, "/rtc", token("bob", room="new")))
            assert refused.value.response.status_code == 503
            assert b"about to stop" in (refused.value.response.body or b"")
            leave = (await heard(client, "leave")).leave
            assert (leave.reason, leave.action) == (models.DisconnectReason.SERVER_SHUTDOWN, ACTIONS.RECONNECT)
        _, log = await asyncio.to_thread(process.child.communicate, timeout=30)
    assert process.child.returncode == 0, log
    assert "Traceback" not in log


async def test_a_call_goes_on_with_the_same_media_token_when_its_server_was_restarted(tmp_path: Path) -> None:
    """F-17"""
    settings = tmp_path / "callyard.yaml"
    settings.write_text("drain:\n  deadline_seconds: 0\n")
    claims = {"iss": "devkey", "sub": "alice", "exp": int(time.time()) + 600}
    headers = {"authorization": f"Bearer {jwt.encode(claims, 'secret', algorithm='HS256')}"}

    def api(process: Process) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{process.port}/v1/calls/default/x", headers=headers)

    with running(tmp_path, "--config", str(settings)) as process:
        async with api(process) as http:
            media_token = (await http.post("/join", json={"create": True})).json()["media"]["token"]
        async with websockets.connect(url(process, "/rtc", media_token)) as client:
            await heard(client, "join")
            process.child.send_signal(signal.SIGTERM)
            leave = (await heard(client, "leave")).leave
            assert (leave.reason, leave.action) == (models.DisconnectReason.SERVER_SHUTDOWN, ACTIONS.RECONNECT)
        await asyncio.to_thread(process.child.communicate, timeout=30)
    with running(tmp_path, "--config", str(settings)) as process:
        async with api(process) as http, websockets.connect(url(process, "/rtc", media_token)) as client:
            assert (await heard(client, "join")).join.participant.identity == "alice:default"
            async with asyncio.timeout(20):
                while True:
                    (participant,) = (await http.get("/participants")).json()["items"]
                    if participant["state"] == "joined":
                        break
                    await asyncio.sleep(0.05)
        process.child.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.child.communicate, timeout=30)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_rooms_are_served_before_the_database_is_there_and_calls_as_soon_as_it_is(
    database_url: str, tmp_path: Path
) -> None:
    """F-24"""
    port, _, name = database_url.rpartition(":")[2].partition("/")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    settings = tmp_path / "callyard.yaml"
    settings.write_text(f"database_url: postgresql://postgres@127.0.0.1:{closed}/{name}\n")
    claims = {"iss": "devkey", "sub": "alice", "exp": int(time.time()) + 600}
    headers = {"authorization": f"Bearer {jwt.encode(claims, 'secret', algorithm='HS256')}"}
    line = Line(int(port))
    with running(tmp_path, "--config", str(settings)) as process:
        async with websockets.connect(url(process, "/rtc", token())) as client:
            await heard(client, "join")
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{process.port}", headers=headers) as http:
            assert (await http.get("/healthz")).status_code == 200
            ready = await http.get("/readyz")
            reasons = {"calls": "Calls wait for the database (Connection refused)."}
            assert (ready.status_code, ready.json()["reasons"]) == (503, reasons)
            refused = await http.post("/v1/calls/default/x/join", json={"create": True})
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert "retry-after" in refused.headers
            server = await asyncio.start_server(line.accept, "127.0.0.1", closed)
            async with asyncio.timeout(5):
                while True:
                    if (await http.get("/readyz")).status_code == 200:
                        break
                    await asyncio.sleep(0.05)
            assert (await http.post("/v1/calls/default/x/join", json={"create": True})).status_code == 200
        process.child.send_signal(signal.SIGTERM)
        _, log = await asyncio.to_thread(process.child.communicate, timeout=30)
        assert process.child.returncode == 0, log
    line.break_off()
    server.close()
