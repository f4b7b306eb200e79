"""LiveKit's RoomService over Twirp: `POST /twirp/livekit.RoomService/<Method>`, JSON or protobuf.

Checks the grant each method needs, translates, and asks `RoomDirectory`. Twirp is small enough to be written here:
https://twitchtv.github.io/twirp/docs/spec_v7.html. Where livekit-server waits six seconds and says 503 for data to a
room that is not there, this says `not_found` at once. LiveKit's other services, and its agents' workers, are told that
they are not offered. Not here: any rule of a room.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from livekit.protocol import models
from livekit.protocol import room as api
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket

from signaling.api.access_token import access_token
from signaling.api.body import read_body
from signaling.errors import InvalidRequest, NotFound, PermissionDenied, Refusal, Unauthenticated, Unimplemented
from signaling.rooms.names import normal
from signaling.settings import HttpSettings

PREFIX = "/twirp/livekit.RoomService"
_JSON = "application/json"
_PROTOBUF = "application/protobuf"
_JSON_DEPTH_MAX = 32

# https://twitchtv.github.io/twirp/docs/errors.html
_TWIRP_STATUS = {
    "invalid_argument": 400,
    "malformed": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "bad_route": 404,
    "deadline_exceeded": 408,
    "already_exists": 409,
    "failed_precondition": 412,
    "resource_exhausted": 429,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
}
_NAMES = {"room", "name", "identity", "destination_identity"}
_LISTS_OF_NAMES = {"names", "destination_identities"}
_TWIRP_CODE = {"too_large": "invalid_argument", "permission_denied": "unauthenticated", "call_failed": "internal"}
"""Our codes that Twirp does not have, or that LiveKit calls otherwise: a missing grant is `unauthenticated`."""

log = structlog.get_logger(__name__)


class Grants(Protocol):
    """What a token allows, as far as this interface asks."""

    @property
    def room(self) -> str: ...
    @property
    def room_create(self) -> bool: ...
    @property
    def room_list(self) -> bool: ...
    @property
    def room_admin(self) -> bool: ...


class RoomDirectory(Protocol):
    """The rooms, as a coordinator sees them. Raises `Refusal`s."""

    async def create_room(self, request: api.CreateRoomRequest) -> models.Room: ...
    async def list_rooms(self, names: Sequence[str]) -> list[models.Room]: ...
    async def delete_room(self, room: str) -> None: ...
    async def list_participants(self, room: str) -> list[models.ParticipantInfo]: ...
    async def get_participant(self, room: str, identity: str) -> models.ParticipantInfo: ...
    async def remove_participant(self, room: str, identity: str, revoked_before: float) -> None: ...
    async def mute_published_track(
        self, room: str, identity: str, track_sid: str, muted: bool
    ) -> models.TrackInfo | None: ...
    async def update_participant(self, request: api.UpdateParticipantRequest) -> models.ParticipantInfo: ...
    async def update_subscriptions(self, request: api.UpdateSubscriptionsRequest) -> None: ...
    async def send_data(self, request: api.SendDataRequest) -> None: ...
    async def update_room_metadata(self, room: str, metadata: str) -> models.Room: ...
    async def perform_rpc(self, request: api.PerformRpcRequest) -> str: ...


@dataclass(frozen=True)
class Method:
    """One RPC: the message it takes, who may call it, what is done. Answers with a message."""

    request: type[Message]
    allows: Callable[[Grants, Any], bool]
    call: Callable[[RoomDirectory, Any], Awaitable[Message]]


def room_service_routes(
    directory: RoomDirectory, verify: Callable[[str], Grants], settings: HttpSettings
) -> list[BaseRoute]:
    """Return the routes. `verify` turns a token into its grants or raises `Unauthenticated`."""

    async def answer(request: Request) -> Response:
        try:
            grants = _grants(request, verify)
        except Unauthenticated as error:
            # livekit-server's middleware refuses bad tokens before Twirp sees them, in plain text.
            return PlainTextResponse(error.message, 401)
        try:
            return await _call(request, grants, directory, settings)
        except Refusal as error:
            return _error(_TWIRP_CODE.get(error.code, error.code), error.message)
        except Exception:
            log.exception("room_service_failed", method=request.path_params["method"])
            return _error("internal", "The server failed; its log says why.")

    # Twirp answers wrong verbs with bad_route itself, so the router must not.
    verbs = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    return [
        Route(PREFIX + "/{method}", answer, methods=verbs),
        Route("/twirp/livekit.{service}/{method}", _other_service, methods=verbs),
        # A worker of LiveKit's agents: it shows the status alone, so the status must not blame its key.
        WebSocketRoute("/agent", _no_agents),
    ]


async def _other_service(request: Request) -> Response:
    service = request.path_params["service"]
    return _error("unimplemented", f"livekit.{service} is not offered here: of LiveKit's services only RoomService is.")


async def _no_agents(websocket: WebSocket) -> None:
    sentence = "Agents are not dispatched here; an agent joins a room as any participant does, with a token."
    await websocket.send_denial_response(PlainTextResponse(sentence, 501))


class _BadRoute(NotFound):
    code = "bad_route"


class _Malformed(InvalidRequest):
    code = "malformed"


async def _call(request: Request, grants: Grants | None, directory: RoomDirectory, settings: HttpSettings) -> Response:
    name = request.path_params["method"]
    method = METHODS.get(name)
    if request.method != "POST":
        raise _BadRoute(f"unsupported method {request.method!r} (only POST is allowed)")
    if method is None:
        raise _BadRoute(f"no handler for path {request.url.path!r}")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (_JSON, _PROTOBUF):
        raise _BadRoute(f"unexpected Content-Type: {kind!r}")
    body = await read_body(
        request, max_bytes=settings.body_max_bytes, timeout_seconds=settings.request_body_timeout_seconds
    )
    message = _parse(method.request(), body, kind)
    if grants is None or not method.allows(grants, message):
        raise PermissionDenied("permissions denied")
    reply = await method.call(directory, message)
    if kind == _PROTOBUF:
        return Response(reply.SerializeToString(), media_type=_PROTOBUF)
    text = json_format.MessageToJson(
        reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
    )
    return Response(text, media_type=_JSON)


def _grants(request: Request, verify: Callable[[str], Grants]) -> Grants | None:
    """Return None without a token: Twirp then says so, in JSON."""
    token = access_token(request)
    return verify(token) if token else None


def _parse(message: Message, body: bytes, kind: str) -> Message:
    try:
        if kind == _PROTOBUF:
            message.ParseFromString(body)
        else:
            fields = json.loads(body)
            if not isinstance(fields, dict):
                raise _Malformed("the request is not a JSON object")
            json_format.ParseDict(fields, message, ignore_unknown_fields=True, max_recursion_depth=_JSON_DEPTH_MAX)
    except (DecodeError, json_format.ParseError, UnicodeDecodeError, RecursionError, ValueError):
        raise _Malformed("the request could not be decoded") from None
    _spell(message)
    return message


def _spell(message: Message) -> None:
    """Names in the spelling in which rooms and participants have them."""
    for field, value in message.ListFields():
        if field.name in _NAMES:
            setattr(message, field.name, normal(value))
        elif field.name in _LISTS_OF_NAMES:
            value[:] = [normal(name) for name in value]


def _error(code: str, message: str) -> Response:
    body = json.dumps({"code": code, "msg": message})
    return Response(body, _TWIRP_STATUS.get(code, 500), media_type=_JSON)


def _may_create(grants: Grants, _: Any) -> bool:
    return grants.room_create


def _may_list(grants: Grants, _: Any) -> bool:
    return grants.room_list


def _may_administer(grants: Grants, request: Any) -> bool:
    return grants.room_admin and bool(request.room) and grants.room == request.room


async def _create_room(rooms: RoomDirectory, request: api.CreateRoomRequest) -> Message:
    return await rooms.create_room(request)


async def _list_rooms(rooms: RoomDirectory, request: api.ListRoomsRequest) -> Message:
    return api.ListRoomsResponse(rooms=await rooms.list_rooms(request.names))


async def _delete_room(rooms: RoomDirectory, request: api.DeleteRoomRequest) -> Message:
    await rooms.delete_room(request.room)
    return api.DeleteRoomResponse()


async def _list_participants(rooms: RoomDirectory, request: api.ListParticipantsRequest) -> Message:
    return api.ListParticipantsResponse(participants=await rooms.list_participants(request.room))


async def _get_participant(rooms: RoomDirectory, request: api.RoomParticipantIdentity) -> Message:
    return await rooms.get_participant(request.room, request.identity)


async def _remove_participant(rooms: RoomDirectory, request: api.RoomParticipantIdentity) -> Message:
    await rooms.remove_participant(request.room, request.identity, request.revoke_token_ts)
    return api.RemoveParticipantResponse()


async def _mute_published_track(rooms: RoomDirectory, request: api.MuteRoomTrackRequest) -> Message:
    track = await rooms.mute_published_track(request.room, request.identity, request.track_sid, request.muted)
    return api.MuteRoomTrackResponse(track=track)


async def _update_participant(rooms: RoomDirectory, request: api.UpdateParticipantRequest) -> Message:
    return await rooms.update_participant(request)


async def _update_subscriptions(rooms: RoomDirectory, request: api.UpdateSubscriptionsRequest) -> Message:
    await rooms.update_subscriptions(request)
    return api.UpdateSubscriptionsResponse()


async def _send_data(rooms: RoomDirectory, request: api.SendDataRequest) -> Message:
    await rooms.send_data(request)
    return api.SendDataResponse()


async def _update_room_metadata(rooms: RoomDirectory, request: api.UpdateRoomMetadataRequest) -> Message:
    return await rooms.update_room_metadata(request.room, request.metadata)


async def _perform_rpc(rooms: RoomDirectory, request: api.PerformRpcRequest) -> Message:
    return api.PerformRpcResponse(payload=await rooms.perform_rpc(request))


async def _not_offered(_: RoomDirectory, request: Any) -> Message:
    raise Unimplemented("Moving participants between rooms is not offered.")


METHODS: dict[str, Method] = {
    "CreateRoom": Method(api.CreateRoomRequest, _may_create, _create_room),
    "ListRooms": Method(api.ListRoomsRequest, _may_list, _list_rooms),
    "DeleteRoom": Method(api.DeleteRoomRequest, _may_create, _delete_room),
    "ListParticipants": Method(api.ListParticipantsRequest, _may_administer, _list_participants),
    "GetParticipant": Method(api.RoomParticipantIdentity, _may_administer, _get_participant),
    "RemoveParticipant": Method(api.RoomParticipantIdentity, _may_administer, _remove_participant),
    "MutePublishedTrack": Method(api.MuteRoomTrackRequest, _may_administer, _mute_published_track),
    "UpdateParticipant": Method(api.UpdateParticipantRequest, _may_administer, _update_participant),
    "UpdateSubscriptions": Method(api.UpdateSubscriptionsRequest, _may_administer, _update_subscriptions),
    "SendData": Method(api.SendDataRequest, _may_administer, _send_data),
    "UpdateRoomMetadata": Method(api.UpdateRoomMetadataRequest, _may_administer, _update_room_metadata),
    "PerformRpc": Method(api.PerformRpcRequest, _may_administer, _perform_rpc),
    "ForwardParticipant": Method(api.ForwardParticipantRequest, _may_administer, _not_offered),
    "MoveParticipant": Method(api.MoveParticipantRequest, _may_administer, _not_offered),
}
