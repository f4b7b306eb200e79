"""The authorisation matrix (S-64): every route × role × tenancy, from the route table. A route without a row fails."""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest

from signaling.api.v1.api import ROUTES
from signaling.api.v1.http import Route
from tests.signaling.api.v1.authorisation_rows import ALL, GRANTS, REQUESTABLE, ROWS
from tests.signaling.api.world import Client, World, code

NOWHERE = "0190b5a4-0000-7000-8000-000000000000"
CALL_ROLES = ("admin", "host", "moderator", "speaker", "call_member", "listener")
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
OF_CALLS = [route for route in ROUTES if "{id}" in route.path]
ELSEWHERE = [route for route in ROUTES if "{id}" not in route.path and route.path != "/v1/calls/{type}"]


def row(route: Route) -> str:
    return ROWS[route.method, route.path]


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    """S-64"""
    assert {(route.method, route.path) for route in ROUTES} == ROWS.keys()


@pytest.mark.parametrize("type_", ["default", "audio_room", "livestream", "development"])
@ON_SQLITE
async def test_a_fresh_type_grants_what_the_specification_says(world: World, type_: str) -> None:
    call_type = (await world.server.get(f"/call-types/{type_}")).json()["call_type"]
    granted = {role: set(held) for role, held in call_type["grants"].items() if held}
    assert granted == {role: held for role, held in GRANTS[type_].items() if held}
    assert {role: set(asked) for role, asked in call_type["requestable"].items()} == REQUESTABLE[type_]


async def attempt(client: Client, route: Route, **path: str) -> httpx2.Response:
    """Make the route's example request; what is not given stands for things that are not there."""
    values = {"type": "default", "id": "x", "user": "target", **path}
    url = re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], NOWHERE), route.path).removeprefix("/v1")
    body = None if route.body is None else (route.example or {})
    return await client.request(route.method, url, body)


def is_refused(reply: httpx2.Response) -> bool:
    return reply.status_code in (401, 403)


@pytest.mark.parametrize("type_", ["default", "livestream"])
@ON_SQLITE
async def test_every_route_of_a_call_for_every_role(world: World, type_: str) -> None:
    await world.users("target", "alice", *CALL_ROLES, "plain")
    await world.users("guesty", role="guest")
    await world.users("root", role="admin")
    members: list[Any] = [{"user_id": role, "role": role} for role in CALL_ROLES]
    members.append({"user_id": "target", "role": "listener"})
    of_calls = {"backstage": {"enabled": False}, "broadcasting": {"mode": "available"}}
    body: dict[str, Any] = {"members": members, "settings": of_calls}
    holders: dict[str, tuple[Client, set[str]]] = {
        **{role: (world.as_(role), ALL if role == "admin" else GRANTS[type_][role]) for role in CALL_ROLES},
        "user": (world.as_("plain"), GRANTS[type_]["user"]),
        "guest": (world.as_("guesty"), GRANTS[type_]["guest"]),
        "app admin": (world.as_("root"), ALL),
        "server": (world.server, ALL),
        "on behalf": (world.on_behalf("listener"), GRANTS[type_]["listener"]),
        "narrowed": (world.as_("admin", role="listener"), GRANTS[type_]["listener"]),
    }
    number = 0
    await world.call(f"{type_}/shared", **body)
    for route in OF_CALLS:
        needed = row(route)
        for who, (client, held) in holders.items():
            allowed = needed == "reach" or needed in held
            call_id = "shared"
            if allowed:
                # It may change the call, so each gets a fresh one.
                number += 1
                call_id = f"c{number}"
                await world.call(f"{type_}/{call_id}", **body)
            reply = await attempt(client, route, type=type_, id=call_id)
            label = (route.method, route.path, who, reply.text[:200])
            if allowed:
                assert not is_refused(reply), label
                assert reply.status_code < 500, label
            else:
                assert code(reply) == (403, "missing_capability"), label
                assert reply.json()["capability"] == needed, label


@ON_SQLITE
async def test_no_route_of_a_call_tells_strangers_that_it_exists(world: World) -> None:
    """S-64: Another team, a deleted call, a token for other calls: exactly the reply of a call that is not there."""
    await world.server.patch("/app", {"multi_tenant_enabled": True})
    await world.users("rosa", "target", teams=["red"])
    await world.users("blue", teams=["blue"])
    await world.users("none")
    await world.users("root", role="admin", teams=["blue"])
    await world.call("default/x", by="rosa", members=["target"])
    await world.call("default/gone", by="rosa")
    await world.as_("rosa").delete("/calls/default/gone")
    strangers = {
        "another team": (world.as_("blue"), "x"),
        "no team": (world.as_("none"), "x"),
        "app admin of another team": (world.as_("root"), "x"),
        "token of another team": (world.as_("rosa", teams=["blue"]), "x"),
        "token of another call": (world.as_("rosa", calls=["default:y"]), "x"),
        "anonymous of another call": (world.anonymous("default:y"), "x"),
        "deleted": (world.as_("rosa"), "gone"),
    }
    for route in OF_CALLS:
        if (route.method, route.path) == ("PUT", "/v1/calls/{type}/{id}"):
            continue  # a deleted id is 410, and one that is free is taken: see the tests of deletion
        for who, (client, call_id) in strangers.items():
            reply = await attempt(client, route, id=call_id)
            missing = await attempt(client, route, id="never-there")
            label = (route.method, route.path, who, reply.text[:200])
            assert code(reply) == (404, "not_found"), label
            assert {**reply.json(), "request_id": ""} == {**missing.json(), "request_id": ""}, label


@ON_SQLITE
async def test_who_is_blocked_or_banned_is_told_so_on_every_route(world: World) -> None:
    await world.users("target", "mallory", "banned")
    await world.call("default/x", by="alice", members=["target", "mallory", "banned"])
    assert (await world.as_("alice").put("/calls/default/x/blocks/mallory")).status_code == 200
    assert (await world.server.put("/bans/banned")).status_code == 200
    for route in OF_CALLS:
        for who, expected in (("mallory", "blocked"), ("banned", "banned")):
            reply = await attempt(world.as_(who), route)
            assert code(reply) == (403, expected), (route.method, route.path)


@ON_SQLITE
async def test_without_a_token_only_public_routes_answer(world: World) -> None:
    await world.call("default/x", by="alice")
    nobody = Client(world, "", None)
    nobody.headers = {}
    for route in ROUTES:
        reply = await attempt(nobody, route)
        if row(route) == "public":
            assert reply.status_code != 401
            continue
        assert code(reply) == (401, "unauthenticated"), (route.method, route.path)
        assert reply.headers["www-authenticate"] == "Bearer"


@ON_SQLITE
async def test_anonymous_viewers_hold_what_their_token_lists(world: World) -> None:
    await world.users("target")
    await world.call("livestream/x", by="alice", settings={"backstage": {"enabled": False}})
    viewer = world.anonymous("livestream:x")
    for route in ROUTES:
        reply = await attempt(viewer, route, type="livestream")
        label = (route.method, route.path, reply.text[:200])
        needed = row(route)
        if needed in ("reach", "anybody", "public", "call.read", "call.join"):
            assert not is_refused(reply), label
            assert reply.status_code < 500, label
        elif needed == "create":
            assert code(reply) == (404, "not_found"), label
        else:
            assert code(reply) == (403, "missing_capability"), label


@ON_SQLITE
async def test_every_route_beside_calls_for_every_app_role(world: World) -> None:
    await world.users("plain", "target")
    for role in ("moderator", "host", "guest"):
        await world.users(f"app-{role}", role=role)
    await world.users("root", role="admin")
    people = {
        "user": world.as_("plain"),
        "moderator": world.as_("app-moderator"),
        "host": world.as_("app-host"),
        "guest": world.as_("app-guest"),
        "admin": world.as_("root"),
        "server": world.server,
        "narrowed admin": world.as_("root", ceiling=["call.read"]),
    }
    allowed = {
        "anybody": set(people),
        "public": set(people),
        "server": {"server"},
        "admin": {"admin", "server"},
        "self": {"admin", "server"},
        "moderator": {"moderator", "admin", "server"},
    }
    for route in ELSEWHERE:
        for who, client in people.items():
            reply = await attempt(client, route, user="target", name="nothing")
            label = (route.method, route.path, who, reply.text[:200])
            if who in allowed[row(route)]:
                assert not is_refused(reply), label
                assert reply.status_code < 500, label
                if "{user}" in route.path and route.method in ("DELETE", "PUT"):
                    await world.users("target")
            else:
                assert code(reply) == (403, "missing_capability"), label
                assert reply.json()["capability"] == "app.admin", label
        if row(route) == "self":
            await world.server.delete("/bans/target")
            assert not is_refused(await attempt(world.as_("target"), route, user="target")), route.path


@ON_SQLITE
async def test_calls_are_made_by_the_app_role_alone(world: World) -> None:
    await world.users("a-user")
    for role in ("moderator", "host", "guest", "listener", "speaker", "admin"):
        await world.users(f"a-{role}", role=role)
    for type_ in ("default", "livestream"):
        for role in ("user", "moderator", "host", "guest", "listener", "speaker", "admin"):
            client = world.as_(f"a-{role}")
            replies = [await client.post(f"/calls/{type_}"), await client.put(f"/calls/{type_}/by-{role}")]
            for reply in replies:
                if role == "admin" or "call.create" in GRANTS[type_][role]:
                    assert reply.status_code == 201, (type_, role)
                else:
                    assert (code(reply), reply.json()["capability"]) == ((403, "missing_capability"), "call.create")
        assert code(await world.anonymous(f"{type_}:new").put(f"/calls/{type_}/new")) == (403, "missing_capability")
