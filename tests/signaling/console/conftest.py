"""Fixtures of the console's tests: the calls system with the console in front, and operators who are signed in."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from signaling.console.backend import ParticipantFigures
from signaling.console.dashboard import console_routes
from signaling.console.routes import call_page_routes
from tests.signaling.api.world import KEY, SECRET, World


@pytest.fixture
def database_url(sqlite_template: Path, tmp_path: Path) -> str:
    """One database is enough here: both are proved through the API."""
    shutil.copy(sqlite_template, tmp_path / "calls.db")
    return f"sqlite:///{tmp_path}/calls.db"


class Meter:
    """What the media side would measure; a test sets it."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[ParticipantFigures]] = {}

    async def __call__(self, room: str) -> list[ParticipantFigures] | None:
        return self.rooms.get(room)


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
def app(world: World, meter: Meter) -> Starlette:
    routes = [
        *call_page_routes({KEY: SECRET}),
        *console_routes(world.service, public_url="https://calls.example.org", figures=meter),
        *world.system.routes,
    ]
    return Starlette(routes=routes)


class Desk:
    """A browser without scripts: follows redirects, keeps cookies, fills in forms with the page's CSRF token."""

    def __init__(self, app: Starlette, host: str = "localhost:7880") -> None:
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=f"http://{host}")
        self.csrf = ""

    async def get(self, path: str, **more: object) -> httpx2.Response:
        reply = await self.http.get(path, follow_redirects=True, **more)  # type: ignore[arg-type]
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', reply.text)
        if found:
            self.csrf = found[1]
        return reply

    async def post(self, path: str, **fields: Any) -> httpx2.Response:
        data = {"csrf": self.csrf, **fields}
        return await self.http.post(path, data=data, follow_redirects=True)

    async def sign_in(self, token: str) -> httpx2.Response:
        reply = await self.http.post("/console/login", data={"token": token}, follow_redirects=True)
        await self.get("/console/calls")
        return reply


@pytest.fixture
async def desk(world: World, app: Starlette) -> AsyncIterator[Desk]:
    """Signed in with a server token."""
    desk = Desk(app)
    reply = await desk.sign_in(world.token({"scope": "server"}))
    assert reply.status_code == 200
    yield desk
    await desk.http.aclose()


@pytest.fixture
async def stranger(app: Starlette) -> AsyncIterator[Desk]:
    """Not signed in."""
    desk = Desk(app)
    yield desk
    await desk.http.aclose()
