"""Acceptance: killed processes (L-10, W-5), SQLite under kills (F-25), PostgreSQL away or hanging (F-24)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from signaling.calls.media import Allow
from signaling.store.database import Database, DatabaseAway
from tests.signaling.api.served import served
from tests.signaling.api.world import FakeMedia, World, code
from tests.signaling.events.gateways import Received, gateway

CALL = "/calls/default/x"
RING_TIMEOUTS = ("auto_cancel_timeout_ms", "incoming_call_timeout_ms", "missed_call_timeout_ms")


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """Return the first truth of `check`, asked ten times a second for a minute: machines that test are busy."""
    for _ in range(600):
        if found := await check():
            return found
        await asyncio.sleep(0.1)
    raise AssertionError("it did not happen")


async def test_l_10_timers_survive_the_server(database_url: str) -> None:
    """A ring, a participant's grace and a session's inactivity, over two kills; the clock is ahead after each."""
    async with served(database_url) as first:
        async with first.as_("bob") as bob, first.as_("alice") as alice:
            await bob.get(CALL)
            patience = dict.fromkeys(RING_TIMEOUTS, 180_000)
            settings = {"ring": patience, "session": {"inactivity_seconds": 3_600}}
            made = await alice.put(CALL, json={"members": ["bob"], "ring": True, "settings": settings})
            ring = made.json()["ring"]["id"]
            assert (await alice.post(f"{CALL}/join", json={})).status_code == 200
        first.kill()
    async with served(database_url, later_seconds=200) as second:
        async with second.as_("alice") as alice:

            async def resolved() -> Any:
                shown = (await alice.get(f"{CALL}/rings/{ring}")).json()["ring"]
                return shown if shown["state"] != "pending" else None

            shown = await eventually(resolved)
            assert (shown["state"], shown["callees"][0]["state"]) == ("timed_out", "missed")
            # Alice never connected: her 20 s are over too, and the empty session runs out.
            assert (await alice.get(CALL)).json()["call"]["ongoing"] is True
        second.kill()
    async with served(database_url, later_seconds=4_000) as third, third.as_("alice") as alice:

        async def ended() -> Any:
            return not (await alice.get(CALL)).json()["call"]["ongoing"]

        await eventually(ended)
        (session,) = (await alice.get(f"{CALL}/sessions")).json()["items"]
        assert session["end_reason"] == "empty"


async def test_w_5_killed_between_commit_and_send(database_url: str) -> None:
    async with gateway(lambda request: (204, None)) as endpoint:
        async with served(database_url, senders=False) as first:
            async with first.server() as server, first.as_("alice") as alice:
                hook = await server.post("/webhooks", json={"url": endpoint.url})
                assert hook.status_code == 201
                assert (await alice.put(CALL, json={})).status_code == 201
            first.kill()
        assert endpoint.take() == []
        async with served(database_url):

            async def arrived() -> Any:
                return endpoint.received

            (request,) = await eventually(arrived)
            assert (request.json["type"], request.json["seq"]) == ("call.created", 1)


async def test_w_5_killed_while_it_is_sent(database_url: str) -> None:
    """The receiver has it and the server dies before it knows: it comes again, with the same id."""
    received: list[Received] = []
    process: list[Any] = []

    def answer(request: Received) -> tuple[int, Any]:
        received.append(request)
        if len(received) == 1:
            process[0].kill()
        return 204, None

    async with gateway(answer) as endpoint:
        async with served(database_url) as first:
            process.append(first)
            async with first.server() as server, first.as_("alice") as alice:
                await server.post("/webhooks", json={"url": endpoint.url})
                # The kill may come before the reply.
                with contextlib.suppress(httpx2.TransportError):
                    await alice.put(CALL, json={})

                async def killed() -> Any:
                    return received

                await eventually(killed)
        async with served(database_url):

            async def twice() -> Any:
                return len(received) >= 2

            await eventually(twice)
    assert received[0].headers["webhook-id"] == received[1].headers["webhook-id"]
    assert received[0].body == received[1].body


@pytest.mark.slow
async def test_f_25_no_acknowledged_write_is_lost_by_kills(sqlite_template: Path, tmp_path: Path) -> None:
    """F-25"""
    file = shutil.copy(sqlite_template, tmp_path / "calls.db")
    acknowledged: dict[str, int] = {}

    async def hammer(client: httpx2.AsyncClient, name: str) -> None:
        with contextlib.suppress(httpx2.TransportError):
            for number in range(10_000):
                body = {"custom": {"n": number}}
                reply = await client.put(f"/calls/default/{name}", json=body) if number == 0 else None
                reply = reply or await client.patch(f"/calls/default/{name}", json=body)
                assert reply.status_code in (200, 201)
                acknowledged[name] = number

    for round_ in range(4):
        async with served(f"sqlite:///{file}") as server, server.as_("alice") as alice:
            work = [asyncio.create_task(hammer(alice, f"r{round_}-{i}")) for i in range(8)]

            async def some_are_written(round_: int = round_) -> Any:
                return sum(name.startswith(f"r{round_}-") and number > 2 for name, number in acknowledged.items()) > 4

            await eventually(some_are_written)
            server.kill()
            await asyncio.gather(*work)
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    async with served(f"sqlite:///{file}") as server, server.as_("alice") as alice:
        assert len(acknowledged) > 16
        for name, number in acknowledged.items():
            call = (await alice.get(f"/calls/default/{name}")).json()["call"]
            # One more may have been committed whose reply was cut off.
            assert call["custom"]["n"] in (number, number + 1)


class Line:
    """A connection to PostgreSQL that can be cut, or hang."""

    def __init__(self, port: int) -> None:
        self._target, self.cut, self._frozen = port, False, False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.transport.abort()
            return
        self._writers.add(writer)
        if self._frozen:
            return
        other_reader, other = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers.add(other)
        await asyncio.gather(self._pipe(reader, other, self._server), self._pipe(other_reader, writer, self._server))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: int) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if server == self._server:
                    writer.write(data)
                    await writer.drain()
        writer.close()

    def freeze(self) -> None:
        """Forward nothing and close nothing, as if the server's machine were gone."""
        self._frozen = True
        self._server += 1

    def replace(self) -> None:
        """Have new connections go to a server again; it knows none of the old ones, which hang on."""
        self._frozen = False

    def break_off(self) -> None:
        self.cut = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def breakable(url: str) -> AsyncIterator[tuple[Line, str]]:
    scheme, _, rest = url.partition("@127.0.0.1:")
    port, _, name = rest.partition("/")
    line = Line(int(port))
    server = await asyncio.start_server(line.accept, "127.0.0.1", 0)
    yield line, f"{scheme}@127.0.0.1:{server.sockets[0].getsockname()[1]}/{name}"
    line.break_off()
    server.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_f_24_with_postgresql_away_running_calls_go_on(database_url: str) -> None:
    """F-24"""
    async with breakable(database_url) as (line, url), gateway(lambda request: (204, None)) as endpoint:
        world = await World.open(url, media=FakeMedia())
        await world.server.post("/webhooks", {"url": endpoint.url})
        await world.call("default/x", by="alice")
        alice, bob = [(await world.as_(name).join("default/x"))["participant"] for name in ("alice", "bob")]
        line.break_off()
        for _ in range(10):
            refused = await world.as_("alice").get(CALL)
            assert code(refused) == (503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        # Who reconnects gets in by what was last known; who goes is not forgotten.
        assert isinstance(await world.system.feed.admit(alice["session_id"], alice["identity"]), Allow)
        assert not isinstance(await world.system.feed.admit(alice["session_id"], "eve:phone"), Allow)
        await world.vanish(bob)
        line.cut = False
        await eventually(lambda: _answers(world))
        await world.system.feed.catch_up()
        states = {
            p["user_id"]: p["state"] for p in (await world.as_("alice").get(f"{CALL}/participants")).json()["items"]
        }
        assert states == {"alice": "joined", "bob": "reconnecting"}
        await world.settle()
        assert [r.json["type"] for r in endpoint.take()][:4] == [
            "call.created",
            "session.started",
            "participant.joined",
            "participant.joined",
        ]
        await world.close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_f_24_what_runs_by_itself_logs_a_sentence_and_no_traceback(database_url: str) -> None:
    """F-24"""
    async with breakable(database_url) as (line, url):
        world = await World.open(url, media=FakeMedia())
        service = world.service
        service.start()
        await asyncio.sleep(0.2)
        line.break_off()
        with capture_logs() as logs:
            for wake in (service.timers_changed, service.deliveries_owed, service.push_owed, service.tasks_owed):
                wake.set()
            await asyncio.sleep(1)
        assert "database_away" in [entry["event"] for entry in logs]
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == []
        line.cut = False
        await world.close()


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_f_24_a_postgresql_that_hangs_is_as_good_as_away(database_url: str) -> None:
    """F-24: reads, writes and who waits for a connection or his turn are refused; nothing waits for TCP to give up."""
    async with breakable(database_url) as (line, url):
        world = await World.open(url, media=FakeMedia())
        await world.call("default/x", by="alice")
        alice = (await world.as_("alice").join("default/x"))["participant"]
        # As many connections as there may be.
        await asyncio.gather(*(world.as_("alice").get(CALL) for _ in range(16)))
        line.freeze()
        # Ten seconds for what is under way and five for a new connection, on a machine that does other things.
        async with asyncio.timeout(30):
            answers, away, admitted = await asyncio.gather(
                asyncio.gather(
                    *(world.as_("alice").get(CALL) for _ in range(12)),
                    *(world.as_("alice").patch(CALL, {"custom": {"n": n}}) for n in range(12)),
                ),
                asyncio.gather(*(_is_away(world.service.database) for _ in range(12))),
                world.system.feed.admit(alice["session_id"], alice["identity"]),
            )
        assert {code(answer) for answer in answers} == {(503, "unavailable")}
        assert all(away)
        assert isinstance(admitted, Allow)
        line.replace()
        async with asyncio.timeout(5):
            await eventually(lambda: _answers(world))
            assert (await world.as_("alice").patch(CALL, {"custom": {"n": 1}})).status_code == 200
        await world.close()


async def _is_away(database: Database) -> bool:
    try:
        async with database.write() as connection:
            await connection.exec_driver_sql("SELECT 1")
    except DatabaseAway:
        return True
    return False


async def _answers(world: World) -> bool:
    return (await world.as_("alice").get(CALL)).status_code == 200
