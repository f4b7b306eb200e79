"""Two whole servers on one database, with LiveKit's own SDK: what one decides holds at once in the other's rooms."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from livekit import rtc

from signaling.client import CallyardClient
from tests.signaling.console.served import Served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
PROMPTLY_SECONDS = 1.0


class Both:
    """`here` and `there`; clients by the server they ask and the user they are."""

    def __init__(self, here: Served, there: Served) -> None:
        self.here, self.there = here, there
        self._clients: list[CallyardClient] = []

    def at(self, server: Served, user_id: str | None) -> CallyardClient:
        token = server.token(sub=user_id) if user_id else server.token(scope="server")
        self._clients.append(CallyardClient(server.url, token))
        return self._clients[-1]

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()


@pytest.fixture
def environment() -> dict[str, str]:
    """Further environment of the servers."""
    return {}


@pytest.fixture
def servers(database_url: str, tmp_path: Path, environment: dict[str, str]) -> Iterator[tuple[Served, Served]]:
    states = [tmp_path / name for name in ("here", "there")]
    for state in states:
        state.mkdir()
    here, there = (Served(state, CALLYARD_DATABASE_URL=database_url, **environment) for state in states)
    yield here, there
    here.close()
    there.close()


@pytest.fixture
async def both(servers: tuple[Served, Served]) -> AsyncIterator[Both]:
    both = Both(*servers)
    admin = both.at(both.there, None).admin
    for user in ("alice", "bob", "carol", "dave"):
        await admin.put_user(user)
    # Each knows of the other by now.
    await asyncio.sleep(1.5)
    yield both
    await both.close()


@asynccontextmanager
async def promptly(room: rtc.Room, event: str, fits: Callable[..., bool] = lambda *_: True) -> AsyncIterator[None]:
    """Have something happen in a client's room within a second of the beginning of what is done inside."""
    happened, began = asyncio.Event(), time.monotonic()
    took: list[float] = []

    def note(*arguments: Any) -> None:
        if fits(*arguments) and not happened.is_set():
            took.append(time.monotonic() - began)
            happened.set()

    room.on(cast(Any, event), note)
    yield
    await asyncio.wait_for(happened.wait(), 10)
    assert took[0] < PROMPTLY_SECONDS, (event, took)


async def speak(room: rtc.Room) -> None:
    track = rtc.LocalAudioTrack.create_audio_track("microphone", rtc.AudioSource(48_000, 1))
    await room.local_participant.publish_track(track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE))


async def states(client: CallyardClient, type_: str, call_id: str) -> dict[str, str]:
    return {p.user_id: p.state for p in await client.make_call(type_, call_id).participants()}


async def test_what_the_other_process_decides_reaches_the_connected_clients(both: Both) -> None:
    here, there = both.here, both.there
    host = both.at(there, "alice").make_call("default", "x")
    await host.get_or_create()
    bob = await both.at(here, "bob").make_call("default", "x").join()
    heard = asyncio.Event()
    # Whoever is asked, the same room of the same node.
    carol = await both.at(there, "carol").make_call("default", "x").join()
    assert await carol.sid == await bob.sid
    carol.on("track_subscribed", lambda *_: heard.set())
    await speak(bob)
    await asyncio.wait_for(heard.wait(), 10)
    async with promptly(carol, "track_muted"):
        await host.mute(["bob"])
    async with promptly(carol, "track_unsubscribed"):
        await host.change_capabilities("bob", revoke=["media.audio"])
    async with promptly(bob, "disconnected"):
        await host.block("bob")
    dave = await both.at(there, "dave").make_call("default", "x").join()
    async with promptly(dave, "disconnected"):
        await both.at(there, None).admin.change_grants("default", "user", remove=["JoinCall"])
    await both.at(there, None).admin.change_grants("default", "user", add=["JoinCall"])
    carol = await both.at(there, "carol").make_call("default", "x").join()
    async with promptly(carol, "disconnected"):
        await host.end()
    stream = both.at(there, "alice").make_call("livestream", "x")
    await stream.get_or_create()
    await stream.go_live()
    viewer = await both.at(here, "bob").make_call("livestream", "x").join()
    async with promptly(viewer, "disconnected"):
        await stream.stop_live()


async def test_the_console_of_one_server_shows_what_is_measured_at_the_other(both: Both) -> None:
    host = both.at(both.there, "alice").make_call("default", "x")
    await host.get_or_create()
    await speak(await both.at(both.here, "bob").make_call("default", "x").join())
    shown: list[dict[str, Any]] = []
    for server in (both.here, both.there):
        async with httpx2.AsyncClient(base_url=server.url, follow_redirects=True) as desk, asyncio.timeout(20):
            await desk.post("/console/login", data={"token": server.token(scope="server")})
            while True:
                media = (await desk.get("/console/calls/default/x/figures")).json()["media"]
                # What he sends is measured over a second.
                if media and media["up_bps"] > 0:
                    break
                await asyncio.sleep(0.2)
            shown += media["participants"]
    mine, others = shown
    assert mine["identity"] == others["identity"] == "bob:default"
    assert mine["quality"] == others["quality"] == "excellent"
    assert others["up_bps"] > 0
    # A node that does not answer any more leaves the charts empty.
    both.here.close()
    async with httpx2.AsyncClient(base_url=both.there.url, follow_redirects=True) as desk:
        await desk.post("/console/login", data={"token": both.there.token(scope="server")})
        reply = await desk.get("/console/calls/default/x/figures")
        assert (reply.status_code, reply.json()["media"]) == (200, None)


async def test_a_process_that_is_killed_and_started_again_disturbs_nobody(both: Both) -> None:
    here, there = both.here, both.there
    for server, user, call_id in ((here, "alice", "mine"), (there, "carol", "theirs")):
        await both.at(server, user).make_call("default", call_id).get_or_create()
    bob = await both.at(here, "bob").make_call("default", "mine").join()
    dave = await both.at(there, "dave").make_call("default", "theirs").join()
    gone = asyncio.Event()
    for room in (bob, dave):
        room.on("disconnected", lambda *_: gone.set())
    await speak(bob)
    host = both.at(there, "alice").make_call("default", "mine")
    assert "media.audio" in await _rights(host, "bob")
    here.close()
    # Taken while the process with his connection is dead.
    await host.change_capabilities("bob", revoke=["media.audio"])
    assert await states(both.at(there, None), "default", "mine") == {"bob": "joined"}
    await asyncio.to_thread(here.start)
    carol = await both.at(there, "carol").make_call("default", "mine").join()
    back = asyncio.Event()
    carol.on("participant_connected", lambda *_: back.set())
    if "bob:default" not in carol.remote_participants:
        await asyncio.wait_for(back.wait(), 20)
    await asyncio.sleep(2)
    assert carol.remote_participants["bob:default"].track_publications == {}
    assert await states(both.at(there, None), "default", "theirs") == {"dave": "joined"}
    assert await states(both.at(there, None), "default", "mine") == {"bob": "joined", "carol": "joined"}
    assert not gone.is_set()
    async with promptly(bob, "disconnected"):
        await host.end()


async def _rights(call: Any, user_id: str) -> list[str]:
    (found,) = [p for p in await call.participants() if p.user_id == user_id]
    return list(found.capabilities or ())


@pytest.mark.parametrize("environment", [{"CALLYARD_CALLS_NODE_LOST_SECONDS": "4"}])
async def test_a_dead_server_s_session_goes_on_at_another(both: Both) -> None:
    here, there = both.here, both.there
    await (
        both.at(here, "alice").make_call("default", "x").get_or_create(settings={"session": {"inactivity_seconds": 60}})
    )
    bob = await both.at(here, "bob").make_call("default", "x").join()
    name, gone = bob.name, asyncio.Event()
    bob.on("disconnected", lambda *_: gone.set())
    here.close()
    async with asyncio.timeout(15):
        while await states(both.at(there, None), "default", "x") == {"bob": "joined"}:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
    carol = await both.at(there, "carol").make_call("default", "x").join()
    assert carol.name == name
    placed = await both.at(there, "dave").make_call("default", "x").join_session()
    assert placed.media.url.endswith(f":{there.port}")
    # Back again it finds that the session is held elsewhere, and closes what it still has of it.
    await asyncio.to_thread(here.start)
    await asyncio.wait_for(gone.wait(), 30)
    assert carol.isconnected()
    assert "carol" in await states(both.at(here, None), "default", "x")
