"""A call, as an application handles it. Making one is local: no request, no socket, no device.

What the server last said of it is in `info` and `own_capabilities`; every verb renews them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from signaling.client import media as media_side
from signaling.client.errors import Conflict, Forbidden, VideoError
from signaling.client.models import (
    Block,
    CallInfo,
    CallReply,
    CapabilitySet,
    Explanation,
    JoinReply,
    LobbyEntry,
    Media,
    Member,
    MemberLike,
    Page,
    Participant,
    PermissionRequest,
    Recording,
    Ring,
    Session,
    member_item,
)
from signaling.client.transport import segment

if TYPE_CHECKING:
    from livekit import rtc

    from signaling.client.client import CallyardClient
    from signaling.client.events import EventStream

LOBBY_ROUNDS_MAX = 64
"""How often a waiting join looks again; each time something happened to the entry, or a while has passed."""
LOBBY_LOOK_SECONDS = 20.0

Custom = Mapping[str, Any]
Settings = Mapping[str, Any]


class _Absent:
    """The difference between `starts_at=None` (take it away) and no `starts_at` at all."""


_ABSENT = _Absent()


class Call:
    """One call of one client. `id` is empty until the server has generated one, if none was given."""

    def __init__(self, client: CallyardClient, type_: str, call_id: str) -> None:
        self.type = type_
        self.id = call_id
        self.info: CallInfo | None = None
        self.own_capabilities: frozenset[str] = frozenset()
        self.session: Session | None = None
        self.participant: Participant | None = None
        self.ring_in_progress: Ring | None = None
        self.room: Any = None
        self._client = client
        self._staged: dict[str, Any] = {}
        self._making = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Call {self.type}:{self.id or '(new)'}>"

    @property
    def cid(self) -> str:
        return f"{self.type}:{self.id}"

    @property
    def staged(self) -> Mapping[str, Any]:
        """What `update` was told before the call existed; it goes out with the next `get_or_create`, `get` or join."""
        return dict(self._staged)

    # The call itself

    async def get_or_create(
        self,
        *,
        members: Iterable[MemberLike] | None = None,
        member_ids: Iterable[str] | None = None,
        custom: Custom | None = None,
        settings: Settings | None = None,
        team: str | None = None,
        starts_at: datetime | None = None,
        ringing: bool = False,
        notify: bool = False,
        video: bool = False,
        members_limit: int | None = None,
        connection_id: str | None = None,
    ) -> CallReply:
        """Create the call, or get the existing one, which stays as it is: only ringing and notifying happen again.

        members: user ids or `Member`s; without a role they get the type's default, `admin` unless changed.
        starts_at: aware. ringing: call screens ring, `video` says as what. notify: a standard notification.
        connection_id: of an open event stream, which then watches the call.
        What `update` staged goes with it; on a call that exists already it is applied as a change.
        """
        body: dict[str, Any] = {
            "team": team,
            "ring": ringing or None,
            "notify": notify or None,
            "video": video or None,
            "members": None if members is None else [member_item(member) for member in members],
            "member_ids": None if member_ids is None else list(member_ids),
            "watch": True if connection_id is not None else None,
            "connection_id": connection_id,
        }
        body = {name: value for name, value in body.items() if value is not None}
        async with self._making:
            staged = dict(self._staged)
            new = {
                "custom": merged(staged.get("custom"), custom),
                "settings": merged(staged.get("settings"), settings),
                "starts_at": starts_at if starts_at is not None else staged.get("starts_at"),
            }
            body.update({name: _time(value) for name, value in new.items() if value is not None})
            query = {"members_limit": members_limit}
            if self.id:
                data = await self._client.transport.request("PUT", self.path(), body, query=query)
            else:
                path = f"/calls/{segment(self.type)}"
                data = await self._client.transport.request("POST", path, body, query=query, once=True)
            reply = self._took(data)
            if reply.created:
                self._staged.clear()
            else:
                await self._apply_staged()
        return reply

    async def get(self, *, members_limit: int | None = None, connection_id: str | None = None) -> CallReply:
        """Read the call; never creates it."""
        self._named()
        watch = {"watch": True, "connection_id": connection_id} if connection_id is not None else {}
        data = await self._client.transport.request("GET", self.path(), query={"members_limit": members_limit, **watch})
        reply = self._took(data)
        await self._apply_staged()
        return reply

    async def update(
        self,
        *,
        custom: Custom | None = None,
        settings: Settings | None = None,
        starts_at: datetime | _Absent | None = _ABSENT,
        if_version: int | None = None,
    ) -> CallInfo | None:
        """Change the call: custom data and settings are merged, None in them takes a value away.

        Before the call is known to exist, the change is staged and goes out with it; then the result is None.
        if_version: only if the call is still at this version.
        """
        change: dict[str, Any] = {"custom": custom, "settings": settings}
        change = {name: dict(value) for name, value in change.items() if value is not None}
        if not isinstance(starts_at, _Absent):
            change["starts_at"] = starts_at
        if self.info is None:
            self._stage(change)
            return None
        body = {name: _time(value) for name, value in change.items()}
        etag = None if if_version is None else str(if_version)
        return self._changed(await self._client.transport.request("PATCH", self.path(), body, etag=etag))

    async def delete(self, *, hard: bool = False) -> str | None:
        """Delete the call. Softly it is hidden; `hard` (server tokens) wipes it and returns the id of the task."""
        self._named()
        query = {"mode": "hard" if hard else "soft"}
        data = await self._client.transport.request("DELETE", self.path(), query=query)
        self.info, self.session, self.own_capabilities = None, None, frozenset()
        return str(data["task_id"]) if hard else None

    async def end(self) -> CallInfo:
        """End the call for everybody."""
        return self._changed(await self._post("/end"))

    async def reopen(self) -> CallInfo:
        return self._changed(await self._post("/reopen"))

    async def extend(self, additional_seconds: int) -> Session:
        """Move the end of the running session."""
        data = await self._post("/extend", {"additional_seconds": additional_seconds})
        return self._client.transport.value(data["session"], Session)

    async def go_live(
        self,
        *,
        start_recording: bool = False,
        start_broadcast: bool = False,
        start_captions: bool = False,
        start_transcription: bool = False,
        notify: bool = True,
    ) -> CallInfo:
        """Open the backstage: from here on everybody who may join may enter. Being live already is fine."""
        body = {
            "start_recording": start_recording,
            "start_broadcast": start_broadcast,
            "start_captions": start_captions,
            "start_transcription": start_transcription,
            "notify": notify,
        }
        self._named()
        return self._changed(await self._client.transport.request("PUT", self.path("/live"), body))

    async def stop_live(self, *, remove_viewers: bool = True) -> CallInfo:
        """Close the backstage again; who may not be there leaves, unless `remove_viewers` is False."""
        self._named()
        query = {"remove_viewers": remove_viewers}
        return self._changed(await self._client.transport.request("DELETE", self.path("/live"), query=query))

    # Members

    async def update_members(
        self,
        *,
        upsert: Iterable[MemberLike] = (),
        remove: Iterable[str] = (),
        force: bool = False,
    ) -> Page[Member]:
        """Add, change and remove members in one step: all of it or nothing. Returns the first page of members.

        force: even if the last admin goes.
        """
        self._named()
        body: dict[str, Any] = {"upsert": [member_item(m) for m in upsert], "remove": list(remove)}
        body = {name: value for name, value in body.items() if value}
        if force:
            body["force"] = True
        data = await self._client.transport.request("PATCH", self.path("/members"), body)
        return self._client.transport.value(data["members"], Page[Member])

    async def add_members(self, members: Iterable[MemberLike]) -> Page[Member]:
        """Add members, or change the role and data of those who are."""
        return await self.update_members(upsert=members)

    async def remove_members(self, user_ids: Iterable[str], *, force: bool = False) -> Page[Member]:
        return await self.update_members(remove=user_ids, force=force)

    def members(self, *, filter: Mapping[str, Any] | None = None, limit: int = 100) -> AsyncIterator[Member]:  # noqa: A002
        """Iterate over all members, page by page."""
        if filter is None:
            return self._pages("GET", "/members", Member, limit)
        return self._pages("POST", "/members/query", Member, limit, {"filter": dict(filter)})

    # Ringing

    async def ring(
        self,
        user_ids: Iterable[str] | None = None,
        *,
        video: bool = False,
        timeout_ms: int | None = None,
        custom: Custom | None = None,
    ) -> Ring:
        """Ring members; all others if nobody is named."""
        body = {
            "user_ids": None if user_ids is None else list(user_ids),
            "video": video,
            "timeout_ms": timeout_ms,
            "custom": None if custom is None else dict(custom),
        }
        return self._rang(await self._post("/rings", {k: v for k, v in body.items() if v is not None}))

    async def notify(
        self, user_ids: Iterable[str] | None = None, *, title: str | None = None, body: str | None = None
    ) -> None:
        """Send members a notification that does not ring."""
        fields = {"user_ids": None if user_ids is None else list(user_ids), "title": title, "body": body}
        await self._post("/notify", {k: v for k, v in fields.items() if v is not None})

    async def get_ring(self, ring_id: str) -> Ring:
        self._named()
        return self._rang(await self._client.transport.request("GET", self.path(f"/rings/{segment(ring_id)}")))

    async def accept(self, ring_id: str | None = None, *, device_id: str | None = None) -> Ring:
        """Accept a ring: without an id the one that is pending. `Conflict` if it was resolved elsewhere."""
        path = await self._ring_path(ring_id)
        return self._rang(await self._post(f"{path}/accept", {"device_id": device_id or self._client.device_id}))

    async def reject(
        self, ring_id: str | None = None, *, reason: str = "decline", device_id: str | None = None
    ) -> Ring:
        """Reject a ring. reason: decline, busy, or a text of yours up to 64 characters."""
        path = await self._ring_path(ring_id)
        body = {"reason": reason, "device_id": device_id or self._client.device_id}
        return self._rang(await self._post(f"{path}/reject", body))

    async def cancel_ring(self, ring_id: str | None = None) -> Ring:
        path = await self._ring_path(ring_id)
        return self._rang(await self._post(f"{path}/cancel"))

    async def _ring_path(self, ring_id: str | None) -> str:
        if ring_id is None:
            pending = (await self.get()).ring
            if pending is None:
                raise Conflict("no_ring", "Nothing is ringing in this call.")
            ring_id = pending.id
        return f"/rings/{segment(ring_id)}"

    # Joining

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
                # Asked again after the socket is open: what happened before it was is in the answer.
                data: dict[str, Any] = await self._client.transport.request("POST", self.path("/join"), body)
                if "lobby" not in data:
                    return data
                current = self._lobby(data)
                if current.id != entry.id:
                    raise _not_admitted(data)
                entry = current
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

    # Permissions and moderation

    async def request_permissions(self, capabilities: Iterable[str]) -> PermissionRequest:
        """Ask for media capabilities that one's role may ask for; the answer is an event."""
        data = await self._post("/permission-requests", {"capabilities": list(capabilities)})
        return self._client.transport.value(data["request"], PermissionRequest)

    async def permission_requests(self) -> Sequence[PermissionRequest]:
        """Return who waits for an answer."""
        return [request async for request in self._pages("GET", "/permission-requests", PermissionRequest, 100)]

    async def grant(self, request: PermissionRequest | str) -> PermissionRequest:
        """Grant a request. `Conflict` if somebody decided meanwhile; `error.problem["request"]` says how."""
        return await self._decide(request, "grant")

    async def deny(self, request: PermissionRequest | str) -> PermissionRequest:
        return await self._decide(request, "deny")

    async def _decide(self, request: PermissionRequest | str, verdict: str) -> PermissionRequest:
        request_id = request if isinstance(request, str) else request.id
        data = await self._post(f"/permission-requests/{segment(request_id)}/{verdict}")
        return self._client.transport.value(data["request"], PermissionRequest)

    async def withdraw_request(self, request: PermissionRequest | str) -> None:
        request_id = request if isinstance(request, str) else request.id
        self._named()
        await self._client.transport.request("DELETE", self.path(f"/permission-requests/{segment(request_id)}"))

    async def change_capabilities(
        self,
        user_id: str,
        *,
        grant: Iterable[str] = (),
        revoke: Iterable[str] = (),
        persist: bool = False,
    ) -> CapabilitySet:
        """Grant and revoke directly. persist: beyond the session, in the membership."""
        self._named()
        body = {"grant": list(grant), "revoke": list(revoke), "persist": persist}
        path = self.path(f"/participants/{segment(user_id)}/capabilities")
        return await self._client.transport.get(CapabilitySet, "PATCH", path, body)

    async def explain(self, user_id: str | None = None) -> Explanation:
        """Say step by step why a user may do what he may; oneself if nobody is named."""
        self._named()
        path = self.path("/capabilities/explain")
        return await self._client.transport.get(Explanation, "GET", path, query={"user": user_id})

    async def mute(
        self,
        user_ids: Iterable[str] | None = None,
        *,
        kinds: Iterable[str] = ("audio",),
        except_user_ids: Iterable[str] = (),
    ) -> Mapping[str, Sequence[str]]:
        """Mute users, or all; kinds: audio, video, screen. Returns who was muted of what. Nobody can be unmuted."""
        body: dict[str, Any] = {"kinds": list(kinds)}
        body |= {"all": True} if user_ids is None else {"user_ids": list(user_ids)}
        if excepted := list(except_user_ids):
            body["except"] = excepted
        data = await self._post("/participants/mute", body)
        return {one["user_id"]: one["kinds"] for one in data["muted"]}

    async def kick(self, user_id: str, *, block: bool = False) -> None:
        await self._post(f"/participants/{segment(user_id)}/kick", {"block": block})

    async def block(self, user_id: str, *, reason: str | None = None, expires_at: datetime | None = None) -> Block:
        self._named()
        body = {"reason": reason, "expires_at": _time(expires_at)}
        data = await self._client.transport.request("PUT", self.path(f"/blocks/{segment(user_id)}"), body)
        return self._client.transport.value(data["block"], Block)

    async def unblock(self, user_id: str) -> None:
        self._named()
        await self._client.transport.request("DELETE", self.path(f"/blocks/{segment(user_id)}"))

    async def lobby(self) -> Sequence[LobbyEntry]:
        """Return who waits in the lobby."""
        return [entry async for entry in self._pages("GET", "/lobby", LobbyEntry, 100)]

    async def admit(self, entry: LobbyEntry | str) -> LobbyEntry:
        return await self._on_lobby(entry, "admit")

    async def deny_entry(self, entry: LobbyEntry | str) -> LobbyEntry:
        return await self._on_lobby(entry, "deny")

    async def _on_lobby(self, entry: LobbyEntry | str, verdict: str) -> LobbyEntry:
        entry_id = entry if isinstance(entry, str) else entry.id
        return self._lobby(await self._post(f"/lobby/{segment(entry_id)}/{verdict}"))

    # In the call

    async def participants(self) -> Sequence[Participant]:
        """Return who is in the running session."""
        return [one async for one in self._pages("GET", "/participants", Participant, 100)]

    def sessions(self, *, limit: int = 100) -> AsyncIterator[Session]:
        """Iterate over the call's sessions, newest first."""
        return self._pages("GET", "/sessions", Session, limit)

    async def send_reaction(self, type_: str, *, emoji: str | None = None, custom: Custom | None = None) -> None:
        body = {"type": type_, "emoji": emoji, "custom": dict(custom or {})}
        await self._post("/reactions", {k: v for k, v in body.items() if v is not None})

    async def send_event(self, type_: str, custom: Custom, *, to: Iterable[str] | None = None) -> None:
        """Send a custom event, for example a chat line, to everybody or to some users."""
        body = {"type": type_, "custom": dict(custom), "to": None if to is None else list(to)}
        await self._post("/events", {k: v for k, v in body.items() if v is not None})

    # Captures

    async def start_recording(self, *, kind: str | None = None, layout: str | None = None) -> Recording:
        """Start a recording. kind: composite, individual, raw, audio; the call's setting if absent."""
        return await self._start_capture("recordings", "recording", {"kind": kind, "layout": layout})

    async def stop_recording(self, recording: Recording | str) -> Recording:
        return await self._stop_capture("recordings", "recording", recording)

    def recordings(self, *, limit: int = 100) -> AsyncIterator[Recording]:
        return self._pages("GET", "/recordings", Recording, limit)

    async def start_transcription(self) -> Recording:
        return await self._start_capture("transcriptions", "transcription", {})

    async def stop_transcription(self, transcription: Recording | str) -> Recording:
        return await self._stop_capture("transcriptions", "transcription", transcription)

    def transcriptions(self, *, limit: int = 100) -> AsyncIterator[Recording]:
        return self._pages("GET", "/transcriptions", Recording, limit)

    async def _start_capture(self, plural: str, name: str, body: Mapping[str, Any]) -> Recording:
        data = await self._post(f"/{plural}", {key: value for key, value in body.items() if value is not None})
        return self._client.transport.value(data[name], Recording)

    async def _stop_capture(self, plural: str, name: str, capture: Recording | str) -> Recording:
        self._named()
        capture_id = capture if isinstance(capture, str) else capture.id
        data = await self._client.transport.request("DELETE", self.path(f"/{plural}/{segment(capture_id)}/active"))
        return self._client.transport.value(data[name], Recording)

    def events(self) -> EventStream:
        """Return the events of this call; see `CallyardClient.events`."""
        self._named()
        return self._client.events([self])

    # Inside

    def path(self, below: str = "") -> str:
        return f"/calls/{segment(self.type)}/{segment(self.id)}{below}"

    async def _post(self, below: str, body: Mapping[str, Any] | None = None) -> Any:
        self._named()
        return await self._client.transport.request("POST", self.path(below), body or {}, once=True)

    async def _pages(
        self, method: str, below: str, kind: type[Any], limit: int, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Any]:
        self._named()
        async for item in self._client.pages(method, self.path(below), kind, limit, body):
            yield item

    def _named(self) -> None:
        if not self.id:
            raise Conflict("not_created", "This call has no id yet: get_or_create() gives it one.")

    def _joined(self) -> Participant:
        if self.participant is None:
            raise Conflict("not_joined", "This call was not joined.")
        return self.participant

    def _stage(self, change: Mapping[str, Any]) -> None:
        for name, value in change.items():
            self._staged[name] = merged(self._staged.get(name), value) if isinstance(value, Mapping) else value

    async def _apply_staged(self) -> None:
        if not self._staged:
            return
        body = {name: _time(value) for name, value in self._staged.items()}
        self._changed(await self._client.transport.request("PATCH", self.path(), body))
        # Only now: a refused change stays staged and is not forgotten.
        self._staged.clear()

    def _took(self, data: Any) -> CallReply:
        reply = self._client.transport.value(data, CallReply)
        self.info, self.session, self.id = reply.call, reply.session, reply.call.id
        self.own_capabilities = frozenset(reply.own_capabilities)
        self.ring_in_progress = reply.ring
        return reply

    def _changed(self, data: Any) -> CallInfo:
        self.info = self._client.transport.value(data["call"], CallInfo)
        return self.info

    def _rang(self, data: Any) -> Ring:
        self.ring_in_progress = self._client.transport.value(data["ring"], Ring)
        return self.ring_in_progress


def merged(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return two changes as one; what the second says of a name counts."""
    if first is None or second is None:
        only = first if first is not None else second
        return None if only is None else dict(only)
    result = dict(first)
    for name, value in second.items():
        known = result.get(name)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        result[name] = merged(known, value) if both else value
    return result


def _time(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("A time needs a zone: datetime.now(UTC), not datetime.now().")
        return value.isoformat()
    return value


def _not_admitted(data: Mapping[str, Any]) -> VideoError:
    return Forbidden("not_admitted", "The host did not let us in.", problem={"lobby": data["lobby"]})


def _waiting(entry: LobbyEntry) -> VideoError:
    return Forbidden("lobby_waiting", "Waiting in the lobby until somebody decides.", problem={"lobby_id": entry.id})
