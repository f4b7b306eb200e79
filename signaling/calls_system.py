"""The calls system put together: store, service, background work, routes. `app.py` starts it beside the rooms."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from starlette.routing import BaseRoute

from signaling.api.v1 import relay, upkeep
from signaling.api.v1.api import calls_routes
from signaling.api.v1.media_feed import CallsFeed
from signaling.api.v1.service import CallsService
from signaling.api.v1.timers import POLL_SECONDS, Timers
from signaling.calls.media import MediaRooms
from signaling.calls.settings import CallsSettings
from signaling.errors import SettingsError
from signaling.events.addresses import OutboundPolicy
from signaling.events.outbound import Outbound
from signaling.events.push import PushSender
from signaling.events.webhooks import WebhookSender
from signaling.store.database import Database, DatabaseAway, WrongDatabase

log = structlog.get_logger(__name__)

START_AGAIN_SECONDS, START_AGAIN_MAX_SECONDS = 0.5, 2.0
"""How long a start that failed for want of a database waits for the next, twice as long each time."""


@dataclass
class CallsSystem:
    """`feed` is what the media side asks and reports to; `routes` go into the HTTP application.

    `start` after the media side has attached to its workers: the running sessions are compared with its rooms.
    """

    service: CallsService
    feed: CallsFeed
    timers: Timers
    webhooks: WebhookSender
    push: PushSender
    routes: Sequence[BaseRoute]
    _starting: asyncio.Task[None] | None = field(default=None, init=False)

    async def start(self) -> None:
        """Start; if the database is away, do so once it is there, and refuse everything until then.

        Rooms that need no database do not wait for it. Raises `SettingsError` if the URL has to be mended.
        """
        try:
            await self._begin()
        except WrongDatabase as wrong:
            raise SettingsError(f"`database_url` cannot be used: {wrong.reason}.") from wrong
        except DatabaseAway as away:
            self._put_off(away)
            log.warning("calls_not_started", hint="Rooms are served. Calls begin when the database is there.")
            self._starting = asyncio.create_task(self._begin_later())

    async def _begin(self) -> None:
        await self.service.prepare()
        await self.service.relay.start()
        await self.feed.reconcile()
        self.service.start()

    async def _begin_later(self) -> None:
        pause, told = START_AGAIN_SECONDS, set[str]()
        while self.service.put_off is not None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, START_AGAIN_MAX_SECONDS)
            try:
                await self._begin()
            except DatabaseAway as away:  # it was logged
                self._put_off(away)
            except Exception as failure:  # whatever it is, it ends no room that is served
                if repr(failure) not in told:
                    told.add(repr(failure))
                    log.exception("calls_not_started")
                self.service.put_off = "Calls could not be started; the log says why."
        log.info("calls_started")

    def _put_off(self, away: DatabaseAway) -> None:
        self.service.put_off = f"Calls wait for the database ({away.reason or away.message})."

    async def stop(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        with contextlib.suppress(DatabaseAway):
            await self.service.nodes.retire()
        await self.service.stop()


def system_clock() -> datetime:
    return datetime.now(UTC)


def create_calls_system(
    settings: CallsSettings,
    database_url: str,
    media: MediaRooms,
    keys: Mapping[str, str],
    *,
    dev: bool = False,
    clock: Callable[[], datetime] = system_clock,
    randomness: Callable[[int], bytes] = os.urandom,
    tls: ssl.SSLContext | bool = True,
    name_max_bytes: int = 256,
) -> CallsSystem:
    """Put the calls system together; `start` and `stop` run it.

    keys: secrets by the name that tokens carry as `iss`; the first signs tokens made here. dev: plain http and
    loopback may be called, the development type is on, nobody is rate-limited. tls: how webhooks and push services are
    trusted. name_max_bytes: the longest name of a person that rooms take.
    """
    database = Database(database_url)
    policy = OutboundPolicy(settings.outbound_allowed_hosts, plain=dev, loopback=dev)
    outbound = Outbound(policy, tls=tls)
    service = CallsService(
        settings,
        database,
        media,
        clock,
        keys,
        outbound=outbound,
        dev=dev,
        randomness=randomness,
        name_max_bytes=name_max_bytes,
    )
    webhooks = WebhookSender(
        database, outbound, service.now, randomness, timeout_seconds=settings.webhook_timeout_seconds
    )
    push = PushSender(database, outbound, service.now, settings)

    async def deliver() -> None:
        await webhooks.loop(service.deliveries_owed, POLL_SECONDS)

    async def send_push() -> None:
        await push.loop(service.push_owed, POLL_SECONDS)

    async def look_after() -> None:
        await upkeep.loop(service)

    async def follow() -> None:
        await relay.loop(service)

    async def do_ours() -> None:
        await service.orders.loop(service.orders.do_ours, settings.event_poll_ms)

    async def do_anybodys() -> None:
        await service.orders.loop(service.orders.do_anybodys, settings.event_poll_ms)

    service.in_background(service.presence.loop)
    service.in_background(service.addresses.loop)
    feed = CallsFeed(service)
    for work in (deliver, send_push, look_after, follow, do_ours, do_anybodys, feed.follow_nodes):
        service.in_background(work)
    timers = Timers(service, feed.catch_up)
    service.in_background(timers.loop)
    return CallsSystem(service, feed, timers, webhooks, push, calls_routes(service))
