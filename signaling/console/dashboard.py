"""Routes of the console: signing in and out, and the pages. Needs a server token, or that of an app admin."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from signaling.api.v1.service import CallsService
from signaling.calls.problems import Problem
from signaling.console.backend import Backend, Figures
from signaling.console.pages import app, audit, calls, roles, types, users, webhooks
from signaling.console.sessions import LIFETIME, open_session
from signaling.console.web import COOKIE, HEADERS, Door, Visit, address, cross_site, read_form, redirect
from signaling.errors import Refusal


def console_routes(
    service: CallsService, *, public_url: str = "", figures: Figures | None = None
) -> Sequence[BaseRoute]:
    """Return the routes below /console; its files come from /static (`call_page_routes`).

    public_url: how browsers reach the server; besides its name only loopback names and addresses are answered.
    figures: what the media side measures in a room, for the charts.
    """
    backend = Backend(service, figures)
    door = Door(backend, public_url)

    def login_page(*, problem: str = "", status: int = 200, next_: str = "") -> Response:
        text = door.templates.get_template("login.html").render(problem=problem, next=next_)
        return HTMLResponse(text, status, HEADERS)

    async def show_login(request: Request) -> Response:
        return door.wrong_host(request) or login_page(next_=request.query_params.get("next", ""))

    async def log_in(request: Request) -> Response:
        if (wrong := door.wrong_host(request)) is not None:
            return wrong
        if cross_site(request):
            return login_page(problem="The form was not from this page. Try again.", status=403)
        try:
            form = dict(await read_form(request))
            operator = await backend.sign_in(form.get("token", ""))
        except Refusal as refusal:
            needs_admin = isinstance(refusal, Problem) and refusal.code == "missing_capability"
            text = "This token is not an admin's: take a server token, or one of an app admin." if needs_admin else ""
            return login_page(problem=text or refusal.message, status=403 if needs_admin else 401)
        reply = redirect(_own_page(form.get("next", "")))
        now = service.now()
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        reply.set_cookie(
            COOKIE,
            open_session(service.keys, operator, now),
            max_age=int(min(LIFETIME, operator.expires_at - now).total_seconds()),
            path="/console",
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return reply

    async def log_out(visit: Visit) -> Response:
        reply = redirect(address("login"))
        reply.delete_cookie(COOKIE, path="/console", httponly=True, samesite="strict")
        return reply

    async def start(visit: Visit) -> Response:
        return redirect(address("calls"))

    async def refused(visit: Visit) -> Response:
        assert visit.problem is not None
        raise visit.problem

    async def nowhere(visit: Visit) -> Response:
        raise Problem("not_found", "There is no such page.")

    return [
        Route("/console/login", show_login, methods=["GET"]),
        Route("/console/login", log_in, methods=["POST"]),
        Route("/console/logout", door.action(log_out, refused), methods=["POST"]),
        Route("/console", door.page(start), methods=["GET"]),
        *roles.routes(door),
        *types.routes(door),
        *calls.routes(door),
        *webhooks.routes(door),
        *users.routes(door),
        *app.routes(door),
        *audit.routes(door),
        Route("/console/{rest:path}", door.page(nowhere), methods=["GET"]),
    ]


def _own_page(path: str) -> str:
    """Return where to go after signing in: a page of the console, never another site."""
    ours = (
        path.startswith("/console/") and "\\" not in path and "//" not in path and not path.startswith("/console/login")
    )
    return path if ours else address("calls")
