"""`/metrics`: signaling's own figures, and whatever other collectors the registry holds.

Prometheus' conventions: base units, `_total` on counters, no label whose values a client can choose. Workers' figures
come from `sfu.metrics`, registered by `app.py`.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from signaling import __version__

LAG_INTERVAL_SECONDS = 1.0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class SignalingMetrics:
    """The signaling process's instruments, on a registry of their own so that two servers can live in one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        build = Gauge(
            "callyard_build_info", "Always 1; labels say what runs.", ["version", "python"], registry=registry
        )
        build.labels(__version__, platform.python_version()).set(1)
        self.requests = Counter(
            "callyard_http_requests",
            "HTTP requests answered, by method and status class.",
            ["method", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "callyard_http_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.websockets = Gauge("callyard_websockets", "Open WebSocket connections.", registry=registry)
        self.loop_lag_seconds = Histogram(
            "callyard_signaling_loop_lag_seconds",
            "How much later than asked the signaling loop woke up, sampled every second.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )


async def sample_loop_lag(metrics: SignalingMetrics) -> None:
    """Observe the loop's lag until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        asked = loop.time() + LAG_INTERVAL_SECONDS
        await asyncio.sleep(LAG_INTERVAL_SECONDS)
        metrics.loop_lag_seconds.observe(max(0.0, loop.time() - asked))


def metrics_routes(
    registry: CollectorRegistry, refresh: Sequence[Callable[[], Awaitable[None]]] = ()
) -> list[BaseRoute]:
    """Return the route. `refresh` is awaited first: what fetches figures from elsewhere, so that they are of now."""

    async def metrics(_: Request) -> Response:
        await asyncio.gather(*(fetch() for fetch in refresh))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/metrics", metrics)]


class RequestMetrics:
    """ASGI middleware that counts and times requests. No label is free for a client to choose."""

    def __init__(self, app: ASGIApp, metrics: SignalingMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            with self._metrics.websockets.track_inprogress():
                await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "5xx"

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = f"{message['status'] // 100}xx"
            await send(message)

        method = scope["method"] if scope["method"] in _METHODS else "other"
        with self._metrics.request_seconds.time():
            try:
                await self._app(scope, receive, noting_status)
            finally:
                self._metrics.requests.labels(method, status).inc()
