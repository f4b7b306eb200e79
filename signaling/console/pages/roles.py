"""Roles & Permissions: which role may do what in calls of which type, changed by checkboxes and audited.

A save sends only what was ticked or unticked, so that two people at work at once do not undo each other.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from signaling.calls.capabilities import ALIASES, GROUPS, REQUESTABLE
from signaling.console.web import Door, Visit, address

TEXTS = {
    "call.create": "create calls (judged by the app role)",
    "call.read": "see the call and its state",
    "call.join": "join, see and hear others",
    "call.join_backstage": "join before it is live",
    "call.join_ended": "join or reopen an ended call",
    "call.update": "change custom data and the start",
    "call.update_settings": "change the call's settings",
    "call.end": "end the call for everybody",
    "call.delete": "delete the call",
    "call.extend": "move the end of a session",
    "call.ring": "ring members",
    "call.notify": "notify members",
    "member.read": "list members",
    "member.add": "add members",
    "member.update": "change members' roles",
    "member.remove": "remove members",
    "media.audio": "speak",
    "media.video": "show the camera",
    "media.screen": "share the screen",
    "reaction.send": "react and raise a hand",
    "event.send": "send chat and custom events",
    "participant.mute": "mute others",
    "participant.kick": "remove others from the session",
    "participant.block": "block users from the call",
    "participant.pin_for_all": "pin somebody for everybody",
    "permission.grant": "grant and revoke rights, see why",
    "lobby.admit": "admit from the lobby",
    "live.start": "go live",
    "live.stop": "stop being live",
    "recording.start": "start a recording",
    "recording.stop": "stop a recording",
    "recording.read": "list and fetch recordings",
    "recording.delete": "delete recordings",
    "transcription.start": "start transcribing",
    "transcription.stop": "stop transcribing",
    "transcription.read": "read transcriptions",
    "captions.start": "turn captions on",
    "captions.stop": "turn captions off",
    "captions.send": "send captions",
    "broadcast.start": "start a broadcast",
    "broadcast.stop": "stop a broadcast",
    "ingest.manage": "manage RTMP and WHIP inputs",
    "frames.start": "start keeping frames",
    "frames.stop": "stop keeping frames",
    "stats.read": "read figures of sessions",
    "session.read": "read sessions and attendance",
}


def pascal(alias: str) -> str:
    return "".join(part.capitalize() for part in alias.split("-"))


def aliases_of(capability: str) -> list[str]:
    return [pascal(alias) for alias, meant in ALIASES.items() if capability in meant]


def _groups(held: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "name": group,
            "capabilities": [
                {
                    "id": capability,
                    "text": TEXTS[capability],
                    "aliases": aliases_of(capability),
                    "held": capability in held,
                }
                for capability in capabilities
            ],
        }
        for group, capabilities in GROUPS.items()
    ]


async def show(visit: Visit) -> Response:
    types = await visit.all("/call-types")
    roles = [role for role in await visit.all("/roles") if role["name"] != "admin"]
    wanted_type = visit.field("type") or visit.query.get("type", "default")
    wanted_role = visit.field("role") or visit.query.get("role", "user")
    call_type = next((t for t in types if t["name"] == wanted_type), types[0])
    role = next((r for r in roles if r["name"] == wanted_role), roles[0])
    held = set(call_type["grants"].get(role["name"], ()))
    in_use = [t["name"] for t in types if t["grants"].get(role["name"])]
    return visit.show(
        "roles.html",
        types=types,
        roles=roles,
        call_type=call_type,
        role=role,
        groups=_groups(held),
        held=sorted(held),
        requestable=sorted(REQUESTABLE),
        askable=call_type["requestable"].get(role["name"], []),
        in_use=in_use,
    )


def _delta(visit: Visit) -> tuple[list[str], list[str]]:
    shown, granted = set(visit.fields("shown")), set(visit.fields("granted"))
    return sorted(granted - shown), sorted(shown - granted)


def _asked_delta(visit: Visit) -> bool:
    return set(visit.fields("askable")) != set(visit.fields("askable_shown"))


async def preview(visit: Visit) -> Response:
    """Say what saving would change, and whom it reaches at once."""
    added, removed = _delta(visit)
    type_ = visit.field("type")
    query = {"filter": {"type": type_, "ongoing": True}, "limit": 100}
    running = (await visit.ask("POST", "/calls/query", query))["items"] if added or removed else []
    return visit.show(
        "roles_changes.html",
        added=added,
        removed=removed,
        asked=_asked_delta(visit),
        type_=type_,
        role=visit.field("role"),
        calls=len(running),
        participants=sum(found["call"]["participant_count"] for found in running),
    )


async def save(visit: Visit) -> Response:
    type_, role = visit.field("type"), visit.field("role")
    added, removed = _delta(visit)
    if added or removed:
        body = {role: {"add": added, "remove": removed}}
        await visit.ask("PATCH", "/call-types/{name}/grants", body, name=type_)
    if _asked_delta(visit):
        requestable = {role: sorted(visit.fields("askable"))}
        await visit.ask("PATCH", "/call-types/{name}", {"requestable": requestable}, name=type_)
    changed = added or removed or _asked_delta(visit)
    return visit.go(address("roles", type=type_, role=role), "saved" if changed else "unchanged")


async def create(visit: Visit) -> Response:
    name = visit.field("name").strip()
    await visit.ask("POST", "/roles", {"name": name})
    return visit.go(address("roles", type=visit.field("type"), role=name), "created")


async def remove(visit: Visit) -> Response:
    await visit.ask("DELETE", "/roles/{name}", name=visit.field("role"))
    return visit.go(address("roles", type=visit.field("type")), "deleted")


def routes(door: Door) -> list[BaseRoute]:
    return [
        Route("/console/roles", door.page(show), methods=["GET"]),
        Route("/console/roles", door.action(save, show), methods=["POST"]),
        Route("/console/roles/preview", door.action(preview, show), methods=["POST"]),
        Route("/console/roles/new", door.action(create, show), methods=["POST"]),
        Route("/console/roles/delete", door.action(remove, show), methods=["POST"]),
    ]
