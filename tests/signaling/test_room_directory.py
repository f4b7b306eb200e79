"""What RoomService asks of the rooms. Its wire is tested in `api/`, with people in `tests/e2e/test_room_service.py`."""

from __future__ import annotations

import pytest

from signaling.errors import NotFound
from signaling.room_directory import RoomDirectory
from tests.signaling.test_runtime import Edge


async def test_nobody_is_in_a_room_that_is_not_there() -> None:
    edge = await Edge.start()
    directory = RoomDirectory(edge.rooms)
    assert await directory.list_participants("lobby") == []
    signal = await edge.join("alice")
    assert [one.sid for one in await directory.list_participants("lobby")] == [signal.sid]
    with pytest.raises(NotFound, match="requested room does not exist"):
        await directory.get_participant("hall", "alice")
