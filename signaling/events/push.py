"""Sends what is owed to devices, by the providers' own protocols: APNs (HTTP/2), FCM v1, Web Push (RFC 8030).

A dead token takes its device away at once; anything else is tried at most three times before the message expires.
Rings go first, and nobody has more under way than his share, so that what hangs holds up itself alone: a device one
message, each user, push service and provider what the settings say. Not here: what is owed (`journal.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from msgspec import structs

from signaling.calls.model import Device, PushJob, PushProvider
from signaling.calls.settings import CallsSettings
from signaling.events import apns, fcm, webpush
from signaling.events.addresses import ForbiddenAddress
from signaling.events.outbound import Outbound
from signaling.events.owed import begin_as_due, next_due, settle, take_due
from signaling.events.push_message import Result, Verdict
from signaling.store.database import Database, deletion, fetch, fetch_one, outlived
from signaling.store.kinds import DEVICES, PUSH_JOBS, PUSH_PROVIDERS

ATTEMPTS_MAX = 3
BACK_OFF_SECONDS = (1, 3)
FOUND_AT_ONCE = 128
TAKEN_SECONDS = 25.0
"""How long a message counts as being sent: longer than a provider may take to give a key and to take it."""
ERROR_MAX_CHARACTERS = 256
PROVIDER_TYPES = {"apns": "apns", "apns_voip": "apns", "fcm": "fcm", "webpush": "webpush"}


class PushSender:
    def __init__(
        self, database: Database, outbound: Outbound, now: Callable[[], datetime], settings: CallsSettings
    ) -> None:
        self._shares = {
            "device_id": 1,
            "user_id": settings.push_at_once_per_user,
            "host": settings.push_at_once_per_host,
            "provider": settings.push_at_once_per_provider,
        }
        self._database = database
        self._outbound = outbound
        self._now = now
        self._apns = apns.Apns(outbound)
        self._fcm = fcm.Fcm(outbound)
        self._webpush = webpush.WebPush(outbound)
        self._sending: dict[asyncio.Task[None], PushJob] = {}
        self.finished = asyncio.Event()

    async def run_due(self) -> datetime | None:
        """Attempt every message that is due, and see it through; return when the next one is."""
        while True:
            at = await self.begin_due()
            if not self._sending:
                return at
            await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)

    async def begin_due(self) -> datetime | None:
        """Begin to attempt what is due, rings first; return when the next one is that waits for none to end."""
        urgent = PUSH_JOBS.table.c.urgent
        soonest = [await self._begin_due(urgent.is_(rings)) for rings in (True, False)]
        return min((at for at in soonest if at is not None), default=None)

    async def _begin_due(self, kind: Any) -> datetime | None:
        while True:
            now = self._now()
            free = [kind, *self._with_room()]
            at = await next_due(self._database, PUSH_JOBS, now, *free)
            if at is None or at > now:
                return at
            until = now + timedelta(seconds=TAKEN_SECONDS)
            due = await take_due(self._database, PUSH_JOBS, now, until, FOUND_AT_ONCE, *free, choose=self._choose)
            if not due:
                return at  # another process has it
            for job in due:
                task = asyncio.create_task(self._see_through(job))
                self._sending[task] = job
                task.add_done_callback(self._ended)

    def _under_way(self) -> dict[str, Counter[str]]:
        return {name: Counter(getattr(job, name) for job in self._sending.values()) for name in self._shares}

    def _with_room(self) -> list[Any]:
        """Return the conditions of what is nobody's who has his share under way."""
        columns = PUSH_JOBS.table.c
        full = {
            name: [one for one, count in counts.items() if one and count >= self._shares[name]]
            for name, counts in self._under_way().items()
        }
        return [columns[name].not_in(those) for name, those in full.items() if those]

    def _choose(self, found: list[PushJob]) -> list[PushJob]:
        """Return, in order, those that are within everybody's shares."""
        counts, chosen = self._under_way(), []
        for job in found:
            of = [(name, one) for name in self._shares if (one := getattr(job, name))]
            if all(counts[name][one] < self._shares[name] for name, one in of):
                for name, one in of:
                    counts[name][one] += 1
                chosen.append(job)
        return chosen

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self.finished.set()

    async def _see_through(self, job: PushJob) -> None:
        with outlived("push_attempt_failed"):
            await self._attempt(job)

    async def _attempt(self, job: PushJob) -> None:
        now = self._now()
        if job.expires_at <= now:
            await self._settle(job, "failed", Result(Verdict.RETRY, None, "expired before it could be sent"), tried=0)
            return
        async with self._database.read() as connection:
            device: Device | None = await fetch_one(connection, DEVICES, id=job.device_id)
            provider = await self._provider(connection, device) if device else None
        if device is None or provider is None:
            reason = "the device is gone" if device is None else "no push provider of its type"
            await self._settle(job, "failed", Result(Verdict.RETRY, None, reason), tried=0)
            return
        result = await self._send(provider, device, job)
        if result.verdict is Verdict.SENT:
            await self._settle(job, "delivered", result)
        elif result.verdict is Verdict.DEAD:
            await self._settle(job, "failed", result, forget=device)
        elif job.attempts + 1 >= ATTEMPTS_MAX:
            await self._settle(job, "failed", result)
        else:
            await self._settle(job, "pending", result, again=now + timedelta(seconds=BACK_OFF_SECONDS[job.attempts]))

    async def _provider(self, connection: object, device: Device) -> PushProvider | None:
        providers: list[PushProvider] = await fetch(connection, PUSH_PROVIDERS)  # type: ignore[arg-type]
        fitting = sorted(
            (p for p in providers if p.type == PROVIDER_TYPES[device.provider]), key=lambda p: (p.created_at, p.name)
        )
        if device.push_provider is not None:
            return next((p for p in fitting if p.name == device.push_provider), None)
        return fitting[0] if fitting else None

    async def _send(self, provider: PushProvider, device: Device, job: PushJob) -> Result:
        senders = {"apns": self._apns.send, "fcm": self._fcm.send, "webpush": self._webpush.send}
        try:
            return await senders[provider.type](provider, device, job, self._now())
        except (ForbiddenAddress, ConnectionError, ValueError) as error:
            return Result(Verdict.RETRY, None, str(error))

    async def _settle(
        self,
        job: PushJob,
        state: str,
        result: Result,
        *,
        tried: int = 1,
        again: datetime | None = None,
        forget: Device | None = None,
    ) -> None:
        settled = structs.replace(
            job,
            state=state,
            attempts=job.attempts + tried,
            last_status=result.status,
            last_error=result.error[:ERROR_MAX_CHARACTERS] if result.error else None,
            next_attempt_at=again,
            updated_at=self._now(),
        )
        async with self._database.write() as connection:
            await settle(connection, job, settled)
            if forget is not None:
                await connection.execute(deletion(DEVICES, id=forget.id))

    async def loop(self, wake: asyncio.Event, poll_seconds: float) -> None:
        self.finished = wake
        try:
            await begin_as_due(self.begin_due, self._now, wake, poll_seconds, "push_failed")
        finally:
            for task in self._sending:
                task.cancel()


def way_of(device: Device) -> tuple[str, str]:
    """Return where a message to a device goes: `provider` and `host` of its job."""
    provider = f"{PROVIDER_TYPES[device.provider]}/{device.push_provider or ''}"
    return provider, webpush.host_of(device.token) if device.provider == "webpush" else ""


def check_keys(provider: PushProvider) -> None:
    """Raise `UnusableKey` if a provider's keys cannot be used."""
    {"apns": apns.check_keys, "fcm": fcm.check_keys, "webpush": webpush.check_keys}[provider.type](provider)
