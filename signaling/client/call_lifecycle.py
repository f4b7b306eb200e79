"""Making a call, reading, changing, ending and deleting it; going live. What `update` is told early is staged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from signaling.client.call_base import CallBase, merged, zoned
from signaling.client.models import CallInfo, CallReply, MemberLike, Session, member_item
from signaling.client.transport import segment


class _Absent:
    """The difference between `starts_at=None` (take it away) and no `starts_at` at all."""


_ABSENT = _Absent()


class Lifecycle(CallBase):
    """The call itself."""

    async def get_or_create(
        self,
        *,
        members: Iterable[MemberLike] | None = None,
        member_ids: Iterable[str] | None = None,
        custom: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
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
            body.update({name: zoned(value) for name, value in new.items() if value is not None})
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
        custom: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
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
        body = {name: zoned(value) for name, value in change.items()}
        etag = None if if_version is None else str(if_version)
        return self._changed(await self._client.transport.request("PATCH", self.path(), body, etag=etag))

    async def delete(self, *, hard: bool = False) -> str | None:
        """Delete the call. Softly it is hidden; `hard` (server tokens) wipes it and returns the id of the task."""
        self._named()
        query = {"mode": "hard" if hard else "soft"}
        data = await self._client.transport.request("DELETE", self.path(), query=query)
        self.info, self.session, self.own_capabilities = None, None, frozenset()
        self._staged.clear()
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
        return self._changed(await self._send("PUT", "/live", body))

    async def stop_live(self, *, remove_viewers: bool = True) -> CallInfo:
        """Close the backstage again; who may not be there leaves, unless `remove_viewers` is False."""
        return self._changed(await self._send("DELETE", "/live", query={"remove_viewers": remove_viewers}))
