"""RoomService's view of the rooms (`api/room_service.py`): each method finds the room, asks it, carries out."""

from __future__ import annotations

from collections.abc import Sequence

from livekit.protocol import models
from livekit.protocol import room as api

from signaling.errors import InvalidRequest, NotFound, Unimplemented
from signaling.rooms.core import Reason
from signaling.runtime import Rooms


class RoomDirectory:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def create_room(self, request: api.CreateRoomRequest) -> models.Room:
        if not request.name:
            raise InvalidRequest("room name cannot be empty")
        if request.room_preset:
            raise InvalidRequest("unknown room preset: there are none here")
        if request.egress.ListFields():
            raise Unimplemented("A room cannot be made to record itself: egress is not offered here.")
        hosted = self._rooms.create(
            request.name,
            empty_timeout_seconds=request.empty_timeout,
            departure_timeout_seconds=request.departure_timeout,
            participants_max=request.max_participants,
            metadata=request.metadata,
            unmet=("agents",) if request.agents else (),
        )
        return hosted.room.core.info()

    async def list_rooms(self, names: Sequence[str]) -> list[models.Room]:
        wanted = set(names)
        return [hosted.room.core.info() for name, hosted in self._rooms.hosted.items() if not wanted or name in wanted]

    async def delete_room(self, room: str) -> None:
        hosted = self._rooms.find(room)
        self._rooms.apply(hosted, hosted.room.close(Reason.ROOM_DELETED, self._rooms.now()))

    async def list_participants(self, room: str) -> list[models.ParticipantInfo]:
        """Nobody is in a room that is not there, as with LiveKit: it ends by itself once the last one has gone."""
        hosted = self._rooms.hosted.get(room)
        return [] if hosted is None else [one.info() for one in hosted.room.core.participants.values()]

    async def get_participant(self, room: str, identity: str) -> models.ParticipantInfo:
        return self._rooms.find(room).room.participant(identity).info()

    async def remove_participant(self, room: str, identity: str, revoked_before: float) -> None:
        hosted = self._rooms.find(room)
        effects = hosted.room.remove(identity, self._rooms.now(), revoked_before=revoked_before)
        self._rooms.apply(hosted, effects)

    async def mute_published_track(
        self, room: str, identity: str, track_sid: str, muted: bool
    ) -> models.TrackInfo | None:
        hosted = self._rooms.find(room)
        self._rooms.apply(hosted, hosted.room.mute(identity, track_sid, muted))
        track = hosted.room.participant(identity).tracks.get(track_sid)
        return track.info if track is not None else None

    async def update_participant(self, request: api.UpdateParticipantRequest) -> models.ParticipantInfo:
        hosted = self._rooms.find(request.room)
        self._rooms.apply(hosted, hosted.room.update_participant(request, self._rooms.now()))
        return hosted.room.participant(request.identity).info()

    async def update_subscriptions(self, request: api.UpdateSubscriptionsRequest) -> None:
        hosted = self._rooms.find(request.room)
        self._rooms.apply(hosted, hosted.room.update_subscriptions(request))

    async def send_data(self, request: api.SendDataRequest) -> None:
        hosted = self._rooms.find(request.room)
        self._rooms.apply(hosted, hosted.room.send_data(request, self._rooms.now()))

    async def update_room_metadata(self, room: str, metadata: str) -> models.Room:
        hosted = self._rooms.find(room)
        self._rooms.apply(hosted, hosted.room.update_metadata(metadata))
        return hosted.room.core.info()

    async def perform_rpc(self, request: api.PerformRpcRequest) -> str:
        hosted = self._rooms.find(request.room)
        if request.destination_identity not in hosted.room.core.by_identity:
            raise NotFound("participant does not exist")
        return await self._rooms.call(hosted, request)
