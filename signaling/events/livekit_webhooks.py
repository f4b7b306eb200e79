"""Webhooks in LiveKit's format: JSON of a `WebhookEvent`, signed by a JWT that carries the body's SHA-256.

Events of one room reach each URL in order, each retried with growing pauses; rooms do not wait for each other. At
least once: a receiver that answers late may see an event twice and tells them apart by `id`. Not here: which events
there are (`rooms/` says), and where they wait (`outbox.py`).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import secrets
import sqlite3
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping

import httpx2
import jwt
import structlog
from google.protobuf.json_format import MessageToJson
from livekit.protocol.webhook import WebhookEvent
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from signaling.events.outbox import Delivery, Outbox
from signaling.masking import masked
from signaling.settings import WebhookSettings

CONTENT_TYPE = "application/webhook+json"
TOKEN_SECONDS = 300
"""Validity of a delivery's token: longer than any clock difference a receiver should have."""
_GONE = 410

log = structlog.get_logger(__name__)


class WebhookMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "callyard_webhook_attempts",
            "Tries to deliver a webhook: delivered, failed (tried again later), given_up.",
            ["result"],
            registry=registry,
        )
        self.dropped = Counter(
            "callyard_webhook_dropped", "Webhooks given up because the queue was full.", registry=registry
        )
        self.not_written = Counter(
            "callyard_webhook_not_written",
            "Times that the disk did not take a webhook, or that it was delivered.",
            registry=registry,
        )
        self.waiting = Gauge("callyard_webhook_waiting", "Webhooks not yet delivered.", registry=registry)
        self.seconds = Histogram(
            "callyard_webhook_duration_seconds", "Time that one try to deliver a webhook took.", registry=registry
        )


class Webhooks:
    """Call `start`, then `publish`; `close` gives deliveries in flight a last chance and leaves the rest on disk.

    What the disk does not take is kept in memory and delivered all the same, as long as the process lives.

    clock: Unix seconds. sleep: how pauses are waited for; tests bring one that does not take time.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        keyring: Mapping[str, str],
        outbox: Outbox,
        metrics: WebhookMetrics,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._key = settings.key or next(iter(keyring))
        self._secret = keyring[self._key]
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._client = httpx2.AsyncClient(
            timeout=settings.timeout_seconds,
            limits=httpx2.Limits(max_connections=settings.concurrency),
            follow_redirects=False,
            trust_env=False,
            http2=False,
        )
        self._in_flight = asyncio.Semaphore(settings.concurrency)
        self._lanes: dict[tuple[str, str], deque[Delivery]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        # Everything that waits, oldest first, whatever its lane: what is dropped when the queue is full.
        self._waiting: OrderedDict[int, Delivery] = OrderedDict()
        self._dropped_since_event: dict[str, int] = {}
        self._last_unwritten = 0
        # What was delivered, or given up, and still stands on disk.
        self._unsettled: list[int] = []

    def start(self) -> None:
        """Take up what an earlier process still owed. What no longer has a receiver is forgotten."""
        for delivery in self._outbox.owed():
            if delivery.url in self._settings.urls:
                self._enqueue(delivery)
            else:
                self._settle(delivery.number)

    def publish(self, event: WebhookEvent) -> None:
        """Deliver `event` to every URL; fills in `id` and `created_at`. Returns at once."""
        if not self._settings.urls:
            return
        event.id = event.id or f"EV_{secrets.token_urlsafe(9)}"
        event.created_at = event.created_at or int(self._clock())
        for url in self._settings.urls:
            event.num_dropped = self._dropped_since_event.pop(url, 0)
            body = MessageToJson(event, indent=None).encode()
            self._enqueue(self._note(url, event.room.name, body))
        while len(self._waiting) > self._settings.queue_max_events:
            self._drop_oldest()

    async def close(self, patience_seconds: float = 0.0) -> None:
        """Stop delivering. Waits up to `patience_seconds` for the queue to empty; what is left stays on disk."""
        if self._tasks and patience_seconds > 0:
            await asyncio.wait(self._tasks, timeout=patience_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
        self._outbox.close()

    def _note(self, url: str, room: str, body: bytes) -> Delivery:
        """Note that it is owed: on disk, or if that takes nothing in memory alone, under a number below zero."""
        try:
            (delivery,) = self._outbox.add([url], room, body)
        except sqlite3.Error as error:
            self._not_written(error)
            self._last_unwritten -= 1
            return Delivery(self._last_unwritten, url, room, body)
        return delivery

    def _settle(self, number: int) -> None:
        """What cannot be forgotten now is with the next one; a successor that finds it would deliver it again."""
        if number > 0:
            self._unsettled.append(number)
        try:
            while self._unsettled:
                self._outbox.settle(self._unsettled[-1])
                self._unsettled.pop()
        except sqlite3.Error as error:
            self._not_written(error)

    def _not_written(self, error: sqlite3.Error) -> None:
        self._metrics.not_written.inc()
        log.error("webhook_not_written", failure=str(error))

    def _enqueue(self, delivery: Delivery) -> None:
        self._waiting[delivery.number] = delivery
        self._metrics.waiting.set(len(self._waiting))
        lane = (delivery.url, delivery.room)
        if lane in self._lanes:
            self._lanes[lane].append(delivery)
            return
        self._lanes[lane] = deque([delivery])
        task = asyncio.create_task(self._run_lane(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drop_oldest(self) -> None:
        number, delivery = self._waiting.popitem(last=False)
        self._settle(number)
        self._metrics.dropped.inc()
        self._metrics.waiting.set(len(self._waiting))
        self._dropped_since_event[delivery.url] = self._dropped_since_event.get(delivery.url, 0) + 1

    async def _run_lane(self, lane: tuple[str, str]) -> None:
        queue = self._lanes[lane]
        while queue:
            delivery = queue.popleft()
            await self._deliver(delivery)
            if self._waiting.pop(delivery.number, None):
                self._settle(delivery.number)
                self._metrics.waiting.set(len(self._waiting))
        # No await since the queue was seen empty, so nothing was added to it in between.
        del self._lanes[lane]

    async def _deliver(self, delivery: Delivery) -> None:
        told = {"url": masked(delivery.url), "room": delivery.room}
        for attempt in range(1, self._settings.attempts_max + 1):
            if delivery.number not in self._waiting:
                return
            failure = await self._try_once(delivery)
            if failure is None:
                self._metrics.attempts.labels("delivered").inc()
                return
            if attempt == self._settings.attempts_max or failure == f"status {_GONE}":
                self._metrics.attempts.labels("given_up").inc()
                log.error("webhook_given_up", **told, attempts=attempt, failure=failure)
                return
            self._metrics.attempts.labels("failed").inc()
            log.warning("webhook_failed", **told, attempt=attempt, failure=failure)
            await self._sleep(self._pause_seconds(attempt))

    async def _try_once(self, delivery: Delivery) -> str | None:
        """Return None when the receiver took it, else what was wrong."""
        headers = {"Content-Type": CONTENT_TYPE, "Authorization": self._token(delivery.body)}
        async with self._in_flight:
            with self._metrics.seconds.time():
                try:
                    # Streamed so that an answer's body is never read, however long it is.
                    async with (
                        asyncio.timeout(self._settings.timeout_seconds),
                        self._client.stream("POST", delivery.url, content=delivery.body, headers=headers) as reply,
                    ):
                        return None if reply.is_success else f"status {reply.status_code}"
                except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
                    return f"{type(error).__name__}: {error}"

    def _pause_seconds(self, attempt: int) -> float:
        pause = self._settings.backoff_first_seconds * 2.0 ** (attempt - 1)
        # Spread, so that the rooms that failed together do not come back together.
        return min(pause, self._settings.backoff_max_seconds) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret

    def _token(self, body: bytes) -> str:
        now = int(self._clock())
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        claims = {"iss": self._key, "nbf": now - 5, "exp": now + TOKEN_SECONDS, "sha256": digest}
        return jwt.encode(claims, self._secret, algorithm="HS256")
