"""Carries a plan out: people come at the plan's rate, stay, some leave and come back, and everything is counted."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sfu import load
from sfu.load import DtlsDatagram, FirstMedia, Generator, Refused, State, Stats, TransportState
from sfu.worker import Certificate
from signaling.load.connection import Media
from signaling.load.external_dtls import ExternalDtls
from signaling.load.participant import Participant, ParticipantError
from signaling.load.plan import Join, Plan

_MAX_FAILURES_TOLD = 10
_REPEAT_SECONDS = 0.1
"""How often handshakes made outside the generator are looked after."""


@dataclass(frozen=True)
class Options:
    """`sign` makes the access token of one participant."""

    url: str
    sign: Callable[[Join], str]
    duration_seconds: float
    """After the last one has come."""
    churn_per_second: float = 0.0
    """So many viewers a second leave, and come back at once."""
    timeout_seconds: float = 15.0
    cm_only: bool = False
    """Clients offer AES-CM with HMAC-SHA1 alone, as old and small ones do; else both GCMs too."""
    dynacast: bool = True
    """Who sends simulcast stops sending layers that nobody wants."""
    loss: float = 0.0
    """Share of media packets lost on the clients' links, in each direction."""
    cpu: int | None = None


@dataclass
class Progress:
    """What is known so far; the same object all along."""

    participants: int = 0
    joined: int = 0
    connected: int = 0
    with_media: int = 0
    left: int = 0
    failures: list[str] = field(default_factory=list)
    failed: int = 0
    join_seconds: list[float] = field(default_factory=list)
    ciphers: dict[str, int] = field(default_factory=dict)
    phase: str = "starting"

    def fail(self, sentence: str) -> None:
        self.failed += 1
        if len(self.failures) < _MAX_FAILURES_TOLD:
            self.failures.append(sentence)


@dataclass(frozen=True)
class Outcome:
    progress: Progress
    stats: Stats
    """Of the time between the last one's coming and the end."""
    joining: Stats
    """Of the time before."""


class LoadTest:
    """One plan against one server."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self.progress = Progress(participants=plan.participants)
        self._plan = plan
        self._options = options
        self._media: Media | None = None
        self._generator: Generator | None = None
        self._external = ExternalDtls() if options.cm_only else None
        self._people: dict[asyncio.Task[None], Participant] = {}
        self._viewers: deque[asyncio.Task[None]] = deque()
        self._receiving: set[int] = set()
        self._changed = asyncio.Event()

    async def run(self) -> Outcome:
        """`LoadError` if the generator ends; what servers refuse is counted and told in `progress`."""
        certificate = Certificate()
        setup = load.Setup(
            certificate_der=certificate.certificate_der, key_der=certificate.key_der, loss=self._options.loss
        )
        if self._external is not None:
            self._external.use(certificate.certificate_der, certificate.key_der)
        async with Generator(setup, self._report, cpu=self._options.cpu) as generator:
            host = urlsplit(self._options.url if "://" in self._options.url else f"ws://{self._options.url}").hostname
            self._generator = generator
            self._media = Media(
                generator,
                certificate.fingerprint,
                host or "",
                external_dtls=self._external is not None,
                dynacast=self._options.dynacast,
            )
            repeating = asyncio.create_task(self._repeat_handshakes())
            try:
                self.progress.phase = "joining"
                await self._join_all()
                joining = await generator.stats(reset=True)
                self.progress.phase = "running"
                await self._hold()
                stats = await generator.stats()
            finally:
                self.progress.phase = "leaving"
                repeating.cancel()
                await self._leave_all()
        return Outcome(self.progress, stats, joining)

    async def _join_all(self) -> None:
        start = time.monotonic()
        for join in self._plan.joins():
            await asyncio.sleep(max(0.0, start + join.at_seconds - time.monotonic()))
            self._enter(join)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.timeout_seconds):
                while not self._is_complete():
                    self._changed.clear()
                    await self._changed.wait()

    def _is_complete(self) -> bool:
        progress = self.progress
        return progress.with_media + progress.failed >= self._plan.expects_media and (
            progress.joined + progress.failed >= progress.participants
        )

    async def _hold(self) -> None:
        end = time.monotonic() + self._options.duration_seconds
        churn = self._options.churn_per_second
        while (left := end - time.monotonic()) > 0:
            if not churn or not self._viewers:
                await asyncio.sleep(left)
                return
            await asyncio.sleep(min(left, 1 / churn))
            await self._replace(self._viewers.popleft())

    async def _replace(self, task: asyncio.Task[None]) -> None:
        person = self._people.pop(task, None)
        if person is None:
            return
        task.cancel()
        await person.leave()
        self.progress.left += 1
        self._enter(person.join)

    def _enter(self, join: Join) -> None:
        assert self._media is not None, "people come once the generator runs"
        person = Participant(self._media, join, self._plan.tracks, self._options.timeout_seconds)
        if join.receives:
            self._receiving.add(person.subscriber.transport)
        task = asyncio.create_task(self._take_part(person))
        self._people[task] = person
        if join.receives and not join.sends:
            self._viewers.append(task)

    async def _take_part(self, person: Participant) -> None:
        began = time.monotonic()

        def joined() -> None:
            self.progress.joined += 1
            self.progress.join_seconds.append(time.monotonic() - began)
            self._changed.set()

        try:
            await person.run(self._options.url, self._options.sign(person.join), joined)
        except ParticipantError as error:
            self.progress.fail(str(error))
            self._changed.set()

    async def _leave_all(self) -> None:
        for task in self._people:
            task.cancel()
        await asyncio.gather(*self._people, return_exceptions=True)
        await asyncio.gather(*(person.leave() for person in self._people.values()), return_exceptions=True)

    def _report(self, report: TransportState | FirstMedia | DtlsDatagram | Refused) -> None:
        progress = self.progress
        match report:
            case TransportState(state=State.CONNECTED, cipher=cipher):
                progress.connected += 1
                progress.ciphers[cipher] = progress.ciphers.get(cipher, 0) + 1
            case TransportState(state=State.CHECKED, transport=transport):
                self._handshake(transport, b"")
            case DtlsDatagram(transport=transport, datagram=datagram):
                self._handshake(transport, datagram)
            case TransportState(state=State.FAILED, reason=reason):
                progress.fail(f"A transport failed: {reason}.")
            case FirstMedia(transport=transport) if transport in self._receiving:
                self._receiving.discard(transport)
                progress.with_media += 1
            case Refused(command=command, message=message):
                progress.fail(f"The generator refused {command}: {message}.")
            case _:
                return
        self._changed.set()

    async def _repeat_handshakes(self) -> None:
        while self._external is not None and self._generator is not None:
            self._generator.send(*self._external.expire())
            await asyncio.sleep(_REPEAT_SECONDS)

    def _handshake(self, transport: int, datagram: bytes) -> None:
        if self._external is not None and self._generator is not None:
            self._generator.send(*self._external.step(transport, datagram))
