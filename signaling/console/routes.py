"""Routes of the built-in pages for people: plain rooms at /call, calls at /calls/{type}/{id}, and their files.

A plain room's page exchanges an invitation for an access token here; the page of a call uses the calls API.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from signaling.console.invite import redeem_invite
from signaling.errors import InvalidInvite

_HERE = Path(__file__).parent
_BODY_MAX_BYTES = 8 * 1024

# The page needs its own scripts, its WebSocket and camera; nothing from any other host.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self' ws: wss:; media-src 'self' blob: mediastream:; img-src 'self' data:; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self), autoplay=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def call_page_routes(keys: Mapping[str, str], clock: Callable[[], float] = time.time) -> list[BaseRoute]:
    """Return the routes of the call pages; `keys` maps API keys to secrets, `clock` gives Unix seconds."""

    async def page(_: Request) -> Response:
        return FileResponse(_HERE / "static" / "call.html", headers=PAGE_HEADERS)

    async def calls_page(_: Request) -> Response:
        return FileResponse(_HERE / "static" / "calls.html", headers=PAGE_HEADERS)

    async def redeem(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _BODY_MAX_BYTES:
                return _problem(413, "too_large", "The request is larger than an invitation can be.")
        try:
            fields = json.loads(body)
            invite, name = str(fields["invite"]), str(fields.get("name", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            return _problem(400, "invalid_request", 'Send JSON: {"invite": "…", "name": "…"}.')
        try:
            access = redeem_invite(keys, invite, name=name, now=clock())
        except InvalidInvite as error:
            return _problem(401, error.code, str(error))
        fields = {"token": access.token, "identity": access.identity, "name": access.name, "room": access.room}
        return JSONResponse(fields, headers={"Cache-Control": "no-store"})

    return [
        Route("/call", page, methods=["GET"]),
        Route("/calls", calls_page, methods=["GET"]),
        Route("/calls/{type}/{id}", calls_page, methods=["GET"]),
        Route("/call/access", redeem, methods=["POST"]),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]


def _problem(status: int, code: str, detail: str) -> JSONResponse:
    return JSONResponse({"status": status, "code": code, "detail": detail}, status_code=status)
