"""What the harness asks of a server under test. Everything a peer does between `start` and `stop` is measured."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from bench.scenarios import Cipher, Scenario
from sfu.load import Codec, Command, DtlsDatagram, FirstMedia, Generator, Refused, State, TransportState
from signaling.load.external_dtls import ExternalDtls

_CONNECT_TIMEOUT_SECONDS = 60.0
_LOOK_SECONDS = 0.2
"""How often it is looked whether a handshake's flight is to be sent again."""
_CLIENTS_STAY = "its clients stay here"
_GENTLY_PER_SECOND = 100
"""Where it is not joins that are measured, hundreds at once would only measure the clients' core."""

Unasked = TransportState | FirstMedia | DtlsDatagram | Refused


class PeerError(Exception):
    """The server did not do what the scenario needs."""


class UnsupportedError(PeerError):
    """This server cannot be measured in this scenario; that is no failure."""


class Handshakes(Protocol):
    """What stands in for the generator's own DTLS."""

    def step(self, transport: int, datagram: bytes) -> list[Command]:
        """What follows from a datagram; an empty one begins."""

    def expire(self) -> list[Command]:
        """What is to be sent again."""


@dataclass
class Arrival:
    """One transport's way to its first media. Times of `time.monotonic`, durations from the opening on."""

    due: float | None = None
    """When its owner set out; None: whoever drives the server did not say."""
    opened: float = 0.0
    ice_us: int = 0
    dtls_us: int = 0
    media_us: dict[bool, int] = field(default_factory=dict)
    """By whether it is video."""

    @property
    def signal_seconds(self) -> float:
        """What came before the transport."""
        return 0.0 if self.due is None else self.opened - self.due


class Clients:
    """The generator's side of a run: what it has reported, and handshakes that it does not make itself."""

    def __init__(self) -> None:
        self.ciphers: dict[int, str] = {}
        self.with_media: set[tuple[int, bool]] = set()
        self.arrivals: dict[int, Arrival] = {}
        self.generator: Generator | None = None
        self.external: Handshakes | None = None
        self._leaving: set[int] = set()
        self._failure: str | None = None
        self._changed = asyncio.Event()

    def offer(self, cipher: Cipher, certificate_der: bytes, key_der: bytes) -> None:
        """From now on clients offer this. The generator's own DTLS offers all profiles; CM alone needs another one."""
        if cipher is Cipher.CM:
            handshakes = ExternalDtls()
            handshakes.use(certificate_der, key_der)
            self.external = handshakes

    def arrival(self, transport: int) -> Arrival:
        return self.arrivals.setdefault(transport, Arrival())

    def sets_out(self, transport: int, due: float | None = None) -> None:
        """From now on, or since `due`, the owner of this transport is on his way."""
        self.arrival(transport).due = time.monotonic() if due is None else due

    def report(self, report: Unasked) -> None:
        match report:
            case TransportState(state=State.CONNECTED, transport=transport, cipher=cipher):
                self.ciphers[transport] = cipher
                arrival = self.arrival(transport)
                arrival.ice_us, arrival.dtls_us = report.ice_us, report.dtls_us
            case TransportState(state=State.CHECKED, transport=transport):
                self._handshake(transport, b"")
            case TransportState(transport=transport) if transport in self._leaving:
                pass
            case TransportState(transport=transport, reason=reason):
                self._failure = f"transport {transport} ended: {reason}"
            case DtlsDatagram(transport=transport, datagram=datagram):
                self._handshake(transport, datagram)
            case FirstMedia(transport=transport, video=video):
                self.with_media.add((transport, video))
                self.arrival(transport).media_us[video] = report.after_us
            case Refused(command=command, message=message):
                self._failure = f"{command} was refused: {message}"
        self._changed.set()

    def leaves(self, transport: int) -> None:
        """Its end is no failure any more."""
        self._leaving.add(transport)

    def fail(self, sentence: str) -> None:
        """Whoever waits finds out."""
        self._failure = sentence
        self._changed.set()

    async def connected(self, transports: set[int]) -> None:
        await self._wait(lambda: transports <= self.ciphers.keys(), "to connect")

    async def media(self, transports: set[int], scenario: Scenario) -> None:
        """Until all of them get audio and video, as far as the scenario has them."""
        kinds = {track.codec is not Codec.OPUS for track in scenario.tracks}
        wanted = {(transport, video) for transport in transports for video in kinds}
        await self._wait(lambda: wanted <= self.with_media, "to get media")

    def _handshake(self, transport: int, datagram: bytes) -> None:
        if self.external is not None and self.generator is not None:
            self.generator.send(*self.external.step(transport, datagram))

    async def _wait(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_SECONDS):
                while not condition():
                    if self._failure is not None:
                        raise PeerError(self._failure)
                    self._changed.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_SECONDS):
                            await self._changed.wait()
                    if self.external is not None and self.generator is not None:
                        self.generator.send(*self.external.expire())
        except TimeoutError:
            raise PeerError(f"some clients took more than {_CONNECT_TIMEOUT_SECONDS:g} s {what}") from None


class Peer(ABC):
    """One server, freshly started for one run and pinned to a core."""

    name: str
    can_choose: bool = False
    """Subscribers can be sent some of the tracks only (`Scenario.tiles`, `voices`)."""
    can_pace: bool = False
    """Viewers can come one by one, at a rate, and the way to their first picture is told from its beginning."""
    can_churn: bool = False

    def check(self, scenario: Scenario) -> None:
        """`UnsupportedError` if this scenario cannot be played with this server."""
        if not self.can_choose and (scenario.tiles is not None or scenario.voices is not None):
            raise UnsupportedError("its clients take all tracks here")
        if not self.can_pace and scenario.joins_per_second is not None:
            raise UnsupportedError("its clients come all at once here")
        if not self.can_churn and scenario.churn_per_second:
            raise UnsupportedError(_CLIENTS_STAY)

    @property
    @abstractmethod
    def pids(self) -> tuple[int, ...]:
        """The processes whose costs count."""

    @abstractmethod
    async def start(self, cpu: int) -> None:
        """`PeerError` if it cannot."""

    @abstractmethod
    async def stop(self) -> None: ...

    @abstractmethod
    async def publish(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        """Lets everybody who sends connect and send, in so many rooms of the scenario's kind."""

    @abstractmethod
    async def subscribe(self, clients: Clients, scenario: Scenario, rooms: int) -> None:
        """Lets everybody who receives connect and receive; returns when all have media.

        With `can_pace` viewers come at `scenario.joins_per_second` (`due_times` says when).
        """

    async def churn(self, clients: Clients, scenario: Scenario, seconds: float) -> None:
        """For so long, lets viewers leave and others come in their place, at the scenario's rate; if `can_churn`."""
        raise UnsupportedError(_CLIENTS_STAY)


async def due_times(per_second: float | None, count: int) -> AsyncIterator[float]:
    """Goes on `count` times, at this rate, with the time at which that was due. Without a rate gently, late or not."""
    start = time.monotonic()
    for number in range(count):
        if per_second is None:
            yield time.monotonic()
            await asyncio.sleep(1 / _GENTLY_PER_SECOND)
            continue
        due = start + number / per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        yield due


def generator(clients: Clients) -> Generator:
    if clients.generator is None:
        raise PeerError("there is no generator")
    return clients.generator
