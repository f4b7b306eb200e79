"""The operator's settings of the calls system; `signaling/settings.py` nests them as `calls`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RateLimits(BaseModel):
    """Token buckets per user and route, and for the whole app and route."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Whether requests are counted at all; `--dev` switches it off.")
    user_requests_per_minute: int = Field(
        600, ge=1, le=1_000_000, description="Requests one user makes on one route. Raise it for chatty clients."
    )
    user_subscriptions_per_minute: int = Field(
        3_000,
        ge=1,
        le=1_000_000,
        description="Calls that the event sockets of one user subscribe to or resume, together; as many at once. Raise "
        "it for clients that watch thousands of calls; a call costs up to half a millisecond of the signaling process.",
    )
    app_requests_per_minute: int = Field(
        60_000,
        ge=1,
        le=100_000_000,
        description="Requests of everybody on one route, and calls that everybody's event sockets subscribe to or "
        "resume. Raise it with the machine.",
    )
    guests_per_minute_per_address: int = Field(
        30, ge=1, le=100_000, description="Guests made from one address. Raise it where many share one address."
    )


class CallsSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    outbound_allowed_hosts: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="Hosts and CIDRs that webhooks and push may reach although they are not public. Name only what "
        "you run yourself: everybody who may make a webhook can make this server call there.",
    )
    media_token_ttl_seconds: int = Field(
        600, ge=30, le=600, description="How long a media token opens the media server. Lower it to have clients renew."
    )
    idempotency_ttl_seconds: int = Field(
        86_400, ge=60, le=604_800, description="How long a reply is kept for a repeated Idempotency-Key."
    )
    event_retention_seconds: int = Field(
        300, ge=60, le=86_400, description="How far back a socket resumes. Raise it for clients that sleep long."
    )
    event_poll_ms: int = Field(
        100,
        ge=10,
        le=10_000,
        description="How soon event sockets hear what another process on the same database did. "
        "Lower it for haste; each look costs the database three small queries.",
    )
    delivery_retention_seconds: int = Field(
        604_800, ge=3_600, le=2_592_000, description="How long webhook deliveries can be looked at and sent again."
    )
    attendance_retention_days: int = Field(
        90,
        ge=1,
        le=3_650,
        description="How long ended sessions and who attended them are kept, guests who are members of no call, and "
        "what is over of calls: rings, requests, places in the lobby, captures, feedback, deletions. Raise it to look "
        "further back.",
    )
    audit_retention_days: int = Field(
        365,
        ge=1,
        le=3_650,
        description="How long the audit log is kept: who changed types, roles, users and settings. Raise it where the "
        "law asks for longer.",
    )
    addresses_kept_days: int = Field(
        30,
        ge=1,
        le=365,
        description="How long it is remembered from which addresses a user was seen, for bans by address; only keyed "
        "hashes are kept, never an address. Lower it to remember less.",
    )
    addresses_per_user: int = Field(
        5,
        ge=1,
        le=100,
        description="How many addresses are remembered of each user, the latest. A ban by address covers these: raise "
        "it to ban more of somebody who moves about, and more of his neighbours.",
    )
    webhook_timeout_seconds: float = Field(
        10.0, ge=0.1, le=60, description="How long one delivery may take. Raise it for slow receivers."
    )
    devices_per_user: int = Field(
        20,
        ge=1,
        le=1_000,
        description="Devices of one user that push reaches; of more, the one that was not registered for longest gives "
        "way. Raise it where many devices share a user: each message goes to all of them.",
    )
    push_at_once_per_provider: int = Field(
        64,
        ge=1,
        le=1_000,
        description="Messages under way to one push provider. Raise it where notifications to thousands take too long; "
        "while the provider hangs, each may hold a file of `http.files_reserved`.",
    )
    push_at_once_per_host: int = Field(
        16,
        ge=1,
        le=1_000,
        description="Messages under way to one browser vendor's push service, told apart by its domain. Raise it where "
        "notifications to thousands of browsers take too long.",
    )
    push_at_once_per_user: int = Field(
        4,
        ge=1,
        le=1_000,
        description="Messages under way to the devices of one user. Raise it where many devices share a user.",
    )
    push_waiting_per_user: int = Field(
        200,
        ge=1,
        le=100_000,
        description="Rings, and as many other messages, that wait for the devices of one user; further ones are not "
        "sent. Raise it where many devices share a user.",
    )
    heartbeat_ms: int = Field(
        25_000, ge=1_000, le=300_000, description="How often event sockets are expected to be heard of."
    )
    socket_queue_max: int = Field(
        1_000, ge=16, le=100_000, description="Events that wait for a slow socket before it is closed (4410)."
    )
    sockets_per_user: int = Field(
        50,
        ge=1,
        le=10_000,
        description="Event sockets one user has at a time with one server; the next is refused (4429). Raise it where "
        "many devices or tabs share a user.",
    )
    media_timeout_seconds: float = Field(
        5.0, ge=0.1, le=60, description="How long the media side may take to carry out one change of rights."
    )
    leave_grace_seconds: float = Field(
        3.0,
        ge=0.1,
        le=30,
        description="How long somebody who has said goodbye to the media server still counts as there: SDKs say the "
        "same before they connect anew. Raise it where clients take longer to come back; who leaves over the API is "
        "gone at once.",
    )
    node_lost_seconds: int = Field(
        20,
        ge=4,
        le=600,
        description="So long after its last sign a media node counts as dead: its people get the call's grace to come "
        "back, and who joins is placed at another. Raise it where a restart of signaling takes longer.",
    )
    before_join_url: str = Field(
        "", max_length=2_048, description="Asked before every join; empty: nobody is. The reply 2xx lets the user in."
    )
    before_join_timeout_seconds: float = Field(
        2.0, ge=0.1, le=10, description="How long the join hook may take. Every join waits for it."
    )
    before_join_fail_open: bool = Field(False, description="Whether users get in while the join hook does not answer.")
    rate_limits: RateLimits = Field(default_factory=RateLimits, description="How often the API may be asked.")
