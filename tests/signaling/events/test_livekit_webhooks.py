"""Against a receiver on a real socket; only the pauses between tries take no time."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from livekit.api import TokenVerifier, WebhookReceiver
from livekit.protocol.models import Room
from livekit.protocol.webhook import WebhookEvent
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from signaling.events.livekit_webhooks import WebhookMetrics, Webhooks
from signaling.events.outbox import Delivery, Outbox
from signaling.http_server import listen
from signaling.settings import WebhookSettings
from tests.signaling.listening import listening

KEYRING = {"first": "0123456789abcdef0123456789abcdef", "second": "fedcba9876543210fedcba9876543210"}


@dataclass
class Receiver:
    """Answers what `verdict` says; keeps what it was sent, verified by LiveKit's own receiver."""

    url: str = ""
    verdict: Callable[[WebhookEvent, int], int] = lambda event, attempt: 200
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    events: list[WebhookEvent] = field(default_factory=list)
    raw: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    at_once: int = 0
    most_at_once: int = 0

    async def receive(self, request: Request) -> Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        body = await request.body()
        self.raw.append((dict(request.headers), body))
        verifier = TokenVerifier("first", KEYRING["first"])
        event = WebhookReceiver(verifier).receive(body.decode(), request.headers["authorization"])
        self.attempts[event.id] = attempt = self.attempts.get(event.id, 0) + 1
        status = self.verdict(event, attempt)
        self.seen.append((event.room.name, event.event, status))
        if status == 200:
            self.events.append(event)
        await asyncio.sleep(0)
        self.at_once -= 1
        return Response(status_code=status, headers={"location": self.url} if status == 302 else None)


@contextlib.asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    async with listening(app) as (port, _):
        yield f"http://127.0.0.1:{port}/hook"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with serving(Starlette(routes=[Route("/hook", receiver.receive, methods=["POST"])])) as receiver.url:
        yield receiver


class Pauses:
    """Stands for `asyncio.sleep`: notes how long it was asked for and returns at the next turn of the loop."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def make(*urls: str, file: Path | None = None, pauses: Pauses | None = None, **settings: Any) -> Webhooks:
    return Webhooks(
        WebhookSettings(urls=urls, **settings),
        KEYRING,
        Outbox(file),
        WebhookMetrics(CollectorRegistry()),
        clock=lambda: 1_800_000_000.0,
        sleep=pauses or Pauses(),
    )


def event(name: str, room: str = "standup") -> WebhookEvent:
    return WebhookEvent(event=name, room=Room(sid="RM_x", name=room))


def sample(webhooks: Webhooks, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    for collector in vars(webhooks._metrics).values():
        registry.register(collector)
    return registry.get_sample_value(name, labels)


@pytest.fixture(autouse=True)
def verify_at_the_tests_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import jwt.api_jwt

    class Clock(jwt.api_jwt.datetime):  # type: ignore[misc, name-defined] # the module's own import of the class
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls.fromtimestamp(1_800_000_000, tz)

    monkeypatch.setattr(jwt.api_jwt, "datetime", Clock)


async def test_an_event_arrives_as_livekit_sends_it(receiver: Receiver) -> None:
    webhooks = make(receiver.url)
    webhooks.publish(event("room_started"))
    await webhooks.close(5)
    (arrived,) = receiver.events
    assert (arrived.event, arrived.room.name, arrived.created_at) == ("room_started", "standup", 1_800_000_000)
    assert arrived.id.startswith("EV_")
    ((headers, body),) = receiver.raw
    assert headers["content-type"] == "application/webhook+json"
    assert not headers["authorization"].startswith("Bearer")
    assert b'"createdAt": "1800000000"' in body


async def test_events_of_a_room_keep_their_order_through_failures(receiver: Receiver) -> None:
    """F-36"""
    receiver.verdict = lambda event, attempt: 200 if attempt == 3 else 503
    pauses = Pauses()
    webhooks = make(receiver.url, pauses=pauses, backoff_first_seconds=1.0)
    names = [f"event_{number}" for number in range(5)]
    for name in names:
        webhooks.publish(event(name))
    await webhooks.close(10)
    assert [arrived.event for arrived in receiver.events] == names
    assert [name for _, name, _ in receiver.seen] == [name for name in names for _ in range(3)]
    for first, second in zip(pauses.seconds[::2], pauses.seconds[1::2], strict=True):
        assert 0.75 <= first <= 1.0
        assert 1.5 <= second <= 2.0


async def test_a_room_does_not_wait_for_another(receiver: Receiver) -> None:
    """F-36"""
    stuck = asyncio.Event()

    async def hold(seconds: float) -> None:
        await stuck.wait()

    receiver.verdict = lambda event, attempt: 503 if event.room.name == "broken" else 200
    webhooks = make(receiver.url)
    webhooks._sleep = hold
    webhooks.publish(event("room_started", "broken"))
    for number in range(5):
        webhooks.publish(event(f"event_{number}", "fine"))
    await webhooks.close(1)
    assert [arrived.event for arrived in receiver.events] == [f"event_{number}" for number in range(5)]


async def test_every_url_gets_every_event(receiver: Receiver) -> None:
    other = Receiver()
    async with serving(Starlette(routes=[Route("/hook", other.receive, methods=["POST"])])) as other.url:
        webhooks = make(receiver.url, other.url)
        webhooks.publish(event("room_started"))
        await webhooks.close(5)
    assert [arrived.id for arrived in receiver.events] == [arrived.id for arrived in other.events] != []


async def test_after_the_last_try_the_next_event_has_its_turn(receiver: Receiver) -> None:
    receiver.verdict = lambda event, attempt: 500 if event.event == "lost" else 200
    webhooks = make(receiver.url, attempts_max=4)
    webhooks.publish(event("lost"))
    webhooks.publish(event("next"))
    await webhooks.close(5)
    assert [name for _, name, _ in receiver.seen] == ["lost"] * 4 + ["next"]
    assert sample(webhooks, "callyard_webhook_attempts_total", result="given_up") == 1
    assert sample(webhooks, "callyard_webhook_attempts_total", result="failed") == 3
    assert sample(webhooks, "callyard_webhook_attempts_total", result="delivered") == 1
    assert sample(webhooks, "callyard_webhook_waiting") == 0


async def test_gone_is_not_asked_again(receiver: Receiver) -> None:
    receiver.verdict = lambda event, attempt: 410
    webhooks = make(receiver.url)
    webhooks.publish(event("room_started"))
    await webhooks.close(5)
    assert len(receiver.seen) == 1


async def test_what_is_secret_in_an_url_is_not_logged(receiver: Receiver) -> None:
    receiver.verdict = lambda event, attempt: 410 if attempt == 2 else 500
    webhooks = make(f"{receiver.url}?key=hunter2")
    with capture_logs() as logs:
        webhooks.publish(event("room_started"))
        await webhooks.close(5)
    assert [entry["event"] for entry in logs] == ["webhook_failed", "webhook_given_up"]
    assert [entry["url"] for entry in logs] == [f"{receiver.url}?key=(set)"] * 2


async def test_a_redirect_is_a_failure_and_not_followed(receiver: Receiver) -> None:
    receiver.verdict = lambda event, attempt: 302
    webhooks = make(receiver.url, attempts_max=2)
    webhooks.publish(event("room_started"))
    await webhooks.close(5)
    assert len(receiver.seen) == 2
    assert not receiver.events


async def test_nobody_listening_is_tried_again_until_somebody_does(receiver: Receiver) -> None:
    listener = listen("127.0.0.1", 0, 1)
    dead = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    listener.close()
    pauses = Pauses()
    webhooks = make(dead, pauses=pauses, attempts_max=6)
    webhooks.publish(event("room_started"))
    await webhooks.close(5)
    assert len(pauses.seconds) == 5


async def test_a_very_long_answer_is_not_read() -> None:
    sent = 0

    async def endless(_: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            while sent < 2_000:
                await asyncio.sleep(0)
                sent += 1
                yield b"x" * 65_536

        return StreamingResponse(chunks())

    async with serving(Starlette(routes=[Route("/hook", endless, methods=["POST"])])) as url:
        webhooks = make(url)
        webhooks.publish(event("room_started"))
        await webhooks.close(5)
        # A reader would have had to take all of it, 131 MB, before the delivery counted as made.
        assert sent < 2_000
        assert sample(webhooks, "callyard_webhook_attempts_total", result="delivered") == 1


async def test_what_a_dead_process_owed_is_delivered_by_the_next(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "state" / "outbox.sqlite"
    receiver.verdict = lambda event, attempt: 503
    stuck = asyncio.Event()

    async def hold(seconds: float) -> None:
        await stuck.wait()

    first = make(receiver.url, "http://127.0.0.1:1/removed", file=file)
    first._sleep = hold
    for number in range(3):
        first.publish(event(f"event_{number}"))
    await first.close(0.5)
    assert not receiver.events

    receiver.verdict = lambda event, attempt: 200
    second = make(receiver.url, file=file)
    second.start()
    second.publish(event("event_3"))
    await second.close(5)
    assert [arrived.event for arrived in receiver.events] == [f"event_{number}" for number in range(4)]
    assert not Outbox(file).owed()


async def test_a_full_queue_drops_the_oldest_and_says_so(receiver: Receiver) -> None:
    gate = asyncio.Event()

    async def hold(seconds: float) -> None:
        await gate.wait()

    receiver.verdict = lambda event, attempt: 503 if not gate.is_set() else 200
    webhooks = make(receiver.url, queue_max_events=100)
    webhooks._sleep = hold
    for number in range(103):
        webhooks.publish(event(f"event_{number}"))
    webhooks.publish(event("event_103"))
    gate.set()
    await webhooks.close(10)
    assert [arrived.event for arrived in receiver.events] == [f"event_{number}" for number in range(4, 104)]
    assert sum(arrived.num_dropped for arrived in receiver.events) == 3
    assert sample(webhooks, "callyard_webhook_dropped_total") == 4


class FullDisk(Outbox):
    """Takes neither what is owed nor that it is settled, while `is_full`."""

    is_full = True

    def add(self, urls: Iterable[str], room: str, body: bytes) -> list[Delivery]:
        self._check()
        return super().add(urls, room, body)

    def settle(self, number: int) -> None:
        self._check()
        super().settle(number)

    def _check(self) -> None:
        if self.is_full:
            raise sqlite3.OperationalError("database or disk is full")


async def test_what_a_full_disk_does_not_take_is_kept_in_memory_and_delivered(
    receiver: Receiver, tmp_path: Path
) -> None:
    """F-27"""
    file = tmp_path / "outbox.sqlite"
    webhooks = make(receiver.url)
    webhooks._outbox = disk = FullDisk(file)
    disk.is_full = False
    webhooks.publish(event("event_0"))
    disk.is_full = True
    for number in range(1, 4):
        webhooks.publish(event(f"event_{number}"))
    await asyncio.wait(webhooks._tasks, timeout=10)
    # The lane has ended, and what comes later has one again.
    webhooks.publish(event("event_4"))
    await asyncio.wait(webhooks._tasks, timeout=10)
    assert [arrived.event for arrived in receiver.events] == [f"event_{number}" for number in range(5)]
    assert not webhooks._lanes
    assert not webhooks._waiting
    # Four that were not stored, and the first that could not be forgotten, found so five times.
    assert sample(webhooks, "callyard_webhook_not_written_total") == 9
    disk.is_full = False
    webhooks.publish(event("event_5"))
    await webhooks.close(10)
    assert receiver.events[-1].event == "event_5"
    assert not Outbox(file).owed()


async def test_the_oldest_gives_way_on_a_full_disk_too(receiver: Receiver, tmp_path: Path) -> None:
    webhooks = make(receiver.url, queue_max_events=100)
    webhooks._outbox = FullDisk(tmp_path / "outbox.sqlite")
    for number in range(102):
        webhooks.publish(event(f"event_{number}"))
    await webhooks.close(10)
    assert [arrived.event for arrived in receiver.events] == [f"event_{number}" for number in range(2, 102)]


async def test_deliveries_at_once_are_bounded(receiver: Receiver) -> None:
    webhooks = make(receiver.url, concurrency=3)
    for number in range(40):
        webhooks.publish(event("room_started", f"room_{number}"))
    await webhooks.close(10)
    assert len(receiver.events) == 40
    assert receiver.most_at_once <= 3


async def test_as_many_are_delivered_at_once_as_the_settings_say() -> None:
    there, all_there = 0, asyncio.Event()

    async def receive(request: Request) -> Response:
        nonlocal there
        there += 1
        if there == 120:
            all_there.set()
        await all_there.wait()
        return Response()

    async with serving(Starlette(routes=[Route("/hook", receive, methods=["POST"])])) as url:
        webhooks = make(url, concurrency=120, timeout_seconds=30)
        for number in range(120):
            webhooks.publish(event("room_started", f"room_{number}"))
        async with asyncio.timeout(20):
            await all_there.wait()
        await webhooks.close(10)
    assert sample(webhooks, "callyard_webhook_attempts_total", result="delivered") == 120


async def test_the_signing_key_can_be_chosen(receiver: Receiver) -> None:
    webhooks = make(receiver.url, key="second", attempts_max=1)
    webhooks.publish(event("room_started"))
    await webhooks.close(5)
    token = receiver.raw[0][0]["authorization"]
    assert TokenVerifier("second", KEYRING["second"]).verify(token).sha256


async def test_without_urls_nothing_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "outbox.sqlite"
    webhooks = make(file=file)
    webhooks.publish(event("room_started"))
    await webhooks.close()
    assert not Outbox(file).owed()
