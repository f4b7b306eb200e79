"""One client's ICE: aioice's agent under a link that lives through restarts and changes of address.

`Agent` is one generation of credentials and sockets; `IceLink` is what DTLS sits on: it replaces agents without telling
DTLS, counts round trips, and has filters that tests lose packets with. RFC 8445, 7675 (consent), 6544 (TCP).
Not here: trickling our own candidates one by one; a server with a public address learns them from our checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import aioice
from aioice import stun
from aioice.ice import CandidatePair, Connection, StunProtocol, TransportPolicy

from signaling.probe.ice_tcp import connect_active

log = logging.getLogger(__name__)

Filter = Callable[[bytes], bool]
"""True lets a datagram pass."""

CONSENT_INTERVAL_SECONDS = 2.0
"""How often the path is checked. RFC 7675 §5.1 asks for 5; a probe wants samples of the round trip sooner."""

CONSENT_EXPIRES_SECONDS = 30.0
"""RFC 7675 §5.1."""

_TCP_CONNECT_SECONDS = 5.0
_OLD_PATH_SECONDS = 2.0


@dataclass(frozen=True)
class TurnServer:
    """`transport`: `udp` or `tcp`, between the client and the TURN server (RFC 8656)."""

    host: str
    port: int
    transport: str
    username: str
    password: str
    tls: bool = False


@dataclass(frozen=True)
class Paths:
    """Which ways to the server are tried. With `turn`, the relay only."""

    udp: bool = True
    tcp: bool = False
    turn: TurnServer | None = None
    bind: tuple[str, ...] = ("0.0.0.0", "::")  # noqa: S104 - the kernel then picks the source address of each route


@dataclass(frozen=True)
class RemoteSide:
    username: str
    password: str
    lite: bool


class Agent(Connection):
    """aioice's agent, on our choice of sockets, with active TCP, with consent that measures, into one sink."""

    def __init__(self, link: IceLink, username: str | None = None, password: str | None = None) -> None:
        turn = link.paths.turn
        super().__init__(
            ice_controlling=True,
            turn_server=(turn.host, turn.port) if turn else None,
            turn_username=turn.username if turn else None,
            turn_password=turn.password if turn else None,
            turn_ssl=turn.tls if turn else False,
            turn_transport=turn.transport if turn else "udp",
            transport_policy=TransportPolicy.RELAY if turn else TransportPolicy.ALL,
            local_username=username,
            local_password=password,
        )
        self._link = link
        self._tcp_tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._is_mute = False

    @property
    def pair(self) -> CandidatePair | None:
        return self._nominated.get(1)

    @property
    def protocols(self) -> list[StunProtocol]:
        return list(self._protocols)

    async def gather_candidates(self) -> None:
        if self._local_candidates_start:
            return
        self._local_candidates_start = True
        paths = self._link.paths
        if paths.turn or paths.udp:
            addresses = list(paths.bind) if paths.turn is None else []
            self._local_candidates += await self.get_component_candidates(1, addresses)
        self._local_candidates_end = True

    def data_received(self, data: bytes, component: int) -> None:
        self._link.received(data)

    def protocol_lost(self, protocol: StunProtocol) -> None:
        pair = self.pair
        if pair is not None and pair.protocol is protocol:
            self._link.lost(self)

    async def query_consent(self) -> None:
        """Check the nominated pair until it is silent for too long."""
        assert self.remote_password is not None
        loop = asyncio.get_running_loop()
        heard_at = loop.time()
        while pair := self.pair:
            request = self.build_request(pair, nominate=True)
            sent_at = loop.time()
            key = self.remote_password.encode()
            with contextlib.suppress(stun.TransactionError):
                await pair.protocol.request(request, pair.remote_addr, integrity_key=key, retransmissions=0)
                heard_at = loop.time()
                self._link.round_trips.append(heard_at - sent_at)
            if loop.time() - heard_at > CONSENT_EXPIRES_SECONDS:
                self._link.lost(self)
                return
            await asyncio.sleep(CONSENT_INTERVAL_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - RFC 7675 §5.1

    def request_received(self, message: stun.Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        # An answer is consent as much as a check is.
        if not self._is_mute:
            super().request_received(message, addr, protocol)

    async def stop_checks(self, *, answer: bool = False) -> None:
        self._is_mute = not answer
        task = self._query_consent_task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for task in self._tcp_tasks.values():
            task.cancel()
        await super().close()

    def _pair_remote_candidate(self, remote_candidate: aioice.Candidate) -> None:
        if remote_candidate.transport.lower() != "tcp":
            super()._pair_remote_candidate(remote_candidate)
        elif self._link.paths.tcp and remote_candidate.tcptype == "passive":
            address = (remote_candidate.host, remote_candidate.port)
            if address not in self._tcp_tasks:
                self._remote_candidates_resolving += 1
                self._tcp_tasks[address] = asyncio.create_task(self._connect_tcp(remote_candidate))

    async def _connect_tcp(self, remote: aioice.Candidate) -> None:
        """Pair a passive candidate once its connection stands; until then the agent knows that more may come."""
        try:
            protocol = await connect_active(self, remote, _TCP_CONNECT_SECONDS)
        except OSError as error:
            log.info("ice_tcp_connect_failed: %s", error)
        else:
            self._protocols.append(protocol)
            self._check_list.append(CandidatePair(protocol, remote))
            self.sort_check_list()
        finally:
            self._remote_candidates_resolving -= 1
            if self._remote_candidates_end and not self._remote_candidates_resolving and not self._closing:
                self._end_remote_candidates()


class IceLink:
    """What a DTLS transport sends and receives through. Speaks as aiortc's `RTCIceTransport` where that is asked."""

    role = "controlling"

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.state = "new"
        self.round_trips: deque[float] = deque(maxlen=100)
        self.filter_in: Filter | None = None
        self.filter_out: Filter | None = None
        self.connected_at: float | None = None
        self._received: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._remote: RemoteSide | None = None
        self._candidates: list[aioice.Candidate] = []
        self._ended = False
        self._agent = Agent(self)
        self._next: Agent | None = None
        self._closing: set[asyncio.Task[None]] = set()

    # what we tell the other side

    async def gather(self) -> None:
        """Open sockets, ask the TURN server. Raises ConnectionError when a wanted relay is not to be had."""
        agent = self._next or self._agent
        await agent.gather_candidates()
        if self.paths.turn and not agent.local_candidates:
            raise ConnectionError("the TURN server gave no relay address")

    @property
    def credentials(self) -> tuple[str, str]:
        agent = self._next or self._agent
        return agent.local_username, agent.local_password

    @property
    def local_candidates(self) -> list[aioice.Candidate]:
        """Those worth telling: relays. A wildcard address is none; the server learns hosts from our checks."""
        return [candidate for candidate in (self._next or self._agent).local_candidates if candidate.type == "relay"]

    def prepare_restart(self) -> None:
        """New credentials and sockets for the next offer (RFC 8445 §9); the old path carries until the new one does."""
        self._next = Agent(self)
        self._ended = False

    @property
    def restarting(self) -> bool:
        return self._next is not None

    # what the other side tells

    def is_restart(self, username: str) -> bool:
        """Whether a description with that user name fragment restarts ICE (RFC 8839 §4.4.1.1.1)."""
        return self._remote is not None and self._remote.username != username

    async def set_remote(self, remote: RemoteSide) -> None:
        """Credentials of a description. Candidates of the former generation are kept: a lite server's do not change."""
        self._remote = remote

    async def add_candidate(self, candidate: aioice.Candidate | None) -> None:
        """A candidate, or None for the end of candidates (RFC 8838 §14)."""
        agent = self._next or self._agent
        if candidate is None:
            if not self._ended:
                self._ended = True
                await agent.add_remote_candidate(None)
        elif not self._ended:
            self._candidates.append(candidate)
            await agent.add_remote_candidate(candidate)

    # life

    async def connect(self) -> None:
        """Bring up the first, or after `prepare_restart` the next, generation. Raises ConnectionError."""
        agent = self._next or self._agent
        self.state = "checking" if self.state == "new" else self.state
        try:
            await self._connect(agent)
        except ConnectionError:
            self.state = "failed" if agent is self._agent else self.state
            raise
        await self._switch(agent)

    async def migrate(self) -> None:
        """Go on from a new local address with the same credentials, as a phone does that changes networks."""
        agent = Agent(self, *self.credentials)
        await agent.gather_candidates()
        for candidate in self._candidates:
            await agent.add_remote_candidate(candidate)
        await agent.add_remote_candidate(None)
        await self._connect(agent)
        await self._switch(agent)

    async def rebind(self) -> None:
        """Change the local UDP port without a word, as a NAT does that forgot a mapping. Checks go on."""
        pair = self._agent.pair
        assert pair is not None
        assert pair.local_candidate.transport == "udp"
        old = pair.protocol.transport
        host = old.get_extra_info("sockname")[0]
        loop = asyncio.get_running_loop()
        new, _ = await loop.create_datagram_endpoint(lambda: _Rebound(pair.protocol), local_addr=(host, 0))
        pair.protocol.transport = new
        old.set_protocol(asyncio.DatagramProtocol())  # the end of the old socket is not the end of the path
        old.abort()

    async def stop_checks(self, *, answer: bool = False) -> None:
        """Check the path no more, and say nothing of it: consent runs out (RFC 7675 §5.1), unless we still `answer`."""
        await self._agent.stop_checks(answer=answer)

    async def vanish(self) -> None:
        """Fall silent without a word to the other side, as a machine does that loses power."""
        await self._agent.close()
        self.lost(self._agent)

    async def close(self) -> None:
        if self.state != "closed":
            self.state = "closed"
            closing = list(self._closing)
            for task in closing:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
            for agent in (self._agent, self._next):
                if agent is not None:
                    await agent.close()
            self._received.put_nowait(None)

    def lost(self, agent: Agent) -> None:
        """The nominated path of `agent` is gone."""
        if agent is self._agent and self.state == "connected":
            self.state = "failed"
            self._received.put_nowait(None)

    @property
    def path(self) -> tuple[str, str]:
        """(`udp` | `tcp` | `turn-udp` | `turn-tcp` | `none`, remote address and port) of the pair in use."""
        pair = self._agent.pair
        if pair is None:
            return "none", ""
        local = pair.local_candidate
        host, port = pair.remote_addr
        if local.type == "relay" and self.paths.turn is not None:
            return f"turn-{self.paths.turn.transport}", f"{host}:{port}"
        return local.transport, f"{host}:{port}"

    # datagrams

    def received(self, data: bytes) -> None:
        if self.filter_in is None or self.filter_in(data):
            self._received.put_nowait(data)

    async def _recv(self) -> bytes:
        data = await self._received.get()
        if data is None:
            self._received.put_nowait(None)
            raise ConnectionError("the path is lost")
        return data

    async def _send(self, data: bytes) -> None:
        if self.filter_out is None or self.filter_out(data):
            await self._agent.send(data)

    async def _connect(self, agent: Agent) -> None:
        assert self._remote is not None
        agent.remote_username, agent.remote_password = self._remote.username, self._remote.password
        agent.remote_is_lite = self._remote.lite
        if not agent.remote_candidates and not self._ended:
            for candidate in self._candidates:
                await agent.add_remote_candidate(candidate)
        await agent.connect()

    async def _switch(self, agent: Agent) -> None:
        former, self._agent, self._next = self._agent, agent, None
        self.state = "connected"
        if self.connected_at is None:
            self.connected_at = asyncio.get_running_loop().time()
        if former is not agent:
            await former.stop_checks()
            self._closing.add(task := asyncio.create_task(_close_later(former)))
            task.add_done_callback(self._closing.discard)


async def _close_later(agent: Agent) -> None:
    """A server may send on the old path for a while yet: its sockets stay open to receive."""
    try:
        await asyncio.sleep(_OLD_PATH_SECONDS)
    finally:
        await agent.close()


class _Rebound(asyncio.DatagramProtocol):
    """Feeds a second socket into the protocol that owns the pair."""

    def __init__(self, inner: StunProtocol) -> None:
        self._inner = inner

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._inner.datagram_received(data, addr)

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
