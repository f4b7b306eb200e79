"""The rooms as the calls system sees them (`calls/media.py`), and the calls system as the rooms see it.

A managed room lives as long as its session says, admits nobody without being asked, and reports who comes and goes in
order. Capabilities become LiveKit permissions here. Not here: any rule of a call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime

import jwt
import structlog
from livekit.protocol import models
from livekit.protocol import room as api

from signaling.calls.media import MediaFeed, NoMediaNode, Permission, Refuse
from signaling.calls.model import NodeFacts
from signaling.calls.rights import is_viewer
from signaling.errors import NotFound, PermissionDenied, Refusal, Unavailable
from signaling.rooms.core import Reason
from signaling.rooms.effects import Effect, ParticipantJoined, ParticipantLeft, TrackChanged
from signaling.rooms.grants import MANAGED_SCOPE, SOURCES, Grants
from signaling.runtime import Hosted, Rooms

log = structlog.get_logger(__name__)

_KEPT_EMPTY_SECONDS = 7 * 86_400
"""The calls system closes its rooms itself; this bounds what is left of one that it has forgotten."""
_QUEUE_MAX = 10_000
_ATTEMPTS_MAX = 50
_AGAIN_SECONDS = 0.02
_FOR_NOW = ("no_media_node", "unavailable")
"""Refusals that say nothing of who asks: clients try again after a 503, and give up after a 403."""
_REMOVALS = {"replaced": Reason.DUPLICATE_IDENTITY, "shutdown": Reason.SERVER_SHUTDOWN}
_CLOSINGS = {"deleted": Reason.ROOM_DELETED, "shutdown": Reason.SERVER_SHUTDOWN}


class ManagedRooms:
    """`MediaRooms` over this node. `node`: its id; `url`: how clients reach the signal connection."""

    def __init__(self, rooms: Rooms, *, node: str, url: Callable[[], str]) -> None:
        self.node = node
        self._rooms = rooms
        self._url = url

    async def facts(self) -> NodeFacts:
        region = self._rooms.settings.region
        servers = self._rooms.server.ice_servers
        return NodeFacts(
            id=self.node,
            url=self._url(),
            regions=(region,) if region else (),
            ice_servers=tuple(
                {"urls": list(one.urls), "username": one.username or None, "credential": one.credential or None}
                for one in servers
            ),
            is_open=self._rooms.takes_rooms,
        )

    async def create_room(
        self,
        name: str,
        *,
        metadata: str,
        empty_timeout_seconds: int,
        regions: Sequence[str],
    ) -> None:
        region = self._rooms.settings.region
        if regions and region not in regions:
            raise NoMediaNode(f"No media node serves {', '.join(regions)}.")
        try:
            hosted = self._rooms.create(
                name,
                empty_timeout_seconds=max(empty_timeout_seconds, 1),
                departure_timeout_seconds=_KEPT_EMPTY_SECONDS,
                metadata=metadata,
                is_managed=True,
            )
        except Refusal as refusal:
            raise NoMediaNode(refusal.message) from refusal
        hosted.record.is_managed = True

    async def close_room(self, name: str, reason: str) -> None:
        hosted = self._rooms.hosted.get(name)
        if hosted is not None:
            why = _CLOSINGS.get(reason, Reason.ROOM_CLOSED)
            self._rooms.apply(hosted, hosted.room.close(why, self._rooms.now()))

    async def update_participant(self, room: str, identity: str, permission: Permission) -> None:
        hosted = self._rooms.hosted.get(room)
        if hosted is None or permission.version < hosted.versions.get(identity, 0):
            return
        hosted.versions[identity] = permission.version
        request = api.UpdateParticipantRequest(room=room, identity=identity, permission=livekit_permission(permission))
        try:
            self._rooms.apply(hosted, hosted.room.update_participant(request, self._rooms.now()))
        except NotFound:
            return  # not connected: `admit` says what holds when he comes

    async def remove_participant(self, room: str, identity: str, reason: str, version: int | None) -> None:
        hosted = self._rooms.hosted.get(room)
        if hosted is None:
            return
        if version is not None:
            if version < hosted.versions.get(identity, 0):
                return  # he has come again since
            # Who was let in before this and is about to connect is asked about once more.
            hosted.versions[identity] = version + 1
        if identity in hosted.room.core.by_identity:
            why = _REMOVALS.get(reason, Reason.PARTICIPANT_REMOVED)
            self._rooms.apply(hosted, hosted.room.remove(identity, self._rooms.now(), why))
        _forget_viewer(self._rooms, hosted, identity)

    async def mute_tracks(self, room: str, identity: str, sources: Sequence[str]) -> None:
        hosted = self._rooms.hosted.get(room)
        participant = hosted.room.core.by_identity.get(identity) if hosted is not None else None
        if hosted is None or participant is None:
            return
        numbers = {SOURCES[source] for source in sources}
        for track in tuple(participant.tracks.values()):
            if track.info.source in numbers:
                self._rooms.apply(hosted, hosted.room.mute(identity, track.sid, True))

    async def identities(self, room: str) -> Sequence[str] | None:
        hosted = self._rooms.hosted.get(room)
        return None if hosted is None else list(hosted.room.core.by_identity)

    async def managed_rooms(self) -> Sequence[str]:
        return [name for name, hosted in self._rooms.hosted.items() if hosted.record.is_managed]

    def mint_token(
        self, *, identity: str, name: str, room: str, permission: Permission, now: datetime, expires_at: datetime
    ) -> str:
        key, secret = next(iter(self._rooms.settings.keyring.items()))
        claims = {
            "iss": key,
            "sub": identity,
            "name": name,
            "scope": MANAGED_SCOPE,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int(expires_at.timestamp()),
            "video": permission.video_grant(room),
        }
        return jwt.encode(claims, secret, algorithm="HS256")


class Reports:
    """What happens in managed rooms, told to the calls system one by one; and its word on who may come."""

    def __init__(self, feed: MediaFeed, rooms: Rooms) -> None:
        self._feed = feed
        self._rooms = rooms
        self._lanes: dict[str, asyncio.Queue[Callable[[], Awaitable[None]]]] = {}
        self._leaving: dict[tuple[str, str], asyncio.TimerHandle] = {}
        """Those who have said goodbye and may be about to connect anew, by room and identity."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def admit(self, grants: Grants, address: str | None) -> Grants:
        """Return the grants that hold now; raises `PermissionDenied`, or `Unavailable` for what may soon be otherwise.

        The token alone opens nothing.
        """
        room, identity = grants.room, grants.identity
        if self._stays(room, identity):
            # Should he not come after all, he is waited for as others who are missed.
            self._queue(room, lambda: self._feed.participant_left(room, identity, clean=False))
        for _ in range(_ATTEMPTS_MAX):
            verdict = await self._feed.admit(grants.room, grants.identity, address)
            if isinstance(verdict, Refuse):
                refusal = Unavailable if verdict.code in _FOR_NOW else PermissionDenied
                raise refusal(verdict.sentence)
            hosted = self._rooms.hosted.get(grants.room)
            if hosted is None or verdict.permission.version >= hosted.versions.get(grants.identity, 0):
                break
            # Told of something newer while the answer was under way.
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            raise Unavailable("His rights change too fast; try again.")
        if hosted is not None:
            hosted.versions[grants.identity] = verdict.permission.version
        allowed = grants.with_permission(livekit_permission(verdict.permission))
        return replace(allowed, room_admin=False, room_create=False, room_list=False)

    def entered(self, hosted: Hosted, effect: Effect) -> None:
        feed, room = self._feed, hosted.record.name
        match effect:
            case ParticipantJoined(identity=identity):
                self._stays(room, identity)
                self._queue(room, lambda: feed.participant_joined(room, identity))
            case ParticipantLeft(reason=Reason.DUPLICATE_IDENTITY):
                pass  # replaced by himself: the identity has not left
            case ParticipantLeft(reason=Reason.SERVER_SHUTDOWN, clean=False):
                # Sent to our successor. Whoever takes over finds him absent, and his grace begins when he can come.
                pass
            case ParticipantLeft(identity=identity, reason=Reason.CLIENT_INITIATED):
                # So say SDKs too that connect anew with the same token a moment later.
                seconds = self._rooms.settings.calls.leave_grace_seconds
                timer = asyncio.get_running_loop().call_later(seconds, self._left, room, identity)
                self._leaving[room, identity] = timer
            case ParticipantLeft(identity=identity, clean=clean):
                _forget_viewer(self._rooms, hosted, identity)
                self._queue(room, lambda: feed.participant_left(room, identity, clean=clean))
            case TrackChanged(identity=identity, source=source, state=state):
                self._queue(room, lambda: feed.track_changed(room, identity, source, state))
            case _:
                pass

    def lost(self, hosted: Hosted) -> None:
        room = hosted.record.name
        self._queue(room, lambda: self._feed.room_lost(room))

    async def stop(self) -> None:
        for timer in self._leaving.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stays(self, room: str, identity: str) -> bool:
        """Take back a goodbye that is not reported yet; tell whether there was one."""
        timer = self._leaving.pop((room, identity), None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def _left(self, room: str, identity: str) -> None:
        del self._leaving[room, identity]
        hosted = self._rooms.hosted.get(room)
        if hosted is not None:
            _forget_viewer(self._rooms, hosted, identity)
        self._queue(room, lambda: self._feed.participant_left(room, identity, clean=True))

    def _queue(self, room: str, report: Callable[[], Awaitable[None]]) -> None:
        lane = self._lanes.get(room)
        if lane is None:
            lane = self._lanes[room] = asyncio.Queue(_QUEUE_MAX)
            task = asyncio.create_task(self._run(room, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            lane.put_nowait(report)
        except asyncio.QueueFull:
            log.error("report_dropped", room=room)
            self._feed.report_lost(room)

    async def _run(self, room: str, lane: asyncio.Queue[Callable[[], Awaitable[None]]]) -> None:
        while not lane.empty():
            report = lane.get_nowait()
            try:
                await report()
            except Exception:
                log.exception("report_failed", room=room)
        # No await since the lane was seen empty.
        del self._lanes[room]


def _forget_viewer(rooms: Rooms, hosted: Hosted, identity: str) -> None:
    """Forget which permission a viewer without an account had, once he is gone: a room has many who never come back.

    Not while it is asked whether he may come: what was decided before he was removed must not let him in.
    """
    is_here = identity in hosted.room.core.by_identity or (hosted.record.name, identity) in rooms.asked
    if is_viewer(identity) and not is_here:
        hosted.versions.pop(identity, None)


def livekit_permission(permission: Permission) -> models.ParticipantPermission:
    """With no media capability there is no publishing at all: an empty list of sources would mean every source."""
    return models.ParticipantPermission(
        can_subscribe="call.join" in permission.capabilities,
        can_publish=bool(permission.sources),
        can_publish_sources=[SOURCES[source] for source in permission.sources],
        can_publish_data="event.send" in permission.capabilities,
        hidden=permission.hidden,
    )
