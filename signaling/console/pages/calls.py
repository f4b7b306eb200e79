"""Calls: the list, and one call with its participants, their rights and why, figures, and what an operator may do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from signaling.calls.problems import unprocessable
from signaling.console.backend import seen
from signaling.console.web import HEADERS, Door, Visit, address

STATES = {
    "running": ("Running now", {"ongoing": True}),
    "live": ("Live", {"live": True}),
    "all": ("All", {}),
}
_CALL = "/calls/{type}/{id}"
MUTES = {"mute_audio": ["audio"], "mute_video": ["video"], "mute_screen": ["screen"]}


async def show_all(visit: Visit) -> Response:
    state = visit.query.get("state", "running")
    conditions: dict[str, Any] = dict(STATES.get(state, STATES["all"])[1])
    for name, operator in (("type", "$eq"), ("id", "$prefix"), ("created_by", "$eq")):
        if value := visit.query.get(name, "").strip():
            conditions[name] = {operator: value}
    body: dict[str, Any] = {"filter": conditions, "limit": 50}
    body |= {name: visit.query[name] for name in ("next", "prev") if visit.query.get(name)}
    page = await visit.ask("POST", "/calls/query", body)
    return visit.show(
        "calls.html", page=page, state=state, states=STATES, types=await visit.all("/call-types"), filters=visit.query
    )


def _names(visit: Visit) -> dict[str, Any]:
    return {"type": visit.path["type"], "id": visit.path["id"]}


async def show(visit: Visit) -> Response:
    names = _names(visit)
    reply = await visit.ask("GET", _CALL, query={"members_limit": "100"}, **names)
    sessions = await seen(visit.ask("GET", f"{_CALL}/sessions", query={"limit": "10"}, **names))
    explained = None
    if user := visit.query.get("user"):
        explained = await visit.ask("GET", f"{_CALL}/capabilities/explain", query={"user": user}, **names)
    return visit.show(
        "call.html",
        call=reply["call"],
        members=reply["members"],
        session=reply["session"],
        sessions=sessions["items"] if sessions else [],
        participants=await visit.all(f"{_CALL}/participants", **names),
        blocks=await visit.all(f"{_CALL}/blocks", **names),
        explained=explained,
    )


async def people(visit: Visit) -> Response:
    """The part of the page that changes by itself."""
    names = _names(visit)
    reply = await visit.ask("GET", _CALL, **names)
    participants = await visit.all(f"{_CALL}/participants", **names)
    return visit.show("call_people.html", call=reply["call"], participants=participants)


async def explain(visit: Visit) -> Response:
    query = {"user": visit.query.get("user", "")}
    explained = await visit.ask("GET", f"{_CALL}/capabilities/explain", query=query, **_names(visit))
    return visit.show("explained.html", explained=explained)


async def figures(visit: Visit) -> Response:
    """Figures for the charts: who was there when, and what the media side measures now."""
    names = _names(visit)
    call = (await visit.ask("GET", _CALL, **names))["call"]
    joins: dict[str, list[float]] = {"times": [], "counts": []}
    if call["session_id"] is not None:
        attended = await seen(
            visit.ask(
                "GET", f"{_CALL}/sessions/{{sid}}/attendance", query={"limit": "100"}, sid=call["session_id"], **names
            )
        )
        joins = attendance_curve(attended["items"] if attended else [])
    measured = await visit.backend.figures(call["session_id"])
    media = None
    if measured is not None:
        media = {
            "up_bps": sum(one.bitrate_up_bps for one in measured),
            "down_bps": sum(one.bitrate_down_bps for one in measured),
            "participants": [
                {
                    "identity": one.identity,
                    "quality": one.quality,
                    "up_bps": one.bitrate_up_bps,
                    "down_bps": one.bitrate_down_bps,
                    "rtt_ms": round(one.rtt_ms, 1),
                    "loss": round(max(one.loss_up, one.loss_down), 4),
                }
                for one in measured
            ],
        }
    now = visit.backend.service.now().timestamp()
    return JSONResponse({"at": now, "joins": joins, "media": media}, headers=HEADERS)


def attendance_curve(attended: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Return how many were there, at each moment it changed (Unix seconds)."""
    moves: list[tuple[float, int]] = []
    for one in attended:
        if one["joined_at"] is not None:
            moves.append((datetime.fromisoformat(one["joined_at"]).timestamp(), 1))
            if one["left_at"] is not None:
                moves.append((datetime.fromisoformat(one["left_at"]).timestamp(), -1))
    times: list[float] = []
    counts: list[float] = []
    inside = 0
    for at, step in sorted(moves):
        inside += step
        if times and times[-1] == at:
            counts[-1] = inside
        else:
            times.append(at)
            counts.append(inside)
    return {"times": times, "counts": counts}


async def act(visit: Visit) -> Response:
    """Do what a button of the call's page says."""
    names, what, user = _names(visit), visit.field("do"), visit.field("user")
    if what in MUTES:
        body = {"kinds": MUTES[what], **({"user_ids": [user]} if user else {"all": True})}
        await visit.ask("POST", f"{_CALL}/participants/mute", body, **names)
    elif what in ("kick", "block_and_kick") and user:
        body = {"block": what == "block_and_kick"}
        await visit.ask("POST", f"{_CALL}/participants/{{user}}/kick", body, user=user, **names)
    elif what == "unblock" and user:
        await visit.ask("DELETE", f"{_CALL}/blocks/{{user}}", user=user, **names)
    elif what == "go_live":
        await visit.ask("PUT", f"{_CALL}/live", {}, **names)
    elif what == "stop_live":
        await visit.ask("DELETE", f"{_CALL}/live", **names)
    elif what in ("end", "reopen"):
        await visit.ask("POST", f"{_CALL}/{what}", {}, **names)
    else:
        raise unprocessable("/do", "There is no such action.")
    return visit.go(address("calls", names["type"], names["id"]), "done")


def routes(door: Door) -> list[BaseRoute]:
    call = "/console/calls/{type}/{id}"
    return [
        Route("/console/calls", door.page(show_all), methods=["GET"]),
        Route(call, door.page(show), methods=["GET"]),
        Route(call, door.action(act, show), methods=["POST"]),
        Route(f"{call}/people", door.page(people), methods=["GET"]),
        Route(f"{call}/explain", door.page(explain), methods=["GET"]),
        Route(f"{call}/figures", door.page(figures), methods=["GET"]),
    ]
