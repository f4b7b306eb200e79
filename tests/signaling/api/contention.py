"""Several server processes on one database, all at work on the same calls and killed meanwhile; what must hold after.

`python -m tests.signaling.api.contention DATABASE_URL --seconds 60 --processes 3 --kills 10` is a long run; a short one
is among the tests. Held: no change is lost, versions rise by one; a call's events are numbered without gap or
duplicate; every event reaches the webhook, and in order every socket of a member; a key never runs twice; a ring is
not both accepted and cancelled.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from signaling.calls.principal import mint
from signaling.store import schema
from signaling.store.database import Database
from tests.signaling.api.served import Served, served
from tests.signaling.api.world import KEY, SECRET
from tests.signaling.events.gateways import Received, gateway

CALLS = ("a", "b", "c")
WRITERS_A_CALL = 3
AWAY = (httpx2.TransportError, TimeoutError)


@dataclass
class Found:
    """What clients saw."""

    acknowledged: dict[tuple[str, str], int] = field(default_factory=dict)
    tried: dict[tuple[str, str], int] = field(default_factory=dict)
    versions: Counter[tuple[str, int]] = field(default_factory=Counter)
    keys: dict[str, int | None] = field(default_factory=dict)
    rings: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    heard: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    requests: int = 0


class Processes:
    """The servers by their places; one that was killed is started anew in its place."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url, self._stack = url, stack
        self.there: list[Served] = []

    async def start(self) -> Served:
        return await self._stack.enter_async_context(served(self._url, webhook_timeout_seconds=1.0))

    async def kill_one(self) -> None:
        place = random.randrange(len(self.there))
        self.there[place].kill()
        self.there[place] = await self.start()

    def any(self) -> str:
        return random.choice(self.there).url


def token(**claims: Any) -> str:
    return mint({"exp": int(datetime.now(UTC).timestamp()) + 86_400, **claims}, KEY, SECRET)


class Client:
    """Asks whichever process, one request at a time; None: no answer came."""

    def __init__(self, processes: Processes, found: Found, http: httpx2.AsyncClient, user: str | None) -> None:
        self._processes, self._found, self._http = processes, found, http
        self._token = token(sub=user) if user else token(scope="server")

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response | None:
        self._found.requests += 1
        headers["authorization"] = f"Bearer {self._token}"
        try:
            url = f"{self._processes.any()}/v1{path}"
            reply = await self._http.request(method, url, json=body or {}, headers=headers)
        except AWAY:
            await asyncio.sleep(0.02)
            return None
        if reply.status_code == 500:
            self._found.faults.append(f"{method} {path}: {reply.text}")
        return reply


async def _change(client: Client, found: Found, call: str, name: str) -> None:
    """Count up a key of the call's custom data that nobody else writes."""
    place = (call, name)
    number = found.tried[place] = found.tried.get(place, 0) + 1
    reply = await client.ask("PATCH", f"/calls/default/{call}", {"custom": {name: number}})
    if reply is None or reply.status_code == 503:
        return
    assert reply.status_code == 200, reply.text
    shown = reply.json()["call"]
    assert shown["custom"][name] == number
    found.acknowledged[place] = number
    found.versions[call, shown["version"]] += 1


async def _make_once(client: Client, found: Found, key: str) -> None:
    """Make a call under a key, asked of several processes at once and again until one answers."""
    found.keys[key] = None
    for _ in range(5):
        attempts = [
            client.ask("POST", "/calls/development", {"custom": {"key": key}}, **{"idempotency-key": key})
            for _ in range(2)
        ]
        for reply in await asyncio.gather(*attempts):
            if reply is not None and reply.status_code == 201:
                found.keys[key] = (found.keys[key] or 0) + ("idempotency-replayed" not in reply.headers)
        if found.keys[key] is not None:
            return


async def _ring(caller: Client, callee: Client, found: Found, call: str) -> None:
    made = await caller.ask("POST", f"/calls/default/{call}/rings", {"user_ids": ["bob"]})
    if made is None or made.status_code != 201:
        return  # another ring is pending, or no answer came; it times out
    path = f"/calls/default/{call}/rings/{made.json()['ring']['id']}"
    answers = [callee.ask("POST", f"{path}/accept", {"device_id": "phone"}), caller.ask("POST", f"{path}/cancel")]
    random.shuffle(answers)
    replies = await asyncio.gather(*answers)
    won = [reply.json()["ring"]["state"] for reply in replies if reply is not None and reply.status_code == 200]
    assert len(won) <= 1, won
    found.rings.update(won)


async def _come_and_go(client: Client, call: str) -> None:
    joined = await client.ask("POST", f"/calls/default/{call}/join", {"device_id": "phone"})
    if joined is not None and joined.status_code == 200:
        await client.ask("POST", f"/calls/default/{call}/leave", {"participant_id": joined.json()["participant"]["id"]})


async def _listen(processes: Processes, place: int, found: Found, ended: asyncio.Event) -> None:
    """Keep a member's socket open at one process, resuming after each loss."""
    heard = found.heard[f"socket {place}"]
    last: dict[str, int] = {}
    while not ended.is_set():
        url = processes.there[place].url.replace("http", "ws") + "/v1/events"
        with contextlib.suppress(OSError, ConnectionClosed, InvalidHandshake, TimeoutError):
            async with connect(url, proxy=None, ping_interval=None, open_timeout=5) as socket:
                await socket.send(json.dumps({"type": "auth", "token": token(sub="carol")}))
                hello = json.loads(await socket.recv())
                wanted = {cid: last.get(cid, 0) for cid in (f"default:{call}" for call in CALLS)}
                await socket.send(json.dumps({"type": "resume", "resume_token": hello["resume_token"], "last": wanted}))
                # What came before the replay and in it are one, told apart by their numbers.
                resumed = False
                while True:
                    frame = json.loads(await socket.recv())
                    if frame["type"] == "resumed":
                        resumed = True
                    if frame["type"] == "resync" or frame.get("seq") is not None:
                        heard.append({**frame, "resumed": resumed})
                        known = last.get(frame["cid"], 0)
                        # Past a gap that is not closed yet nothing is known: it is asked for again after a loss.
                        if resumed or frame.get("prev_seq") == known:
                            last[frame["cid"]] = max(known, frame.get("seq") or 0)
        await asyncio.sleep(0.05)


async def work(database_url: str, *, seconds: float, processes: int, kills: int) -> Found:
    """Run it and assert what must hold; return what was seen."""
    found, delivered = Found(), dict[str, Received]()

    def receive(request: Received) -> tuple[int, Any]:
        # Now and then the endpoint is not well.
        if random.random() < 0.01:
            return 500, None
        delivered[request.headers["webhook-id"]] = request
        return 204, None

    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(gateway(receive))
        there = Processes(database_url, stack)
        there.there = list(await asyncio.gather(*(there.start() for _ in range(processes))))
        limits = httpx2.Limits(max_keepalive_connections=0)
        http = await stack.enter_async_context(httpx2.AsyncClient(timeout=30, trust_env=False, limits=limits))
        server, alice, bob = (Client(there, found, http, user) for user in (None, "alice", "bob"))
        for user in ("alice", "bob", "carol"):
            made = await server.ask("PUT", f"/users/{user}")
            assert made is not None
            assert made.status_code == 201
        hook = await server.ask("POST", "/webhooks", {"url": endpoint.url})
        assert hook is not None
        assert hook.status_code == 201, hook.text
        for call in CALLS:
            made = await alice.ask("PUT", f"/calls/default/{call}", {"members": ["bob", "carol"]})
            assert made is not None
            assert made.status_code == 201, made.text
        ended, stopped = asyncio.Event(), asyncio.Event()
        listeners = [asyncio.create_task(_listen(there, place, found, stopped)) for place in range(processes)]

        async def again(step: Callable[[], Awaitable[None]]) -> None:
            while not ended.is_set():
                await step()

        steps: list[Callable[[], Awaitable[None]]] = []
        for call in CALLS:
            steps.append(partial(_ring, alice, bob, found, call))
            steps.append(partial(_come_and_go, bob, call))
            for number in range(WRITERS_A_CALL):
                steps.append(partial(_change, alice, found, call, f"w{number}"))
        keys = iter(range(1_000_000))
        steps.append(lambda: _make_once(alice, found, f"key-{next(keys)}"))
        workers = [asyncio.create_task(again(step)) for step in steps]

        async def disturb() -> None:
            for _ in range(kills):
                await asyncio.sleep(seconds / (kills + 1) * random.uniform(0.5, 1.2))
                await there.kill_one()

        disturbance = asyncio.create_task(disturb())
        running = asyncio.gather(*workers)
        # One that fails ends it at once.
        await asyncio.wait([running], timeout=seconds)
        ended.set()
        await disturbance
        await running
        await _quiet(database_url, found)
        stopped.set()
        for listener in listeners:
            listener.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
    await _judge(database_url, found, delivered)
    return found


async def _quiet(database_url: str, found: Found) -> None:
    """Wait until nothing is owed any more and the sockets have heard all there is, half a minute at most."""
    database = Database(database_url)
    table = schema.deliveries
    for _ in range(300):
        async with database.read(long=True) as connection:
            owed = list(await connection.execute(select(table.c.id).where(table.c.state == "pending").limit(1)))
            told = await _told(connection)
        if not owed and not any(_lost(frames, told) for frames in found.heard.values()):
            break
        await asyncio.sleep(0.1)
    await database.close()


async def _told(connection: AsyncConnection) -> list[Any]:
    """Return the numbered events that members are told."""
    columns = schema.events.c
    query = select(columns.cid, columns.seq, columns.doc).where(columns.seq.is_not(None)).order_by(columns.number)
    return [row for row in await connection.execute(query) if "M" in row.doc["groups"]]


def _lost(frames: list[dict[str, Any]], told: list[Any]) -> list[tuple[str, int, str]]:
    """Return what a socket did not hear, from its first event of each call on; resyncs excuse it."""
    ids = {frame.get("id") for frame in frames}
    first: dict[str, float] = {}
    for frame in frames:
        of_call = float("-inf") if frame["type"] == "resync" else frame["seq"]
        first[frame["cid"]] = min(first.get(frame["cid"], of_call), of_call)
    excused = {cid for cid, seq in first.items() if seq == float("-inf")}
    cids = {f"default:{call}" for call in CALLS} - excused
    return [
        (row.cid, row.seq, row.doc["type"])
        for row in told
        if row.cid in cids and row.seq >= first.get(row.cid, 1) and row.doc["id"] not in ids
    ]


async def _judge(database_url: str, found: Found, delivered: dict[str, Received]) -> None:
    database = Database(database_url)
    async with database.read(long=True) as connection:
        calls = list(await connection.execute(select(schema.calls.c.type, schema.calls.c.id, schema.calls.c.doc)))
        told = await _told(connection)
        query = select(schema.events.c.cid, schema.events.c.seq, schema.events.c.doc).order_by(schema.events.c.number)
        events = [row for row in await connection.execute(query) if row.cid is not None]
    await database.close()
    assert found.faults == []
    docs = {f"{row.type}:{row.id}": row.doc for row in calls}
    for (call, name), number in found.acknowledged.items():
        # What was cut off may have been committed or not.
        assert number <= docs[f"default:{call}"]["custom"][name] <= found.tried[call, name]
    assert all(count == 1 for count in found.versions.values()), "a version was given twice"
    numbered: dict[str, list[int]] = defaultdict(list)
    for row in events:
        if row.seq is not None:
            numbered[row.cid].append(row.seq)
    for cid, seqs in numbered.items():
        assert seqs == list(range(1, len(seqs) + 1)), cid
        assert seqs[-1] == docs[cid]["seq"]
        changes = [row.doc for row in events if row.cid == cid and row.doc["type"] == "call.updated"]
        assert [doc["data"]["call"]["version"] for doc in changes] == sorted(
            {doc["data"]["call"]["version"] for doc in changes}
        ), "a version was told twice, or out of order"
    owed = {row.doc["id"] for row in events if "S" in row.doc["groups"] and row.doc["type"] != "captions.text"}
    assert owed - delivered.keys() == set(), "an event was not delivered"
    of_key = Counter(doc["custom"]["key"] for doc in docs.values() if "key" in doc["custom"])
    for key, times in found.keys.items():
        assert of_key[key] <= 1, f"{key} ran twice"
        if times is not None:
            assert of_key[key] == 1, f"{key} was answered and did not run"
    for who, frames in found.heard.items():
        _judge_socket(who, frames)
        lost = _lost(frames, told)
        assert lost == [], (who, lost[:10], [(f["cid"], f.get("seq"), f["type"], f["resumed"]) for f in frames[:40]])


def _judge_socket(who: str, frames: list[dict[str, Any]]) -> None:
    """What a member hears is chained by `prev_seq`, anew after a resync, and comes once."""
    last: dict[str, int] = {}
    ids: set[str] = set()
    resynced: set[str] = set()
    for frame in frames:
        cid, seq = frame["cid"], frame.get("seq")
        if seq is None:
            # The snapshot is of a moment whose number the next event tells.
            resynced.add(cid)
            continue
        if frame["resumed"]:
            after = frame["prev_seq"]
            assert after >= last.get(cid, 0) if cid in resynced else after == last.get(cid, 0), (who, frame)
            assert frame["id"] not in ids, (who, frame)
        resynced.discard(cid)
        last[cid] = max(last.get(cid, 0), seq)
        ids.add(frame["id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database_url")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--kills", type=int, default=0)
    chosen = parser.parse_args()
    found = asyncio.run(
        work(chosen.database_url, seconds=chosen.seconds, processes=chosen.processes, kills=chosen.kills)
    )
    changes, keys = sum(found.versions.values()), len(found.keys)
    print(  # noqa: T201 - a command
        f"{found.requests} requests, {changes} changes, {keys} keys, rings {dict(found.rings)}: all held"
    )


if __name__ == "__main__":
    main()
