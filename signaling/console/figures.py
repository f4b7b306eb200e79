"""What the media side measures in a room, for the console's charts: the workers' statistics by participant.

A room of another node is asked for there, as an operator would at `GET /debug/rooms/{room}`. Not here: what is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from livekit.protocol import models
from sqlalchemy import select

from sfu.node import NodeError
from signaling.api.room_debug import describe
from signaling.api.v1.service import CallsService
from signaling.console.backend import ParticipantFigures
from signaling.room_service_client import RoomServiceClient, RoomServiceFailed
from signaling.runtime import Rooms
from signaling.store import schema

log = structlog.get_logger(__name__)

ASK_SECONDS = 2.0
"""How long another node may take to tell; its charts stand still meanwhile."""


class RoomFigures:
    """`Figures` over the rooms of every node on the database."""

    def __init__(self, rooms: Rooms, service: CallsService) -> None:
        self._rooms = rooms
        self._service = service

    async def __call__(self, room: str) -> Sequence[ParticipantFigures] | None:
        described = await (self._here(room) if room in self._rooms.hosted else self._there(room))
        if described is None:
            return None
        return [_figures(who, one) for who, one in described["participants"].items() if one["connections"]]

    async def _node_of(self, room: str) -> str:
        query = select(schema.calls.c.node).where(schema.calls.c.session_id == room)
        async with self._service.database.read() as connection:
            return (await connection.execute(query)).scalar() or ""

    async def _here(self, room: str) -> Mapping[str, Any] | None:
        hosted = self._rooms.hosted.get(room)
        if hosted is None or hosted.worker is None:
            return None
        try:
            return describe(hosted, await hosted.worker.room_stats(hosted.record.number))
        except NodeError:
            return None

    async def _there(self, room: str) -> Mapping[str, Any] | None:
        node = await self._node_of(room)
        facts = (await self._service.nodes.living()).get(node)
        if facts is None or node == self._service.nodes.own:
            return None
        # Servers on one database have their keys in common: media tokens of one are taken by all.
        key, secret = next(iter(self._service.keys.items()))
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await RoomServiceClient(facts.url, key, secret).described(room)
        except (RoomServiceFailed, TimeoutError) as error:
            log.info("node_tells_no_figures", node=node, error=str(error) or type(error).__name__)
            return None


def _figures(identity: str, person: Mapping[str, Any]) -> ParticipantFigures:
    # A client with one connection for each direction is still one participant.
    measured = [connection["quality"] for connection in person["connections"]]
    return ParticipantFigures(
        identity=identity,
        bitrate_up_bps=sum(one["bitrate_up_bps"] for one in measured),
        bitrate_down_bps=sum(one["bitrate_down_bps"] for one in measured),
        rtt_ms=max(one["rtt_ms"] for one in measured),
        loss_up=max(one["loss_up"] for one in measured),
        loss_down=max(one["loss_down"] for one in measured),
        quality=models.ConnectionQuality.Name(person["quality"]).lower(),
    )
