"""What a room wants done, as values; `signaling/runtime.py` does it, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from livekit.protocol import models, rtc
from livekit.protocol.webhook import WebhookEvent

from sfu.border import AnyCommand
from signaling.rooms.grants import Grants

SessionId: TypeAlias = int
"""One signal connection; chosen by the runtime, never used again."""


@dataclass(frozen=True)
class Send:
    """To one client, in order."""

    session: SessionId
    message: rtc.SignalResponse


@dataclass(frozen=True)
class Welcome:
    """Answer a join. `others`: everybody else who is there, each an entry of the response on the wire (`told.py`)."""

    session: SessionId
    response: rtc.JoinResponse
    others: Sequence[bytes]


@dataclass(frozen=True)
class RefreshToken:
    """Sign a token with these grants and send it."""

    session: SessionId
    grants: Grants


@dataclass(frozen=True)
class CloseSignal:
    """End a signal connection after what was sent before. The room does not know it any more."""

    session: SessionId
    reason: str


@dataclass(frozen=True)
class ToWorker:
    command: AnyCommand


@dataclass(frozen=True)
class Notify:
    """To the operator's webhooks."""

    event: WebhookEvent


@dataclass(frozen=True)
class ParticipantJoined:
    """The join was answered."""

    identity: str


@dataclass(frozen=True)
class ParticipantConnected:
    """Media is up. `seconds`: since the join."""

    identity: str
    seconds: float


@dataclass(frozen=True)
class ParticipantLeft:
    """`clean`: he said so, or was told to go."""

    identity: str
    reason: models.DisconnectReason
    clean: bool


@dataclass(frozen=True)
class TrackChanged:
    """`state`: published, unpublished, muted or unmuted. `source` in the names of tokens."""

    identity: str
    source: str
    state: str


@dataclass(frozen=True)
class TokensCutOff:
    """What earlier tokens of this one allow has changed, and holds beyond the room's end (`RoomRecord.cutoffs`)."""

    identity: str


@dataclass(frozen=True)
class RpcEnded:
    """A call made by the server was answered, by a payload or an error. `code`: of the error, as SDKs number them."""

    request_id: str
    payload: str
    error: str
    code: int = 0


@dataclass(frozen=True)
class Dropped:
    """Something from a client was not used; counted by reason."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The room is over; nothing comes after it."""


Effect: TypeAlias = (
    Send
    | Welcome
    | RefreshToken
    | CloseSignal
    | ToWorker
    | Notify
    | ParticipantJoined
    | ParticipantConnected
    | ParticipantLeft
    | TrackChanged
    | TokensCutOff
    | RpcEnded
    | Dropped
    | Ended
)
