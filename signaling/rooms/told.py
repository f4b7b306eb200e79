"""How somebody was told last, as all others get it: as a message, and as the bytes that every newcomer is sent.

Whoever joins is shown everybody who is there. Made anew for each that would be most of a join's work in a large room.
"""

from __future__ import annotations

from functools import cached_property

from livekit.protocol import models, rtc


class Told:
    """One participant as he was told. `info` is not to be changed."""

    def __init__(self, info: models.ParticipantInfo) -> None:
        self.info = info

    @cached_property
    def entry(self) -> bytes:
        """One of `JoinResponse.other_participants` on the wire, its tag and length included."""
        return rtc.JoinResponse(other_participants=[self.info]).SerializeToString()
