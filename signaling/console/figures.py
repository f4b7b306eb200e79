"""What the media side measures in a room, for the console's charts: the workers' statistics by participant."""

from __future__ import annotations

from collections.abc import Sequence

from livekit.protocol import models

from sfu.node import NodeError
from signaling.console.backend import ParticipantFigures
from signaling.runtime import Rooms


class RoomFigures:
    """`Figures` over this node's rooms."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def __call__(self, room: str) -> Sequence[ParticipantFigures] | None:
        hosted = self._rooms.hosted.get(room)
        if hosted is None or hosted.worker is None:
            return None
        try:
            stats = await hosted.worker.room_stats(hosted.record.number)
        except NodeError:
            return None
        found: dict[str, ParticipantFigures] = {}
        for transport in stats.transports:
            participant = hosted.room.core.by_transport.get(transport.quality.transport)
            if participant is None:
                continue
            measured = transport.quality
            before = found.get(participant.identity)
            # A client with one connection for each direction is still one participant.
            found[participant.identity] = ParticipantFigures(
                identity=participant.identity,
                bitrate_up_bps=measured.bitrate_up_bps + (before.bitrate_up_bps if before else 0),
                bitrate_down_bps=measured.bitrate_down_bps + (before.bitrate_down_bps if before else 0),
                rtt_ms=max(measured.rtt_ms, before.rtt_ms if before else 0.0),
                loss_up=max(measured.loss_up, before.loss_up if before else 0.0),
                loss_down=max(measured.loss_down, before.loss_down if before else 0.0),
                quality=models.ConnectionQuality.Name(participant.quality).lower(),
            )
        return list(found.values())
