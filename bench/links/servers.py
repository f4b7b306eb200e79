"""Servers under test as commands that run on the server's side of a lab."""

from __future__ import annotations

import datetime
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livekit import api

from bench.links.lab import SERVER_IP
from bench.peers.over_livekit import LiveKit

PORT, UDP_PORT = 7880, 7882
URL = f"ws://{SERVER_IP}:{PORT}"
HTTP = f"http://{SERVER_IP}:{PORT}"
ROOM = "room"
_KEY, _SECRET = "devkey", "a-secret-of-thirty-two-characters-or-more"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    #: Whether it says why everybody gets what he gets.
    explains: bool = False


def callyard(state: Path) -> Server:
    """This checkout, with its defaults."""
    arguments = [sys.executable, "-m", "signaling.cli", "serve", "--bind", "0.0.0.0", "--port", str(PORT)]
    arguments += ["--udp-port", str(UDP_PORT), "--workers", "1", "--node-ip", SERVER_IP]
    arguments += ["--key", _KEY, "--secret", _SECRET]
    environment = {"CALLYARD_STATE_DIR": str(state), "PYTHONPATH": str(_ROOT)}
    return Server("Callyard", tuple(arguments), {**os.environ, **environment}, explains=True)


def livekit(binary: Path, *, estimates: bool = False) -> Server:
    """LiveKit's own server with its defaults; `estimates`: with its own send-side estimator in place of REMB."""
    lines = [
        f"port: {PORT}",
        "bind_addresses: [0.0.0.0]",
        f"keys: {{{_KEY}: {_SECRET}}}",
        "logging: {level: warn, pion_level: error}",
        "rtc:",
        f"  udp_port: {UDP_PORT}",
        "  tcp_port: 0",
        "  use_external_ip: false",
        f"  node_ip: {SERVER_IP}",
    ]
    if estimates:
        lines += ["  congestion_control:", "    use_send_side_bwe: true"]
    name = LiveKit.name + (", send-side estimator" if estimates else "")
    return Server(name, (str(binary), "--config-body", "\n".join(lines)), dict(os.environ))


def token(identity: str, **grants: Any) -> str:
    """An access token for the room."""
    granted = api.VideoGrants(**{"room_join": True, "room": ROOM, **grants})
    made = api.AccessToken(_KEY, _SECRET).with_identity(identity).with_grants(granted)
    return made.with_ttl(datetime.timedelta(hours=1)).to_jwt()
