"""What every part of a call object has: who it is, what the server last said of it, and the way to the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from signaling.client.errors import Conflict
from signaling.client.models import CallInfo, CallReply, Participant, Ring, Session
from signaling.client.transport import segment

if TYPE_CHECKING:
    from signaling.client.client import CallyardClient


class CallBase:
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
        """What `update` was told before the call was known to exist; it goes out with the next verb."""
        return dict(self._staged)

    def path(self, below: str = "") -> str:
        return f"/calls/{segment(self.type)}/{segment(self.id)}{below}"

    async def _send(self, method: str, below: str, body: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """Send what changes something in a call that exists; what `update` staged comes first."""
        self._named()
        await self._apply_staged()
        return await self._client.transport.request(method, self.path(below), body, **more)

    async def _post(self, below: str, body: Mapping[str, Any] | None = None) -> Any:
        return await self._send("POST", below, body or {}, once=True)

    async def _pages(
        self, method: str, below: str, kind: type[Any], limit: int, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Any]:
        self._named()
        async for item in self._client.pages(method, self.path(below), kind, limit, body):
            yield item

    def _named(self) -> None:
        if not self.id:
            raise Conflict("not_created", "This call has no id yet: get_or_create() gives it one.")

    def _stage(self, change: Mapping[str, Any]) -> None:
        for name, value in change.items():
            self._staged[name] = merged(self._staged.get(name), value) if isinstance(value, Mapping) else value

    async def _apply_staged(self) -> None:
        if not self._staged:
            return
        body = {name: zoned(value) for name, value in self._staged.items()}
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


def zoned(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("A time needs a zone: datetime.now(UTC), not datetime.now().")
        return value.isoformat()
    return value
