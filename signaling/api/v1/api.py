"""The calls API as routes: the table of all routes, and how they are mounted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, WebSocketRoute
from starlette.routing import Route as StarletteRoute
from starlette.types import Receive, Scope, Send

from signaling.api.v1 import (
    admin_routes,
    call_routes,
    join_routes,
    live_routes,
    member_routes,
    openapi,
    participant_routes,
    ring_routes,
    session_routes,
    storage_routes,
    type_routes,
    user_routes,
)
from signaling.api.v1.http import Endpoint, Route
from signaling.api.v1.idempotency import Idempotency
from signaling.api.v1.rate_limits import RateLimiter
from signaling.api.v1.replies import problem_response
from signaling.api.v1.service import CallsService
from signaling.api.v1.socket import EventSocket
from signaling.calls.problems import Problem, not_found

PARAMETER = re.compile(r"\{\w+\}")
ROUTES: tuple[Route, ...] = (
    *session_routes.ROUTES,
    *call_routes.ROUTES,
    *member_routes.ROUTES,
    *ring_routes.ROUTES,
    *join_routes.ROUTES,
    *live_routes.ROUTES,
    *participant_routes.ROUTES,
    *type_routes.ROUTES,
    *user_routes.ROUTES,
    *admin_routes.ROUTES,
    *storage_routes.ROUTES,
)


def calls_routes(service: CallsService) -> Sequence[BaseRoute]:
    """Return the routes of the calls API under /v1, the event channel and the OpenAPI document."""
    idempotency = Idempotency(service.database, service.now, service.settings.idempotency_ttl_seconds)
    limiter = RateLimiter.of(service)
    methods: dict[str, list[str]] = {}
    for route in ROUTES:
        methods.setdefault(route.path, []).append(route.method)
    # `/users/query` before `/users/{user}`, each with its own methods only: a user may be called "query".
    mounted = [
        StarletteRoute(route.path, Endpoint(route, service, idempotency, limiter).__call__, methods=[route.method])
        for route in sorted(ROUTES, key=lambda route: PARAMETER.sub("~", route.path))
    ]
    document = openapi.document(ROUTES)

    async def get_document(_request: Request) -> Response:
        return Response(document, media_type="application/json")

    async def no_such_route(_request: Request) -> Response:
        return problem_response(not_found("route"), service.new_id(), {})

    return [
        StarletteRoute("/openapi.json", get_document, methods=["GET"]),
        StarletteRoute("/v1/openapi.json", get_document, methods=["GET"]),
        WebSocketRoute("/v1/events", EventSocket(service, limiter).__call__),
        _Table(mounted),
        *(_not_offered(service, path, sorted(offered)) for path, offered in methods.items()),
        StarletteRoute("/v1/{rest:path}", no_such_route, methods=ANY),
    ]


ANY = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class _Table(BaseRoute):
    """Routes of one method each, looked at in their order, but only those that the path can be of.

    Starlette tries a hundred patterns one after the other: a twentieth of what a join costs.
    """

    def __init__(self, routes: Sequence[StarletteRoute]) -> None:
        by_length: dict[int, list[StarletteRoute]] = {}
        for route in routes:
            by_length.setdefault(route.path.count("/"), []).append(route)
        self._by_end: dict[tuple[int, str, str], tuple[StarletteRoute, ...]] = {}
        for length, alike in by_length.items():
            for end in {_end(route) for route in alike}:
                for method in ANY:
                    fit = (one for one in alike if method in (one.methods or ()) and _end(one) in (end, ""))
                    self._by_end[length, end, method] = tuple(fit)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http":
            path: str = scope["path"]
            length, method = path.count("/"), "GET" if scope["method"] == "HEAD" else scope["method"]
            end = path.rpartition("/")[2]
            fit = self._by_end.get((length, end, method)) or self._by_end.get((length, "", method), ())
            for route in fit:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    return match, {**found, "route": route}
        return Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await scope["route"].handle(scope, receive, send)


def _end(route: StarletteRoute) -> str:
    """Return the last segment of a route's path; "" for a parameter, which may be anything."""
    end = route.path.rpartition("/")[2]
    return "" if end.startswith("{") else end


def _not_offered(service: CallsService, path: str, offered: Sequence[str]) -> StarletteRoute:
    async def answer(request: Request) -> Response:
        problem = Problem("method_not_allowed", f"{request.method} is not offered here.")
        return problem_response(problem, service.new_id(), {"allow": ", ".join(offered)})

    return StarletteRoute(path, answer, methods=ANY)
