from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from signaling import __version__
from signaling.api.metrics import RequestMetrics, SignalingMetrics, metrics_routes


@pytest.fixture
def metrics() -> SignalingMetrics:
    return SignalingMetrics(CollectorRegistry())


def client(metrics: SignalingMetrics) -> TestClient:
    async def fail(_: Request) -> Response:
        raise RuntimeError

    async def hello(_: Request) -> Response:
        return PlainTextResponse("hello")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    app = Starlette(
        routes=[
            Route("/hello", hello, methods=["GET", "POST"]),
            Route("/fail", fail),
            WebSocketRoute("/ws", socket),
            *metrics_routes(metrics.registry),
        ]
    )
    return TestClient(RequestMetrics(app, metrics), raise_server_exceptions=False)


def value(metrics: SignalingMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_requests_are_counted_by_method_and_class(metrics: SignalingMetrics) -> None:
    http = client(metrics)
    for _ in range(2):
        http.get("/hello")
    http.post("/hello")
    http.get("/nowhere")
    http.get("/fail")
    http.request("BREW", "/hello")
    counted = {
        ("GET", "2xx"): 2,
        ("POST", "2xx"): 1,
        ("GET", "4xx"): 1,
        ("GET", "5xx"): 1,
        ("other", "4xx"): 1,
    }
    for (method, status), count in counted.items():
        assert value(metrics, "callyard_http_requests_total", method=method, status=status) == count
    assert value(metrics, "callyard_http_request_duration_seconds_count") == sum(counted.values())


def test_open_websockets_are_a_gauge(metrics: SignalingMetrics) -> None:
    with client(metrics).websocket_connect("/ws") as socket:
        assert value(metrics, "callyard_websockets") == 1
        socket.send_text("bye")
    assert value(metrics, "callyard_websockets") == 0


def test_the_page_parses_and_keeps_the_conventions(metrics: SignalingMetrics) -> None:
    http = client(metrics)
    http.get("/hello")
    families = list(text_string_to_metric_families(http.get("/metrics").text))
    names = {family.name for family in families}
    assert {"callyard_build_info", "callyard_http_requests", "callyard_signaling_loop_lag_seconds"} <= names
    for family in families:
        assert family.documentation
        assert re.fullmatch(r"callyard(_[a-z0-9]+)+", family.name)
        for sample in family.samples:
            assert not {"room", "participant", "identity", "path", "address"} & sample.labels.keys()
    (build,) = next(family for family in families if family.name == "callyard_build_info").samples
    assert (build.labels["version"], build.value) == (__version__, 1)


def test_figures_from_elsewhere_are_fetched_at_scrape_time(metrics: SignalingMetrics) -> None:
    fetched: list[int] = []

    async def fetch() -> None:
        fetched.append(len(fetched))

    http = TestClient(Starlette(routes=metrics_routes(metrics.registry, [fetch])))
    for scrape in range(2):
        http.get("/metrics")
        assert fetched == list(range(scrape + 1))
