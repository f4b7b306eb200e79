"""A bare signal client: the official messages over a WebSocket and nothing else, so that a test can say anything."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import urllib.parse
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from google.protobuf import json_format
from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection, connect

from tests.e2e.harness.server import Endpoint


class SignalClient:
    """One signal connection; `heard` is all that came, in order."""

    def __init__(self, socket: ClientConnection, *, text: bool = False) -> None:
        self.socket = socket
        self.text = text
        self.heard: list[rtc.SignalResponse] = []
        self.frames: list[str | bytes] = []

    async def send(self, **message: Any) -> None:
        """`message` is one field of `SignalRequest`."""
        request = rtc.SignalRequest(**message)
        await self.socket.send(json_format.MessageToJson(request) if self.text else request.SerializeToString())

    async def receive(self, seconds: float = 10) -> rtc.SignalResponse:
        """The next message. `ConnectionClosed` when the server ended the connection."""
        async with asyncio.timeout(seconds):
            frame = await self.socket.recv()
        self.frames.append(frame)
        if isinstance(frame, str):
            response = json_format.Parse(frame, rtc.SignalResponse())
        else:
            response = rtc.SignalResponse.FromString(frame)
        self.heard.append(response)
        return response

    async def until(self, field: str, accept: Callable[[Any], bool] = lambda _: True, *, seconds: float = 10) -> Any:
        """The next `field` of a `SignalResponse` that `accept`s; what comes before is kept in `heard`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    response = await self.receive(seconds)
                    if response.WhichOneof("message") == field and accept(getattr(response, field)):
                        return getattr(response, field)
        except TimeoutError:
            kinds = [response.WhichOneof("message") for response in self.heard]
            raise AssertionError(f"no {field} in {seconds} s; heard {kinds}") from None

    async def everything(self, seconds: float) -> list[rtc.SignalResponse]:
        """All that comes within `seconds`."""
        start = len(self.heard)
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self.receive(seconds)
        except TimeoutError:
            return self.heard[start:]


def dual_path(**parameters: Any) -> str:
    """`/rtc` with query parameters."""
    given = {"protocol": 16, "sdk": "python", "version": "1.0", "auto_subscribe": 1, **parameters}
    return "/rtc?" + urllib.parse.urlencode(given)


def single_path(join: rtc.JoinRequest | None = None, *, compressed: bool = True, padded: bool = True) -> str:
    """`/rtc/v1` with a join request."""
    if join is None:
        join = join_request()
    payload = join.SerializeToString()
    compression = rtc.WrappedJoinRequest.GZIP if compressed else rtc.WrappedJoinRequest.NONE
    wrapped = rtc.WrappedJoinRequest(
        compression=compression, join_request=gzip.compress(payload) if compressed else payload
    )
    text = base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()
    return "/rtc/v1?join_request=" + urllib.parse.quote(text if padded else text.rstrip("="))


def join_request(**fields: Any) -> rtc.JoinRequest:
    client = models.ClientInfo(sdk=models.ClientInfo.PYTHON, version="1.0", protocol=16, os="linux")
    settings = rtc.ConnectionSettings(auto_subscribe=True)
    return rtc.JoinRequest(**{"client_info": client, "connection_settings": settings, **fields})


@asynccontextmanager
async def signal_connection(
    server: Endpoint, path: str, token: str | None, *, text: bool = False, in_query: bool = False
) -> AsyncIterator[SignalClient]:
    """Opens the WebSocket; `InvalidStatus` if the server refuses."""
    url = server.ws_url + path
    headers = {}
    if token is not None and in_query:
        url += f"&access_token={token}"
    elif token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with connect(url, additional_headers=headers, max_size=None, open_timeout=10) as socket:
        yield SignalClient(socket, text=text)


async def ask(server: Endpoint, path: str, token: str | None, **headers: str) -> httpx2.Response:
    """The same request as plain HTTP, as `…/validate` gets it."""
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with httpx2.AsyncClient(timeout=10) as client:
        return await client.get(server.url + path, headers=headers)


def claims_of(token: str) -> dict[str, Any]:
    """A token's claims, unverified."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims
