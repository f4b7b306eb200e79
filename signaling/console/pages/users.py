"""Users and their devices: search, make, change, ban, delete; a token for one, shown once."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from signaling.calls import views
from signaling.console.web import Door, Visit, address

_USER = "/users/{user}"
TOKEN_SECONDS = 3_600
DEVICES_EXPLAINED = 10
"""Of how many devices the page tells what was last sent to them."""


async def show_all(visit: Visit) -> Response:
    conditions: dict[str, Any] = {}
    if prefix := visit.query.get("id", "").strip():
        conditions["id"] = {"$prefix": prefix}
    if role := visit.query.get("role", ""):
        conditions["role"] = role
    body: dict[str, Any] = {"filter": conditions, "limit": 50}
    body |= {name: visit.query[name] for name in ("next", "prev") if visit.query.get(name)}
    page = await visit.ask("POST", "/users/query", body)
    return visit.show("users.html", page=page, roles=await visit.all("/roles"), filters=visit.query)


def _body(visit: Visit) -> dict[str, Any]:
    teams = [team.strip() for team in visit.field("teams").split(",") if team.strip()]
    body: dict[str, Any] = {"name": visit.field("name").strip() or None, "teams": teams}
    if role := visit.field("role"):
        body["role"] = role
    return body


async def create(visit: Visit) -> Response:
    user_id = visit.field("id").strip()
    await visit.ask("PUT", _USER, _body(visit), user=user_id)
    return visit.go(address("users", user_id), "created")


async def show(visit: Visit) -> Response:
    return await _one(visit, visit.path["user"])


async def _one(visit: Visit, user_id: str, token: str | None = None) -> Response:
    user = (await visit.ask("GET", _USER, user=user_id))["user"]
    ban = visit.backend.service.directory.bans.get(user_id)
    devices = await visit.all(f"{_USER}/devices", user=user_id)
    for device in devices[:DEVICES_EXPLAINED]:
        path = f"{_USER}/devices/{{device}}/deliveries"
        sent = await visit.ask("GET", path, query={"limit": "3"}, user=user_id, device=device["id"])
        device["sent"] = sent["items"]
    return visit.show(
        "user.html",
        user=user,
        devices=devices,
        roles=await visit.all("/roles"),
        ban=views.ban(ban) if ban is not None else None,
        token=token,
        token_seconds=TOKEN_SECONDS,
    )


async def act(visit: Visit) -> Response:
    user_id, what = visit.path["user"], visit.field("do")
    page = address("users", user_id)
    if what == "token":
        body = {"user_id": user_id, "ttl_seconds": TOKEN_SECONDS}
        return await _one(visit, user_id, token=(await visit.ask("POST", "/tokens", body))["token"])
    if what == "ban":
        ban = {"reason": visit.field("reason").strip() or None, "ip": visit.field("ip") == "on"}
        await visit.ask("PUT", "/bans/{user}", ban, user=user_id)
    elif what == "unban":
        await visit.ask("DELETE", "/bans/{user}", user=user_id)
    elif what == "forget":
        await visit.ask("DELETE", f"{_USER}/devices/{{device}}", user=user_id, device=visit.field("device"))
    elif what == "delete":
        await visit.ask("DELETE", _USER, user=user_id)
        return visit.go(address("users"), "deleted")
    else:
        await visit.ask("PATCH", _USER, _body(visit), user=user_id)
    return visit.go(page, "saved")


def routes(door: Door) -> list[BaseRoute]:
    return [
        Route("/console/users", door.page(show_all), methods=["GET"]),
        Route("/console/users", door.action(create, show_all), methods=["POST"]),
        Route("/console/users/{user}", door.page(show), methods=["GET"]),
        Route("/console/users/{user}", door.action(act, show), methods=["POST"]),
    ]
