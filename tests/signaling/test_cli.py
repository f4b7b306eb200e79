from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from typer.testing import CliRunner, Result

from signaling.calls.principal import verify
from signaling.cli import app

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment, terminal_width=200)


def test_a_taken_port_is_a_sentence_and_a_failure(taken_port: int) -> None:
    result = run("serve", "--dev", "--port", str(taken_port))
    assert result.exit_code == 1
    assert f"callyard: Cannot listen on 127.0.0.1 port {taken_port}: another program listens there" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve"], "No API key: set `key` and `secret`"),
        (["serve", "--dev", "--bind", "0.0.0.0"], "refused on 0.0.0.0"),
        (["serve", "--key", "k", "--secret", "short"], "has 5 characters"),
        (["serve", "--key", "k", "--secret", SECRET, "--webhook-url", "gopher://x"], "`gopher://x` is not an http"),
        (["serve", "--dev", "--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["doctor", "--dev", "--port", "-1"], "`port` (option --port)"),
    ],
)
def test_unusable_settings_end_with_a_sentence_on_stderr(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_a_state_directory_that_cannot_be_used_is_a_sentence() -> None:
    result = run("serve", "--dev", "--port", "0", CALLYARD_STATE_DIR="/dev/null/state")
    assert result.exit_code == 1
    assert "callyard: /dev/null/state cannot be used (Not a directory); set CALLYARD_STATE_DIR." in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_a_run_directory_that_cannot_be_used_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for environment, reason in (
        ({"XDG_RUNTIME_DIR": str(tmp_path / "file")}, "cannot be made: Not a directory"),
        ({"CALLYARD_NODE_RUN_DIRECTORY": str(tmp_path / "open")}, "belongs to, or is writable by, others"),
    ):
        result = run("serve", "--dev", **environment)
        assert result.exit_code == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith("callyard: No place for the workers' sockets: the run directory ")
        assert line.endswith(f"{reason}; set CALLYARD_NODE_RUN_DIRECTORY.")
        assert "Traceback" not in result.stderr + result.stdout
        found = run("doctor", "--dev", "--port", "0", **environment)
        assert found.exit_code == 1
        assert "failure  run directory: " in found.stdout


def test_doctor_makes_no_run_directory(tmp_path: Path) -> None:
    found = run("doctor", "--dev", "--port", "0", CALLYARD_NODE_RUN_DIRECTORY=str(tmp_path / "made"))
    assert "ok  run directory: " in found.stdout
    assert not (tmp_path / "made").exists()


def test_doctor_shows_values_with_their_origin_and_hides_secrets() -> None:
    result = run("doctor", "--port", "0", CALLYARD_KEY="k", CALLYARD_SECRET=SECRET, CALLYARD_LOG_LEVEL="warning")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["log.level", "warning", "environment", "CALLYARD_LOG_LEVEL"] in rows
    assert ["port", "0", "option", "--port"] in rows
    assert ["bind", "127.0.0.1", "default"] in rows
    assert SECRET not in result.stdout


@pytest.mark.parametrize(
    ("setting", "value", "shown"),
    [
        ("DATABASE_URL", "postgres://me:hunter2@db/calls?sslmode=allow", "postgres://me:(set)@db/calls?sslmode=allow"),
        ("DATABASE_URL", "postgresql://me@db/calls", "postgresql://me@db/calls"),
        ("DATABASE_URL", "postgresql://me:hunter2/a@db/calls", "postgresql://me:(set)@db/calls"),
        ("WEBHOOKS_URLS", "https://me:hunter2@a.example,https://b.test", "https://(set)@a.example, https://b.test"),
        ("WEBHOOKS_URLS", "https://hunter2@a.example:8443/x", "https://(set)@a.example:8443/x"),
        ("WEBHOOKS_URLS", "https://a.example/T01/hunter2hunter2hunter2", "https://a.example/T01/(set)"),
        (
            "WEBHOOKS_URLS",
            "https://hooks-2026-int.example/hunters-of-hooks",
            "https://hooks-2026-int.example/hunters-of-hooks",
        ),
        ("WEBHOOKS_URLS", "https://a.example/x?a=hunter2&b=hunter2%3D", "https://a.example/x?a=(set)&b=(set)"),
        ("WEBHOOKS_URLS", "https://a.example/@me", "https://a.example/@me"),
    ],
)
def test_doctor_hides_secrets_within_urls(setting: str, value: str, shown: str) -> None:
    result = run("doctor", "--dev", "--port", "0", **{f"CALLYARD_{setting}": value})
    assert shown in result.stdout
    assert "hunter2" not in result.stdout


def test_doctor_fails_when_the_port_is_taken(taken_port: int) -> None:
    result = run("doctor", "--dev", "--port", str(taken_port))
    assert result.exit_code == 1
    assert "failure  http port: Cannot listen" in result.stdout


def test_doctor_names_the_media_port_that_is_taken() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.bind(("::", 0))
        port = other.getsockname()[1]
        found = run("doctor", "--dev", "--port", "0", "--udp-port", str(port), "--workers", "1").stdout
    assert f"warning  media ports: {port} taken by another program" in found
    free = run("doctor", "--dev", "--port", "0", "--udp-port", str(port), "--workers", "1").stdout
    assert f"ok  media ports: UDP and TCP {port} free on ::." in free


@pytest.mark.parametrize(
    ("url", "place"),
    [("", "SQLite, "), ("postgres://me:hunter2@db.example.org/calls?sslmode=require", "PostgreSQL on db.example.org.")],
)
def test_doctor_says_where_calls_are_kept(url: str, place: str) -> None:
    result = run("doctor", "--dev", "--port", "0", CALLYARD_DATABASE_URL=url)
    assert f"ok  database: Calls are kept in {place}" in result.stdout


def test_a_database_that_cannot_be_used_is_a_sentence_without_its_secret() -> None:
    result = run("serve", "--dev", CALLYARD_DATABASE_URL="postgresql://me:hunter2@x@db/calls")
    assert result.exit_code == 2
    assert "callyard: `database_url` (environment CALLYARD_DATABASE_URL): There is one `@` too many" in result.stderr
    assert "hunter2" not in result.stderr + result.stdout
    assert "Traceback" not in result.stderr + result.stdout


def test_doctor_warns_of_development_keys() -> None:
    result = run("doctor", "--dev", "--port", "0")
    assert "warning  keys: `devkey` has the published development secret" in result.stdout


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("serve", "token", "rooms", "doctor"):
        assert command in result.stdout


def claims(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    decoded: dict[str, Any] = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"])
    return decoded


KEYS = ("--key", "k", "--secret", SECRET)


def test_a_token_to_join() -> None:
    got = claims(
        run("token", *KEYS, "--identity", "alice", "--room", "demo", "--name", "Alice", "--attribute", "team=a=b")
    )
    assert (got["iss"], got["sub"], got["name"], got["attributes"]) == ("k", "alice", "Alice", {"team": "a=b"})
    assert got["video"] == {
        "roomJoin": True,
        "room": "demo",
        "canPublish": True,
        "canPublishData": True,
        "canSubscribe": True,
    }
    assert got["exp"] - got["nbf"] == 6 * 3600 + 5


def test_a_token_of_a_hidden_listener() -> None:
    got = claims(run("token", *KEYS, "--identity", "x", "--room", "r", "--no-publish", "--no-publish-data", "--hidden"))
    assert (got["video"]["canPublish"], got["video"]["canPublishData"], got["video"]["hidden"]) == (False, False, True)


def test_a_coordinators_token_opens_no_room() -> None:
    got = claims(run("token", *KEYS, "--create", "--list", "--valid-for", "60"))
    assert got["video"] == {"roomCreate": True, "roomList": True}


def test_an_administrators_token_names_its_room() -> None:
    assert claims(run("token", *KEYS, "--admin", "--room", "demo"))["video"] == {"roomAdmin": True, "room": "demo"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say what the token is for"),
        (["--identity", "alice"], "needs --identity and --room"),
        (["--room", "demo"], "needs --identity and --room"),
        (["--identity", "a", "--room", "r", "--attribute", "x"], "`x` is not key=value"),
    ],
)
def test_a_token_for_nothing_is_refused(arguments: list[str], sentence: str) -> None:
    result = run("token", *KEYS, *arguments)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_rooms_of_a_server_that_is_not_there() -> None:
    result = run("rooms", "list", *KEYS, "--url", "http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "callyard: http://127.0.0.1:1 cannot be reached" in result.stderr


def test_a_server_token_and_a_users_open_the_api() -> None:
    keys = {"k": SECRET}
    for arguments, kind, user, name in (
        ([], "server", None, None),
        (["--user", "alice", "--name", "Al"], "user", "alice", "Al"),
    ):
        result = run("api-token", *arguments, CALLYARD_KEY="k", CALLYARD_SECRET=SECRET)
        principal = verify(result.stdout.strip(), keys, datetime.now(UTC))
        assert (principal.kind, principal.user_id, principal.name) == (kind, user, name)
        assert 3_500 < (principal.expires_at - datetime.now(UTC)).total_seconds() <= 3_600
