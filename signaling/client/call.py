"""A call, as an application handles it. Making one is local: no request, no socket, no device.

What the server last said of it is in `info` and `own_capabilities`; every verb renews them. The verbs stand in the
files `call_….py`, by what they are about.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from signaling.client.call_captures import Captures
from signaling.client.call_joining import Joining
from signaling.client.call_rights import Rights
from signaling.client.call_ringing import Ringing
from signaling.client.models import Member, MemberLike, Page, Participant, Session, member_item

if TYPE_CHECKING:
    from signaling.client.events import EventStream


class Call(Joining, Ringing, Rights, Captures):
    """One call of one client. `id` is empty until the server has generated one, if none was given."""

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
        body: dict[str, Any] = {"upsert": [member_item(m) for m in upsert], "remove": list(remove)}
        body = {name: value for name, value in body.items() if value}
        if force:
            body["force"] = True
        data = await self._send("PATCH", "/members", body)
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

    # In the call

    async def participants(self) -> Sequence[Participant]:
        """Return who is in the running session."""
        return [one async for one in self._pages("GET", "/participants", Participant, 100)]

    def sessions(self, *, limit: int = 100) -> AsyncIterator[Session]:
        """Iterate over the call's sessions, newest first."""
        return self._pages("GET", "/sessions", Session, limit)

    async def send_reaction(
        self, type_: str, *, emoji: str | None = None, custom: Mapping[str, Any] | None = None
    ) -> None:
        body = {"type": type_, "emoji": emoji, "custom": dict(custom or {})}
        await self._post("/reactions", {k: v for k, v in body.items() if v is not None})

    async def send_event(self, type_: str, custom: Mapping[str, Any], *, to: Iterable[str] | None = None) -> None:
        """Send a custom event, for example a chat line, to everybody or to some users."""
        body = {"type": type_, "custom": dict(custom), "to": None if to is None else list(to)}
        await self._post("/events", {k: v for k, v in body.items() if v is not None})

    def events(self) -> EventStream:
        """Return the events of this call; see `CallyardClient.events`."""
        self._named()
        return self._client.events([self])
