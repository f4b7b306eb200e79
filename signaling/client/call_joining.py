"""Joining a call: the lobby in front, the media behind, and leaving again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from signaling.client import media as media_side
from signaling.client.call_lifecycle import Lifecycle
from signaling.client.errors import Conflict, Forbidden, VideoError
from signaling.client.models import JoinReply, LobbyEntry, Media, Participant
from signaling.client.transport import segment

if TYPE_CHECKING:
    from livekit import rtc

    from signaling.client.events import EventStream

LOBBY_ROUNDS_MAX = 64
"""How often a waiting join looks again; each time something happened to the entry, or a while has passed."""
LOBBY_LOOK_SECONDS = 20.0


class Joining(Lifecycle):
    """Who comes and goes: oneself."""

    async def join(
        self,
        *,
        create: bool = False,
        device_id: str | None = None,
        hidden: bool = False,
        region_hint: str | None = None,
        wait_in_lobby: bool = True,
        room: rtc.Room | None = None,
        options: rtc.RoomOptions | None = None,
    ) -> rtc.Room:
        """Join the call and connect to its media; returns a connected `livekit.rtc.Room`.

        create: make the call if there is none. wait_in_lobby: wait for the host to decide (`not_admitted`: he said
        no); False: raise `lobby_waiting`.
        room: an own `rtc.Room`, with handlers already in place. options: of its connection.
        Raises a `VideoError` with the code and the missing capability; `MediaSdkMissing` before anything is asked.
        """
        connector = self._client.media_connector
        if connector is None:
            media_side.check_sdk()
        joined = await self.join_session(
            create=create, device_id=device_id, hidden=hidden, region_hint=region_hint, wait_in_lobby=wait_in_lobby
        )
        try:
            if connector is not None:
                self.room = await connector(joined.media)
            else:
                self.room = await media_side.connect_room(joined.media, room, options)
        except BaseException:
            # Whoever is not in the room is not in the call: others must not see him come and time out.
            with suppress(VideoError):
                await asyncio.shield(self._leave(joined.participant.id))
            self.participant = None
            raise
        connected: rtc.Room = self.room
        return connected

    async def join_session(
        self,
        *,
        create: bool = False,
        device_id: str | None = None,
        hidden: bool = False,
        region_hint: str | None = None,
        resume: str | None = None,
        wait_in_lobby: bool = True,
    ) -> JoinReply:
        """Join without connecting: the media URL and token are for an SDK of your own."""
        if create and (self._staged or not self.id):
            await self.get_or_create()
        elif self._staged:
            await self.get()
        self._named()
        body = {
            "device_id": device_id or self._client.device_id,
            "create": create or None,
            "hidden": hidden or None,
            "region_hint": region_hint,
            "resume": resume,
        }
        body = {name: value for name, value in body.items() if value is not None}
        data = await self._client.transport.request("POST", self.path("/join"), body)
        if "lobby" in data:
            data = await self._wait_in_lobby(body, self._lobby(data), wait=wait_in_lobby)
        reply = self._client.transport.value(data, JoinReply)
        self.info, self.session, self.participant = reply.call, reply.session, reply.participant
        self.own_capabilities = frozenset(reply.own_capabilities)
        return reply

    async def _wait_in_lobby(self, body: Mapping[str, Any], entry: LobbyEntry, *, wait: bool) -> dict[str, Any]:
        if not wait:
            raise _waiting(entry)
        async with self._client.events() as events:
            for _ in range(LOBBY_ROUNDS_MAX):
                # Looked at after the socket is open: what happened before it was is there.
                path = self.path(f"/lobby/{segment(entry.id)}")
                data: dict[str, Any] = await self._client.transport.request("GET", path)
                entry = self._lobby(data)
                if entry.state == "admitted":
                    # Who has no account is known again by his entry.
                    admitted = {**body, "resume": entry.id}
                    joined: dict[str, Any] = await self._client.transport.request("POST", self.path("/join"), admitted)
                    return joined
                if entry.state != "waiting":
                    raise _not_admitted(data)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOBBY_LOOK_SECONDS):
                        await self._decided(events, entry)
        raise _waiting(entry)

    async def _decided(self, events: EventStream, entry: LobbyEntry) -> None:
        async for event in events:
            if event.type in ("lobby.admitted", "lobby.denied") and event.data["lobby"]["id"] == entry.id:
                if event.type == "lobby.denied":
                    raise _not_admitted(event.data)
                return

    def _lobby(self, data: Mapping[str, Any]) -> LobbyEntry:
        return self._client.transport.value(data["lobby"], LobbyEntry)

    async def media_token(self) -> Media:
        """Return a new media token for the participant of the last join; everything is checked again."""
        body = {"participant_id": self._joined().id}
        data = await self._client.transport.request("POST", self.path("/media-token"), body)
        return self._client.transport.value(data["media"], Media)

    async def leave(self) -> None:
        """Leave the call and disconnect from its media. Not being in it is fine."""
        participant, room = self.participant, self.room
        self.participant = self.room = None
        try:
            if participant is not None:
                await self._leave(participant.id)
        finally:
            await media_side.disconnect(room)

    async def _leave(self, participant_id: str) -> None:
        await self._client.transport.request("POST", self.path("/leave"), {"participant_id": participant_id})

    def _joined(self) -> Participant:
        if self.participant is None:
            raise Conflict("not_joined", "This call was not joined.")
        return self.participant


def _not_admitted(data: Mapping[str, Any]) -> VideoError:
    return Forbidden("not_admitted", "The host did not let us in.", problem={"lobby": data["lobby"]})


def _waiting(entry: LobbyEntry) -> VideoError:
    return Forbidden("lobby_waiting", "Waiting in the lobby until somebody decides.", problem={"lobby_id": entry.id})
