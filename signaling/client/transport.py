"""Requests to the API: tokens, retries, idempotency keys, problems into errors. Not here: what any verb means."""

from __future__ import annotations

import asyncio
import inspect
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
import msgspec

from signaling.client.errors import Unavailable, VideoError, error_of
from signaling.client.models import decode

T = TypeVar("T")
TokenSource = str | Callable[[], str | Awaitable[str]]
"""A token, or a function that gives a fresh one; the function is asked again when a token has expired."""

ATTEMPTS_MAX = 4
BACKOFF_FIRST_SECONDS, BACKOFF_MAX_SECONDS = 0.25, 8.0
RETRY_AFTER_MAX_SECONDS = 30.0
"""A server that asks for a longer pause than this is not waited for: the caller gets the error with the pause in it."""


class Tokens:
    """Holds the current token; asks the source for another when told that it has expired."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._current: str | None = source if isinstance(source, str) else None

    @property
    def renewable(self) -> bool:
        return not isinstance(self._source, str)

    async def get(self) -> str:
        if self._current is None:
            assert not isinstance(self._source, str)
            given = self._source()
            self._current = await given if inspect.isawaitable(given) else given
        return self._current

    def expired(self, token: str) -> bool:
        """Note that `token` was refused; tell whether asking again makes sense."""
        if not self.renewable:
            return False
        if self._current == token:
            self._current = None
        return True


class Transport:
    """One HTTP connection pool and one identity."""

    def __init__(
        self,
        url: str,
        tokens: Tokens,
        *,
        on_behalf_of: str | None,
        http: httpx2.AsyncClient | None,
        timeout_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.base = url.rstrip("/").removesuffix("/v1")
        self.tokens = tokens
        self.on_behalf_of = on_behalf_of
        self._http = http
        self._owned = http is None
        self._timeout_seconds = timeout_seconds
        self._sleep = sleep

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        once: bool = False,
        etag: str | None = None,
    ) -> Any:
        """Return the JSON of a reply (None for 204), or raise a `VideoError`.

        once: the request must not take effect twice, so that it carries an Idempotency-Key through its retries.
        etag: only if the resource is still at this version.
        """
        headers: dict[str, str] = {}
        if once:
            headers["idempotency-key"] = str(uuid.uuid4())
        if etag is not None:
            headers["if-match"] = f'"{etag}"'
        if self.on_behalf_of is not None:
            headers["on-behalf-of"] = self.on_behalf_of
        content = None if body is None else msgspec.json.encode(body)
        parameters = {name: _parameter(value) for name, value in (query or {}).items() if value is not None}
        # What is repeatable is repeated: PUT, GET, DELETE and PATCH by nature, POST by its key or because it reads.
        for attempt in range(ATTEMPTS_MAX):
            last = attempt == ATTEMPTS_MAX - 1
            try:
                return await self._once(method, path, content, parameters, headers)
            except VideoError as error:
                pause = _pause(error, attempt)
                if last or pause is None:
                    raise
            await self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def get(self, kind: type[T], method: str, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> T:
        """Return the reply as a value of `kind`."""
        return self.value(await self.request(method, path, body, **more), kind)

    def value(self, data: Any, kind: type[T]) -> T:
        try:
            return decode(data, kind)
        except msgspec.ValidationError as error:
            raise Unavailable("unexpected_reply", f"The server's reply is not what the API promises: {error}") from None

    async def _once(
        self, method: str, path: str, content: bytes | None, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> Any:
        token = await self.tokens.get()
        reply = await self._send(method, path, content, query, {**headers, "authorization": f"Bearer {token}"})
        if reply.status_code == 401 and self.tokens.expired(token):
            token = await self.tokens.get()
            reply = await self._send(method, path, content, query, {**headers, "authorization": f"Bearer {token}"})
        if reply.status_code == 204:
            return None
        data = _json(reply)
        if reply.is_success:
            return data
        raise error_of(
            reply.status_code,
            data if isinstance(data, dict) else {},
            retry_after_seconds=_seconds(reply.headers.get("retry-after")),
        )

    async def _send(
        self, method: str, path: str, content: bytes | None, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> httpx2.Response:
        sent = {**headers, "content-type": "application/json"} if content is not None else dict(headers)
        try:
            return await self._pool().request(
                method, f"{self.base}/v1{path}", content=content, params=dict(query), headers=sent
            )
        except httpx2.HTTPError as error:
            raise Unavailable(
                "unreachable", f"The server cannot be reached: {error or type(error).__name__}"
            ) from error

    def _pool(self) -> httpx2.AsyncClient:
        # Made on first use: constructing a client opens nothing.
        if self._http is None:
            self._http = httpx2.AsyncClient(timeout=self._timeout_seconds)
        return self._http

    async def aclose(self) -> None:
        if self._owned and self._http is not None:
            await self._http.aclose()
            self._http = None


def segment(text: str) -> str:
    """Return a path segment. What could lead to another resource is refused here: servers decode %2F before routing."""
    if text in ("", ".", "..") or "/" in text or "\\" in text:
        fault = {"pointer": "/id", "code": "unprocessable", "detail": "This is not an id."}
        problem = {"code": "unprocessable", "detail": f"{text!r} is not an id.", "status": 422, "errors": [fault]}
        raise error_of(None, problem)
    return quote(text, safe="")


def _parameter(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _json(reply: httpx2.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        return None


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


def _pause(error: VideoError, attempt: int) -> float | None:
    """Return how long to wait before trying again, None if that makes no sense."""
    if error.code == "no_media_node" or error.status not in (None, 429, 502, 503, 504):
        return None
    if error.status is None and error.code != "unreachable":
        return None
    # The spread keeps many clients from coming back in step.
    spread = 0.5 + random.random()  # noqa: S311
    backoff = min(BACKOFF_MAX_SECONDS, BACKOFF_FIRST_SECONDS * float(2**attempt)) * spread
    asked = error.retry_after_seconds
    if asked is None:
        return backoff
    return None if asked > RETRY_AFTER_MAX_SECONDS else max(asked, backoff)
