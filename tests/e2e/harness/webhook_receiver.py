"""Receives webhooks as an application would: the official receiver verifies each before it counts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from aiohttp import web
from livekit import api
from livekit.protocol.webhook import WebhookEvent

from tests.e2e.harness.server import Endpoint


class WebhookReceiver:
    """`events` as they came, each checked against the key; `statuses` are answered first, then 200."""

    def __init__(self, server: Endpoint) -> None:
        self.events: list[WebhookEvent] = []
        self.requests: list[web.Request] = []
        self.bodies: list[str] = []
        self.statuses: list[int] = []
        self.url = ""
        self._verify = api.WebhookReceiver(api.TokenVerifier(server.key, server.secret))
        self._runner: web.AppRunner | None = None
        self._changed = asyncio.Event()

    async def start(self) -> WebhookReceiver:
        """Listens on a free port, or on the one that an external server was told."""
        app = web.Application()
        app.router.add_post("/hook", self._receive)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", int(os.environ.get("CALLYARD_E2E_WEBHOOK_PORT", "0")))
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def of(self, room: str) -> list[WebhookEvent]:
        return [event for event in self.events if event.room.name == room]

    async def until(self, find: Callable[[], Any], *, seconds: float = 15, what: str = "") -> Any:
        deadline = asyncio.get_running_loop().time() + seconds
        while not (found := find()):
            self._changed.clear()
            try:
                async with asyncio.timeout(max(0.0, deadline - asyncio.get_running_loop().time())):
                    await self._changed.wait()
            except TimeoutError:
                names = [event.event for event in self.events]
                raise AssertionError(f"no webhook of {what or find} in {seconds} s; got {names}") from None
        return found

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.text()
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        event = self._verify.receive(body, request.headers["Authorization"])
        self.requests.append(request)
        self.bodies.append(body)
        self.events.append(event)
        self._changed.set()
        return web.Response()
