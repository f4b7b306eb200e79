"""Asks a running server's RoomService, for the command line and for other servers on its database. Applications use a
LiveKit server SDK instead."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2
import jwt

from signaling.errors import CallyardError

_TIMEOUT_SECONDS = 10.0
_TOKEN_SECONDS = 60


class RoomServiceFailed(CallyardError):
    """The server could not be reached, or said no; the message says which."""

    code = "room_service_failed"


class RoomServiceClient:
    """Each call brings a token with just the grant it needs, valid for a minute."""

    def __init__(self, url: str, key: str, secret: str, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._url = url.rstrip("/").replace("ws", "http", 1) if url.startswith("ws") else url.rstrip("/")
        self._key = key
        self._secret = secret
        self._transport = transport

    async def list_rooms(self) -> list[dict[str, Any]]:
        return list((await self._call("ListRooms", {}, roomList=True)).get("rooms", []))

    async def participants(self, room: str) -> list[dict[str, Any]]:
        answer = await self._call("ListParticipants", {"room": room}, roomAdmin=True, room=room)
        return list(answer.get("participants", []))

    async def delete_room(self, room: str) -> None:
        await self._call("DeleteRoom", {"room": room}, roomCreate=True)

    async def described(self, room: str) -> dict[str, Any]:
        """Return what the room's debug page tells: everybody's connections, tracks and what is measured of them."""
        try:
            async with self._client() as client:
                reply = await client.get(
                    f"{self._url}/debug/rooms/{quote(room)}", headers=self._headers(roomAdmin=True, room=room)
                )
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unreachable(error) from None
        if reply.is_success:
            answer: dict[str, Any] = reply.json()
            return answer
        raise self._refused(reply, "message")

    async def trace(self, room: str, identity: str, seconds: float) -> AsyncIterator[bytes]:
        """What decides of one subscriber's layers, as it comes; the last line says why it ended."""
        path = f"/debug/rooms/{quote(room)}/trace"
        query = {"identity": identity, "seconds": f"{seconds:g}"}
        try:
            async with (
                self._client() as client,
                client.stream(
                    "GET", self._url + path, params=query, headers=self._headers(roomAdmin=True, room=room)
                ) as reply,
            ):
                if not reply.is_success:
                    await reply.aread()
                    raise self._refused(reply, "message")
                async for chunk in reply.aiter_bytes():
                    yield chunk
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unreachable(error) from None

    async def _call(self, method: str, body: dict[str, Any], **grants: Any) -> dict[str, Any]:
        url = f"{self._url}/twirp/livekit.RoomService/{method}"
        try:
            async with self._client() as client:
                reply = await client.post(url, json=body, headers=self._headers(**grants))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unreachable(error) from None
        if reply.is_success:
            answer: dict[str, Any] = reply.json()
            return answer
        raise self._refused(reply, "msg")

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(timeout=_TIMEOUT_SECONDS, transport=self._transport, trust_env=False)

    def _headers(self, **grants: Any) -> dict[str, str]:
        claims = {"iss": self._key, "exp": int(time.time()) + _TOKEN_SECONDS, "video": grants}
        return {"Authorization": f"Bearer {jwt.encode(claims, self._secret, algorithm='HS256')}"}

    def _unreachable(self, error: Exception) -> RoomServiceFailed:
        return RoomServiceFailed(f"{self._url} cannot be reached: {error or type(error).__name__}.")

    def _refused(self, reply: httpx2.Response, field: str) -> RoomServiceFailed:
        try:
            sentence = reply.json()[field]
        except (ValueError, KeyError, TypeError):
            sentence = reply.text[:200] or f"status {reply.status_code}"
        return RoomServiceFailed(f"{self._url} refused: {sentence}")
