"""People who use the official Python SDK: each remembers everything the SDK told, and can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from livekit import rtc

from tests.e2e.harness.media import Picture, Tone
from tests.e2e.harness.server import Endpoint

EVENTS = (
    "participant_connected",
    "participant_disconnected",
    "participant_active",
    "local_track_published",
    "local_track_unpublished",
    "local_track_republished",
    "local_track_subscribed",
    "track_published",
    "track_unpublished",
    "track_subscribed",
    "track_unsubscribed",
    "track_subscription_failed",
    "track_muted",
    "track_unmuted",
    "active_speakers_changed",
    "room_metadata_changed",
    "participant_metadata_changed",
    "participant_name_changed",
    "participant_attributes_changed",
    "connection_quality_changed",
    "participant_permissions_changed",
    "data_received",
    "connection_state_changed",
    "disconnected",
    "reconnecting",
    "reconnected",
    "room_updated",
    "moved",
    "token_refreshed",
    "data_track_published",
    "data_track_unpublished",
    "transcription_received",
)

Found = TypeVar("Found")


class Person:
    """One participant. `told` is what the SDK said, in order: (event, arguments)."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.room = rtc.Room()
        self.told: list[tuple[str, tuple[Any, ...]]] = []
        self._changed = asyncio.Event()
        for event in EVENTS:
            self.room.on(event, self._hear(event))  # type: ignore[arg-type]

    def _hear(self, event: str) -> Callable[..., None]:
        def heard(*arguments: Any) -> None:
            self.told.append((event, arguments))
            self._changed.set()

        return heard

    @property
    def me(self) -> rtc.LocalParticipant:
        return self.room.local_participant

    @property
    def sid(self) -> str:
        return self.me.sid

    def events(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for event, arguments in self.told if event == name]

    async def until(self, find: Callable[[], Found | None], *, seconds: float = 15, what: str = "") -> Found:
        """Waits until `find()` is true and returns what it found."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not (found := find()):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                names = [event for event, _ in self.told]
                raise AssertionError(f"{self.identity} waited {seconds} s in vain for {what or find}; was told {names}")
            self._changed.clear()
            try:
                # Some state changes without an event.
                async with asyncio.timeout(min(left, 0.25)):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return found

    async def event(self, name: str, *, seconds: float = 15, count: int = 1) -> tuple[Any, ...]:
        """The arguments of the `count`-th event of this name."""
        await self.until(lambda: len(self.events(name)) >= count, seconds=seconds, what=f"{name} #{count}")
        return self.events(name)[count - 1]

    async def sees(self, identity: str, *, seconds: float = 15) -> rtc.RemoteParticipant:
        return await self.until(
            lambda: self.room.remote_participants.get(identity), seconds=seconds, what=f"sight of {identity}"
        )

    async def loses(self, identity: str, *, seconds: float = 15) -> None:
        await self.until(
            lambda: identity not in self.room.remote_participants, seconds=seconds, what=f"{identity} to leave"
        )

    def publications(self, identity: str, kind: str | None = None) -> list[rtc.RemoteTrackPublication]:
        """Of a remote participant; `kind` is "audio" or "video"."""
        participant = self.room.remote_participants.get(identity)
        wanted = {"audio": rtc.TrackKind.KIND_AUDIO, "video": rtc.TrackKind.KIND_VIDEO}
        return [
            publication
            for publication in (participant.track_publications.values() if participant else ())
            if kind is None or publication.kind == wanted[kind]
        ]

    async def publication(self, identity: str, kind: str, *, seconds: float = 15) -> rtc.RemoteTrackPublication:
        """The first track of this kind that `identity` publishes."""
        found = await self.until(
            lambda: self.publications(identity, kind), seconds=seconds, what=f"a {kind} publication of {identity}"
        )
        return found[0]

    async def track(self, identity: str, kind: str, *, seconds: float = 15, not_sid: str = "") -> rtc.Track:
        """The first subscribed track of this kind of `identity`, other than `not_sid`."""

        def find() -> list[rtc.Track]:
            return [
                publication.track
                for publication in self.publications(identity, kind)
                if publication.track is not None and publication.sid != not_sid
            ]

        found = await self.until(find, seconds=seconds, what=f"a {kind} track of {identity}")
        return found[0]

    async def publish(self, track: rtc.LocalTrack, **options: Any) -> rtc.LocalTrackPublication:
        """`options` are fields of `TrackPublishOptions`; simulcast is off unless asked for."""
        return await self.me.publish_track(track, rtc.TrackPublishOptions(**{"simulcast": False, **options}))

    async def arrived(self) -> dict[str, tuple[int, int]]:
        """(packets received, packets lost) of each stream that this person receives, by kind and SSRC."""
        stats = await self.room.get_rtc_stats()
        return {
            f"{entry.inbound_rtp.stream.kind} {entry.inbound_rtp.stream.ssrc}": (
                entry.inbound_rtp.received.packets_received,
                entry.inbound_rtp.received.packets_lost,
            )
            for entry in [*stats.publisher_stats, *stats.subscriber_stats]
            if entry.HasField("inbound_rtp")
        }

    async def leave(self) -> None:
        async with asyncio.timeout(10):
            await self.room.disconnect()


class Party:
    """Whoever a test brings in; all leave at its end."""

    def __init__(self, server: Endpoint, room: str) -> None:
        self.server = server
        self.room = room
        self._leaving: list[Any] = []

    async def join(
        self,
        identity: str,
        *,
        room: str | None = None,
        url: str | None = None,
        token: str | None = None,
        single: bool = True,
        auto_subscribe: bool = True,
        dynacast: bool = False,
        **grants: Any,
    ) -> Person:
        """Joins with the Python SDK. `single`: one peer connection for both directions."""
        person = Person(identity)
        options = rtc.RoomOptions(auto_subscribe=auto_subscribe, single_peer_connection=single, dynacast=dynacast)
        token = token or self.server.token(room or self.room, identity, **grants)
        await person.room.connect(url or self.server.ws_url, token, options)
        self._leaving.append(person.leave)
        return person

    async def sends(self, person: Person, tone: Tone, picture: Picture, **sound: Any) -> None:
        """`person` is heard and seen from now on, until the test ends. `sound`: options of the microphone's track."""
        self.closes(tone.stop)
        self.closes(picture.stop)
        await person.publish(tone.track, source=rtc.TrackSource.SOURCE_MICROPHONE, **sound)
        await person.publish(picture.track, source=rtc.TrackSource.SOURCE_CAMERA)

    def closes(self, stop: Callable[[], Any]) -> None:
        """`stop` is awaited when the test ends, after what came later."""
        self._leaving.append(stop)

    async def close(self) -> None:
        failed = []
        for leave in reversed(self._leaving):
            try:
                await leave()
            except Exception as error:
                failed.append(error)
        if failed:
            raise ExceptionGroup("leaving failed", failed)
