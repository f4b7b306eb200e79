"""Call types: list, a copy as a new one, settings by group, default role of members, deletion."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from signaling.calls.call_settings import DEFAULTS, MODES, WITHOUT_ENGINE
from signaling.calls.call_types import NOTIFICATION_KINDS
from signaling.calls.problems import Problem, unprocessable
from signaling.console.web import Door, Visit, address

OPTIONS: dict[str, tuple[str, ...]] = {
    "audio.default_device": ("speaker", "earpiece"),
    "video.camera_facing": ("front", "back", "external"),
    "recording.mode": MODES,
    "recording.kind": ("composite", "individual", "raw", "audio"),
    "transcription.mode": MODES,
    "transcription.captions_mode": MODES,
    "broadcasting.mode": ("disabled", "available"),
    "ingress.mode": ("disabled", "available"),
    "frame_recording.mode": MODES,
}


def fields_of(settings: dict[str, Any], defaults: dict[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Return the inputs of one group: name, kind and value each."""
    found: list[dict[str, Any]] = []
    for key, value in settings.items():
        name = f"{prefix}.{key}"
        default = defaults[key]
        if isinstance(default, dict):
            found += fields_of(value, default, name)
            continue
        kind = "number"
        if isinstance(default, bool):
            kind = "flag"
        elif name in OPTIONS:
            kind = "choice"
        elif isinstance(default, list):
            kind, value = "names", ", ".join(value)
        elif isinstance(default, str):
            kind = "text"
        label = name.split(".", 1)[1].replace("_", " ").replace(".", ": ")
        found.append({"name": name, "label": label, "kind": kind, "value": value, "options": OPTIONS.get(name, ())})
    return found


def patch_of(visit: Visit, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what the form changes, nested as the API takes it."""
    patch: dict[str, Any] = {}
    for group, values in settings.items():
        for one in fields_of(values, DEFAULTS[group], group):
            value = _value(visit, one)
            if value != (one["value"] if one["kind"] != "names" else _names(one["value"])):
                _put(patch, one["name"].split("."), value)
    return patch


def _value(visit: Visit, one: dict[str, Any]) -> Any:
    text = visit.field(one["name"]).strip()
    match one["kind"]:
        case "flag":
            return text == "on"
        case "names":
            return _names(text)
        case "number":
            if not text:
                return None
            try:
                return int(text)
            except ValueError:
                pointer = "/settings/" + one["name"].replace(".", "/")
                raise unprocessable(pointer, f"{one['label']} is a whole number.") from None
    return text


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _put(patch: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        patch = patch.setdefault(key, {})
    patch[path[-1]] = value


async def show_all(visit: Visit) -> Response:
    return visit.show("types.html", types=await visit.all("/call-types"))


async def create(visit: Visit) -> Response:
    name = visit.field("name").strip()
    await visit.ask("POST", "/call-types", {"name": name, "base": visit.field("base")})
    return visit.go(address("types", name), "created")


async def show(visit: Visit) -> Response:
    call_type = (await visit.ask("GET", "/call-types/{name}", name=visit.path["name"]))["call_type"]
    groups = [(group, fields_of(values, DEFAULTS[group], group)) for group, values in call_type["settings"].items()]
    return visit.show(
        "type.html",
        call_type=call_type,
        groups=groups,
        hints=WITHOUT_ENGINE,
        roles=await visit.all("/roles"),
        kinds=NOTIFICATION_KINDS,
    )


async def save(visit: Visit) -> Response:
    name = visit.path["name"]
    current = (await visit.ask("GET", "/call-types/{name}", name=name))["call_type"]
    if visit.field("version") != str(current["version"]):
        raise Problem("version_mismatch", "Somebody changed the type meanwhile; this shows it as it is now.")
    body: dict[str, Any] = {}
    if patch := patch_of(visit, current["settings"]):
        body["settings"] = patch
    if templates := _templates(visit, current["notifications"]):
        body["notifications"] = templates
    if visit.field("default_member_role") not in ("", current["default_member_role"]):
        body["default_member_role"] = visit.field("default_member_role")
    if body:
        await visit.ask("PATCH", "/call-types/{name}", body, name=name)
    return visit.go(address("types", name), "saved" if body else "unchanged")


def _templates(visit: Visit, current: dict[str, Any]) -> dict[str, Any]:
    """Return the notifications that the form changes; None takes a kind away, and with it that push."""
    changed: dict[str, Any] = {}
    for kind in NOTIFICATION_KINDS:
        template = None
        if visit.field(f"push.{kind}") == "on":
            template = {part: visit.field(f"push.{kind}.{part}").strip() for part in ("title", "body")}
        if template != current.get(kind):
            changed[kind] = template
    return changed


async def remove(visit: Visit) -> Response:
    await visit.ask("DELETE", "/call-types/{name}", name=visit.path["name"])
    return visit.go(address("types"), "deleted")


def routes(door: Door) -> list[BaseRoute]:
    return [
        Route("/console/types", door.page(show_all), methods=["GET"]),
        Route("/console/types", door.action(create, show_all), methods=["POST"]),
        Route("/console/types/{name}", door.page(show), methods=["GET"]),
        Route("/console/types/{name}", door.action(save, show), methods=["POST"]),
        Route("/console/types/{name}/delete", door.action(remove, show), methods=["POST"]),
    ]
