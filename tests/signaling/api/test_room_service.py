"""The official client against the routes on a real socket; behind them a directory that notes what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jwt
import pytest
from livekit import api as client_api
from livekit.protocol import models
from livekit.protocol import room as api
from starlette.applications import Starlette

from signaling.api.room_service import METHODS, room_service_routes
from signaling.errors import (
    CallFailed,
    Conflict,
    LimitExceeded,
    NotFound,
    Refusal,
    TimedOut,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from signaling.settings import HttpSettings
from tests.signaling.listening import listening

KEY, SECRET = "key", "0123456789abcdef0123456789abcdef"
ROOM = models.Room(sid="RM_1", name="standup", metadata="m", creation_time=1_800_000_000, max_participants=5)
ALICE = models.ParticipantInfo(
    sid="PA_1", identity="alice", state=models.ParticipantInfo.ACTIVE, attributes={"team": "red"}
)
TRACK = models.TrackInfo(sid="TR_1", muted=True, source=models.TrackSource.MICROPHONE)


@dataclass(frozen=True)
class Granted:
    room: str = ""
    room_create: bool = False
    room_list: bool = False
    room_admin: bool = False


def verify(token: str) -> Granted:
    try:
        video = jwt.decode(token, SECRET, algorithms=["HS256"])["video"]
    except jwt.InvalidTokenError:
        raise Unauthenticated("The token's signature does not hold.") from None
    return Granted(
        room=video.get("room", ""),
        room_create=video.get("roomCreate", False),
        room_list=video.get("roomList", False),
        room_admin=video.get("roomAdmin", False),
    )


@dataclass
class Directory:
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    refusal: Exception | None = None

    def note(self, *what: Any) -> None:
        self.asked.append(what)
        if self.refusal:
            raise self.refusal

    async def create_room(self, request: api.CreateRoomRequest) -> models.Room:
        self.note("create_room", request)
        return ROOM

    async def list_rooms(self, names: Sequence[str]) -> list[models.Room]:
        self.note("list_rooms", list(names))
        return [ROOM]

    async def delete_room(self, room: str) -> None:
        self.note("delete_room", room)

    async def list_participants(self, room: str) -> list[models.ParticipantInfo]:
        self.note("list_participants", room)
        return [ALICE]

    async def get_participant(self, room: str, identity: str) -> models.ParticipantInfo:
        self.note("get_participant", room, identity)
        return ALICE

    async def remove_participant(self, room: str, identity: str, revoked_before: float) -> None:
        self.note("remove_participant", room, identity, revoked_before)

    async def mute_published_track(
        self, room: str, identity: str, track_sid: str, muted: bool
    ) -> models.TrackInfo | None:
        self.note("mute_published_track", room, identity, track_sid, muted)
        return TRACK if track_sid == "TR_1" else None

    async def update_participant(self, request: api.UpdateParticipantRequest) -> models.ParticipantInfo:
        self.note("update_participant", request)
        return ALICE

    async def update_subscriptions(self, request: api.UpdateSubscriptionsRequest) -> None:
        self.note("update_subscriptions", request)

    async def send_data(self, request: api.SendDataRequest) -> None:
        self.note("send_data", request)

    async def update_room_metadata(self, room: str, metadata: str) -> models.Room:
        self.note("update_room_metadata", room, metadata)
        return ROOM

    async def perform_rpc(self, request: api.PerformRpcRequest) -> str:
        self.note("perform_rpc", request)
        return "pong"


@dataclass
class Service:
    url: str
    directory: Directory
    session: aiohttp.ClientSession

    async def post(
        self, method: str, body: bytes | dict[str, Any], *, content_type: str = "application/json", **grants: Any
    ) -> tuple[int, str, str]:
        headers = {"Content-Type": content_type}
        if grants:
            headers["Authorization"] = f"Bearer {token(**grants)}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = f"{self.url}/twirp/livekit.RoomService/{method}"
        async with self.session.post(path, data=data, headers=headers) as reply:
            return reply.status, reply.content_type, await reply.text()


def token(**grants: Any) -> str:
    return jwt.encode({"iss": KEY, "video": grants}, SECRET, algorithm="HS256")


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    directory = Directory()
    settings = HttpSettings(body_max_bytes=65_536, request_body_timeout_seconds=0.5)
    app = Starlette(routes=room_service_routes(directory, verify, settings))
    async with listening(app, settings) as (port, _), aiohttp.ClientSession() as session:
        yield Service(f"http://127.0.0.1:{port}", directory, session)


@pytest.fixture
async def official(service: Service) -> AsyncIterator[client_api.LiveKitAPI]:
    async with client_api.LiveKitAPI(service.url, KEY, SECRET) as client:
        yield client


Call = Callable[[Any], Awaitable[Any]]
CALLS: dict[str, tuple[Call, tuple[Any, ...], Any]] = {
    "CreateRoom": (
        lambda rooms: rooms.create_room(api.CreateRoomRequest(name="standup", empty_timeout=9)),
        ("create_room", api.CreateRoomRequest(name="standup", empty_timeout=9)),
        ROOM,
    ),
    "ListRooms": (
        lambda rooms: rooms.list_rooms(api.ListRoomsRequest(names=["standup"])),
        ("list_rooms", ["standup"]),
        api.ListRoomsResponse(rooms=[ROOM]),
    ),
    "DeleteRoom": (
        lambda rooms: rooms.delete_room(api.DeleteRoomRequest(room="standup")),
        ("delete_room", "standup"),
        api.DeleteRoomResponse(),
    ),
    "ListParticipants": (
        lambda rooms: rooms.list_participants(api.ListParticipantsRequest(room="standup")),
        ("list_participants", "standup"),
        api.ListParticipantsResponse(participants=[ALICE]),
    ),
    "GetParticipant": (
        lambda rooms: rooms.get_participant(api.RoomParticipantIdentity(room="standup", identity="alice")),
        ("get_participant", "standup", "alice"),
        ALICE,
    ),
    "RemoveParticipant": (
        lambda rooms: rooms.remove_participant(api.RoomParticipantIdentity(room="standup", identity="alice")),
        ("remove_participant", "standup", "alice", 0),
        api.RemoveParticipantResponse(),
    ),
    "MutePublishedTrack": (
        lambda rooms: rooms.mute_published_track(
            api.MuteRoomTrackRequest(room="standup", identity="alice", track_sid="TR_1", muted=True)
        ),
        ("mute_published_track", "standup", "alice", "TR_1", True),
        api.MuteRoomTrackResponse(track=TRACK),
    ),
    "UpdateParticipant": (
        lambda rooms: rooms.update_participant(
            api.UpdateParticipantRequest(room="standup", identity="alice", attributes={"team": "red"})
        ),
        (
            "update_participant",
            api.UpdateParticipantRequest(room="standup", identity="alice", attributes={"team": "red"}),
        ),
        ALICE,
    ),
    "UpdateSubscriptions": (
        lambda rooms: rooms.update_subscriptions(
            api.UpdateSubscriptionsRequest(room="standup", identity="alice", track_sids=["TR_1"], subscribe=True)
        ),
        (
            "update_subscriptions",
            api.UpdateSubscriptionsRequest(room="standup", identity="alice", track_sids=["TR_1"], subscribe=True),
        ),
        api.UpdateSubscriptionsResponse(),
    ),
    "UpdateRoomMetadata": (
        lambda rooms: rooms.update_room_metadata(api.UpdateRoomMetadataRequest(room="standup", metadata="m")),
        ("update_room_metadata", "standup", "m"),
        ROOM,
    ),
}


@pytest.mark.parametrize("method", CALLS)
async def test_the_official_client(method: str, service: Service, official: client_api.LiveKitAPI) -> None:
    call, asked, answer = CALLS[method]
    assert await call(official.room) == answer
    assert service.directory.asked == [asked]


async def test_the_official_client_sends_data(service: Service, official: client_api.LiveKitAPI) -> None:
    await official.room.send_data(
        api.SendDataRequest(room="standup", data=b"hi", topic="t", destination_identities=["alice"])
    )
    ((name, request),) = service.directory.asked
    assert (name, request.data, request.topic, request.destination_identities) == ("send_data", b"hi", "t", ["alice"])


@pytest.mark.parametrize("method", ["forward_participant", "move_participant"])
async def test_moving_between_rooms_is_not_offered(
    method: str, service: Service, official: client_api.LiveKitAPI
) -> None:
    request = {"forward_participant": api.ForwardParticipantRequest, "move_participant": api.MoveParticipantRequest}
    with pytest.raises(client_api.TwirpError) as caught:
        await getattr(official.room, method)(
            request[method](room="standup", identity="alice", destination_room="other")
        )
    assert (caught.value.code, caught.value.status) == ("unimplemented", 501)
    assert not service.directory.asked


async def test_perform_rpc(service: Service) -> None:
    status, _, text = await service.post(
        "PerformRpc",
        {"room": "standup", "destinationIdentity": "alice", "method": "ping", "response_timeout_ms": 100},
        roomAdmin=True,
        room="standup",
    )
    assert (status, json.loads(text)) == (200, {"payload": "pong"})
    ((_, request),) = service.directory.asked
    assert (request.destination_identity, request.method, request.response_timeout_ms) == ("alice", "ping", 100)


async def test_an_unknown_track_to_mute_is_no_error(service: Service) -> None:
    body = {"room": "standup", "identity": "alice", "track_sid": "TR_other", "muted": True}
    status, _, text = await service.post("MutePublishedTrack", body, roomAdmin=True, room="standup")
    assert (status, json.loads(text)) == (200, {})


async def test_json_answers_in_snake_case_with_numbers_of_64_bits_as_strings(service: Service) -> None:
    status, kind, text = await service.post("ListParticipants", {"room": "standup"}, roomAdmin=True, room="standup")
    (alice,) = json.loads(text)["participants"]
    assert (status, kind) == (200, "application/json")
    assert (alice["state"], alice["joined_at"], alice["is_publisher"]) == ("ACTIVE", "0", False)


async def test_either_case_is_read_and_unknown_fields_are_ignored(service: Service) -> None:
    for name in ("emptyTimeout", "empty_timeout"):
        status, _, _ = await service.post("CreateRoom", {"name": "x", name: 7, "future": {}}, roomCreate=True)
        assert status == 200
    assert [request.empty_timeout for _, request in service.directory.asked] == [7, 7]


ADMIN = {"roomAdmin": True, "room": "standup"}
NEEDED: dict[str, dict[str, Any]] = dict.fromkeys(METHODS, ADMIN) | {
    "CreateRoom": {"roomCreate": True},
    "DeleteRoom": {"roomCreate": True},
    "ListRooms": {"roomList": True},
}
INSUFFICIENT: list[dict[str, Any]] = [
    {},
    {"roomAdmin": True},
    {"roomAdmin": True, "room": "other"},
    {"room": "standup"},
    {"roomJoin": True, "room": "standup"},
]


@pytest.mark.parametrize("method", METHODS)
async def test_each_method_needs_its_grant(method: str, service: Service) -> None:
    """S-64"""
    others = [grants for grants in ({"roomCreate": True}, {"roomList": True}, ADMIN) if grants != NEEDED[method]]
    for grants in [*INSUFFICIENT, *others]:
        status, kind, text = await service.post(method, {"room": "standup", "name": "standup"}, **grants)
        assert (status, kind) == (401, "application/json")
        assert json.loads(text) == {"code": "unauthenticated", "msg": "permissions denied"}
    assert not service.directory.asked
    status, _, _ = await service.post(method, {"room": "standup", "name": "standup"}, **NEEDED[method])
    assert status == (501 if method in ("ForwardParticipant", "MoveParticipant") else 200)


async def test_admin_of_no_room_is_admin_of_none(service: Service) -> None:
    status, _, _ = await service.post("ListParticipants", {}, roomAdmin=True)
    assert status == 401


@pytest.mark.parametrize("bad", ["garbage", jwt.encode({"video": {"roomList": True}}, SECRET + "x")])
async def test_a_bad_token_is_refused_in_plain_text(bad: str, service: Service) -> None:
    headers = {"Authorization": f"Bearer {bad}", "Content-Type": "application/json"}
    url = f"{service.url}/twirp/livekit.RoomService/ListRooms"
    async with service.session.post(url, data=b"{}", headers=headers) as reply:
        assert (reply.status, reply.content_type) == (401, "text/plain")
        assert await reply.text() == "The token's signature does not hold."


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (NotFound("requested room does not exist"), 404, "not_found"),
        (Conflict("x"), 409, "already_exists"),
        (LimitExceeded("x"), 429, "resource_exhausted"),
        (TooLarge("x"), 400, "invalid_argument"),
        (TimedOut("x"), 408, "deadline_exceeded"),
        (CallFailed("x"), 500, "internal"),
        (Unavailable("x"), 503, "unavailable"),
    ],
)
async def test_refusals_become_twirp_errors(refusal: Refusal, status: int, code: str, service: Service) -> None:
    service.directory.refusal = refusal
    answered, kind, text = await service.post("ListRooms", {}, roomList=True)
    assert (answered, kind) == (status, "application/json")
    assert json.loads(text) == {"code": code, "msg": refusal.message}


async def test_a_fault_of_ours_is_internal_and_keeps_its_details(service: Service) -> None:
    service.directory.refusal = RuntimeError("secret detail")
    status, _, text = await service.post("ListRooms", {}, roomList=True)
    assert (status, json.loads(text)["code"]) == (500, "internal")
    assert "secret detail" not in text


@pytest.mark.parametrize(
    ("method", "content_type", "body", "status", "code"),
    [
        ("Nonsense", "application/json", b"{}", 404, "bad_route"),
        ("ListRooms", "text/plain", b"{}", 404, "bad_route"),
        ("ListRooms", "application/json", b"{", 400, "malformed"),
        ("ListRooms", "application/json", b"[]", 400, "malformed"),
        ("ListRooms", "application/json", b'{"names": 4}', 400, "malformed"),
        ("ListRooms", "application/json", b"\xff", 400, "malformed"),
        ("ListRooms", "application/protobuf", b"\x0a\xff", 400, "malformed"),
        ("CreateRoom", "application/json", b'{"x":' * 9_000 + b"{}" + b"}" * 9_000, 400, "malformed"),
        ("CreateRoom", "application/json", b'{"name": "' + b"x" * 70_000 + b'"}', 400, "invalid_argument"),
    ],
)
async def test_what_cannot_be_read(
    method: str, content_type: str, body: bytes, status: int, code: str, service: Service
) -> None:
    answered, _, text = await service.post(method, body, content_type=content_type, roomCreate=True, roomList=True)
    assert (answered, json.loads(text)["code"]) == (status, code)
    assert not service.directory.asked


async def test_get_is_a_bad_route(service: Service) -> None:
    async with service.session.get(f"{service.url}/twirp/livekit.RoomService/ListRooms") as reply:
        assert (reply.status, (await reply.json())["code"]) == (404, "bad_route")


async def test_livekit_s_other_services_are_said_not_to_be_offered(service: Service) -> None:
    async with client_api.LiveKitAPI(service.url, "devkey", "secret") as official:
        for asks in (
            lambda: official.egress.list_egress(client_api.ListEgressRequest()),
            lambda: official.ingress.list_ingress(client_api.ListIngressRequest()),
            lambda: official.agent_dispatch.list_dispatch("lobby"),
            lambda: official.sip.list_inbound_trunk(client_api.ListSIPInboundTrunkRequest()),
        ):
            with pytest.raises(client_api.TwirpError) as refused:
                await asks()
            assert (refused.value.status, refused.value.code) == (501, "unimplemented")
            assert "only RoomService" in refused.value.message


async def test_a_worker_of_agents_is_told_that_none_are_dispatched(service: Service) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await service.session.ws_connect(
            f"{service.url}/agent", headers={"Authorization": f"Bearer {token(agent=True)}"}
        )
    assert refused.value.status == 501


async def test_a_body_that_never_comes_is_not_waited_for(service: Service) -> None:
    host, _, port = service.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"Host: x\r\nAuthorization: Bearer {token(roomList=True)}\r\nContent-Type: application/json\r\n"
    writer.write(f"POST /twirp/livekit.RoomService/ListRooms HTTP/1.1\r\n{head}Content-Length: 10\r\n\r\n{{".encode())
    assert b"408" in await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_names_are_compared_and_passed_on_in_one_spelling(service: Service) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for spelling in (composed, decomposed):
        body = {"room": spelling, "identity": "Zoe\u0308"}
        status, _, _ = await service.post("RemoveParticipant", body, roomAdmin=True, room=composed)
        assert status == 200
        assert service.directory.asked[-1] == ("remove_participant", composed, "Zo\u00eb", 0)
    await service.post("ListRooms", {"names": [decomposed]}, roomList=True)
    assert service.directory.asked[-1] == ("list_rooms", [composed])
