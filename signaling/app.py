"""The composition: which parts a server has, in which order they start and stop.

Starts workers, rooms and listeners; drains on SIGTERM. Not here: any rule of a room, any route's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from sfu import open_files
from sfu.metrics import WorkerMetrics
from sfu.node import NodeError
from signaling import tokens
from signaling.api.client_address import TrustedProxies
from signaling.api.health import health_routes
from signaling.api.metrics import RequestMetrics, SignalingMetrics, metrics_routes, sample_loop_lag
from signaling.api.room_debug import room_debug_routes
from signaling.api.room_service import room_service_routes
from signaling.api.signal import signal_routes
from signaling.calls_system import create_calls_system
from signaling.console.dashboard import console_routes
from signaling.console.figures import RoomFigures
from signaling.console.routes import call_page_routes
from signaling.errors import CallyardError, SettingsError
from signaling.events.livekit_webhooks import WebhookMetrics, Webhooks
from signaling.events.outbox import Outbox
from signaling.http_server import HttpServer, http_server
from signaling.kept_cutoffs import KeptCutoffs
from signaling.media_rooms import ManagedRooms, Reports
from signaling.room_directory import RoomDirectory
from signaling.rooms.grants import Grants
from signaling.runtime import Rooms
from signaling.runtime_metrics import RoomMetrics
from signaling.settings import Settings

log = structlog.get_logger(__name__)

_NODE_FILE = "node"
_CUTOFFS_FILE = "cutoffs.sqlite"
_OUTBOX_FILE = "livekit-webhooks.sqlite"
_WEBHOOK_PATIENCE_SECONDS = 2.0
_CORS_SECONDS = 600


def node_id(state_dir: Path) -> str:
    """Return the id under which the database knows this node: the same after a restart, for its rooms live on.

    `SettingsError` where the directory cannot be used.
    """
    file = state_dir / _NODE_FILE
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            made = file.with_suffix(".new")
            made.write_text(secrets.token_hex(16))
            made.replace(file)
        return file.read_text().strip()
    except OSError as error:
        raise SettingsError(f"{state_dir} cannot be used ({error.strerror}); set CALLYARD_STATE_DIR.") from error


class Server:
    """One signaling process: everything between `start` and the end of `run`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        node = node_id(settings.state_dir)
        self.metrics = SignalingMetrics(CollectorRegistry())
        self.room_metrics = RoomMetrics(self.metrics.registry)
        self.worker_metrics = WorkerMetrics()
        self.metrics.registry.register(self.worker_metrics)
        self.webhooks = Webhooks(
            settings.webhooks,
            settings.keyring,
            Outbox(settings.state_dir / _OUTBOX_FILE if settings.webhooks.urls else None),
            WebhookMetrics(self.metrics.registry),
        )
        self.cutoffs = KeptCutoffs(settings.state_dir / _CUTOFFS_FILE, settings.rooms)
        self.rooms = Rooms(settings, self.room_metrics, self.webhooks.publish, cutoffs=self.cutoffs)
        self._port = settings.port
        self.calls = create_calls_system(
            settings.calls,
            settings.calls_database_url,
            ManagedRooms(self.rooms, node=node, url=self.signal_url),
            settings.keyring,
            dev=settings.dev > 0,
            name_max_bytes=settings.rooms.name_max_bytes,
        )
        self.reports = Reports(self.calls.feed, self.rooms)
        self.rooms.feed = self.reports
        self._forced = asyncio.Event()
        self._asked_to_stop = asyncio.Event()
        self._drain_seconds = settings.drain.deadline_seconds

    async def run(self, listener: socket.socket) -> None:
        """Serve on `listener` until told to stop by a signal or by `stop`."""
        open_files.raise_limit()
        self._watch_signals()
        async with contextlib.AsyncExitStack() as parts:
            lag = asyncio.create_task(sample_loop_lag(self.metrics))
            parts.callback(lag.cancel)
            parts.callback(self.cutoffs.close)
            parts.push_async_callback(self.webhooks.close, _WEBHOOK_PATIENCE_SECONDS)
            self.webhooks.start()
            try:
                await self.rooms.start()
            except NodeError as error:
                raise CallyardError(f"{error}.") from error
            parts.push_async_exit(self._leave_workers)
            self._port = listener.getsockname()[1]
            await self.calls.start()
            parts.push_async_callback(self.calls.stop)
            parts.push_async_callback(self.reports.stop)
            http = http_server(RequestMetrics(self.asgi(), self.metrics), self.settings.http)
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            log.info("server_started", bind=self.settings.bind, port=self._port)
            stopping = asyncio.create_task(self._asked_to_stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await self._drain(http)
            await serving
        log.info("server_stopped")

    async def _leave_workers(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the workers, or, if this process ends by a fault, leave them to its successor with all their calls."""
        node = self.rooms.node
        if kind is not None and issubclass(kind, Exception):
            await node.detach()
        else:
            await node.stop(0)

    def stop(self, *, drain_seconds: float | None = None) -> None:
        """Begin to drain; a second call stops at once. None: the deadline from the settings."""
        if self._asked_to_stop.is_set():
            self._forced.set()
            return
        if drain_seconds is not None:
            self._drain_seconds = drain_seconds
        self.rooms.is_draining = True
        self._asked_to_stop.set()

    def asgi(self) -> ASGIApp:
        """Return the HTTP application."""
        settings = self.settings
        routes: list[BaseRoute] = [
            *health_routes(self.not_ready),
            *metrics_routes(self.metrics.registry, [self._read_workers]),
            *signal_routes(self.rooms, self.verify, settings.rooms, self._count_refusal),
            *room_service_routes(RoomDirectory(self.rooms), self.verify, settings.http),
            *room_debug_routes(self.rooms, self.verify, settings.node.engine.trace_max_seconds),
            *call_page_routes(settings.keyring),
            *self.calls.routes,
            *console_routes(
                self.calls.service,
                public_url=settings.public_url,
                figures=RoomFigures(self.rooms, self.calls.service),
            ),
        ]
        # Browser applications come from other origins; whoever asks brings a token, never a cookie.
        shared = CORSMiddleware(
            Starlette(routes=routes),
            allow_origins=["*"],
            allow_methods=["*"],
            allow_headers=["*"],
            max_age=_CORS_SECONDS,
        )
        return TrustedProxies(shared, settings.http.trusted_proxies)

    def signal_url(self) -> str:
        """How clients reach the signal connection."""
        settings = self.settings
        if settings.public_url:
            return settings.public_url.rstrip("/").replace("http", "ws", 1)
        host = settings.bind
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = next(iter(self.rooms.node.workers[0].info.addresses), host) if self.rooms.node.workers else host
        return f"ws://{f'[{host}]' if ':' in host else host}:{self._port}"

    def verify(self, token: str) -> Grants:
        """Return what a token allows; raises `Unauthenticated`."""
        return tokens.verify(token, self.settings.keyring, time.time(), self.settings.rooms)

    def not_ready(self) -> Mapping[str, str]:
        """What stands against new work, by name."""
        reasons = dict(self.rooms.not_ready())
        if self._asked_to_stop.is_set():
            reasons["draining"] = "The server was told to stop and takes no new rooms."
        if self.calls.service.put_off is not None:
            reasons["calls"] = self.calls.service.put_off
        return reasons

    async def _read_workers(self) -> None:
        await self.worker_metrics.refresh(self.rooms.node.workers, self.rooms.node.count)

    def _count_refusal(self, code: str) -> None:
        self.room_metrics.refused.labels(code).inc()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        # Ctrl-C is a person who waits: clients are told, nobody is waited for.
        loop.add_signal_handler(signal.SIGINT, lambda: self.stop(drain_seconds=0))

    async def _drain(self, http: HttpServer) -> None:
        log.info("draining", deadline_seconds=self._drain_seconds)
        leaving = asyncio.create_task(self._see_off())
        forced = asyncio.create_task(self._forced.wait())
        await asyncio.wait({leaving, forced}, return_when=asyncio.FIRST_COMPLETED)
        for task in (leaving, forced):
            task.cancel()
        http.stop(at_once=self._forced.is_set())

    async def _see_off(self) -> None:
        await self.rooms.drain(self._drain_seconds)
        await self.rooms.dismiss()
