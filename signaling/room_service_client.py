"""Asks a running server's RoomService, for the command line. Applications use a LiveKit server SDK instead."""

from __future__ import annotations

import time
from typing import Any

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

    async def _call(self, method: str, body: dict[str, Any], **grants: Any) -> dict[str, Any]:
        claims = {"iss": self._key, "exp": int(time.time()) + _TOKEN_SECONDS, "video": grants}
        headers = {"Authorization": f"Bearer {jwt.encode(claims, self._secret, algorithm='HS256')}"}
        url = f"{self._url}/twirp/livekit.RoomService/{method}"
        try:
            async with httpx2.AsyncClient(
                timeout=_TIMEOUT_SECONDS, transport=self._transport, trust_env=False
            ) as client:
                reply = await client.post(url, json=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RoomServiceFailed(f"{self._url} cannot be reached: {error or type(error).__name__}.") from None
        if reply.is_success:
            answer: dict[str, Any] = reply.json()
            return answer
        try:
            sentence = reply.json()["msg"]
        except (ValueError, KeyError, TypeError):
            sentence = reply.text[:200] or f"status {reply.status_code}"
        raise RoomServiceFailed(f"{self._url} refused: {sentence}")
