from __future__ import annotations

import httpx2
import pytest
from starlette.applications import Starlette

from signaling.api.room_service import room_service_routes
from signaling.errors import NotFound
from signaling.room_service_client import RoomServiceClient, RoomServiceFailed
from signaling.settings import HttpSettings
from tests.signaling.api.test_room_service import KEY, ROOM, SECRET, Directory, verify


@pytest.fixture
def directory() -> Directory:
    return Directory()


def client(directory: Directory, secret: str = SECRET, url: str = "ws://server/") -> RoomServiceClient:
    app = Starlette(routes=room_service_routes(directory, verify, HttpSettings()))
    return RoomServiceClient(url, KEY, secret, httpx2.ASGITransport(app=app))


async def test_rooms_are_listed(directory: Directory) -> None:
    (room,) = await client(directory).list_rooms()
    assert (room["name"], room["sid"], room["num_participants"]) == ("standup", ROOM.sid, 0)


async def test_participants_are_shown(directory: Directory) -> None:
    (alice,) = await client(directory).participants("standup")
    assert (alice["identity"], alice["state"], alice["attributes"]) == ("alice", "ACTIVE", {"team": "red"})


async def test_a_room_is_deleted(directory: Directory) -> None:
    await client(directory).delete_room("standup")
    assert directory.asked == [("delete_room", "standup")]


async def test_a_refusal_is_a_sentence(directory: Directory) -> None:
    directory.refusal = NotFound("requested room does not exist")
    with pytest.raises(RoomServiceFailed, match="http://server refused: requested room does not exist"):
        await client(directory).delete_room("standup")


async def test_a_wrong_secret_is_a_sentence(directory: Directory) -> None:
    with pytest.raises(RoomServiceFailed, match="The token's signature does not hold"):
        await client(directory, SECRET + "x").list_rooms()
