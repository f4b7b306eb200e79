from __future__ import annotations

from starlette.applications import Starlette
from starlette.testclient import TestClient

from signaling.api.health import health_routes


def client(reasons: dict[str, str] | None = None) -> TestClient:
    return TestClient(Starlette(routes=health_routes(lambda: reasons or {})))


def test_programs_are_greeted_with_ok() -> None:
    for accept in ("*/*", "", "application/json"):
        reply = client().get("/", headers={"Accept": accept})
        assert (reply.status_code, reply.text) == (200, "OK")


def test_browsers_are_shown_the_way_to_the_call_page() -> None:
    reply = client().get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert reply.status_code == 200
    assert '<a href="/call">' in reply.text
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")


def test_live_whatever_the_reasons() -> None:
    reply = client({"workers": "none is running"}).get("/healthz")
    assert (reply.status_code, reply.text) == (200, "OK")


def test_ready_without_reasons() -> None:
    reply = client().get("/readyz")
    assert (reply.status_code, reply.json()) == (200, {"ready": True, "reasons": {}})
    assert reply.headers["cache-control"] == "no-store"


def test_not_ready_says_why() -> None:
    reply = client({"draining": "told to stop"}).get("/readyz")
    assert (reply.status_code, reply.json()) == (503, {"ready": False, "reasons": {"draining": "told to stop"}})
