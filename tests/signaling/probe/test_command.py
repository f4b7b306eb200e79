"""The command's options, exit codes and sentences."""

from __future__ import annotations

import json

import jwt
import pytest
from typer.testing import CliRunner

from signaling.cli import app
from signaling.probe.command import _tokens, _turn_server

NOBODY = "ws://127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([NOBODY], "Say how to sign in"),
        ([NOBODY, "--dev", "--metrics-port", "9000"], "--metrics-port needs --watch"),
        ([NOBODY, "--dev", "--tcp", "--turn", "turn:host"], "not both"),
        ([NOBODY, "--token", "one"], "Give --token twice"),
        ([NOBODY, "--dev", "--turn", "stun:host"], "is no TURN URI"),
        ([NOBODY, "--dev", "--turn", "turns:host?transport=udp"], "is no TURN URI that the probe can use"),
    ],
)
def test_misuse_says_what_is_missing(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["probe", *arguments], env={"CALLYARD_KEY": "", "CALLYARD_SECRET": ""})
    assert result.exit_code == 2
    assert says in result.stderr


def test_nobody_there_is_exit_code_1_and_a_sentence() -> None:
    result = CliRunner().invoke(app, ["probe", NOBODY, "--dev"])
    assert result.exit_code == 1
    assert "Failed at signal: No WebSocket at ws://127.0.0.1:1" in result.stdout


def test_json_holds_the_failure() -> None:
    result = CliRunner().invoke(app, ["probe", NOBODY, "--dev", "--json", "--single"])
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert (document["ok"], document["failed_step"], document["mode"]) == (False, "signal", "single")


@pytest.mark.parametrize(
    ("uri", "host", "port", "transport", "tls"),
    [
        ("turn:relay.example.org", "relay.example.org", 3478, "udp", False),
        ("turn:relay.example.org:80?transport=tcp", "relay.example.org", 80, "tcp", False),
        ("turns:relay.example.org", "relay.example.org", 5349, "tcp", True),
        ("turn:[::1]:9", "::1", 9, "udp", False),
    ],
)
def test_turn_uris_are_read_as_rfc_7065_says(uri: str, host: str, port: int, transport: str, tls: bool) -> None:
    server = _turn_server(uri, "user", "password")
    assert (server.host, server.port, server.transport, server.tls) == (host, port, transport, tls)
    assert (server.username, server.password) == ("user", "password")


def test_tokens_are_of_two_identities_for_one_room() -> None:
    claims = [jwt.decode(token, "s" * 32, algorithms=["HS256"]) for token in _tokens("key", "s" * 32, "room")]
    assert len({one["sub"] for one in claims}) == 2
    assert {(one["iss"], one["video"]["room"], one["video"]["roomJoin"]) for one in claims} == {("key", "room", True)}
