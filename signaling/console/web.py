"""What every page of the console shares: host and session checks, CSRF, headers, forms, templates, refusals.

Pages are functions from a `Visit` to a reply; a post that is refused shows its page again with the reason. Everything
a template prints is escaped. Not here: any page.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from signaling.api.body import read_body
from signaling.api.v1.replies import as_problem
from signaling.calls.principal import Principal
from signaling.calls.problems import Problem
from signaling.console.backend import Backend
from signaling.console.sessions import Session, csrf_holds, read_session
from signaling.errors import Refusal

log = structlog.get_logger(__name__)

COOKIE = "callyard_console"
FORM_MAX_BYTES = 262_144
FORM_FIELDS_MAX = 2_000
FORM_TIMEOUT_SECONDS = 10.0
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# What a page says after a change, by the code in its address: nobody can put a text of his own there.
NOTICES = {
    "saved": "Saved.",
    "created": "Created.",
    "deleted": "Deleted.",
    "sent": "It will be sent again.",
    "done": "Done.",
    "unchanged": "Nothing was changed.",
}

Page = Callable[["Visit"], Awaitable[Response]]


@dataclass
class Visit:
    """One request of an operator who is signed in."""

    request: Request
    backend: Backend
    session: Session
    principal: Principal
    templates: Environment
    form: list[tuple[str, str]] = field(default_factory=list)
    problem: Problem | None = None

    @property
    def path(self) -> Mapping[str, str]:
        return self.request.path_params

    @property
    def query(self) -> Mapping[str, str]:
        return self.request.query_params

    @property
    def is_fragment(self) -> bool:
        """Whether htmx asks for a part of a page."""
        return self.request.headers.get("hx-request") == "true"

    def field(self, name: str, default: str = "") -> str:
        return next((value for key, value in reversed(self.form) if key == name), default)

    def fields(self, name: str) -> list[str]:
        return [value for key, value in self.form if key == name]

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> Any:
        return await self.backend.ask(self.principal, method, path, body, **more)

    async def all(self, path: str, **names: str) -> list[dict[str, Any]]:
        return await self.backend.all(self.principal, path, **names)

    def show(self, template: str, **values: Any) -> Response:
        status = self.problem.status if self.problem is not None else 200
        text = self.templates.get_template(template).render(
            visit=self,
            csrf=self.session.csrf,
            operator=self.session.operator,
            is_server=self.principal.is_server,
            problem=self.problem,
            notice=NOTICES.get(self.query.get("done", "")),
            here=self.request.url.path,
            **values,
        )
        return HTMLResponse(text, status, HEADERS)

    def go(self, address: str, done: str = "") -> Response:
        """Send the browser to a page of ours; a reload of it repeats nothing."""
        joint = "&" if "?" in address else "?"
        return redirect(f"{address}{joint}done={done}" if done else address)


def redirect(address: str) -> Response:
    return RedirectResponse(address, 303, HEADERS)


def address(*parts: str, **query: str | None) -> str:
    """Return an address of the console; whatever is in the parts stays inside them."""
    path = "/console/" + "/".join(quote(part, safe="@:") for part in parts)
    said = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value is not None)
    return f"{path}?{said}" if said else path


def environment() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["clock"] = _clock
    templates.filters["words"] = lambda name: name.replace("_", " ")
    templates.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    templates.globals["address"] = address
    return templates


def _clock(value: str | None) -> str:
    """Return a time as people read it, to the second, in UTC."""
    if not value:
        return "–"
    return datetime.fromisoformat(value).strftime("%Y-%m-%d %H:%M:%S")


class Door:
    """Lets requests in: the right host, a session, and for what changes something the session's CSRF token."""

    def __init__(self, backend: Backend, public_url: str) -> None:
        self.backend = backend
        self.templates = environment()
        self._host = urlsplit(public_url).hostname

    def page(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of a page that only shows."""

        async def endpoint(request: Request) -> Response:
            return await self._visit(request, page, None)

        return endpoint

    def action(self, action: Page, back: Page) -> Callable[[Request], Awaitable[Response]]:
        """Return the endpoint of a post; when it is refused, `back` is shown with the reason."""

        async def endpoint(request: Request) -> Response:
            return await self._visit(request, action, back)

        return endpoint

    async def _visit(self, request: Request, page: Page, back: Page | None) -> Response:
        if (wrong := self.wrong_host(request)) is not None:
            return wrong
        session = read_session(self.backend.service.keys, request.cookies.get(COOKIE, ""), self.backend.service.now())
        if session is None:
            return self._to_login(request)
        try:
            principal = await self.backend.principal(session.operator)
        except Problem:
            return self._to_login(request)
        visit = Visit(request, self.backend, session, principal, self.templates)
        try:
            if back is not None:
                visit.form = await read_form(request)
                if not csrf_holds(session, visit.field("csrf")) or cross_site(request):
                    raise Problem("invalid_request", "The form was not from this page; nothing was changed. Try again.")
            return await page(visit)
        except Refusal as refusal:
            return await self._refused(visit, refusal, back)

    async def _refused(self, visit: Visit, refusal: Refusal, back: Page | None) -> Response:
        visit.problem = as_problem(refusal)
        if visit.is_fragment:
            return visit.show("alert.html")
        if back is not None:
            try:
                return await back(visit)
            except Refusal as gone:
                visit.problem = as_problem(gone)
        return visit.show("refused.html")

    def wrong_host(self, request: Request) -> Response | None:
        """Refuse names that are not this server's: a name that somebody points here must not become its origin."""
        name = (urlsplit(f"//{request.headers.get('host', '')}").hostname or "").rstrip(".")
        if name == self._host or name == "localhost" or name.endswith(".localhost") or _is_address(name):
            return None
        text = "This name is not one of the server's. Set public_url to the address that browsers use."
        return Response(text, 421, HEADERS, "text/plain")

    def _to_login(self, request: Request) -> Response:
        login = address("login", next=request.url.path if request.method == "GET" else None)
        if request.headers.get("hx-request") == "true":
            return Response(None, 401, {**HEADERS, "HX-Redirect": address("login")})
        return redirect(login)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def cross_site(request: Request) -> bool:
    """Tell whether a browser says that another site sent this; old browsers say nothing and are asked for the token."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host", "")


async def read_form(request: Request) -> list[tuple[str, str]]:
    """Return the fields of a form; raises a refusal for one that is too large or no form."""
    raw = await read_body(request, max_bytes=FORM_MAX_BYTES, timeout_seconds=FORM_TIMEOUT_SECONDS)
    try:
        return parse_qsl(raw.decode("utf-8"), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX, errors="strict")
    except ValueError:
        raise Problem("invalid_request", "This is not a form.") from None
