"""The audit log: who changed what, with the difference it made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from signaling.console.web import Door, Visit

LINES_MAX = 40
_UNTOLD = {"version", "updated_at", "created_at"}


@dataclass(frozen=True)
class Difference:
    """One line: `sign` is + for what came, - for what went, ~ for what changed."""

    sign: str
    path: str
    text: str


def differences(before: Any, after: Any, path: str = "") -> list[Difference]:
    """Return what an entry changed, leaf by leaf; lists of names by what came and went."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            line
            for key in sorted(before.keys() | after.keys())
            if path or key not in _UNTOLD
            for line in differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
        ]
    if isinstance(before, list) and isinstance(after, list) and all(isinstance(x, str) for x in [*before, *after]):
        gone = [Difference("-", path, name) for name in before if name not in after]
        return gone + [Difference("+", path, name) for name in after if name not in before]
    if not path and (before is None or after is None):
        return _whole("+" if before is None else "-", after if before is None else before)
    if before is None and not isinstance(after, dict):
        return [Difference("+", path, _text(after))]
    if after is None and not isinstance(before, dict):
        return [Difference("-", path, _text(before))]
    if before is None or after is None:
        return [Difference("+" if before is None else "-", path, _text(after if before is None else before))]
    return [Difference("~", path, f"{_text(before)} → {_text(after)}")]


def _whole(sign: str, thing: Any) -> list[Difference]:
    """Return what was made or taken away: its own values, and of what is nested in it only that it is there."""
    if not isinstance(thing, dict):
        return [Difference(sign, "value", _text(thing))]
    told = {key: value for key, value in thing.items() if key not in _UNTOLD and value not in (None, [], {}, False)}
    return [
        Difference(sign, key, f"{len(value)} entries" if isinstance(value, dict) else _text(value))
        for key, value in sorted(told.items())
    ]


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:199] + "…"


async def show(visit: Visit) -> Response:
    query = {"limit": "50", **{n: visit.query[n] for n in ("next", "prev") if visit.query.get(n)}}
    page = await visit.ask("GET", "/audit", query=query)
    entries = []
    for entry in page["items"]:
        lines = differences(entry["before"], entry["after"])
        entries.append({**entry, "lines": lines[:LINES_MAX], "more": max(0, len(lines) - LINES_MAX)})
    return visit.show("audit.html", page=page, entries=entries)


def routes(door: Door) -> list[BaseRoute]:
    return [Route("/console/audit", door.page(show), methods=["GET"])]
