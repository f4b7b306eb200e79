"""Reads a request body that a stranger sends: never more than a limit, never for longer than a limit."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from signaling.errors import InvalidRequest, TimedOut, TooLarge


async def read_body(request: Request, *, max_bytes: int, timeout_seconds: float) -> bytes:
    """Return the body, or raise `TooLarge` before more than `max_bytes` are buffered, or `TimedOut`."""
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal():
        raise InvalidRequest("Content-Length is not a number.")
    if int(announced) > max_bytes:
        raise TooLarge(f"The body has {announced} bytes; at most {max_bytes} are taken.")
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise TooLarge(f"The body is longer than {max_bytes} bytes.")
    except TimeoutError:
        raise TimedOut(f"The body did not arrive within {timeout_seconds:g} s.") from None
    return bytes(body)
