"""Delivers what is owed to webhooks: retried with back-off for a day and more, each attempt logged.

Back-off: 5 s, 30 s, 2 min, 10 min, 1 h, 6 h, 24 h, ± 20 %. 410 switches the endpoint off. Not here: what is owed
(`journal.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog
from msgspec import structs

from signaling.calls.model import Delivery, Webhook
from signaling.events.addresses import ForbiddenAddress
from signaling.events.outbound import Outbound
from signaling.events.owed import begin_as_due, keep, next_due, settle, take_due
from signaling.events.signatures import sign
from signaling.store import schema
from signaling.store.database import Database, fetch, fetch_one, outlived, save
from signaling.store.kinds import DELIVERIES, WEBHOOKS

log = structlog.get_logger(__name__)

BACK_OFF_SECONDS = (5, 30, 120, 600, 3_600, 21_600, 86_400)
JITTER = 0.2
AT_ONCE = 32
TAKEN_SECONDS = 5.0
"""How much longer than an attempt may last a delivery counts as being sent; so late is what a dead process took."""
ERROR_MAX_CHARACTERS = 256
GONE = 410


class WebhookSender:
    """`randomness`: bytes for the jitter."""

    def __init__(
        self,
        database: Database,
        outbound: Outbound,
        now: Callable[[], datetime],
        randomness: Callable[[int], bytes],
        *,
        timeout_seconds: float,
    ) -> None:
        self._database = database
        self._outbound = outbound
        self._now = now
        self._randomness = randomness
        self._timeout_seconds = timeout_seconds
        self._sending: dict[str, asyncio.Task[None]] = {}
        self.finished = asyncio.Event()

    async def run_due(self) -> datetime | None:
        """Attempt every delivery that is due, and see it through; return when the next one is, None: nothing is."""
        while True:
            at = await self.begin_due()
            if not self._sending:
                return at
            await asyncio.wait(self._sending.values(), return_when=asyncio.FIRST_COMPLETED)

    async def begin_due(self) -> datetime | None:
        """Begin to attempt what is due; return when the next one is. A slow endpoint holds up itself alone."""
        columns = schema.deliveries.c
        while True:
            others = columns.webhook_id.not_in(list(self._sending))
            due = await take_due(self._database, DELIVERIES, self._now(), self._until(), AT_ONCE, others)
            if not due:
                return await next_due(self._database, DELIVERIES, self._now(), others)
            async with self._database.read() as connection:
                webhooks = {webhook.id: webhook for webhook in await fetch(connection, WEBHOOKS)}
            of_webhook: dict[str, list[Delivery]] = {}
            for delivery in due:
                of_webhook.setdefault(delivery.webhook_id, []).append(delivery)
            for webhook_id, deliveries in of_webhook.items():
                self._sending[webhook_id] = asyncio.create_task(self._batch(webhooks.get(webhook_id), deliveries))

    def _until(self) -> datetime:
        return self._now() + timedelta(seconds=self._timeout_seconds + TAKEN_SECONDS)

    async def _batch(self, webhook: Webhook | None, deliveries: list[Delivery]) -> None:
        try:
            with outlived("webhook_batch_failed"):
                streams: dict[str | None, list[Delivery]] = {}
                for delivery in deliveries:
                    streams.setdefault(delivery.cid, []).append(delivery)
                # Side by side, each in order.
                await asyncio.gather(*(self._stream(webhook, one) for one in streams.values()))
        finally:
            del self._sending[deliveries[0].webhook_id]
            self.finished.set()

    async def _stream(self, webhook: Webhook | None, deliveries: list[Delivery]) -> None:
        while deliveries:
            left = deliveries[0].next_attempt_at
            if left is None or left - self._now() < timedelta(seconds=self._timeout_seconds):
                deliveries = await keep(self._database, deliveries, self._until())
                continue
            await self._attempt(webhook, deliveries[0])
            deliveries = deliveries[1:]

    async def _attempt(self, webhook: Webhook | None, delivery: Delivery) -> None:
        if webhook is None or not webhook.enabled:
            await self._settle(delivery, state="failed", last_error="the endpoint is switched off")
            return
        status, error = await self._send(webhook, delivery)
        now = self._now()
        if status is not None and 200 <= status < 300:
            await self._settle(delivery, state="delivered", last_status=status, last_error=None, delivered_at=now)
            return
        if status == GONE:
            await self._switch_off(webhook)
        failed = status == GONE or delivery.attempts >= len(BACK_OFF_SECONDS)
        await self._settle(
            delivery,
            state="failed" if failed else "pending",
            last_status=status,
            last_error=error,
            next_attempt_at=None if failed else now + self._pause(delivery.attempts),
        )

    async def _send(self, webhook: Webhook, delivery: Delivery) -> tuple[int | None, str | None]:
        now, body = self._now(), delivery.body.encode()
        timestamp = int(now.timestamp())
        signing = [secret for secret, until in webhook.secrets if until is None or until > now]
        headers = {
            "content-type": "application/json",
            "user-agent": "Callyard-Webhooks/1",
            "webhook-id": delivery.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(sign(secret, delivery.event_id, timestamp, body) for secret in signing),
        }
        try:
            answer = await self._outbound.post(webhook.url, body, headers, timeout_seconds=self._timeout_seconds)
        except (ForbiddenAddress, ConnectionError) as error:
            return None, str(error)[:ERROR_MAX_CHARACTERS]
        ok = 200 <= answer.status < 300
        return answer.status, None if ok else f"the endpoint answered {answer.status}"

    def _pause(self, attempts: int) -> timedelta:
        share = int.from_bytes(self._randomness(2), "big") / 65_535
        return timedelta(seconds=BACK_OFF_SECONDS[attempts] * (1 - JITTER + 2 * JITTER * share))

    async def _settle(self, delivery: Delivery, **changes: object) -> None:
        changes = {"next_attempt_at": None, "attempts": delivery.attempts + 1, "updated_at": self._now(), **changes}
        async with self._database.write() as connection:
            await settle(connection, delivery, structs.replace(delivery, **changes))

    async def _switch_off(self, webhook: Webhook) -> None:
        async with self._database.write(alone="webhooks") as connection:
            current: Webhook | None = await fetch_one(connection, WEBHOOKS, id=webhook.id)
            if current is not None:
                await save(connection, [structs.replace(current, enabled=False, updated_at=self._now())])
        log.warning("webhook_switched_off", webhook=webhook.id, reason="the endpoint answered 410")

    async def loop(self, wake: asyncio.Event, poll_seconds: float) -> None:
        self.finished = wake
        try:
            await begin_as_due(self.begin_due, self._now, wake, poll_seconds, "webhooks_failed")
        finally:
            for task in self._sending.values():
                task.cancel()
