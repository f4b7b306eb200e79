"""Sessions, attendance, stats, feedback, and the search for calls."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from pydantic import Field
from sqlalchemy import and_, or_, true
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.api.v1.call_routes import change_call, checked_cid
from signaling.api.v1.http import PAGE_DEFAULT, PAGE_MAX, Ask, Body, Route
from signaling.api.v1.replies import Reply
from signaling.calls import views
from signaling.calls.custom import checked
from signaling.calls.model import Feedback, Session
from signaling.calls.problems import Problem, not_found
from signaling.calls.queries import CALL_FIELDS, CALL_SORTS, compile_filter, compile_sort
from signaling.calls.rights import check_reach, own, require
from signaling.calls.state import Turn
from signaling.store import schema
from signaling.store.database import fetch, fetch_one
from signaling.store.kinds import CALLS, FEEDBACK, PARTICIPANTS, SESSIONS
from signaling.store.pages import Column, newest_first, oldest_first, page_of
from signaling.store.queries import call_columns, condition

SCAN_PAGES_MAX = 10
"""How many pages are read for one: calls that the caller may not read are left out of it."""


class PostFeedback(Body):
    rating: int = Field(ge=1, le=5)
    reason: str | None = Field(None, max_length=1_024)
    custom: dict[str, Any] = Field({})


class QueryCalls(Body):
    filter: dict[str, Any] | None = None
    sort: list[Any] | None = None
    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    next: str | None = None
    prev: str | None = None
    watch: bool = False
    connection_id: str | None = Field(None, max_length=64)


async def _key(ask: Ask, capability: str) -> str:
    def view(turn: Turn) -> str:
        require(turn, capability)
        return turn.call.key

    return await ask.service.look(ask.principal, *checked_cid(ask), view)


async def list_sessions(ask: Ask) -> Reply:
    key = await _key(ask, "session.read")
    cid = ":".join(ask.cid)
    async with ask.service.database.read() as connection:
        page = await page_of(
            connection,
            SESSIONS,
            [schema.sessions.c.call_key == key],
            newest_first(SESSIONS),
            ask.limit(),
            ask.query("next"),
            ask.query("prev"),
        )
    return Reply(page.shown([views.session_of(session, {"cid": cid}) for session in page.items]))


async def _session(ask: Ask, connection: AsyncConnection, key: str) -> Session:
    session: Session | None = await fetch_one(connection, SESSIONS, id=ask.path["sid"], call_key=key)
    if session is None:
        raise not_found("session")
    return session


async def get_session(ask: Ask) -> Reply:
    key = await _key(ask, "session.read")
    async with ask.service.database.read() as connection:
        session = await _session(ask, connection, key)
    return Reply({"session": views.session_of(session, {"cid": ":".join(ask.cid)})})


async def attendance(ask: Ask) -> Reply:
    key = await _key(ask, "session.read")
    async with ask.service.database.read() as connection:
        session = await _session(ask, connection, key)
        page = await page_of(
            connection,
            PARTICIPANTS,
            [schema.participants.c.session_id == session.id],
            oldest_first(PARTICIPANTS),
            ask.limit(),
            ask.query("next"),
            ask.query("prev"),
        )
    return Reply(page.shown([views.participant(p, with_capabilities=False) for p in page.items]))


async def stats(ask: Ask) -> Reply:
    """Return what the calls system itself knows of a session; media figures are the media server's metrics."""
    key = await _key(ask, "stats.read")
    now = ask.service.now()
    async with ask.service.database.read() as connection:
        session = await _session(ask, connection, key)
        everybody = await fetch(connection, PARTICIPANTS, schema.participants.c.session_id == session.id)
        ratings = [f.rating for f in await fetch(connection, FEEDBACK, schema.feedback.c.session_id == session.id)]
    attended = [p for p in everybody if p.joined_at is not None]
    seconds = [((p.left_at or now) - p.joined_at).total_seconds() for p in attended]
    return Reply(
        {
            "stats": {
                "session_id": session.id,
                "duration_seconds": ((session.ended_at or now) - session.started_at).total_seconds(),
                "participants": len(attended),
                "users": len({p.user_id for p in attended}),
                "participants_peak": _peak(attended, now),
                "participant_seconds": sum(seconds),
                "left_reasons": dict(Counter(p.left_reason for p in attended if p.left_reason)),
                "feedback": {
                    "count": len(ratings),
                    "rating_mean": sum(ratings) / len(ratings) if ratings else None,
                },
            }
        }
    )


def _peak(attended: list[Any], now: Any) -> int:
    moves = sorted(
        [(p.joined_at, 1) for p in attended] + [(p.left_at or now, -1) for p in attended], key=lambda m: (m[0], m[1])
    )
    inside = peak = 0
    for _, step in moves:
        inside += step
        peak = max(peak, inside)
    return peak


async def post_feedback(ask: Ask) -> Reply:
    """Keep what somebody says of the last session in which he was; said again, it takes the place of what he said."""
    body, service = await ask.body(PostFeedback), ask.service
    checked(body.custom, "/custom")
    user_id = ask.principal.user_id
    key = await _key(ask, "call.read")
    if user_id is None:
        raise Problem("conflict", "Only who took part gives feedback.")
    async with service.database.read() as connection:
        table = schema.participants
        mine = await fetch(connection, PARTICIPANTS, table.c.call_key == key, table.c.user_id == user_id)
        if not mine:
            raise Problem("conflict", "Only who took part gives feedback.")
        latest = max(mine, key=lambda p: (p.created_at, p.id))
        said = schema.feedback.c
        of_him = (said.session_id == latest.session_id, said.doc["user_id"].as_string() == user_id)
        known = next(iter(await fetch(connection, FEEDBACK, *of_him)), None)

    def operation(turn: Turn) -> dict[str, Any]:
        value = Feedback(
            id=known.id if known else turn.new_id(),
            session_id=latest.session_id,
            user_id=user_id,
            rating=body.rating,
            reason=body.reason,
            custom=body.custom,
            created_at=known.created_at if known else turn.now,
            updated_at=turn.now,
        )
        turn.stored.append(value)
        return {"feedback": views.feedback(value)}

    return await change_call(ask, operation)


async def query_calls(ask: Ask) -> Reply:
    """Return the calls that match and that the caller may read."""
    body, service = await ask.body(QueryCalls), ask.service
    types = service.directory.types
    wanted = compile_filter(body.filter or {}, CALL_FIELDS)
    sort = compile_sort(body.sort or [{"field": "created_at", "direction": "desc"}], CALL_SORTS)
    columns = call_columns(types)
    order = [Column(columns[name], descending) for name, descending in sort]
    order.append(Column(schema.calls.c.key, order[-1].descending))
    conditions = [schema.calls.c.deleted_at.is_(None), _visible(ask), condition(wanted, columns)]
    items: list[dict[str, Any]] = []
    backwards, next_, prev = body.prev is not None, body.next, body.prev
    first = last = None
    for _ in range(SCAN_PAGES_MAX):
        async with service.database.read(long=True) as connection:
            page = await page_of(connection, CALLS, conditions, order, body.limit - len(items), next_, prev)
        read = await service.look_each(ask.principal, [call.key for call in page.items], partial(_shown, ask, body))
        found = [shown for shown in read if shown is not None]
        items = found + items if backwards else items + found
        first, last = (page.prev, last or page.next) if backwards else (first or page.prev, page.next)
        next_, prev = (None, page.prev) if backwards else (page.next, None)
        if len(items) >= body.limit or (prev if backwards else next_) is None:
            break
    return Reply({"items": items, "next": last, "prev": first})


def _visible(ask: Ask) -> Any:
    """Return the condition of the caller's token and teams; what remains is asked of each call."""
    principal, table = ask.principal, schema.calls
    conditions: list[Any] = [true()]
    if principal.calls is not None:
        pairs = [cid.partition(":") for cid in sorted(principal.calls)]
        conditions.append(or_(*(and_(table.c.type == p[0], table.c.id == p[2]) for p in pairs)) if pairs else ~true())
    if not principal.is_server and ask.service.directory.app.multi_tenant_enabled and principal.kind != "anonymous":
        user = ask.service.directory.known_user(principal.user_id)
        teams = set(user.teams if user else ())
        if principal.teams is not None:
            teams &= principal.teams
        conditions.append(table.c.team.in_(sorted(teams)) if teams else table.c.team.is_(None))
    return and_(*conditions)


def _shown(ask: Ask, body: QueryCalls, turn: Turn) -> dict[str, Any] | None:
    """Return a call as the search shows it; None if the caller may not read it."""
    try:
        check_reach(turn)
    except Problem:
        return None
    held = own(turn).capabilities
    if "call.read" not in held:
        return None
    if body.watch and body.connection_id is not None:
        ask.service.channel.watch_over(body.connection_id, ask.principal, turn)
    return {"call": views.call(turn), "own_capabilities": sorted(held)}


_CALL = "/v1/calls/{type}/{id}"
_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
ROUTES = [
    Route("POST", "/v1/calls/query", query_calls, "Search calls", body=QueryCalls,
          example={"filter": {"custom.name": "Standup"}, "sort": [{"field": "created_at", "direction": "desc"}]}),
    Route("GET", f"{_CALL}/sessions", list_sessions, "List sessions", query=_PAGE, capability="session.read"),
    Route("GET", f"{_CALL}/sessions/{{sid}}", get_session, "Read a session", capability="session.read"),
    Route("GET", f"{_CALL}/sessions/{{sid}}/attendance", attendance, "List who attended", query=_PAGE,
          capability="session.read"),
    Route("GET", f"{_CALL}/sessions/{{sid}}/stats", stats, "Read a session's figures", capability="stats.read"),
    Route("POST", f"{_CALL}/feedback", post_feedback, "Rate a call", body=PostFeedback, example={"rating": 5}),
]  # fmt: skip
