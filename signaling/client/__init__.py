"""The Python client of the calls API: asynchronous and typed.

    client = CallyardClient("https://calls.example.com", token=…)
    call = client.make_call("default", "standup")
    await call.get_or_create(members=["alice", "bob"])
    room = await call.join()                      # a connected livekit.rtc.Room

Joining needs the LiveKit SDK: `pip install "callyard[client]"`. Nothing here imports the server.
"""

from __future__ import annotations

from signaling.client.administration import Administration
from signaling.client.call import Call
from signaling.client.client import CallyardClient, default_client, make_call
from signaling.client.errors import (
    Backstage,
    Blocked,
    ClientNotReady,
    Conflict,
    Fault,
    Forbidden,
    InvalidRequest,
    MediaConnectionFailed,
    MediaSdkMissing,
    MissingCapability,
    NotFound,
    RateLimited,
    TooLarge,
    Unauthenticated,
    Unavailable,
    VideoError,
)
from signaling.client.events import Event, EventStream
from signaling.client.models import (
    Block,
    CallInfo,
    CallReply,
    CallType,
    CapabilitySet,
    Delivery,
    Explanation,
    FoundCall,
    JoinReply,
    LobbyEntry,
    Media,
    Member,
    Page,
    Participant,
    PermissionRequest,
    Recording,
    Ring,
    Session,
    User,
)
from signaling.events.signatures import WebhookVerificationError, verify_webhook

__all__ = [
    "Administration",
    "Backstage",
    "Block",
    "Blocked",
    "Call",
    "CallInfo",
    "CallReply",
    "CallType",
    "CallyardClient",
    "CapabilitySet",
    "ClientNotReady",
    "Conflict",
    "Delivery",
    "Event",
    "EventStream",
    "Explanation",
    "Fault",
    "Forbidden",
    "FoundCall",
    "InvalidRequest",
    "JoinReply",
    "LobbyEntry",
    "Media",
    "MediaConnectionFailed",
    "MediaSdkMissing",
    "Member",
    "MissingCapability",
    "NotFound",
    "Page",
    "Participant",
    "PermissionRequest",
    "RateLimited",
    "Recording",
    "Ring",
    "Session",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "User",
    "VideoError",
    "WebhookVerificationError",
    "default_client",
    "make_call",
    "verify_webhook",
]
