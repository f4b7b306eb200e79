"""Webhooks: endpoints, their secrets (shown once), deliveries and sending again."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from signaling.console.web import Door, Visit, address

_HOOK = "/webhooks/{webhook}"


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _body(visit: Visit) -> dict[str, Any]:
    return {
        "url": visit.field("url").strip(),
        "events": _words(visit.field("events")) or ["*"],
        "call_types": _words(visit.field("call_types")) or None,
        "enabled": visit.field("enabled") == "on",
    }


async def show_all(visit: Visit) -> Response:
    return visit.show("webhooks.html", webhooks=await visit.all("/webhooks"))


async def create(visit: Visit) -> Response:
    made = (await visit.ask("POST", "/webhooks", {**_body(visit), "enabled": True}))["webhook"]
    return await _one(visit, made["id"], secret=made["secret"])


async def show(visit: Visit) -> Response:
    return await _one(visit, visit.path["webhook"])


async def _one(visit: Visit, webhook_id: str, secret: str | None = None) -> Response:
    webhook = (await visit.ask("GET", _HOOK, webhook=webhook_id))["webhook"]
    query = {"limit": "50", **{n: visit.query[n] for n in ("next", "prev") if visit.query.get(n)}}
    deliveries = await visit.ask("GET", f"{_HOOK}/deliveries", query=query, webhook=webhook_id)
    return visit.show("webhook.html", webhook=webhook, deliveries=deliveries, secret=secret)


async def act(visit: Visit) -> Response:
    webhook_id, what = visit.path["webhook"], visit.field("do")
    page = address("webhooks", webhook_id)
    if what == "redeliver":
        body = {"delivery_id": visit.field("delivery_id")}
        await visit.ask("POST", f"{_HOOK}/redeliver", body, webhook=webhook_id)
        return visit.go(page, "sent")
    if what == "rotate":
        rotated = await visit.ask("POST", f"{_HOOK}/rotate-secret", {}, webhook=webhook_id)
        return await _one(visit, webhook_id, secret=rotated["webhook"]["secret"])
    if what == "delete":
        await visit.ask("DELETE", _HOOK, webhook=webhook_id)
        return visit.go(address("webhooks"), "deleted")
    await visit.ask("PATCH", _HOOK, _body(visit), webhook=webhook_id)
    return visit.go(page, "saved")


def routes(door: Door) -> list[BaseRoute]:
    return [
        Route("/console/webhooks", door.page(show_all), methods=["GET"]),
        Route("/console/webhooks", door.action(create, show_all), methods=["POST"]),
        Route("/console/webhooks/{webhook}", door.page(show), methods=["GET"]),
        Route("/console/webhooks/{webhook}", door.action(act, show), methods=["POST"]),
    ]
