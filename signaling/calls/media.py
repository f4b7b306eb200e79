"""What the calls system needs of the media side, and nothing more.

`MediaRooms` goes out, `MediaFeed` comes back. Capabilities cross this border as they are; the media side maps them:
media.audio → microphone, media.video → camera, media.screen → screen video and audio, call.join → subscribe,
event.send → data. With no media capability the participant may not publish at all (T-2: an empty list of sources
would mean all of them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from signaling.calls.model import NodeFacts


@dataclass(frozen=True)
class Permission:
    """The full computed set of one participant (T-3). A lower `version` than the last one seen is out of date.

    Versions rise for one identity within one room, over rejoins too; a repeated one says the same again.
    """

    capabilities: frozenset[str]
    hidden: bool
    version: int

    @property
    def sources(self) -> tuple[str, ...]:
        """Which sources may be published, in LiveKit's names; empty: none."""
        names = {
            "media.audio": ("microphone",),
            "media.video": ("camera",),
            "media.screen": ("screen_share", "screen_share_audio"),
        }
        return tuple(
            source for capability, sources in names.items() if capability in self.capabilities for source in sources
        )

    def video_grant(self, room: str) -> dict[str, Any]:
        """Return the `video` claim of a LiveKit access token."""
        return {
            "roomJoin": True,
            "room": room,
            "canSubscribe": "call.join" in self.capabilities,
            "canPublish": bool(self.sources),
            "canPublishSources": list(self.sources),
            "canPublishData": "event.send" in self.capabilities,
            "hidden": self.hidden,
        }


@dataclass(frozen=True)
class Allow:
    permission: Permission


@dataclass(frozen=True)
class Refuse:
    code: str
    sentence: str


Verdict = Allow | Refuse


class NoMediaNode(Exception):
    """No node can take the room, or none in the regions asked for."""


class MediaRooms(Protocol):
    """The rooms of one media node, that of this process."""

    @property
    def node(self) -> str:
        """An id of the node that no other has, and that is the same as long as its rooms may live."""

    async def facts(self) -> NodeFacts: ...

    async def create_room(
        self,
        name: str,
        *,
        metadata: str,
        empty_timeout_seconds: int,
        regions: Sequence[str],
    ) -> None:
        """Make the room; raises `NoMediaNode`. A room that exists already stays as it is.

        No limit of the call goes with it, for that may change: `admit` allows only whom a join has counted.
        """

    async def close_room(self, name: str, reason: str) -> None:
        """Remove everybody and the room; a room that does not exist is fine."""

    async def update_participant(self, room: str, identity: str, permission: Permission) -> None:
        """Replace the participant's permission; tracks it no longer covers are unpublished before this returns."""

    async def remove_participant(self, room: str, identity: str, reason: str, version: int | None) -> None:
        """version: the last one that is meant; who was admitted with a higher one stays. None: whoever is there."""

    async def mute_tracks(self, room: str, identity: str, sources: Sequence[str]) -> None: ...

    async def identities(self, room: str) -> Sequence[str] | None:
        """Return who is connected to the room now; None: there is no such room (its worker died, all was restarted).

        Asked after a start of ours and after reports were lost, to find out what we missed.
        """

    async def managed_rooms(self) -> Sequence[str]:
        """Return the names of the rooms that were made here and are not closed."""

    def mint_token(
        self, *, identity: str, name: str, room: str, permission: Permission, now: datetime, expires_at: datetime
    ) -> str:
        """Return a LiveKit access token."""


class MediaFeed(Protocol):
    """What the media side asks and reports. Rooms that are not a session's are answered `Refuse` and ignored.

    Reports of one room come in order. `participant_left` speaks of the identity, not of a connection: while another
    connection of it stands, or has replaced the one that ended, nobody has left.
    """

    async def admit(self, room: str, identity: str, address: str | None = None) -> Verdict:
        """Asked at every connect and reconnect; the token alone opens nothing (T-1, T-5).

        address: where the client comes from, if that is known.
        """

    async def participant_joined(self, room: str, identity: str) -> None:
        """The signaling join was answered."""

    async def participant_left(self, room: str, identity: str, *, clean: bool) -> None:
        """`clean`: he said goodbye and did not come back at once, or was removed. Otherwise he may come back within the
        call's grace.

        Not reported of those who are sent away because the server stops: they are missed by its successor, or by the
        other servers, and have the grace from then on.
        """

    async def room_lost(self, room: str) -> None:
        """The room is gone and nobody asked for it: its worker died. It is made anew; everybody gets the grace."""

    def report_lost(self, room: str) -> None:
        """There was too much to report of this room: what is missing is found out later."""

    async def track_changed(self, room: str, identity: str, source: str, state: str) -> None:
        """`state`: published, unpublished, muted or unmuted."""
