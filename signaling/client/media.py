"""The way from a join to a connected LiveKit room. The SDK is the optional extra `client`, loaded when it is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from signaling.client.errors import MediaConnectionFailed, MediaSdkMissing
from signaling.client.models import Media

if TYPE_CHECKING:
    from livekit import rtc

MediaConnector = Callable[[Media], Awaitable[Any]]
"""Connects to the media server; returns what `join` returns. For other SDKs than LiveKit's own."""


def check_sdk() -> None:
    """Raise `MediaSdkMissing` unless the LiveKit SDK can be loaded."""
    try:
        from livekit import rtc  # noqa: F401
    except ImportError:
        raise MediaSdkMissing(
            "media_sdk_missing",
            'Joining needs the LiveKit SDK: pip install "callyard[client]". Or use join_session() and an SDK of yours.',
        ) from None


async def connect_room(media: Media, room: rtc.Room | None = None, options: rtc.RoomOptions | None = None) -> rtc.Room:
    """Return a room connected with the media token of a join."""
    from livekit import rtc

    room = room or rtc.Room()
    try:
        await room.connect(media.url, media.token, options or rtc.RoomOptions())
    except rtc.ConnectError as error:
        raise MediaConnectionFailed(
            "media_connection_failed", f"The media server at {media.url} did not let us in: {error}"
        ) from error
    return room


async def disconnect(room: Any) -> None:
    """Disconnect whatever a connector returned, if it can be."""
    close = getattr(room, "disconnect", None) or getattr(room, "aclose", None)
    if close is not None:
        await close()
