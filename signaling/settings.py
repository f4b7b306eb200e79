"""All settings of a server: one frozen value, each field with unit, default, bounds and a sentence.

Sections that belong to one part of the system are declared where that part lives and nested here. Not here: where a
value comes from (`settings_sources.py`) and how it is documented (`settings_reference.py`). Nobody else reads the
environment or the file.
"""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from sfu.settings import NodeSettings
from signaling.calls.settings import CallsSettings
from signaling.rooms.settings import RoomSettings

DEV_KEY = "devkey"
DEV_SECRET = "secret"  # noqa: S105 - the published development secret, refused on public addresses
SECRET_MIN_CHARACTERS = 32
"""RFC 7518 §3.2: an HS256 key of at least 256 bits."""
_ICE_URLS = {
    "stun_urls": (re.compile(r"stuns?:[^\s/?#@]+"), "STUN", "stun:stun.example.org:3478"),
    "turn_urls": (
        re.compile(r"turns?:[^\s/?#@]+(\?transport=(udp|tcp))?"),
        "TURN",
        "turns:turn.example.org:443?transport=tcp",
    ),
}
"""RFC 7064 and 7065: form, kind and example. A browser that is told anything else makes no connection at all."""


class Section(BaseModel):
    """Base of every group of settings: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSettings(Section):
    format: LogFormat = Field(
        LogFormat.AUTO,
        description="`json`: one object a line. `console`: for people. `auto`: console on a terminal, json elsewhere.",
    )
    level: LogLevel = Field(LogLevel.INFO, description="The least severe event that is written.")
    addresses: bool = Field(
        False,
        description="Write clients' IP addresses. Off, each is replaced by `[ip]`; switch on only while you look for "
        "a network fault, as addresses are personal data.",
    )


class HttpSettings(Section):
    request_head_max_bytes: int = Field(
        524_288,
        ge=65_536,
        le=4_194_304,
        description="Longest request line and headers together. LiveKit clients put a whole join request into the "
        "URL, and their token, which carries metadata and attributes: raise it with `rooms.metadata_max_bytes` and "
        "`rooms.attributes_max_bytes`, or clients with very large ones get 400.",
    )
    request_head_timeout_seconds: float = Field(
        5.0,
        ge=0.5,
        le=60,
        description="How long a connection may take to send one complete request head; then it is closed. Raise it "
        "only for clients on very slow links: it bounds what a slow-sending attacker can hold open.",
    )
    request_body_timeout_seconds: float = Field(
        10.0,
        ge=0.5,
        le=300,
        description="How long a request body may take to arrive. Raise it when coordinators send large bodies over "
        "slow links.",
    )
    unread_response_seconds: float = Field(
        60.0,
        ge=0.5,
        le=3600,
        description="How long a client may leave unread what waits for it; then its connection is cut off. Raise it "
        "for clients that fetch large answers over very slow links.",
    )
    keep_alive_seconds: int = Field(
        30,
        ge=1,
        le=3600,
        description="How long an idle connection is kept for the next request. Raise it to spare coordinators new "
        "connections; costs one file descriptor each.",
    )
    body_max_bytes: int = Field(
        1_048_576,
        ge=65_536,
        le=67_108_864,
        description="Largest request body of RoomService. Raise it when SendData or UpdateRoomMetadata with large "
        "payloads get 400.",
    )
    websocket_message_max_bytes: int = Field(
        4_194_304,
        ge=65_536,
        le=16_777_216,
        description="Largest signal message; a longer one closes the connection (1009). It must hold two session "
        "descriptions: raise it with `rooms.description_max_bytes`.",
    )
    websocket_compression: bool = Field(
        True,
        description="Whether long messages are compressed on WebSockets of clients that take it (Chromium, Python). "
        "Turn it off if a proxy on the way breaks such connections.",
    )
    websocket_inflated_bytes_per_second: int = Field(
        4_194_304,
        ge=65_536,
        le=67_108_864,
        description="How much of what one client sends compressed is unpacked, at once and then each second, and one "
        "largest message in any case; more closes the connection (1009). Raise it when browsers that receive hundreds "
        "of tracks are closed so.",
    )
    connections_max: int = Field(
        20_000,
        ge=10,
        le=1_000_000,
        description="Connections served at once, WebSockets included; more get 503, but for 64 of the machine's own: "
        "health checks. Raise it together with the process's hard limit of open files, which bounds it too.",
    )
    files_reserved: int = Field(
        256,
        ge=64,
        le=10_000,
        description="Open files that connections leave to databases, workers, webhooks and storages. Raise it when "
        "the log says `Too many open files`.",
    )
    trusted_proxies: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="Addresses of your own reverse proxies as CIDRs (`10.0.0.0/8`), whose X-Forwarded-For is believed. "
        "Set it when clients reach the server through a proxy: without it everybody seems to come from there, so that "
        "limits and bans by address hit all of them.",
    )
    backlog: int = Field(
        2048,
        ge=16,
        le=65_535,
        description="Connections the kernel holds until they are accepted. Raise it, with net.core.somaxconn, when "
        "thousands reconnect within a second.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, blocks: tuple[str, ...]) -> tuple[str, ...]:
        for block in blocks:
            try:
                ipaddress.ip_network(block)
            except ValueError as error:
                raise ValueError(f"`{block}` is no CIDR: {error}") from None
        return blocks


class WebhookSettings(Section):
    urls: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="Where events are sent, in LiveKit's webhook format. Every URL gets every event. They are yours, "
        "so private addresses are allowed.",
    )
    key: str = Field(
        "",
        max_length=256,
        description="Which API key signs the events. Empty: the first key.",
    )
    timeout_seconds: float = Field(
        5.0,
        ge=0.1,
        le=60,
        description="How long one delivery may take. Raise it for slow receivers; events of the same room wait.",
    )
    attempts_max: int = Field(
        12,
        ge=1,
        le=100,
        description="Deliveries tried before an event is given up. With the back-off below, 12 last about 20 minutes; "
        "raise it when receivers are down for longer.",
    )
    backoff_first_seconds: float = Field(
        0.5,
        ge=0.01,
        le=60,
        description="Pause after the first failure; each further one doubles it.",
    )
    backoff_max_seconds: float = Field(
        300.0,
        ge=0.1,
        le=3600,
        description="Longest pause between two tries. Raise it to spare a receiver that is down for hours.",
    )
    queue_max_events: int = Field(
        10_000,
        ge=100,
        le=1_000_000,
        description="Events that wait for delivery, all rooms together. When it is full the oldest room's oldest "
        "event is given up and counted. Costs about 4 KiB of disk and 1 KiB of memory each.",
    )
    concurrency: int = Field(
        64,
        ge=1,
        le=1000,
        description="Deliveries in flight at once, at most one for a room and URL. Raise it when the queue grows "
        "although receivers are quick.",
    )

    @field_validator("urls")
    @classmethod
    def _http_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"`{url}` is not an http:// or https:// URL")
        return urls


class DrainSettings(Section):
    deadline_seconds: float = Field(
        120.0,
        ge=0,
        le=86_400,
        description="After SIGTERM the server refuses new rooms and lets running ones end by themselves for this long; "
        "then clients are told to go and it stops. Raise it where calls must not be cut by a deployment; your "
        "supervisor's stop time-out must be longer.",
    )
    leave_seconds: float = Field(
        2.0,
        ge=0,
        le=60,
        description="At the deadline, how long clients get to read that the server is going before it stops.",
    )


class IceSettings(Section):
    stun_urls: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="STUN servers that clients are told (`stun:stun.example.org:3478`). Workers have public addresses, "
        "so clients do without; name some where clients also connect to each other.",
    )
    turn_urls: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="TURN servers that clients are told (`turns:turn.example.org:443?transport=tcp`), for networks "
        "that let neither UDP nor the media ports' TCP pass.",
    )
    turn_username: str = Field("", max_length=512, description="User name for `turn_urls`.")
    turn_credential: SecretStr = Field(SecretStr(""), description="Password for `turn_urls`; every client gets it.")

    @field_validator(*_ICE_URLS)
    @classmethod
    def _are_urls(cls, urls: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        form, kind, example = _ICE_URLS[info.field_name or ""]
        for url in urls:
            if not form.fullmatch(url):
                raise ValueError(f"`{url}` is no {kind} server's URL, as `{example}` is")
        return urls

    @model_validator(mode="after")
    def _turn_is_complete(self) -> Self:
        if self.turn_urls and not (self.turn_username and self.turn_credential.get_secret_value()):
            raise ValueError("`ice.turn_urls` need `ice.turn_username` and `ice.turn_credential`")
        return self


class Settings(Section):
    """Everything a server can be told. `settings_sources.load` makes one."""

    dev: int = Field(
        0,
        ge=0,
        le=2,
        description="1: development mode, with key `devkey` and secret `secret` unless others are given. 2: the same, "
        "also on a public address. Never use it in production.",
    )
    bind: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address that HTTP and WebSocket clients connect to. `0.0.0.0` for every interface; put a TLS "
        "proxy in front when it is reachable from the internet.",
    )
    port: int = Field(
        7880, ge=0, le=65_535, description="TCP port of HTTP and WebSocket. 0 lets the system choose a free one."
    )
    public_url: str = Field(
        "",
        max_length=2048,
        description="How clients and browsers reach this server (`https://calls.example.org`): the address that joins "
        "of calls hand out, the name that the console answers to, and the links that are printed. Set it behind a "
        "proxy. Empty: from bind address and port.",
    )
    key: str = Field(
        "", max_length=256, description="API key that tokens name as `iss`. Required unless `keys` or `dev` is set."
    )
    secret: SecretStr = Field(
        SecretStr(""),
        description=f"Secret of `key`, at least {SECRET_MIN_CHARACTERS} characters (RFC 7518 §3.2); "
        "`openssl rand -hex 32` makes one.",
    )
    keys: dict[str, SecretStr] = Field(
        {},
        description="Further API keys with their secrets, for rotation or several coordinators: `{key: secret, …}`.",
    )
    region: str = Field(
        "", max_length=64, description="Name of this node's region, told to clients and used to place calls."
    )
    database_url: str = Field(
        "",
        max_length=2048,
        description="Where calls are kept: `postgresql://user:secret@host/name`, if need be with `?sslmode=require` or "
        "the like (`@` in the secret is `%40`), or `sqlite:///path`. Empty: SQLite in `state_dir`. Take PostgreSQL "
        "when more than one node serves calls.",
    )
    state_dir: Path = Field(
        Path("var"),
        description="Directory for what must survive a restart: waiting webhooks, revoked tokens, the database.",
    )
    calls: CallsSettings = CallsSettings()
    drain: DrainSettings = DrainSettings()
    http: HttpSettings = HttpSettings()
    ice: IceSettings = IceSettings()
    log: LogSettings = LogSettings()
    node: NodeSettings = NodeSettings()
    rooms: RoomSettings = RoomSettings()
    webhooks: WebhookSettings = WebhookSettings()

    @field_validator("public_url")
    @classmethod
    def _website(cls, url: str) -> str:
        parts = urlsplit(url)
        if url and not (parts.scheme in ("http", "https") and parts.hostname):
            raise ValueError(f"`{url}` is no website's URL, as `https://calls.example.org` is")
        return url

    @field_validator("database_url")
    @classmethod
    def _database(cls, url: str) -> str:
        if url:
            # Slow to import, and only for those who name one.
            from signaling.store.location import located

            located(url)
        return url

    @cached_property
    def keyring(self) -> dict[str, str]:
        """Every usable key with its secret; the first one signs what the server itself signs."""
        ring = {self.key: self.secret.get_secret_value()} if self.key else {}
        return ring | {key: secret.get_secret_value() for key, secret in self.keys.items()}

    @property
    def calls_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.state_dir.absolute() / 'callyard.sqlite'}"

    @property
    def is_public(self) -> bool:
        """True when the bind address can be reached from other machines."""
        try:
            return not ipaddress.ip_address(self.bind.strip("[]")).is_loopback
        except ValueError:
            return self.bind != "localhost"

    @model_validator(mode="after")
    def _keys_are_usable(self) -> Self:
        if bool(self.key) != bool(self.secret.get_secret_value()):
            raise ValueError("`key` and `secret` are given together or not at all")
        if not self.keyring:
            raise ValueError(
                "no API key: set `key` and `secret` (CALLYARD_KEY, CALLYARD_SECRET), or use --dev to try things out"
            )
        if self.webhooks.key and self.webhooks.key not in self.keyring:
            raise ValueError(f"`webhooks.key` names `{self.webhooks.key}`, which is not among the API keys")
        return self

    @model_validator(mode="after")
    def _development_keys_stay_home(self) -> Self:
        published = self.keyring.get(DEV_KEY) == DEV_SECRET
        if published and self.is_public and self.dev < 2:
            raise ValueError(
                f"the development key is public knowledge, so it is refused on {self.bind}: "
                "set `key` and `secret`, bind to 127.0.0.1, or say --dev twice"
            )
        if not self.dev:
            for key, secret in self.keyring.items():
                if len(secret) < SECRET_MIN_CHARACTERS:
                    raise ValueError(
                        f"the secret of key `{key}` has {len(secret)} characters; "
                        f"at least {SECRET_MIN_CHARACTERS} are needed (`openssl rand -hex 32`)"
                    )
        return self
