"""A whole server killed right after it has committed a change of rights: it holds in the media once it is back."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from livekit import api
from sqlalchemy import select

from signaling.api.v1.orders import ANY_NODE
from signaling.client import CallyardClient
from signaling.store import schema
from signaling.store.database import Database
from tests.signaling.api.world import KEY, SECRET
from tests.signaling.client.test_real_media_nodes import speak
from tests.signaling.console.served import Served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PROMPTLY_SECONDS = 1.0
TRIES_MAX = 200


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path, CALLYARD_DATABASE_URL=database_url)
    yield server
    server.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A second connection, which sees what the server has committed."""
    database = Database(database_url)
    yield database
    await database.close()


async def _owed(database: Database) -> bool:
    """Tell whether a change that concerns all calls is committed and not carried out."""
    async with database.read() as connection:
        query = select(schema.orders.c.id).where(schema.orders.c.node == ANY_NODE)
        return (await connection.execute(query)).first() is not None


async def _revision(database: Database) -> int:
    async with database.read() as connection:
        return int((await connection.execute(select(schema.calls.c.revision))).scalar_one())


async def kill_between(
    server: Served, database: Database, change: Callable[[], Awaitable[Any]], undo: Callable[[], Awaitable[Any]]
) -> None:
    """Kill the server when it has committed a change and has changed nobody's rights yet.

    It is stopped as soon as the commit is seen; if it was faster, the change is undone and made again.
    """
    for _ in range(TRIES_MAX):
        before = await _revision(database)
        changing = asyncio.ensure_future(change())
        while not changing.done():
            if await _owed(database):
                server.signal(signal.SIGSTOP)
                break
            await asyncio.sleep(0)
        if await _owed(database) and await _revision(database) == before:
            server.close()
            # It would ask again.
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
            return
        server.signal(signal.SIGCONT)
        await changing
        await undo()
    raise AssertionError("the server was never caught at it")


async def _audio_of(rooms: api.LiveKitAPI, room: str, identity: str) -> tuple[bool, int] | None:
    """Return whether a participant may publish sound, and how many tracks he has; None: he is not there."""
    found = (await rooms.room.list_participants(api.ListParticipantsRequest(room=room))).participants
    one = next((participant for participant in found if participant.identity == identity), None)
    return None if one is None else (api.TrackSource.MICROPHONE in one.permission.can_publish_sources, len(one.tracks))


@pytest.mark.parametrize("change", ["grants", "role"])
async def test_a_change_killed_between_commit_and_media_holds_a_second_after_the_start(
    server: Served, database: Database, change: str
) -> None:
    clients = {user: CallyardClient(server.url, server.token(sub=user)) for user in ("alice", "bob", "carol")}
    server_side = CallyardClient(server.url, server.token(scope="server"))
    admin = server_side.admin
    for user in clients:
        await admin.put_user(user)
    await clients["alice"].make_call("default", "x").get_or_create()
    bob = await clients["bob"].make_call("default", "x").join()
    carol = await clients["carol"].make_call("default", "x").join()
    heard, unheard = asyncio.Event(), asyncio.Event()
    carol.on("track_subscribed", lambda *_: heard.set())
    carol.on("track_unsubscribed", lambda *_: unheard.set())
    await speak(bob)
    await asyncio.wait_for(heard.wait(), 20)
    rooms = api.LiveKitAPI(server.url, KEY, SECRET)
    assert await _audio_of(rooms, carol.name, "bob:default") == (True, 1)
    if change == "grants":
        await kill_between(
            server,
            database,
            lambda: admin.change_grants("default", "user", remove=["SendAudio"]),
            lambda: admin.change_grants("default", "user", add=["SendAudio"]),
        )
    else:
        await kill_between(
            server,
            database,
            lambda: admin.put_user("bob", role="listener"),
            lambda: admin.put_user("bob", role="user"),
        )
    await asyncio.to_thread(server.start)
    began = time.monotonic()
    # He may be gone for a moment, for his client comes again.
    while await _audio_of(rooms, carol.name, "bob:default") not in ((False, 0), None):
        assert time.monotonic() - began < PROMPTLY_SECONDS
        await asyncio.sleep(0.02)
    await asyncio.wait_for(unheard.wait(), 30)
    async with asyncio.timeout(30):
        while await _audio_of(rooms, carol.name, "bob:default") is None:  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.1)
    assert await _audio_of(rooms, carol.name, "bob:default") == (False, 0)
    await rooms.aclose()
    for client in (*clients.values(), server_side):
        await client.aclose()
