"""`/healthz` says that this process turns its loop, `/readyz` that it can take new work; `/` greets.

Liveness never depends on workers, stores or a bus: a failing neighbour must not get this process killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from signaling import __version__

_LANDING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Callyard</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>body{font:17px/1.6 system-ui,sans-serif;max-width:34rem;margin:4rem auto;padding:0 1rem}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}a{color:#8bf}}</style></head>
<body><h1>Callyard</h1><p>A media server for calls is running here (version @version@).</p>
<ul><li><a href="/call">Call page</a></li><li><a href="/readyz">Readiness</a></li>
<li><a href="/metrics">Metrics</a></li></ul></body></html>
"""


def health_routes(reasons: Callable[[], Mapping[str, str]]) -> list[BaseRoute]:
    """Return the routes. `reasons` gives what stands against new work, by name; empty means ready."""

    async def greet(request: Request) -> Response:
        # LiveKit clients and load balancers look for the two letters; browsers ask for HTML by name.
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(
                _LANDING.replace("@version@", __version__),
                headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:"},
            )
        return PlainTextResponse("OK")

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("OK")

    async def readyz(_: Request) -> Response:
        against = dict(reasons())
        return JSONResponse(
            {"ready": not against, "reasons": against},
            status_code=503 if against else 200,
            headers={"Cache-Control": "no-store"},
        )

    return [Route("/", greet), Route("/healthz", healthz), Route("/readyz", readyz)]
