"""`GET /debug/rooms/{room}`: why everybody gets what he gets, live: estimates, layers, reasons, queues.
`GET /debug/rooms/{room}/trace?identity=…&seconds=30`: the same of one participant over a time, to be played again.

For a token with `roomAdmin` of that room. Figures and traces are the worker's (`sfu.border.RoomStats`, `Trace`), ids
replaced by the names that people know, or explained. Not here: any decision.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from sfu import border
from sfu.node import NodeError, Trace, TraceRefused, WorkerHandle
from signaling.errors import (
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PermissionDenied,
    PreconditionFailed,
    Refusal,
    Unauthenticated,
    Unavailable,
    status_of,
)
from signaling.rooms.core import RoomCore
from signaling.rooms.grants import Grants
from signaling.runtime import Hosted, Rooms

_TRACE_SECONDS = 30.0
_NO_STORE = {"Cache-Control": "no-store"}


def room_debug_routes(rooms: Rooms, verify: Callable[[str], Grants], trace_max_seconds: float) -> list[BaseRoute]:
    """Return the routes. `verify` turns a token into grants or raises `Unauthenticated`."""

    async def debug(request: Request) -> Response:
        try:
            # A room may be called `…/trace` itself: which one is meant is told by the token, which is for one room.
            administered, path = _administered(request), request.path_params["path"]
            if path == administered:
                return await room_debug(administered)
            if path == f"{administered}/trace":
                return await room_trace(administered, request.query_params)
            raise PermissionDenied("permissions denied: this needs `roomAdmin` of the room")
        except Refusal as refusal:
            return _refused(refusal)

    async def room_debug(room: str) -> Response:
        hosted, worker = _hosted(room)
        try:
            stats = await worker.room_stats(hosted.record.number)
        except NodeError as error:
            raise Unavailable(f"{error}.") from error
        return JSONResponse(describe(hosted, stats), headers=_NO_STORE)

    async def room_trace(room: str, asked: QueryParams) -> Response:
        hosted, worker = _hosted(room)
        seconds = _seconds(asked.get("seconds"), trace_max_seconds)
        identity = asked.get("identity", "")
        transport = _receiving(hosted.room.core, identity)
        try:
            trace, first = await worker.trace(transport, seconds)
        except TraceRefused as error:
            raise _trace_refusal(error.reason) from error
        except NodeError as error:
            raise Unavailable(f"{error}.") from error
        lines = _named(trace, first, hosted.room.core, identity)
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=_NO_STORE)

    def _administered(request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("there is no access token")
        grants = verify(token.strip())
        if not grants.room_admin:
            raise PermissionDenied("permissions denied: this needs `roomAdmin` of the room")
        return grants.room

    def _hosted(room: str) -> tuple[Hosted, WorkerHandle]:
        hosted = rooms.find(room)
        if hosted.worker is None:
            raise Unavailable("The room's worker has died; it gets another with the next participant.")
        return hosted, hosted.worker

    return [Route("/debug/rooms/{path:path}", debug)]


def _refused(refusal: Refusal) -> Response:
    return JSONResponse({"code": refusal.code, "message": refusal.message}, status_of(refusal).http)


def _seconds(text: str | None, most: float) -> float:
    try:
        seconds = float(text) if text is not None else min(_TRACE_SECONDS, most)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= most:
        raise InvalidRequest(f"`seconds` is a number from 1 to {most:g} (`node.engine.trace_max_seconds`).")
    return seconds


def _receiving(core: RoomCore, identity: str) -> int:
    if not identity:
        raise InvalidRequest("Say by `identity` whose reception is to be recorded.")
    for participant in core.participants.values():
        if participant.identity == identity:
            return participant.receiving.transport
    raise NotFound("requested participant does not exist")


def _trace_refusal(reason: border.TraceEnd) -> Refusal:
    if reason is border.TraceEnd.TOO_MANY:
        return LimitExceeded(
            "This participant is recorded already, or as many are as may be (`node.engine.max_traces`)."
        )
    return PreconditionFailed("The participant has no connection yet on which anything is received.")


async def _named(trace: Trace, first: bytes, core: RoomCore, identity: str) -> AsyncIterator[bytes]:
    """The worker's lines; after the first what its numbers stand for, and again at the end, of what came meanwhile."""
    try:
        header, _, rest = first.partition(b"\n")
        yield b"\n".join((header, names(core, identity), rest))
        async for lines in trace:
            last = lines.rfind(b"\n", 0, -1) + 1 if trace.end is not None else len(lines)
            yield lines[:last]
            if trace.end is not None:
                yield names(core, identity) + b"\n" + lines[last:]
    except NodeError:
        # The worker has died: without a last line the trace is seen to be cut off.
        return
    finally:
        trace.stop()


def names(core: RoomCore, identity: str) -> bytes:
    """A line of a trace: the room, whose trace it is, and by number which tracks he receives."""
    tracks: dict[str, dict[str, str | None]] = {}
    for number, (subscriber, subscription) in core.by_downtrack.items():
        if subscriber.identity == identity:
            tracks[str(number)] = {
                "track": subscription.track_sid,
                "from": _identity(core, subscription.publisher_sid),
                "kind": subscription.kind,
            }
    line = {"line": "names", "room": core.record.name, "sid": core.record.sid, "identity": identity, "tracks": tracks}
    return msgspec.json.encode(line)


def describe(hosted: Hosted, stats: border.RoomStats) -> dict[str, Any]:
    """Put the worker's figures under participants and tracks."""
    core = hosted.room.core
    people: dict[str, dict[str, Any]] = {
        participant.identity: {
            "sid": participant.sid,
            "quality": participant.quality,
            "connections": [],
            "publishes": [],
            "receives": [],
        }
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
