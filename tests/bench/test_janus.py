"""What Janus is asked for, and how its answers are told from its acknowledgements."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from bench.peers import janus
from bench.peers.base import PeerError
from bench.peers.janus import Api
from bench.scenarios import CAMERA, SIMULCAST, Scenario
from signaling.load.plan import MICROPHONE


def test_a_member_asks_for_everybody_else_in_the_layers_of_the_scenario() -> None:
    request = janus.join_request(Scenario("t", "t", (SIMULCAST, MICROPHONE), members=4), room=1, subscriber=1)
    first, third, fourth = (janus.feed(1, publisher) for publisher in (0, 2, 3))
    assert (request["room"], request["ptype"]) == (2, "subscriber")
    assert request["streams"] == [
        {"feed": first, "mid": "0", "substream": 2},
        {"feed": first, "mid": "1"},
        {"feed": third, "mid": "0", "substream": 1},
        {"feed": third, "mid": "1"},
        {"feed": fourth, "mid": "0", "substream": 1},
        {"feed": fourth, "mid": "1"},
    ]


def test_a_viewer_asks_for_all_publishers_of_his_room() -> None:
    request = janus.join_request(Scenario("t", "t", (CAMERA,), speakers=2, viewers=2), room=0, subscriber=1)
    assert request["streams"] == [{"feed": janus.feed(0, publisher), "mid": "0"} for publisher in range(2)]


def test_a_room_takes_all_publishers_and_the_codecs_of_the_scenario() -> None:
    request = janus.room_request(3, Scenario("t", "t", (CAMERA, MICROPHONE), speakers=7, members=2, viewers=9))
    assert (request["room"], request["publishers"], request["videocodec"], request["bitrate"]) == (4, 9, "vp8", 0)


async def test_answers_come_after_acknowledgements_and_errors_are_told_in_janus_words() -> None:
    numbers = iter(range(1, 100))

    async def fake(socket: ServerConnection) -> None:
        async for text in socket:
            message: dict[str, Any] = json.loads(text)
            same = {"transaction": message["transaction"]}
            if message["janus"] in ("create", "attach"):
                await socket.send(json.dumps({**same, "janus": "success", "data": {"id": next(numbers)}}))
                continue
            if message["body"]["request"] == "vanish":
                await socket.close()
                return
            await socket.send(json.dumps({**same, "janus": "ack"}))
            # News of the room have no transaction, and are nobody's answer.
            await socket.send(json.dumps({"janus": "event", "plugindata": {"data": {"publishers": []}}}))
            data = {"error": "No such room"} if message["body"]["request"] == "join" else {"heard": message}
            await socket.send(json.dumps({**same, "janus": "event", "plugindata": {"data": data}}))

    async with serve(fake, "127.0.0.1", 0, subprotocols=["janus-protocol"]) as server:  # type: ignore[list-item]
        port = server.sockets[0].getsockname()[1]
        api = await Api.connect(f"ws://127.0.0.1:{port}")
        handle = await api.attach()
        answer = await api.message(handle, {"request": "start"}, {"type": "answer", "sdp": "v=0"})
        heard = answer["plugindata"]["data"]["heard"]
        assert (heard["session_id"], heard["handle_id"], heard["jsep"]["sdp"]) == (1, handle, "v=0")
        with pytest.raises(PeerError, match="refused join: No such room"):
            await api.message(handle, {"request": "join"})
        with pytest.raises(PeerError, match="closed the connection"):
            await api.message(handle, {"request": "vanish"})
        await api.close()
