"""A whole calls system in a test: a real database, virtual time, an in-memory media side that behaves like a real one.

`World` is an application's server; `world.as_("alice")` is a user's client. Nothing sleeps: `world.advance` moves time
and does what is due.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import msgspec
from sqlalchemy import select
from starlette.applications import Starlette

from signaling.api.client_address import TrustedProxies
from signaling.api.v1 import upkeep
from signaling.api.v1.rate_limits import RateLimiter
from signaling.api.v1.socket import EventSocket
from signaling.calls.media import Allow, NoMediaNode, Permission
from signaling.calls.model import Event, NodeFacts
from signaling.calls.principal import mint
from signaling.calls.settings import CallsSettings
from signaling.calls_system import CallsSystem, create_calls_system
from signaling.events.channel import Socket
from signaling.store import schema

KEY, SECRET = "devkey", "secret"
START = datetime(2026, 1, 1, 9, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Room:
    participants: dict[str, Permission] = field(default_factory=dict)
    published: dict[str, set[str]] = field(default_factory=dict)


class FakeMedia:
    """Rooms in memory. A publication ends when the permission no longer covers it, as in a real SFU."""

    def __init__(self, node: str = "media") -> None:
        self.rooms: dict[str, Room] = {}
        self.closed: list[tuple[str, str]] = []
        self.removed: list[tuple[str, str, str]] = []
        self.updates: list[tuple[str, str, Permission]] = []
        self.muted: list[tuple[str, str, tuple[str, ...]]] = []
        self.available = True
        self.node = node
        self.served = ["eu"]
        self.is_open = True

    async def create_room(
        self,
        name: str,
        *,
        metadata: str,
        empty_timeout_seconds: int,
        regions: Sequence[str],
    ) -> None:
        if not self.available or (regions and not set(regions) & set(self.served)):
            raise NoMediaNode("No node can take the room.")
        self.rooms.setdefault(name, Room())

    async def close_room(self, name: str, reason: str) -> None:
        self.closed.append((name, reason))
        self.rooms.pop(name, None)

    async def update_participant(self, room: str, identity: str, permission: Permission) -> None:
        self.updates.append((room, identity, permission))
        there = self.rooms.get(room)
        if there is not None and identity in there.participants:
            assert permission.version >= there.participants[identity].version
            there.participants[identity] = permission
            there.published.get(identity, set()).intersection_update(permission.sources)

    async def remove_participant(self, room: str, identity: str, reason: str, version: int | None) -> None:
        self.removed.append((room, identity, reason))
        there = self.rooms[room].participants.get(identity) if room in self.rooms else None
        if there is not None and (version is None or version >= there.version):
            self.rooms[room].participants.pop(identity, None)
            self.rooms[room].published.pop(identity, None)

    async def mute_tracks(self, room: str, identity: str, sources: Sequence[str]) -> None:
        self.muted.append((room, identity, tuple(sources)))

    async def identities(self, room: str) -> Sequence[str] | None:
        return list(self.rooms[room].participants) if room in self.rooms else None

    async def facts(self) -> NodeFacts:
        turn = {"urls": ["turn:media.example.com"], "username": "u", "credential": "c"}
        return NodeFacts(
            id=self.node,
            url=f"wss://{self.node}.example.com",
            regions=tuple(self.served),
            ice_servers=(turn,),
            is_open=self.is_open,
        )

    async def managed_rooms(self) -> Sequence[str]:
        return list(self.rooms)

    def mint_token(
        self, *, identity: str, name: str, room: str, permission: Permission, now: datetime, expires_at: datetime
    ) -> str:
        claims = {"sub": identity, "name": name, "exp": int(expires_at.timestamp())}
        return mint({**claims, "video": permission.video_grant(room)}, KEY, SECRET)


class Later:
    """Stands for the event loop's `call_later`, in the world's time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[tuple[datetime, Callable[[], None]]] = []

    def __call__(self, seconds: float, what: Callable[[], None]) -> None:
        self._waiting.append((self._clock.now + timedelta(seconds=seconds), what))

    def run_due(self) -> None:
        due = [what for at, what in self._waiting if at <= self._clock.now]
        self._waiting = [one for one in self._waiting if one[0] > self._clock.now]
        for what in due:
            what()


class Client:
    """Requests of one principal."""

    def __init__(self, world: World, token: str, user_id: str | None) -> None:
        self.world, self.token, self.user_id = world, token, user_id
        self.headers: dict[str, str] = {"authorization": f"Bearer {token}"}
        self.http = world.http

    def at(self, address: str, trusted: Sequence[str] = ()) -> Client:
        """Return the same client where he connects from an address, to a server that trusts these proxies."""
        moved = Client(self.world, self.token, self.user_id)
        app = TrustedProxies(self.world.app, trusted)
        moved.http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app, client=(address, 40_000)), base_url="http://calls.test"
        )
        moved.headers = dict(self.headers)
        return moved

    async def request(self, method: str, path: str, json: Any = None, **more: Any) -> httpx2.Response:
        headers = {**self.headers, **more.pop("headers", {})}
        url = path if path.startswith("/openapi") else f"/v1{path}"
        return await self.http.request(method, url, json=json, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> httpx2.Response:
        return await self.request("GET", path, **more)

    async def put(self, path: str, json: Any = None, **more: Any) -> httpx2.Response:
        return await self.request("PUT", path, json if json is not None else {}, **more)

    async def post(self, path: str, json: Any = None, **more: Any) -> httpx2.Response:
        return await self.request("POST", path, json if json is not None else {}, **more)

    async def patch(self, path: str, json: Any, **more: Any) -> httpx2.Response:
        return await self.request("PATCH", path, json, **more)

    async def delete(self, path: str, **more: Any) -> httpx2.Response:
        return await self.request("DELETE", path, **more)

    async def join(self, cid: str, device: str = "phone", *, connect: bool = True, **body: Any) -> dict[str, Any]:
        """Join, and have the SFU answer, as an SDK does; the join has to succeed."""
        reply = await self.post(f"/calls/{cid}/join", {"device_id": device, **body})
        assert reply.status_code == 200, reply.text
        joined: dict[str, Any] = reply.json()
        if connect:
            await self.world.connect(joined["participant"])
        return joined


class World:
    def __init__(self, system: CallsSystem, media: FakeMedia, clock: Clock, app: Starlette) -> None:
        self.system, self.media, self.clock = system, media, clock
        self.service = system.service
        self.later = system.service.channel.later = Later(clock)
        self.events = EventSocket(self.service, RateLimiter.of(self.service))
        self.app = app
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://calls.test")
        self.server = Client(self, self.token({"scope": "server"}), None)

    @classmethod
    async def open(
        cls,
        database_url: str,
        *,
        settings: CallsSettings | None = None,
        clock: Clock | None = None,
        media: FakeMedia | None = None,
        dev: bool = True,
        tls: ssl.SSLContext | bool = True,
    ) -> World:
        clock, media = clock or Clock(), media or FakeMedia()
        settings = settings or CallsSettings()
        system = create_calls_system(settings, database_url, media, {KEY: SECRET}, dev=dev, clock=clock, tls=tls)
        await system.service.prepare()
        return cls(system, media, clock, Starlette(routes=list(system.routes)))

    async def close(self) -> None:
        await self.http.aclose()
        await self.service.stop()

    def token(self, claims: dict[str, Any], seconds: int = 864_000) -> str:
        return mint({"exp": int(self.clock.now.timestamp()) + seconds, **claims}, KEY, SECRET)

    def as_(self, user_id: str, **claims: Any) -> Client:
        return Client(self, self.token({"sub": user_id, **claims}), user_id)

    def anonymous(self, *cids: str) -> Client:
        return Client(self, self.token({"scope": "anonymous", "calls": list(cids)}), None)

    def on_behalf(self, user_id: str) -> Client:
        """Return the server's client that acts as a user."""
        client = Client(self, self.server.token, user_id)
        client.headers["on-behalf-of"] = user_id
        return client

    async def users(self, *user_ids: str, **fields: Any) -> None:
        for user_id in user_ids:
            reply = await self.server.put(f"/users/{user_id}", {"name": user_id.title(), **fields})
            assert reply.status_code in (200, 201), reply.text

    async def call(self, cid: str, by: str | None = None, **body: Any) -> dict[str, Any]:
        """Create a call, or get it; it has to succeed."""
        client = self.as_(by) if by else self.server
        reply = await client.put(f"/calls/{cid}", body)
        assert reply.status_code in (200, 201), reply.text
        shown: dict[str, Any] = reply.json()
        return shown

    async def advance(self, seconds: float) -> None:
        """Let time pass and do what is due, once, at its end."""
        self.clock.now += timedelta(seconds=seconds)
        await self.settle()

    async def settle(self) -> None:
        self.later.run_due()
        await self.system.timers.run_due()
        await self.system.webhooks.run_due()
        await self.system.push.run_due()
        await upkeep.run_tasks(self.service)

    async def connect(self, participant: dict[str, Any]) -> None:
        """Do what an SDK does after `join`: connect to the SFU, which asks whether it may."""
        room, identity = participant["session_id"], participant["identity"]
        verdict = await self.system.feed.admit(room, identity)
        assert isinstance(verdict, Allow), verdict
        self.media.rooms[room].participants[identity] = verdict.permission
        await self.system.feed.participant_joined(room, identity)

    async def vanish(self, participant: dict[str, Any], *, clean: bool = False) -> None:
        room, identity = participant["session_id"], participant["identity"]
        if room in self.media.rooms:
            self.media.rooms[room].participants.pop(identity, None)
        await self.system.feed.participant_left(room, identity, clean=clean)

    def publish(self, participant: dict[str, Any], source: str) -> bool:
        """Publish a source if the SFU lets it; tell whether it did."""
        room = self.media.rooms[participant["session_id"]]
        allowed = source in room.participants[participant["identity"]].sources
        if allowed:
            room.published.setdefault(participant["identity"], set()).add(source)
        return allowed

    def published(self, participant: dict[str, Any]) -> set[str]:
        room = self.media.rooms.get(participant["session_id"])
        return set() if room is None else room.published.get(participant["identity"], set())

    async def recorded(self, cid: str | None) -> list[Event]:
        """Return the events of a call as they are stored, in order."""
        table = schema.events
        async with self.service.database.read() as connection:
            rows = await connection.execute(select(table.c.doc).where(table.c.cid == cid).order_by(table.c.number))
            return [msgspec.convert(doc, Event) for (doc,) in rows]

    async def listen(self, client: Client, *cids: str, device: str | None = None) -> Listener:
        """Open an event socket for a client, without the frames around it."""
        principal = await self.service.authenticate(client.token, None)
        socket = self.events.opened(principal, device)
        self.service.channel.add(socket)
        listener = Listener(socket, lambda: self.service.channel.remove(socket))
        for cid in cids:
            type_, _, call_id = cid.partition("/")
            await self.service.operate(principal, type_, call_id, lambda turn: self.service.channel.watch(socket, turn))
        return listener

    async def denied(self, client: Client, *cids: str) -> list[dict[str, str]]:
        """Return what a `subscribe` frame of the client is denied."""
        listener = await self.listen(client)
        await self.events.frame(listener.socket, json.dumps({"type": "subscribe", "cids": list(cids)}))
        listener.close()
        denied: list[dict[str, str]] = listener.frames()[-1]["denied"]
        return denied


@dataclass
class Listener:
    socket: Socket
    close: Callable[[], None]

    def frames(self) -> list[dict[str, Any]]:
        """Return what arrived since the last time."""
        frames = [json.loads(frame.text) for _, frame in self.socket.outgoing]
        self.socket.outgoing.clear()
        return [frame for frame in frames if frame["type"] != "hello"]

    def events(self) -> list[dict[str, Any]]:
        """Return the events among them: control frames have no dot in their type."""
        return [frame for frame in self.frames() if "." in frame["type"]]

    def types(self) -> list[str]:
        return [frame["type"] for frame in self.frames()]

    def only(self, type_: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames() if frame["type"] == type_]


def code(response: httpx2.Response) -> tuple[int, str]:
    """Return what a refusal says: status and code."""
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "code", "detail", "request_id"} <= body.keys()
    assert body["status"] == response.status_code
    return response.status_code, body["code"]


def claims(token: str) -> dict[str, Any]:
    """Return what a token says, without looking at its signature."""
    payload = token.split(".")[1]
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return value


def pointers(response: httpx2.Response) -> list[str]:
    return [fault["pointer"] for fault in response.json()["errors"]]


__all__ = ["START", "Client", "Clock", "FakeMedia", "Listener", "World", "claims", "code", "pointers"]
