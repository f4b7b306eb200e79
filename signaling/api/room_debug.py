"""`GET /debug/rooms/{room}`: why everybody gets what he gets, live: estimates, layers, reasons, queues.

For a token with `roomAdmin` of that room. Figures are the worker's (`sfu.border.RoomStats`), ids replaced by the names
that people know. Not here: any decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sfu import border
from sfu.node import NodeError
from signaling.errors import PermissionDenied, Refusal, Unauthenticated, Unavailable, status_of
from signaling.rooms.core import RoomCore
from signaling.rooms.grants import Grants
from signaling.runtime import Hosted, Rooms


def room_debug_routes(rooms: Rooms, verify: Callable[[str], Grants]) -> list[BaseRoute]:
    """Return the route. `verify` turns a token into grants or raises `Unauthenticated`."""

    async def room_debug(request: Request) -> Response:
        try:
            return JSONResponse(await _described(request), headers={"Cache-Control": "no-store"})
        except Refusal as refusal:
            body = {"code": refusal.code, "message": refusal.message}
            return JSONResponse(body, status_of(refusal).http)

    async def _described(request: Request) -> dict[str, Any]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("there is no access token")
        name = request.path_params["room"]
        grants = verify(token.strip())
        if not grants.room_admin or grants.room != name:
            raise PermissionDenied("permissions denied: this needs `roomAdmin` of the room")
        hosted = rooms.find(name)
        if hosted.worker is None:
            raise Unavailable("The room's worker has died; it gets another with the next participant.")
        try:
            stats = await hosted.worker.room_stats(hosted.record.number)
        except NodeError as error:
            raise Unavailable(f"{error}.") from error
        return describe(hosted, stats)

    return [Route("/debug/rooms/{room:path}", room_debug)]


def describe(hosted: Hosted, stats: border.RoomStats) -> dict[str, Any]:
    """Put the worker's figures under participants and tracks."""
    core = hosted.room.core
    people: dict[str, dict[str, Any]] = {
        participant.identity: {"sid": participant.sid, "connections": [], "publishes": [], "receives": []}
        for participant in core.participants.values()
    }
    for transport in stats.transports:
        participant = core.by_transport.get(transport.quality.transport)
        if participant is not None:
            people[participant.identity]["connections"].append(_plain(transport))
    for uptrack in stats.uptracks:
        found = core.by_uptrack.get(uptrack.uptrack)
        if found is not None:
            publisher, track, uplink = found
            named = {"track": track.sid, "source": track.info.source, "demand": uplink.max_spatial}
            people[publisher.identity]["publishes"].append(named | _plain(uptrack))
    for downtrack in stats.downtracks:
        received = core.by_downtrack.get(downtrack.downtrack)
        if received is not None:
            subscriber, subscription = received
            named = {"track": subscription.track_sid, "from": _identity(core, subscription.publisher_sid)}
            people[subscriber.identity]["receives"].append(
                named | _plain(downtrack) | {"want": _plain(subscription.want)}
            )
    worker = hosted.worker.id if hosted.worker is not None else None
    return {"room": core.record.name, "sid": core.record.sid, "worker": worker, "participants": people}


def _identity(core: RoomCore, sid: str) -> str | None:
    participant = core.participants.get(sid)
    return participant.identity if participant is not None else None


def _plain(value: border.Value) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    for number in ("transport", "uptrack", "downtrack"):
        plain.pop(number, None)
    return plain
