"""`CallyardClient`: who one is and where the server is; calls, searches and events come from it.

The first client that is made becomes the process's default (`make_call`); constructing one opens nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx2

from signaling.client.administration import Administration
from signaling.client.call import Call
from signaling.client.errors import ClientNotReady
from signaling.client.events import EventStream
from signaling.client.media import MediaConnector
from signaling.client.models import FoundCall, Page, User
from signaling.client.transport import Tokens, TokenSource, Transport, segment

T = TypeVar("T")

PAGES_MAX = 10_000
"""How many pages one iteration reads; a server that never ends its list must not hold a client for ever."""

_default: CallyardClient | None = None


class CallyardClient:
    """A client of one user (user token) or of an application's server (server token).

    url: of the server, with or without /v1. token: a JWT, or a function (may be async) that gives a fresh one whenever
    the last has expired. on_behalf_of: the user a server token acts as. device_id: names this device in rings and
    joins; a second join of the same device replaces the first. http: an own connection pool, left open by `aclose`.
    media_connector: connects `join` to the media by an SDK other than LiveKit's.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        *,
        on_behalf_of: str | None = None,
        device_id: str = "default",
        timeout_seconds: float = 15.0,
        http: httpx2.AsyncClient | None = None,
        media_connector: MediaConnector | None = None,
    ) -> None:
        global _default
        self.device_id = device_id
        self.media_connector = media_connector
        self.transport = Transport(
            url, Tokens(token), on_behalf_of=on_behalf_of, http=http, timeout_seconds=timeout_seconds
        )
        self.admin = Administration(self.transport)
        if _default is None:
            _default = self

    def make_default(self) -> None:
        """Make this the client that the module's `make_call` uses."""
        global _default
        _default = self

    async def aclose(self) -> None:
        """Close connections; a default client stops being it."""
        global _default
        if _default is self:
            _default = None
        await self.transport.aclose()

    async def __aenter__(self) -> CallyardClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def make_call(self, type_: str, call_id: str = "") -> Call:
        """Return a call object: local, nothing is sent. An empty id: the server generates one at creation."""
        return Call(self, type_, call_id)

    async def query_calls(
        self,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        sort: Sequence[tuple[str, str] | str] = (),
        limit: int = 25,
        cursor: str | None = None,
        connection_id: str | None = None,
    ) -> Page[FoundCall]:
        """Return one page of the calls that match and that one may read.

        filter: `{"custom.name": "Standup"}`, with `$eq $ne $in $nin $gt $gte $lt $lte $exists $contains $prefix` and
        `$and $or $not`. sort: fields, or `(field, "desc")`. cursor: `next` of the page before.
        """
        body: dict[str, Any] = {"filter": dict(filter or {}), "limit": limit}
        if sort:
            body["sort"] = [
                {"field": one, "direction": "asc"} if isinstance(one, str) else {"field": one[0], "direction": one[1]}
                for one in sort
            ]
        if cursor is not None:
            body["next"] = cursor
        if connection_id is not None:
            body |= {"watch": True, "connection_id": connection_id}
        return await self.transport.get(Page[FoundCall], "POST", "/calls/query", body)

    async def find_calls(
        self,
        filter: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        sort: Sequence[tuple[str, str] | str] = (),
    ) -> AsyncIterator[FoundCall]:
        """Iterate over all calls that match, page by page."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            page = await self.query_calls(filter, sort=sort, limit=100, cursor=cursor)
            for found in page.items:
                yield found
            cursor = page.next
            if cursor is None:
                return

    async def user(self, user_id: str) -> User:
        data = await self.transport.request("GET", f"/users/{segment(user_id)}")
        return self.transport.value(data["user"], User)

    async def add_device(self, user_id: str, provider: str, token: str, *, push_provider: str | None = None) -> str:
        """Register a device for push (apns, apns_voip, fcm, webpush); returns its id."""
        body: dict[str, Any] = {"provider": provider, "token": token}
        if push_provider is not None:
            body["push_provider"] = push_provider
        data = await self.transport.request("POST", f"/users/{segment(user_id)}/devices", body, once=True)
        return str(data["device"]["id"])

    async def remove_device(self, user_id: str, device_id: str) -> None:
        await self.transport.request("DELETE", f"/users/{segment(user_id)}/devices/{segment(device_id)}")

    def events(self, calls: Iterable[Call | str] = (), *, reconnect_seconds: float = 300.0) -> EventStream:
        """Return a stream of events: `async with client.events([call]) as events: async for event in events: …`

        calls: to subscribe to, as calls or cids; rings and events of calls one is a member of come unasked.
        reconnect_seconds: how long a lost connection is tried again before the iteration raises.
        """
        cids = [call.cid if isinstance(call, Call) else call for call in calls]
        return EventStream(self.transport, cids, device_id=self.device_id, reconnect_seconds=reconnect_seconds)

    async def pages(
        self, method: str, path: str, kind: type[T], limit: int, body: Mapping[str, Any] | None = None
    ) -> AsyncIterator[T]:
        """Iterate over all pages of a list."""
        more: dict[str, Any] = {"limit": limit}
        for _ in range(PAGES_MAX):
            if method == "GET":
                data = await self.transport.request(method, path, query=more)
            else:
                data = await self.transport.request(method, path, {**(body or {}), **more})
            for item in data["items"]:
                yield self.transport.value(item, kind)
            if data["next"] is None:
                return
            more["next"] = data["next"]


def default_client() -> CallyardClient:
    """Return the process's default client, or say that there is none."""
    if _default is None:
        raise ClientNotReady(
            "client_not_ready", "There is no default client yet: construct CallyardClient(url, token=…) first."
        )
    return _default


def make_call(type_: str, call_id: str = "") -> Call:
    """Return a call object of the default client."""
    return default_client().make_call(type_, call_id)
