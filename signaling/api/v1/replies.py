"""Replies and problem documents (RFC 9457), as they leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.responses import Response

from signaling.calls.problems import Problem
from signaling.errors import Refusal, TooLarge, status_of

DOCS = "https://docs.example.org/errors/"


@dataclass
class Reply:
    data: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def problem_document(problem: Problem, request_id: str) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": f"{DOCS}{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.message,
        "request_id": request_id,
        **problem.members,
    }
    if problem.errors or problem.status == 422:
        document["errors"] = [
            {"pointer": fault.pointer, "code": fault.code, "detail": fault.detail} for fault in problem.errors
        ]
    return document


def as_problem(refusal: Refusal) -> Problem:
    """Return a refusal of another part of the server as ours."""
    if isinstance(refusal, Problem):
        return refusal
    if isinstance(refusal, TooLarge):
        return Problem("too_large", refusal.message)
    status = status_of(refusal).http
    return Problem({400: "invalid_request", 401: "unauthenticated"}.get(status, "unavailable"), refusal.message)


def problem_response(problem: Problem, request_id: str, headers: Mapping[str, str]) -> Response:
    document = problem_document(problem, request_id)
    more = dict(headers)
    retry = problem.members.get("retry_after_ms")
    if problem.status in (429, 503):
        more["retry-after"] = str(max(1, -(-retry // 1000))) if isinstance(retry, int) else "1"
    if problem.status == 401:
        more["www-authenticate"] = "Bearer"
    return Response(msgspec.json.encode(document), problem.status, more, "application/problem+json")


def response(reply: Reply, headers: Mapping[str, str] = {}) -> Response:
    if reply.status == 204:
        return Response(None, 204, {**headers, **reply.headers})
    return Response(msgspec.json.encode(reply.data), reply.status, {**headers, **reply.headers}, "application/json")
