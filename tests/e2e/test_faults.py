"""Parts of the server die or are told to stop while people talk: who notices what, and how soon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx2
import jwt
import pytest
from livekit import rtc

from tests.e2e.harness.media import GREEN, RED, Picture, Tone, hear_tone, see
from tests.e2e.harness.people import Party, Person
from tests.e2e.harness.server import ServerProcess
from tests.e2e.harness.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Start = Callable[..., Awaitable[ServerProcess]]


@contextlib.asynccontextmanager
async def gathering(server: ServerProcess, room: str) -> AsyncIterator[Party]:
    party = Party(server, room)
    try:
        yield party
    finally:
        await party.close()


async def talk(party: Party, speaker: Person, listener: Person, frequency_hz: float) -> None:
    """`speaker` publishes sound and picture, and `listener` has both."""
    tone, picture = Tone(frequency_hz), Picture(RED, GREEN)
    await party.sends(speaker, tone, picture)
    await hear_tone(await listener.track(speaker.identity, "audio"), frequency_hz)
    await see(await listener.track(speaker.identity, "video"), picture)


def grew_without_loss(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]], packets: int) -> bool:
    """Whether every stream goes on as itself, brought at least `packets` more and lost none."""
    return before.keys() == after.keys() and all(
        after[stream][0] >= received + packets and after[stream][1] == lost
        for stream, (received, lost) in before.items()
    )


@pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
async def test_killing_signaling_costs_no_packet_and_its_successor_goes_on(
    own_server: Start, room: str, single: bool
) -> None:
    """F-14"""
    server = await own_server(workers=1)
    workers = server.worker_pids()
    async with gathering(server, room) as party:
        # Nobody is told of the death: what is then seen is media alone.
        proxy = await TcpProxy(server.url, patient=True).start()
        party.closes(proxy.stop)
        alice = await party.join("alice", url=proxy.url, single=single)
        bob = await party.join("bob", url=proxy.url, single=single)
        await talk(party, alice, bob, 440)
        sids = (alice.sid, bob.sid)
        await asyncio.sleep(1)
        before = await bob.arrived()
        server.kill()
        await asyncio.sleep(3)
        dead = await bob.arrived()
        assert grew_without_loss(before, dead, packets=25), (before, dead)
        await server.start()
        assert server.worker_pids() == workers
        # The successor knows who is there before anybody has come back.
        async with server.api() as service:
            listed = await service.room.list_participants(listing(room))
        assert {one.identity for one in listed.participants} == {"alice", "bob"}
        assert len(next(one for one in listed.participants if one.identity == "alice").tracks) == 2
        proxy.cut()
        for person in (alice, bob):
            await person.event("reconnected", seconds=30)
        assert (alice.sid, bob.sid) == sids
        after = await bob.arrived()
        assert grew_without_loss(dead, after, packets=25), (dead, after)
        assert not bob.events("participant_disconnected")
        assert not bob.events("track_unsubscribed")
        # And it serves them as before.
        carol = await party.join("carol", single=single)
        await hear_tone(await carol.track("alice", "audio"), 440)
        high = Tone(880)
        party.closes(high.stop)
        await bob.publish(high.track)
        await hear_tone(await alice.track("bob", "audio"), 880)
        await alice.me.publish_data(b"again")
        await bob.event("data_received")


def listing(room: str):  # type: ignore[no-untyped-def]
    from livekit import api

    return api.ListParticipantsRequest(room=room)


async def test_clients_come_back_by_themselves_after_signaling_died(own_server: Start, room: str) -> None:
    """F-44"""
    server = await own_server(workers=1)
    async with gathering(server, room) as party:
        alice, bob = await party.join("alice"), await party.join("bob")
        await talk(party, alice, bob, 440)
        server.kill()
        await asyncio.gather(server.start(), alice.event("reconnecting"), bob.event("reconnecting"))
        for person in (alice, bob):
            await person.event("reconnected", seconds=40)
        await hear_tone(await bob.track("alice", "audio"), 440)


async def test_a_worker_s_death_is_told_at_once_and_costs_its_own_rooms_only(own_server: Start, room: str) -> None:
    """F-15"""
    server = await own_server(workers=2)
    async with gathering(server, room) as party:
        rooms: list[tuple[Person, Person]] = []
        for number in range(2):
            name = f"{room}-{number}"
            speaker = await party.join(f"speaker-{number}", room=name)
            listener = await party.join(f"listener-{number}", room=name)
            await talk(party, speaker, listener, 440 + 440 * number)
            rooms.append((speaker, listener))
        before = [await listener.arrived() for _, listener in rooms]
        os.kill(server.worker_pids()[0], signal.SIGKILL)
        died = asyncio.get_running_loop().time()
        told = [asyncio.create_task(speaker.event("reconnecting", seconds=20)) for speaker, _ in rooms]
        done, waiting = await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
        assert asyncio.get_running_loop().time() - died < 5
        assert len(done) == 1
        for task in waiting:
            task.cancel()
        hit = told.index(done.pop())
        spared = 1 - hit
        for person in rooms[hit]:
            await person.event("reconnected", seconds=30)
        speaker, listener = rooms[hit]
        await hear_tone(await listener.track(speaker.identity, "audio"), 440 + 440 * hit)
        speaker, listener = rooms[spared]
        assert not speaker.events("reconnecting")
        assert not listener.events("reconnecting")
        after = await listener.arrived()
        assert grew_without_loss(before[spared], after, packets=8), (before[spared], after)


async def test_draining_lets_calls_go_on_and_takes_no_new_ones_until_the_deadline(own_server: Start, room: str) -> None:
    """F-17"""
    server = await own_server(workers=1, environment={"CALLYARD_DRAIN_DEADLINE_SECONDS": "6"})
    async with gathering(server, room) as party:
        alice, bob = await party.join("alice"), await party.join("bob")
        await talk(party, alice, bob, 440)
        before = await bob.arrived()
        server.terminate()
        await asyncio.sleep(1)
        async with httpx2.AsyncClient() as client:
            ready = await client.get(f"{server.url}/readyz")
            assert ready.status_code == 503
            assert "draining" in ready.text
            assert (await client.get(f"{server.url}/healthz")).status_code == 200
        with pytest.raises(rtc.ConnectError):
            await party.join("carol", room=f"{room}-new")
        await asyncio.sleep(1)
        assert grew_without_loss(before, await bob.arrived(), packets=25)
        assert not alice.events("reconnecting")
        workers = server.worker_pids()
        assert await server.ended(20) == 0
        await alice.until(lambda: alice.events("disconnected") or alice.events("reconnecting"), what="the news")
        for pid in workers:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


@contextlib.asynccontextmanager
async def draining(own_server: Start, room: str) -> AsyncIterator[tuple[ServerProcess, Person]]:
    """A server that was told to stop and waits for the last participant, for ten minutes at most."""
    server = await own_server(workers=1, environment={"CALLYARD_DRAIN_DEADLINE_SECONDS": "600"})
    async with gathering(server, room) as party:
        alice = await party.join("alice")
        server.terminate()
        await asyncio.sleep(1)
        assert server.process is not None
        assert server.process.poll() is None
        yield server, alice


async def test_draining_ends_when_the_last_one_leaves(own_server: Start, room: str) -> None:
    async with draining(own_server, room) as (server, alice):
        await alice.leave()
        assert await server.ended(20) == 0


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 4 MiB of its own; mounting one needs root."""
    with tempfile.TemporaryDirectory(prefix="callyard-disk-") as directory:
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", directory]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "--lazy", directory], check=True)


async def test_a_full_disk_refuses_what_must_last_and_costs_no_call(
    own_server: Start, room: str, small_disk: Path
) -> None:
    """F-27: people talk on, come and go; what cannot be written is refused, and taken again when there is room."""
    environment = {"CALLYARD_DATABASE_URL": f"sqlite:///{small_disk}/callyard.sqlite"}
    server = await own_server(workers=1, environment=environment)
    claims = {"iss": server.key, "scope": "server", "exp": int(time.time()) + 600}
    token = jwt.encode(claims, server.secret, algorithm="HS256")
    headers = {"Authorization": f"Bearer {token}"}
    async with gathering(server, room) as party, httpx2.AsyncClient(headers=headers, timeout=15) as client:

        async def written() -> int:
            body = {"custom": {"filling": "x" * 8_000}}
            return (await client.post(f"{server.url}/v1/calls/default", json=body)).status_code

        alice, bob = await party.join("alice"), await party.join("bob")
        await talk(party, alice, bob, 440)
        assert await written() == 201
        before = await bob.arrived()
        filling = small_disk / "filling"
        with pytest.raises(OSError, match="No space left"):
            filling.write_bytes(bytes(8 << 20))
        # The log of the database may hold a few more.
        answers = [await written() for _ in range(60)]
        assert set(answers) <= {201, 503}
        assert answers[-10:] == [503] * 10
        carol = await party.join("carol")
        await hear_tone(await carol.track("alice", "audio"), 440)
        await asyncio.sleep(1)
        assert grew_without_loss(before, await bob.arrived(), packets=8)
        assert (await client.get(f"{server.url}/healthz")).status_code == 200
        filling.unlink()
        assert await written() == 201
        assert "disk is full" in server.tail(200_000)


async def test_a_second_sigterm_ends_the_drain_at_once(own_server: Start, room: str) -> None:
    """F-18"""
    async with draining(own_server, room) as (server, alice):
        server.terminate()
        assert await server.ended(15) == 0
        await alice.until(lambda: alice.events("disconnected") or alice.events("reconnecting"), what="the news")


async def test_everybody_is_back_after_a_blackout(own_server: Start, room: str) -> None:
    """F-44, S-51: sixteen people without signal connections for ten seconds; then all are there again, nobody twice."""
    server = await own_server(workers=2)
    proxy = await TcpProxy(server.url).start()
    async with gathering(server, room) as party:
        party.closes(proxy.stop)
        people = [
            await party.join(f"p{index}", url=proxy.url, room=f"{room}-{index % 4}", single=index % 2 == 0)
            for index in range(16)
        ]
        for index in range(4):
            await talk(party, people[index], people[index + 4], 440 + 110 * index)
        # Nothing answers: refusals would make the SDK give up after ten.
        proxy.flowing.clear()
        proxy.cut()
        await asyncio.sleep(10)
        proxy.flowing.set()
        for person in people:
            await person.event("reconnected", seconds=15)
        for index, person in enumerate(people):
            await sees_exactly(person, {f"p{other}" for other in range(index % 4, 16, 4)} - {person.identity})
        for index in range(4):
            await hear_tone(await people[index + 4].track(f"p{index}", "audio"), 440 + 110 * index)
            assert len(people[index + 4].publications(f"p{index}")) == 2, "nothing twice"


async def sees_exactly(person: Person, others: set[str]) -> None:
    await person.until(lambda: person.room.remote_participants.keys() == others, what="the others")


async def test_connections_beyond_the_files_cost_no_call(own_server: Start, room: str) -> None:
    """F-30: with no file left a call goes on and writes are taken; once there are some, so do newcomers come in."""
    server = await own_server(workers=1)
    assert server.process is not None
    async with gathering(server, room) as party:
        alice, bob = await party.join("alice"), await party.join("bob")
        await talk(party, alice, bob, 440)
        before = await bob.arrived()
        files = open_files(server.process.pid)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (files + 20, files + 20))
        crowd = []
        for _ in range(200):
            one = socket.socket()
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(("127.0.0.1", server.port))
            crowd.append(one)
        spent = cpu_seconds(server.process.pid)
        await asyncio.sleep(3)
        assert cpu_seconds(server.process.pid) - spent < 1.5, "it does not turn in circles"
        await alice.me.publish_data(b"still here")
        await bob.event("data_received")
        assert grew_without_loss(before, await bob.arrived(), packets=20)
        for one in crowd:
            one.close()
        carol = await party.join("carol")
        await hear_tone(await carol.track("alice", "audio"), 440)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
