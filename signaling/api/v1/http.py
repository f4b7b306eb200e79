"""HTTP for the calls API: one way from a request to a reply, the same for every route.

Token, then the route's handler; problems are written as RFC 9457 documents. Not here: what any route does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

import structlog
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from signaling.api.body import read_body
from signaling.api.v1.idempotency import Idempotency
from signaling.api.v1.rate_limits import RateLimiter
from signaling.api.v1.replies import Reply, as_problem, problem_response, response
from signaling.api.v1.service import CallsService, Wanted
from signaling.calls.operations.calls import check_may_create
from signaling.calls.principal import Principal
from signaling.calls.problems import Fault, Problem, missing, unprocessable
from signaling.calls.rights import own
from signaling.calls.state import Turn
from signaling.errors import Refusal

log = structlog.get_logger(__name__)

BODY_MAX_BYTES = 262_144
BODY_TIMEOUT_SECONDS = 10.0
PAGE_DEFAULT, PAGE_MAX = 25, 100

Model = TypeVar("Model", bound=BaseModel)


class Body(BaseModel):
    """Base of request bodies: unknown fields are refused, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _in_common_years(at: datetime) -> datetime:
    if not 1970 <= at.year <= 9998:
        raise ValueError("This is an instant of the years 1970 to 9998")
    return at


Instant = Annotated[AwareDatetime, AfterValidator(_in_common_years)]
"""Not at the edges of what there is: hours before or after it, or its time elsewhere, would be no instant any more."""


class Nothing(Body):
    """An empty object, or no body at all."""


@dataclass(frozen=True)
class Route:
    """`auth`: any, user, admin (server or app admin), server, public. `capability`: what it needs in the call.

    `body`: None takes no body. `query`: names of query parameters with what they are. `creates`: it makes a call that
    is not there.
    """

    method: str
    path: str
    handler: Callable[[Ask], Awaitable[Reply]]
    summary: str
    auth: str = "any"
    body: type[BaseModel] | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    capability: str = ""
    example: Any = None
    status: int = 200
    creates: bool = False


@dataclass
class Ask:
    """One request as a handler sees it."""

    service: CallsService
    principal: Principal
    route: Route
    path: dict[str, str]
    raw_query: dict[str, str]
    raw_body: bytes
    headers: Mapping[str, str]
    address: str
    creates: bool = False
    """Whether the request makes the call if there is none."""

    @property
    def cid(self) -> tuple[str, str]:
        return self.path["type"], self.path["id"]

    async def body(self, model: type[Model]) -> Model:
        """Return the request's body."""
        return parse(model, self.raw_body)

    async def check_what_comes_first(self) -> None:
        """Raise what precedes a wrong value in the order of checks: reach, existence, blocks, capability."""
        if "type" not in self.path:
            return
        call_id = self.path.get("id") or self.service.new_id()
        wanted = Wanted(create="blank" if self.creates else "never")
        await self.service.look(self.principal, self.path["type"], call_id, self._check, wanted)

    def _check(self, turn: Turn) -> None:
        capabilities = [name for name in self.route.capability.split("|") if name]
        if turn.call.version == 0:
            check_may_create(turn)
        elif capabilities and not own(turn).capabilities & set(capabilities):
            raise missing(capabilities[0])

    def query(self, name: str) -> str | None:
        return self.raw_query.get(name)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw_query.get(name)
        if value is None:
            return default
        if value not in ("true", "false"):
            raise unprocessable(f"/{name}", "This is true or false.")
        return value == "true"

    def limit(self, name: str = "limit") -> int:
        value = self.raw_query.get(name)
        return PAGE_DEFAULT if value is None else checked_limit(value, name)


def checked_limit(value: str, name: str = "limit") -> int:
    if not value.isascii() or not value.isdecimal() or len(value) > 4 or not 1 <= int(value) <= PAGE_MAX:
        raise unprocessable(f"/{name}", f"{name} is a number from 1 to {PAGE_MAX}.")
    return int(value)


def parse(model: type[Model], raw: bytes) -> Model:
    """Return a valid body: 400 for malformed JSON, 422 with pointers for anything else."""
    if not raw.strip():
        raw = b"{}"
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Problem("invalid_request", "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise unprocessable("", "The body is an object.")
    _check_text(value, "")
    try:
        return model.model_validate_json(text)
    except ValidationError as wrong:
        faults = [Fault(pointer_of(error["loc"]), "unprocessable", _sentence(error["msg"])) for error in wrong.errors()]
        raise Problem("unprocessable", faults[0].detail, errors=faults) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _check_text(value: Any, pointer: str) -> None:
    """Refuse text that cannot be stored everywhere: U+0000 and unpaired surrogates."""
    if isinstance(value, str):
        if "\0" in value or (not value.isascii() and re.search("[\ud800-\udfff]", value)):
            raise unprocessable(pointer, "Text without U+0000 and unpaired surrogates.")
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, pointer)
            _check_text(item, f"{pointer}/{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_text(item, f"{pointer}/{index}")


def pointer_of(location: tuple[int | str, ...]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".") + "."


class Endpoint:
    """ASGI-side of one route."""

    def __init__(self, route: Route, service: CallsService, idempotency: Idempotency, limiter: RateLimiter) -> None:
        self.route = route
        self._service = service
        self._idempotency = idempotency
        self._limiter = limiter

    async def __call__(self, request: Request) -> Response:
        request_id = self._service.new_id()
        more: dict[str, str] = {"x-request-id": request_id}
        try:
            reply = await self._answer(request, more)
        except Refusal as refusal:
            return problem_response(as_problem(refusal), request_id, more)
        except Exception:
            # The one place where a fault of ours ends: the client gets a reply, the log the trace.
            log.exception("request_failed", path=self.route.path, request_id=request_id)
            return problem_response(Problem("internal", "Something went wrong here."), request_id, more)
        if isinstance(reply, Response):
            reply.headers.update(more)
            return reply
        return response(reply, more)

    async def _answer(self, request: Request, more: dict[str, str]) -> Reply | Response:
        address = request.client.host if request.client else ""
        principal = await self._authenticate(request, address)
        more.update(self._limiter.take(self.route, principal, address))
        if self.route.auth == "server" and not principal.is_server:
            raise missing("app.admin")
        raw = await read_body(request, max_bytes=BODY_MAX_BYTES, timeout_seconds=BODY_TIMEOUT_SECONDS)
        ask = Ask(
            self._service,
            principal,
            self.route,
            dict(request.path_params),
            _query(request),
            raw,
            request.headers,
            address,
            self.route.creates,
        )
        if self.route.auth == "admin":
            require_admin(ask)
        key = request.headers.get("idempotency-key")
        if self.route.method != "POST" or key is None:
            return await self._handle(ask)
        scope = _scope_of_keys(principal, request.url.path)
        digest = hashlib.sha256(request.url.query.encode() + b"\n" + raw).hexdigest()
        return await self._idempotency.run(scope, key, digest, lambda: self._handle(ask))

    async def _authenticate(self, request: Request, address: str) -> Principal:
        if self.route.auth == "public":
            self._service.check_started()
            return Principal("public", None, self._service.now(), sources=self._service.addresses.sources(address))
        header = request.headers.get("authorization", "")
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Problem("unauthenticated", "Send an API token: Authorization: Bearer.")
        return await self._service.authenticate(token.strip(), request.headers.get("on-behalf-of"), address)

    async def _handle(self, ask: Ask) -> Reply:
        try:
            for name in ask.raw_query:
                if name not in self.route.query:
                    raise unprocessable(f"/{name}", f"There is no query parameter {name!r}.")
            return await self.route.handler(ask)
        except Problem as problem:
            if problem.status in (400, 413, 422):
                await ask.check_what_comes_first()
            raise


def _scope_of_keys(principal: Principal, path: str) -> str:
    """Return whose idempotency keys hold for what: those of a user with one narrowing of his token, at one path.

    Strangers are told apart by where they come from, as far as that is known: a reply can have somebody's token in it.
    """
    among = (principal.calls, principal.teams, principal.scope.ceiling)
    narrowed = [None if names is None else sorted(names) for names in among]
    who = principal.user_id or principal.sources
    parts = [principal.kind, who, principal.scope.role, narrowed, path]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))


def require_admin(ask: Ask) -> None:
    """Refuse whoever is neither the server nor an app admin."""
    principal = ask.principal
    if principal.is_server:
        return
    user = ask.service.directory.known_user(principal.user_id)
    ceiling, role = principal.scope.ceiling, principal.scope.role
    if user is None or user.role != "admin" or ceiling is not None or role not in (None, "admin"):
        raise missing("app.admin")
