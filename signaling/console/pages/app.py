"""The application's own settings: its name, and what is on for all of it."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from signaling.console.web import Door, Visit, address

SWITCHES = {
    "guests_enabled": "Guests: whoever gives a name gets a temporary account",
    "multi_tenant_enabled": "Teams are kept apart: users reach only what belongs to their teams",
    "development_type_enabled": "Calls of the type development, in which everybody may do everything",
}


async def show(visit: Visit) -> Response:
    return visit.show("app.html", app=(await visit.ask("GET", "/app"))["app"], switches=SWITCHES)


async def save(visit: Visit) -> Response:
    current = (await visit.ask("GET", "/app"))["app"]
    wanted = {"name": visit.field("name").strip(), **{name: visit.field(name) == "on" for name in SWITCHES}}
    change = {name: value for name, value in wanted.items() if value != current[name]}
    if change:
        await visit.ask("PATCH", "/app", change)
    return visit.go(address("app"), "saved" if change else "unchanged")


def routes(door: Door) -> list[BaseRoute]:
    return [
        Route("/console/app", door.page(show), methods=["GET"]),
        Route("/console/app", door.action(save, show), methods=["POST"]),
    ]
