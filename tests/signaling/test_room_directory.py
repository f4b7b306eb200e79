"""What RoomService asks of the rooms. Its wire is tested in `api/`, with people in `tests/e2e/test_room_service.py`."""

from __future__ import annotations

from typing import Any

import pytest
from livekit.protocol import egress, models
from livekit.protocol import room as api
from livekit.protocol.agent_dispatch import RoomAgentDispatch
from structlog.testing import capture_logs

from signaling.errors import InvalidRequest, NotFound, Refusal, Unimplemented
from signaling.room_directory import RoomDirectory
from tests.signaling.edge import Edge


@pytest.mark.parametrize(
    ("asked", "refusal", "sentence"),
    [
        ({"egress": api.RoomEgress(room=egress.RoomCompositeEgressRequest())}, Unimplemented, "egress is not offered"),
        ({"egress": api.RoomEgress(tracks=egress.AutoTrackEgress())}, Unimplemented, "egress is not offered"),
        ({"room_preset": "large"}, InvalidRequest, "unknown room preset"),
        ({"name": ""}, InvalidRequest, "room name cannot be empty"),
    ],
)
async def test_a_room_is_not_made_with_less_than_was_asked_for(
    asked: dict[str, Any], refusal: type[Refusal], sentence: str
) -> None:
    edge = await Edge.start()
    with pytest.raises(refusal, match=sentence):
        await RoomDirectory(edge.rooms).create_room(api.CreateRoomRequest(**{"name": "lobby", **asked}))
    assert not edge.rooms.hosted


async def test_agents_that_are_not_dispatched_are_said_in_the_log_once_a_room() -> None:
    edge = await Edge.start()
    request = api.CreateRoomRequest(name="lobby", agents=[RoomAgentDispatch(agent_name="scribe")], egress={})
    with capture_logs() as logs:
        made = [await RoomDirectory(edge.rooms).create_room(request) for _ in range(2)]
    assert [type(room) for room in made] == [models.Room] * 2
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [(entry["event"], entry["room"], entry["not_offered"]) for entry in warnings] == [
        ("room_not_as_asked", "lobby", "agents")
    ]


async def test_nobody_is_in_a_room_that_is_not_there() -> None:
    edge = await Edge.start()
    directory = RoomDirectory(edge.rooms)
    assert await directory.list_participants("lobby") == []
    signal = await edge.join("alice")
    assert [one.sid for one in await directory.list_participants("lobby")] == [signal.sid]
    with pytest.raises(NotFound, match="requested room does not exist"):
        await directory.get_participant("hall", "alice")
