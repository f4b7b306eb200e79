"""Acceptance: races (A-4, L-8, G-6), by real clients against two server processes on one database."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest

from tests.signaling.api.served import Served, served

RINGS_RACED = 1_000
CALLS_AT_ONCE = 8


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[tuple[Served, Served]]:
    async with served(database_url) as one, served(database_url) as other:
        yield one, other


async def test_a_4_fifty_clients_make_one_call(two: tuple[Served, Served]) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(two[i % 2].as_(f"user{i}")) for i in range(50)]
        # Connections first, so that the requests arrive together.
        await asyncio.gather(*(client.get("/calls/default/nothing") for client in clients))
        replies = await asyncio.gather(*(client.put("/calls/default/rush", json={}) for client in clients))
        assert Counter(reply.status_code for reply in replies) == {200: 49, 201: 1}
        (winner,) = [reply.json() for reply in replies if reply.json()["created"]]
        for reply in replies:
            assert reply.json()["call"] == winner["call"]
            assert reply.json()["members"] == winner["members"]
        server = await stack.enter_async_context(two[0].server())
        assert winner["call"]["version"] == 1
        assert (await server.get("/calls/default/rush")).json()["call"] == winner["call"]


async def _race(call: str, alice: httpx2.AsyncClient, bob: httpx2.AsyncClient, rounds: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    path = f"/calls/default/{call}/rings"
    for _ in range(rounds):
        ring = (await alice.post(path, json={})).json()["ring"]["id"]
        accept = bob.post(f"{path}/{ring}/accept", json={"device_id": "phone"})
        cancel = alice.post(f"{path}/{ring}/cancel", json={})
        attempts = [accept, cancel]
        first = random.randrange(2)
        tasks = [asyncio.ensure_future(attempts[first]), asyncio.ensure_future(attempts[1 - first])]
        replies = await asyncio.gather(*tasks)
        accepted, cancelled = replies[first], replies[1 - first]
        assert sorted((accepted.status_code, cancelled.status_code)) == [200, 409]
        loser, winner = (accepted, cancelled) if accepted.status_code == 409 else (cancelled, accepted)
        assert loser.json()["code"] == "already_resolved"
        assert loser.json()["ring"] == winner.json()["ring"]
        outcomes[winner.json()["ring"]["state"]] += 1
    return outcomes


@pytest.mark.slow
async def test_l_8_accepted_or_cancelled_never_both(two: tuple[Served, Served]) -> None:
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(two[0].as_("alice"))
        bob = await stack.enter_async_context(two[1].as_("bob"))
        await bob.get("/calls/default/nothing")
        calls = [f"x{i}" for i in range(CALLS_AT_ONCE)]
        for call in calls:
            assert (await alice.put(f"/calls/default/{call}", json={"members": ["bob"]})).status_code == 201
        results = await asyncio.gather(*(_race(call, alice, bob, RINGS_RACED // CALLS_AT_ONCE) for call in calls))
        outcomes = sum(results, Counter())
        assert outcomes.total() == RINGS_RACED
        # Both ways happened, or there was no race.
        assert outcomes.keys() == {"accepted", "cancelled"}


async def test_g_6_of_two_deciders_one_wins(two: tuple[Served, Served]) -> None:
    async with AsyncExitStack() as stack:
        names = ("alice", "bob", "dave")
        alice, bob, dave = [await stack.enter_async_context(two[i % 2].as_(name)) for i, name in enumerate(names)]
        for client in (alice, bob, dave):
            await client.get("/calls/livestream/nothing")
        await alice.put("/calls/livestream/x", json={"members": ["bob"]})
        await alice.put("/calls/livestream/x/live", json={})
        assert (await dave.post("/calls/livestream/x/join", json={})).status_code == 200
        path = "/calls/livestream/x/permission-requests"
        for round_ in range(20):
            request = (await dave.post(path, json={"capabilities": ["media.audio"]})).json()["request"]
            ways = (("grant", alice), ("deny", bob)) if round_ % 2 else (("deny", alice), ("grant", bob))
            replies = await asyncio.gather(*(who.post(f"{path}/{request['id']}/{way}", json={}) for way, who in ways))
            assert sorted(reply.status_code for reply in replies) == [200, 409]
            winner, loser = sorted(replies, key=lambda reply: reply.status_code)
            assert loser.json()["code"] == "already_resolved"
            assert loser.json()["request"] == winner.json()["request"]
            if winner.json()["request"]["state"] == "granted":
                change = {"revoke": ["media.audio"]}
                await alice.patch("/calls/livestream/x/participants/dave/capabilities", json=change)
                again = {"grant": ["media.audio"]}
                await alice.patch("/calls/livestream/x/participants/dave/capabilities", json=again)
                await alice.post("/calls/livestream/x/end", json={})
                await alice.post("/calls/livestream/x/reopen", json={})
                await alice.put("/calls/livestream/x/live", json={})
                assert (await dave.post("/calls/livestream/x/join", json={})).status_code == 200
