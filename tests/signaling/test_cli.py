from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

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


def test_doctor_shows_values_with_their_origin_and_hides_secrets() -> None:
    result = run("doctor", "--port", "0", CALLYARD_KEY="k", CALLYARD_SECRET=SECRET, CALLYARD_LOG_LEVEL="warning")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["log.level", "warning", "environment", "CALLYARD_LOG_LEVEL"] in rows
    assert ["port", "0", "option", "--port"] in rows
    assert ["bind", "127.0.0.1", "default"] in rows
    assert SECRET not in result.stdout


def test_doctor_fails_when_the_port_is_taken(taken_port: int) -> None:
    result = run("doctor", "--dev", "--port", str(taken_port))
    assert result.exit_code == 1
    assert "failure  http port: Cannot listen" in result.stdout


def test_doctor_warns_of_development_keys() -> None:
    result = run("doctor", "--dev", "--port", "0")
    assert "warning  keys: `devkey` has the published development secret" in result.stdout


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("serve", "doctor"):
        assert command in result.stdout
