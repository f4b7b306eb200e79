"""The composition: which parts a server has, in which order they start and stop.

Starts workers, rooms and listeners; drains on SIGTERM. Not here: any rule of a room, any route's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from signaling.api.health import health_routes
from signaling.api.metrics import RequestMetrics, SignalingMetrics, metrics_routes, sample_loop_lag
from signaling.console.routes import call_page_routes
from signaling.http_server import HttpServer, http_server
from signaling.settings import Settings

log = structlog.get_logger(__name__)


class Server:
    """One signaling process: everything between `start` and the end of `run`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = SignalingMetrics(CollectorRegistry())
        self._draining = False
        self._forced = asyncio.Event()
        self._asked_to_stop = asyncio.Event()
        self._drain_seconds = settings.drain.deadline_seconds

    async def run(self, listener: socket.socket) -> None:
        """Serve on `listener` until told to stop by a signal or by `stop`."""
        async with contextlib.AsyncExitStack() as parts:
            lag = asyncio.create_task(sample_loop_lag(self.metrics))
            parts.callback(lag.cancel)
            http = http_server(RequestMetrics(self.asgi(), self.metrics), self.settings.http)
            self._watch_signals(parts)
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            log.info("server_started", bind=self.settings.bind, port=listener.getsockname()[1])
            stopping = asyncio.create_task(self._asked_to_stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await self._drain(http)
            await serving
        log.info("server_stopped")

    def stop(self, *, drain_seconds: float | None = None) -> None:
        """Begin to drain; a second call stops at once. None: the deadline from the settings."""
        if self._asked_to_stop.is_set():
            self._forced.set()
            return
        if drain_seconds is not None:
            self._drain_seconds = drain_seconds
        self._draining = True
        self._asked_to_stop.set()

    def asgi(self) -> Starlette:
        """Return the HTTP application."""
        routes: list[BaseRoute] = [
            *health_routes(self.not_ready),
            *metrics_routes(self.metrics.registry),
            *call_page_routes(self.settings.keyring),
            *call_page_routes(self.settings.keyring),
        ]
        return Starlette(routes=routes)

    def not_ready(self) -> Mapping[str, str]:
        """What stands against new work, by name."""
        reasons = {}
        if self._draining:
            reasons["draining"] = "The server was told to stop and takes no new rooms or participants."
        return reasons

    def _watch_signals(self, parts: contextlib.AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        # Ctrl-C is a person who waits: clients are told, nobody is waited for.
        loop.add_signal_handler(signal.SIGINT, lambda: self.stop(drain_seconds=0))
        for number in (signal.SIGTERM, signal.SIGINT):
            parts.callback(loop.remove_signal_handler, number)

    async def _drain(self, http: HttpServer) -> None:
        log.info("draining", deadline_seconds=self._drain_seconds)
        http.stop(at_once=self._forced.is_set())
