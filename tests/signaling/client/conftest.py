"""Fixtures of the client's tests: clients of many users against the calls API, in process and in virtual time.

Joining ends in `PretendRoom`, which does to the calls system what a LiveKit SDK does: it connects with the media token,
is asked about by `admit`, and says goodbye.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from starlette.applications import Starlette

from signaling.client import CallyardClient, Media
from signaling.client import client as client_module
from tests.signaling.api.world import SECRET, World
from tests.signaling.listening import listening


@dataclass
class PretendRoom:
    """A connected room: what `publish` tells is whether the SFU lets the source through."""

    world: World
    participant: dict[str, Any]

    def publish(self, source: str) -> bool:
        return self.world.publish(self.participant, source)

    @property
    def connected(self) -> bool:
        room = self.world.media.rooms.get(self.participant["session_id"])
        return room is not None and self.participant["identity"] in room.participants

    @property
    def sources(self) -> set[str]:
        room = self.world.media.rooms[self.participant["session_id"]]
        return set(room.participants[self.participant["identity"]].sources)

    async def disconnect(self) -> None:
        await self.world.vanish(self.participant, clean=True)


def connector(world: World) -> Callable[[Media], Any]:
    async def connect(media: Media) -> PretendRoom:
        claims = jwt.decode(media.token, SECRET, algorithms=["HS256"], options={"verify_exp": False})
        participant = {"session_id": claims["video"]["room"], "identity": claims["sub"]}
        await world.connect(participant)
        return PretendRoom(world, participant)

    return connect


class People:
    """`people("alice")` is alice's client; the same one each time. `people.server` is the application's server."""

    def __init__(self, world: World, url: str | None = None) -> None:
        self.world, self.url = world, url
        self._clients: dict[str, CallyardClient] = {}
        self.server = self.client(world.token({"scope": "server"}))

    def client(self, token: Any, **more: Any) -> CallyardClient:
        more.setdefault("media_connector", connector(self.world))
        if self.url is None:
            more.setdefault("http", self.world.http)
        return CallyardClient(self.url or "http://calls.test", token, **more)

    def __call__(self, user_id: str, *, device_id: str = "default", **claims: Any) -> CallyardClient:
        key = f"{user_id}/{device_id}/{claims}"
        if key not in self._clients:
            token = self.world.token({"sub": user_id, **claims})
            self._clients[key] = self.client(token, device_id=device_id)
        return self._clients[key]

    async def close(self) -> None:
        for client in [self.server, *self._clients.values()]:
            await client.aclose()


@pytest.fixture(autouse=True)
def no_default_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_default", None)


@pytest.fixture
async def people(world: World) -> AsyncIterator[People]:
    people = People(world)
    yield people
    await people.close()


@pytest.fixture
async def served(world: World) -> AsyncIterator[People]:
    """The same over a real listener on loopback, for the event socket."""
    async with listening(Starlette(routes=list(world.system.routes))) as (port, _):
        people = People(world, f"http://127.0.0.1:{port}")
        yield people
        await people.close()
        await world.service.channel.close()
