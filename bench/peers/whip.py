"""Servers reached by WHIP (RFC 9725) and WHEP: any one that runs already, and the plain Pion SFU of this directory.

One POST with an offer, one answer with a candidate in it, a DELETE where viewers leave; no trickling, no restart.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import subprocess
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2

from bench import machine
from bench.peers.base import Clients, Peer, PeerError, UnsupportedError, due_times, generator
from bench.peers.program import Program, ProgramPeer, free_port
from bench.scenarios import Scenario
from sfu import load, sdp
from sfu.border import Fingerprint
from signaling.load import description
from signaling.load.connection import Media
from signaling.load.description import DescriptionError
from signaling.load.plan import Track

_AT_ONCE = 10
_TIMEOUT_SECONDS = 30.0
_PION_MODULE = Path(__file__).parent / "pion"


@dataclass(frozen=True)
class Session:
    """One WHEP session: where it is asked for, and which tracks it is to bring."""

    url: str
    tracks: tuple[Track, ...]


@dataclass(frozen=True)
class Viewer:
    """Somebody who receives and may leave."""

    room: int
    subscriber: int
    transport: int
    url: str
    """Of his session: what a DELETE ends."""


class WhipWhep(Peer):
    """Signaling as the standards have it; subclasses know the addresses."""

    host: str
    """Where media are expected."""

    def __init__(self, fingerprint: Fingerprint) -> None:
        self._fingerprint = fingerprint
        self._media: Media | None = None
        self._viewers: deque[Viewer] = deque()
        """Those who came first at the front; only where each has one session."""

    @abstractmethod
    def publish_url(self, scenario: Scenario, room: int, publisher: int) -> str:
        """`UnsupportedError` if the server cannot take what this scenario sends."""

    @abstractmethod
    def sessions(self, scenario: Scenario, room: int, subscriber: int) -> Iterator[Session]:
        """What a subscriber asks for; numbers of publishers and subscribers are the same for members."""

    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        self._media = Media(
            generator(clients), self._fingerprint, self.host, external_dtls=clients.external is not None
        )
        urls = [
            self.publish_url(scenario, room, publisher)
            for room in range(rooms)
            for publisher in range(scenario.publishers)
        ]
        async with _client() as client:
            limit = asyncio.Semaphore(_AT_ONCE)
            transports = await asyncio.gather(*(self._publish(client, limit, url, scenario.tracks) for url in urls))
        await clients.connected(set(transports))

    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        async with _client() as client:
            if self.can_pace and scenario.viewers and not scenario.members:
                transports = await self._come(client, clients, scenario, rooms)
            else:
                sessions = [
                    session
                    for room in range(rooms)
                    for subscriber in range(scenario.subscribers)
                    for session in self.sessions(scenario, room, subscriber)
                ]
                limit = asyncio.Semaphore(_AT_ONCE)
                subscribed = (self._subscribe(client, limit, session) for session in sessions)
                transports = [transport for transport, _ in await asyncio.gather(*subscribed)]
        await clients.connected(set(transports))
        await clients.media(set(transports), scenario)

    async def churn(self, clients: Clients, scenario: Scenario, seconds: float) -> None:
        async with _client() as client, asyncio.TaskGroup() as tasks:
            async for at in due_times(scenario.churn_per_second, round(scenario.churn_per_second * seconds)):
                leaving = self._viewers.popleft()
                clients.leaves(leaving.transport)
                generator(clients).send(load.Close(transport=leaving.transport, abrupt=True))
                tasks.create_task(_end(client, leaving.url))
                tasks.create_task(self._view(client, clients, scenario, (leaving.room, leaving.subscriber), at))

    async def _come(self, client: httpx2.AsyncClient, clients: Clients, scenario: Scenario, rooms: int) -> list[int]:
        """Viewers one by one, whatever became of those before."""
        coming = []
        number = 0
        async with asyncio.TaskGroup() as tasks:
            async for at in due_times(scenario.joins_per_second, scenario.viewers * rooms):
                place = (number % rooms, number // rooms)
                coming.append(tasks.create_task(self._view(client, clients, scenario, place, at)))
                number += 1
        return [task.result() for task in coming]

    async def _view(
        self, client: httpx2.AsyncClient, clients: Clients, scenario: Scenario, place: tuple[int, int], due: float
    ) -> int:
        """`place`: his room, and the how manieth he is in it."""
        [session] = self.sessions(scenario, *place)
        transport, url = await self._subscribe(client, asyncio.Semaphore(), session)
        clients.sets_out(transport, due)
        self._viewers.append(Viewer(*place, transport, url))
        return transport

    async def _publish(
        self, client: httpx2.AsyncClient, limit: asyncio.Semaphore, url: str, tracks: Sequence[Track]
    ) -> int:
        assert self._media is not None, "publish comes first"
        connection = self._media.open()
        sent = [self._media.sent(track) for track in tracks]
        offer = description.offer(connection.own, sent, self._media.setup)
        async with limit:
            answered, _ = await _exchange(client, url, offer)
        try:
            connection.publish(sent, answered)
        except DescriptionError as error:
            raise PeerError(f"{url}: {error}") from error
        return connection.transport

    async def _subscribe(
        self, client: httpx2.AsyncClient, limit: asyncio.Semaphore, session: Session
    ) -> tuple[int, str]:
        """The transport, and what ends it."""
        assert self._media is not None, "publish comes first"
        connection = self._media.open()
        offer = description.offer_to_receive(connection.own, session.tracks, self._media.setup)
        async with limit:
            answered, url = await _exchange(client, session.url, offer)
        try:
            connection.described(answered, is_offer=False)
            connection.receive(description.accepted(answered))
        except DescriptionError as error:
            raise PeerError(f"{session.url}: {error}") from error
        return connection.transport, url


class RunningWhipWhep(WhipWhep):
    """A server that somebody else started and pinned: the process `pid` and its children, one stream per publisher.

    The addresses are templates with `{stream}` in them. A subscriber has one WHEP session for each publisher, and WHEP
    cannot say which layer of a simulcast he wants.
    """

    def __init__(self, fingerprint: Fingerprint, name: str, pid: int, whip: str, whep: str) -> None:
        super().__init__(fingerprint)
        self.name = name
        self.host = urlsplit(whip).hostname or ""
        self._pid = pid
        self._whip = whip
        self._whep = whep
        # A stream of an earlier run may not be over yet.
        self._run = secrets.token_hex(4)

    @property
    def pids(self) -> tuple[int, ...]:
        if not Path(f"/proc/{self._pid}").exists():
            raise PeerError(f"{self.name} has ended")
        return tuple(machine.family(self._pid))

    async def start(self, cpu: int) -> None:
        for pid in self.pids:
            machine.pin(pid, cpu)

    async def stop(self) -> None:
        """It goes on; sessions end by their clients' silence."""

    def publish_url(self, scenario: Scenario, room: int, publisher: int) -> str:
        if any(len(track.layers) > 1 for track in scenario.tracks):
            raise UnsupportedError("WHEP has no way to ask for a layer of a simulcast")
        return self._whip.format(stream=self._stream(room, publisher))

    def sessions(self, scenario: Scenario, room: int, subscriber: int) -> Iterator[Session]:
        for publisher in range(scenario.publishers):
            if publisher != subscriber or subscriber >= scenario.members:
                yield Session(self._whep.format(stream=self._stream(room, publisher)), scenario.tracks)

    def _stream(self, room: int, publisher: int) -> str:
        return f"{self._run}-{room}-{publisher}"


class Pion(ProgramPeer, WhipWhep):
    """Our own minimal SFU on Pion: a subscriber has one session for all of a room, and says which layers he wants."""

    name = "Pion SFU"
    host = "127.0.0.1"
    can_pace = can_churn = True

    @staticmethod
    def build(into: Path) -> Path:
        """The binary, built if its source is newer. `PeerError` without Go or its modules."""
        if shutil.which("go") is None:
            raise PeerError("Go is not installed")
        binary = into / "pion-sfu"
        built = subprocess.run(["go", "build", "-o", binary, "."], cwd=_PION_MODULE, check=False)
        if built.returncode != 0:
            raise PeerError("its module does not build; see the log")
        return binary

    def __init__(self, fingerprint: Fingerprint, binary: Path) -> None:
        super().__init__(fingerprint)
        self._port = free_port()
        arguments = (str(binary), "-http", f"127.0.0.1:{self._port}", "-udp", f"127.0.0.1:{free_port()}")
        self._program = Program(self.name, arguments, self._port)

    def publish_url(self, scenario: Scenario, room: int, publisher: int) -> str:
        return f"http://127.0.0.1:{self._port}/whip/{room}/{publisher}"

    def sessions(self, scenario: Scenario, room: int, subscriber: int) -> Iterator[Session]:
        is_member = subscriber < scenario.members
        others = scenario.publishers - (1 if is_member else 0)
        query = {"except": str(subscriber)} if is_member else {}
        video = next((track for track in scenario.tracks if track.is_video), None)
        if video is not None and len(video.layers) > 1:
            query["layers"] = ",".join(str(video.layer_for(position)) for position in range(others))
        url = httpx2.URL(f"http://127.0.0.1:{self._port}/whep/{room}", params=query)
        yield Session(str(url), scenario.tracks * others)


async def _exchange(client: httpx2.AsyncClient, url: str, offer: sdp.Session) -> tuple[sdp.Session, str]:
    """The answer, and the session's own address (RFC 9725 §4.2)."""
    try:
        response = await client.post(url, content=sdp.write(offer), headers={"content-type": "application/sdp"})
        if response.status_code not in (200, 201):
            raise PeerError(f"{url}: {response.status_code} {response.text[:300]}")
        return sdp.parse(response.text), urljoin(url, response.headers.get("location", ""))
    except httpx2.HTTPError as error:
        raise PeerError(f"{url}: {type(error).__name__} {error}") from error
    except sdp.SdpError as error:
        raise PeerError(f"{url}: {error}") from error


async def _end(client: httpx2.AsyncClient, url: str) -> None:
    try:
        response = await client.delete(url)
    except httpx2.HTTPError as error:
        raise PeerError(f"{url}: {type(error).__name__} {error}") from error
    if response.status_code != 200:
        raise PeerError(f"{url}: {response.status_code} {response.text[:300]}")


def _client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(trust_env=False, timeout=_TIMEOUT_SECONDS)
