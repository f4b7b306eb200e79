"""The console's one way to the calls system: the routes of the API, called in process.

So every check, rule and audit entry is the API's own; the console has none. Not here: HTTP, pages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from signaling.api.v1.api import ROUTES
from signaling.api.v1.http import Ask, require_admin
from signaling.api.v1.service import CallsService
from signaling.calls.principal import Principal
from signaling.calls.problems import Problem, missing
from signaling.console.sessions import Operator

_BY_NAME = {(route.method, route.path): route for route in ROUTES}
LIST_PAGES_MAX = 20
"""How many pages of 100 a list that a page shows whole is read; beyond, the page says that there is more."""


@dataclass(frozen=True)
class ParticipantFigures:
    """What the media side measures of one participant now. Loss is a fraction of 1; `quality` is LiveKit's word."""

    identity: str
    bitrate_up_bps: int
    bitrate_down_bps: int
    rtt_ms: float
    loss_up: float
    loss_down: float
    quality: str


class Figures(Protocol):
    async def __call__(self, room: str) -> Sequence[ParticipantFigures] | None:
        """Return the figures of a room; None if no media node has it."""


class Backend:
    def __init__(self, service: CallsService, figures: Figures | None = None) -> None:
        self._service = service
        self._figures = figures

    @property
    def service(self) -> CallsService:
        return self._service

    async def sign_in(self, token: str) -> Operator:
        """Return who may use the console by an API token: a server token, or an app admin's own."""
        principal = await self._service.authenticate(token.strip(), None)
        if principal.calls is not None or principal.teams is not None or principal.acting:
            raise missing("app.admin")
        self._require_admin(principal)
        return Operator(principal.user_id, principal.expires_at)

    async def principal(self, operator: Operator) -> Principal:
        """Return the principal of a session; an operator who is no admin any more is refused."""
        kind = "server" if operator.user_id is None else "user"
        principal = Principal(kind, operator.user_id, operator.expires_at)
        async with self._service.database.read() as connection:
            await self._service.directory.refresh(connection)
            if operator.user_id is not None:
                user = (await self._service.directory.users(connection, [operator.user_id])).get(operator.user_id)
                if user is None or user.deleted_at is not None or user.role != "admin":
                    raise missing("app.admin")
        return principal

    async def ask(
        self,
        principal: Principal,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
        **names: str,
    ) -> Any:
        """Return the data of a reply of the API; `path` as in its route table, `names` its parameters."""
        route = _BY_NAME[method, f"/v1{path}"]
        if route.auth == "server" and not principal.is_server:
            raise missing("app.admin")
        if route.auth == "admin":
            self._require_admin(principal)
        raw = b"" if body is None else json.dumps(body).encode()
        ask = Ask(self._service, principal, route, names, dict(query or {}), raw, {}, "")
        return (await route.handler(ask)).data

    async def all(self, principal: Principal, path: str, **names: Any) -> list[dict[str, Any]]:
        """Return the whole of a list that people keep short."""
        items: list[dict[str, Any]] = []
        query = {"limit": "100"}
        for _ in range(LIST_PAGES_MAX):
            page = await self.ask(principal, "GET", path, query=query, **names)
            items += page["items"]
            if page["next"] is None:
                break
            query["next"] = page["next"]
        return items

    async def figures(self, room: str | None) -> Sequence[ParticipantFigures] | None:
        """Return what the media side measures in a room; None if it tells nothing."""
        if self._figures is None or room is None:
            return None
        return await self._figures(room)

    def _require_admin(self, principal: Principal) -> None:
        route = _BY_NAME["GET", "/v1/call-types"]
        require_admin(Ask(self._service, principal, route, {}, {}, b"", {}, ""))


async def seen(awaitable: Any) -> Any:
    """Return the data, or None where it is not there or the operator may not see it."""
    try:
        return await awaitable
    except Problem as problem:
        if problem.status in (403, 404):
            return None
        raise
