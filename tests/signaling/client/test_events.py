"""The event stream over a real socket: order, resume after a loss, resync, tokens that expire, lost rights."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from signaling.api.v1.rate_limits import RateLimiter
from signaling.calls.problems import Problem
from signaling.client import Event, EventStream, NotFound, Unauthenticated, Unavailable
from signaling.client.events import Ledger
from signaling.events.channel import Frame
from signaling.store.database import DatabaseAway
from tests.signaling.api.world import World
from tests.signaling.client.conftest import People


async def following(events: EventStream, wanted: str, count: int = 1) -> list[Event]:
    """Return the next `count` events of a type."""
    found: list[Event] = []
    async with asyncio.timeout(20):
        async for event in events:
            if event.type == wanted:
                found.append(event)
                if len(found) == count:
                    return found
    raise AssertionError("the stream ended")


def cut(world: World, code: int = 4500) -> None:
    """Have the server drop every event socket."""
    for socket in list(world.service.channel._by_connection.values()):
        socket.close(code)


async def test_a25_a_ring_comes_unasked(world: World, served: People) -> None:
    await world.users("bob")
    async with served("bob").events() as events:
        await served("alice").make_call("default", "x").get_or_create(members=["bob"], ringing=True, video=True)
        ring = (await following(events, "call.ring"))[0]
    assert ring.cid == "default:x"
    assert ring.actor == "alice"
    assert ring.data["ring"]["video"] is True
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_subscribing_and_being_refused(world: World, served: People) -> None:
    await served.server.admin.change_grants("livestream", "user", remove=["call.read"])
    host = served("host").make_call("livestream", "x")
    await host.get_or_create()
    open_call = served("host").make_call("default", "x")
    await open_call.get_or_create()
    with pytest.raises(NotFound):
        await served("dave").events(["default:nowhere"]).open()
    async with served("dave").events([open_call]) as events:
        with pytest.raises(Exception, match="missing_capability"):
            await events.subscribe("livestream:x")
        await open_call.update(custom={"n": 1})
        assert (await following(events, "call.updated"))[0].data["paths"] == ["custom.n"]
        await events.unsubscribe("default:x")
        await events.subscribe("default:x")
        await open_call.update(custom={"n": 2})
        assert (await following(events, "call.updated"))[0].data["call"]["custom"] == {"n": 2}


async def test_a_lost_connection_loses_and_repeats_nothing(world: World, served: People) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    async with served("dave").events([host]) as events:
        for number in range(30):
            if number % 10 == 5:
                cut(world)
                await asyncio.sleep(0)
            await host.update(custom={"n": number})
        updates = await following(events, "call.updated", 30)
        assert [event.data["call"]["custom"]["n"] for event in updates] == list(range(30))
        assert [event.seq for event in updates] == sorted({event.seq for event in updates if event.seq})


async def test_of_hundreds_of_calls_none_loses_anything_with_the_connection(world: World, served: People) -> None:
    host = served("host")
    calls = [host.make_call("default", f"x{number}") for number in range(150)]
    for call in calls:
        await call.get_or_create()
    async with served("dave").events(calls) as events:
        cut(world)
        await asyncio.sleep(0)
        for call in (calls[0], calls[-1]):
            await call.update(custom={"n": 1})
        updates = await following(events, "call.updated", 2)
        assert {event.cid for event in updates} == {"default:x0", "default:x149"}
        # And all are watched again.
        await calls[0].update(custom={"n": 2})
        assert (await following(events, "call.updated"))[0].data["call"]["custom"] == {"n": 2}


async def test_what_is_too_old_comes_as_a_snapshot(world: World, served: People) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    async with served("dave").events([host]) as events:
        await host.update(custom={"n": 1})
        await following(events, "call.updated")
        cut(world)
        await host.update(custom={"n": 2})
        world.clock.now += timedelta(hours=1)
        snapshot = (await following(events, "resync"))[0]
        assert snapshot.cid == "default:x"
        assert snapshot.data["call"]["custom"] == {"n": 2}
        assert snapshot.data["participants"] == []
        await host.update(custom={"n": 3})
        assert (await following(events, "call.updated"))[0].data["call"]["custom"] == {"n": 3}


async def test_a_frame_lost_on_the_way_is_asked_for_again(world: World, served: People) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    async with served("dave").events([host]) as events:
        socket: Any = next(s for s in world.service.channel._by_connection.values() if s.user_id == "dave")
        send = socket.send
        lost: list[bytes] = []

        def leaky(kind: str, frame: bytes) -> None:
            if kind == "call.updated" and not lost:
                lost.append(frame)
                return
            send(kind, frame)

        socket.send = leaky
        for number in range(3):
            await host.update(custom={"n": number})
        updates = await following(events, "call.updated", 3)
        assert lost
        assert [event.data["call"]["custom"]["n"] for event in updates] == [0, 1, 2]


async def test_an_expired_token_is_renewed(world: World, served: People) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    again = asyncio.Event()
    given: list[int] = []

    async def fresh() -> str:
        given.append(1)
        if len(given) > 1:
            again.set()
        return world.token({"sub": "dave"}, seconds=60)

    client = served.client(fresh)
    async with client.events([host]) as events:
        heard = asyncio.create_task(following(events, "call.updated"))
        world.clock.now += timedelta(seconds=61)
        # The server closes the socket, the client comes back with a new token.
        await asyncio.wait_for(again.wait(), 20)
        await host.update(custom={"n": 1})
        assert (await heard)[0].data["call"]["custom"] == {"n": 1}
    assert (await client.make_call("default", "x").get()).call.custom == {"n": 1}


async def test_an_expired_token_that_cannot_be_renewed_ends_the_stream(world: World, served: People) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    stream = served("dave").events([host])
    async with stream as events:
        cut(world, 4401)
        with pytest.raises(Unauthenticated):
            await asyncio.wait_for(anext(events), 10)
    with pytest.raises(Unauthenticated) as forged:
        await served.client("not.a.token").events().open()
    assert forged.value.code == "unauthenticated"


async def test_a_database_that_is_away_for_a_while_ends_no_stream(
    world: World, served: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is away when the client comes back, and again when he resumes; a function gives the token."""
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    away = {"authenticate": 3, "operate": 1}

    def failing(name: str) -> Any:
        works = getattr(world.service, name)

        async def at_first(*arguments: Any, **more: Any) -> Any:
            if arguments[0] in (token, principal) and away[name]:
                away[name] -= 1
                raise DatabaseAway("The database does not answer; try again.")
            return await works(*arguments, **more)

        return at_first

    token = world.token({"sub": "dave"})
    principal = await world.service.authenticate(token, None)

    async def give() -> str:
        return token

    async with served.client(give).events([host]) as events:
        await host.update(custom={"n": 1})
        await following(events, "call.updated")
        for name in away:
            monkeypatch.setattr(world.service, name, failing(name))
        cut(world)
        await host.update(custom={"n": 2})
        assert (await following(events, "call.updated"))[0].data["call"]["custom"] == {"n": 2}
        await host.update(custom={"n": 3})
        assert (await following(events, "call.updated"))[0].data["call"]["custom"] == {"n": 3}
    assert away == {"authenticate": 0, "operate": 0}


async def test_who_asks_for_too_many_calls_at_once_gets_them_a_little_later(
    world: World, served: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    refusals = 2

    def refusing(*_: Any, done: bool = False) -> None:
        nonlocal refusals
        if refusals and not done:
            refusals -= 1
            raise Problem("rate_limited", "Too many calls.", retry_after_ms=10)

    monkeypatch.setattr(RateLimiter, "take_calls", refusing)
    async with served("dave").events([host]) as events:
        assert refusals == 0
        await host.update(custom={"n": 1})
        await following(events, "call.updated")
        refusals = 2
        cut(world)
        await host.update(custom={"n": 2})
        assert (await following(events, "call.updated"))[0].data["call"]["custom"] == {"n": 2}
    assert refusals == 0


async def test_a_lost_right_ends_the_watching(world: World, served: People) -> None:
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    async with served("dave").events([host]) as events:
        await host.block("dave")
        assert (await following(events, "unsubscribed"))[0].data == {"reason": "missing_capability"}


async def test_nobody_listens_there() -> None:
    from signaling.client import CallyardClient

    async with CallyardClient("http://127.0.0.1:9", token="a.b.c") as client:
        with pytest.raises(Unavailable) as refused:
            await client.events().open()
        assert refused.value.code == "unreachable"


def event(seq: int, prev: int, cid: str = "default:x") -> dict[str, Any]:
    return {"id": f"{cid}/{seq}", "cid": cid, "seq": seq, "prev_seq": prev}


def test_the_ledger_tells_new_old_and_missing() -> None:
    ledger = Ledger()
    ledger.subscribed("default:x", 4)
    assert [ledger.judge(event(*pair)) for pair in ((7, 4), (7, 4), (6, 4), (9, 8))] == ["new", "old", "old", "gap"]
    assert ledger.resume(["default:x"]) == {"default:x": 7}
    # Until the answer is complete, what does not follow is part of the replay.
    assert ledger.judge(event(9, 8)) == "old"
    assert [ledger.judge(event(8, 7)), ledger.judge(event(9, 8))] == ["new", "new"]
    ledger.resumed()
    assert ledger.judge(event(12, 11)) == "gap"


def test_the_ledger_keeps_what_is_watched_and_the_latest_of_the_rest() -> None:
    ledger = Ledger()
    for number in range(300):
        ledger.subscribed(f"default:{number}", 1)
    ledger.disconnected([f"default:{number}" for number in range(150)])
    assert list(ledger.last) == [f"default:{number}" for number in (*range(150), *range(200, 300))]


def test_the_ledger_takes_what_has_no_number() -> None:
    ledger = Ledger()
    counts = {"id": "1", "cid": "default:x", "seq": None, "prev_seq": None}
    assert [ledger.judge(counts), ledger.judge(counts), ledger.judge({**counts, "id": "2"})] == ["new", "old", "new"]
    assert ledger.judge(event(5, 0)) == "new"
    assert ledger.judge(event(5, 0, "default:y")) == "new"


async def test_what_no_server_would_say_ends_the_stream_with_an_error(world: World, served: People) -> None:
    async with served("dave").events() as events:
        socket = next(s for s in world.service.channel._by_connection.values() if s.user_id == "dave")
        socket.send("control", Frame(b'{"type":"member.added","id":"1","cid":5,"data":"nothing"}'))
        with pytest.raises(Unavailable) as broken:
            await asyncio.wait_for(anext(events), 10)
        assert broken.value.code == "unexpected_reply"
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_a_stream_is_closed_under_its_reader(served: People) -> None:
    stream = await served("dave").events().open()
    reading = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(reading, 5)


async def test_the_socket_is_kept_alive_while_nothing_happens(
    world: World, served: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.service, "settings", world.service.settings.model_copy(update={"heartbeat_ms": 100}))
    host = served("host").make_call("default", "x")
    await host.get_or_create()
    async with served("dave").events([host]) as events:
        before = events.connection_id
        await asyncio.sleep(1)  # ten heartbeats, five times what a silent socket gets
        await host.update(custom={"n": 1})
        await following(events, "call.updated")
        assert events.connection_id == before
