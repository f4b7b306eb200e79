"""Routes are found by what a path looks like; this finds the same ones as trying each in its order would."""

from __future__ import annotations

import itertools

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute

from signaling.api.v1.api import ANY, PARAMETER, ROUTES, _Table
from tests.signaling.api.world import World

WORDS = sorted({part for route in ROUTES for part in route.path.split("/")[2:] if not part.startswith("{")})


async def _nothing(_request: Request) -> Response:
    return Response()


@pytest.fixture(scope="module")
def in_order() -> list[StarletteRoute]:
    ordered = sorted(ROUTES, key=lambda route: PARAMETER.sub("~", route.path))
    return [StarletteRoute(route.path, _nothing, methods=[route.method]) for route in ordered]


def _paths() -> set[str]:
    """Return paths of every route, each parameter once a plain name and once each word that is a segment elsewhere."""
    found = {
        "/v1",
        "/v1/",
        "/v1/calls/",
        "/v1/calls/default/x/",
        "//v1/calls",
        "/v1/calls/default/x/join/more",
        "/v2/x",
    }
    for route in ROUTES:
        found.add(PARAMETER.sub("x", route.path))
        for word in WORDS:
            found.add(PARAMETER.sub(word, route.path))
            found.add(PARAMETER.sub(word, route.path, count=1).replace("{id}", "x").replace("{user}", "x"))
    return found


def test_the_same_routes_are_found_as_in_their_order(in_order: list[StarletteRoute]) -> None:
    table = _Table(in_order)
    matched = 0
    methods = [*ANY, "HEAD", "OPTIONS"]
    taking = {method: [one for one in in_order if method in (one.methods or ())] for method in methods}
    for path, method in itertools.product(_paths(), methods):
        scope = {"type": "http", "path": path, "method": method, "root_path": ""}
        by_turns = next(
            ((one, found) for one in taking[method] for match, found in [one.matches(scope)] if match is Match.FULL),
            None,
        )
        match, found = table.matches(scope)
        if by_turns is None:
            assert match is Match.NONE, (method, path)
            continue
        matched += 1
        assert match is Match.FULL, (method, path)
        assert found["route"] is by_turns[0], (method, path)
        assert found["path_params"] == by_turns[1]["path_params"]
    assert matched > len(ROUTES) * 20


async def test_a_user_may_be_called_as_a_route_is(world: World) -> None:
    await world.users("query")
    assert (await world.server.get("/users/query")).json()["user"]["id"] == "query"
    assert (await world.server.post("/users/query", {})).status_code == 200
