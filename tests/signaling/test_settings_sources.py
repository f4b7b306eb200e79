from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from signaling.errors import SettingsError
from signaling.settings_sources import load, value_at

SECRET = "0123456789abcdef0123456789abcdef"
KEYS = {"CALLYARD_KEY": "k", "CALLYARD_SECRET": SECRET}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "callyard.yaml"


@pytest.mark.parametrize(
    ("option", "variable", "in_file", "expected", "origin"),
    [
        (1, "2", 3, 1, "option --port"),
        (None, "2", 3, 2, "environment CALLYARD_PORT"),
        (None, None, 3, 3, "file {file}"),
        (None, None, None, 7880, "default"),
        (1, None, 3, 1, "option --port"),
        (None, "", 3, 3, "file {file}"),
    ],
)
def test_precedence(
    file: Path, option: int | None, variable: str | None, in_file: int | None, expected: int, origin: str
) -> None:
    file.write_text("" if in_file is None else f"port: {in_file}\n", encoding="utf-8")
    environ = KEYS | ({} if variable is None else {"CALLYARD_PORT": variable})
    loaded = load(options={} if option is None else {"port": option}, environ=environ, file=file)
    assert loaded.settings.port == expected
    assert loaded.origins["port"] == origin.format(file=file)


def test_sections_are_merged_field_by_field(file: Path) -> None:
    file.write_text("http:\n  keep_alive_seconds: 7\n  backlog: 99\n", encoding="utf-8")
    loaded = load(options={}, environ=KEYS | {"CALLYARD_HTTP_BACKLOG": "100"}, file=file)
    assert (loaded.settings.http.keep_alive_seconds, loaded.settings.http.backlog) == (7, 100)
    assert loaded.origins["http.backlog"] == "environment CALLYARD_HTTP_BACKLOG"
    assert loaded.origins["http.keep_alive_seconds"] == f"file {file}"


def test_the_file_may_be_named_by_a_variable(file: Path) -> None:
    file.write_text("port: 3\n", encoding="utf-8")
    assert load(options={}, environ=KEYS | {"CALLYARD_CONFIG": str(file)}).settings.port == 3


@pytest.mark.parametrize(
    ("variable", "text", "path", "expected"),
    [
        ("CALLYARD_WEBHOOKS_URLS", "http://a, https://b", "webhooks.urls", ("http://a", "https://b")),
        ("CALLYARD_WEBHOOKS_URLS", '["http://a,b"]', "webhooks.urls", ("http://a,b",)),
        ("CALLYARD_LOG_ADDRESSES", "true", "log.addresses", True),
        ("CALLYARD_DRAIN_DEADLINE_SECONDS", "1.5", "drain.deadline_seconds", 1.5),
        ("CALLYARD_STATE_DIR", "/var/lib/callyard", "state_dir", Path("/var/lib/callyard")),
        ("CALLYARD_BIND", "0", "bind", "0"),
    ],
)
def test_variables_are_read_as_their_type(variable: str, text: str, path: str, expected: Any) -> None:
    assert value_at(load(options={}, environ=KEYS | {variable: text}).settings, path) == expected


def test_keys_in_a_variable() -> None:
    environ = {"CALLYARD_KEYS": f"{{a: {SECRET}, b: '{SECRET}'}}"}
    assert load(options={}, environ=environ).settings.keyring == {"a": SECRET, "b": SECRET}


@pytest.mark.parametrize(
    ("options", "environ", "content", "sentence"),
    [
        ({}, {"CALLYARD_PROT": "1"}, "", "Unknown environment variable CALLYARD_PROT; did you mean `CALLYARD_PORT`?"),
        ({}, {}, "prot: 1", "Unknown setting `prot` in {file}; did you mean `port`?"),
        ({}, {}, "http:\n  backlogg: 1", "Unknown setting `http.backlogg` in {file}; did you mean `http.backlog`?"),
        ({}, {}, "backlog: 1", "did you mean `http.backlog`?"),
        ({}, {}, "http: 4", "`http` in {file} must be a mapping of settings."),
        ({}, {}, "- 1", "{file} must be a mapping of settings."),
        ({}, {}, "a: [", "{file} is not YAML"),
        ({"port": 70_000}, {}, "", "`port` (option --port): Input should be less than or equal to 65535."),
        ({}, {"CALLYARD_PORT": "x"}, "", "`port` (environment CALLYARD_PORT): Input should be a valid integer"),
        ({}, {}, "http:\n  backlog: 1", "`http.backlog` (file {file}): Input should be greater than"),
        ({}, {"CALLYARD_KEYS": "nonsense"}, "", "CALLYARD_KEYS must be a mapping"),
        ({}, {"CALLYARD_WEBHOOKS_URLS": "[x"}, "", "must be a JSON list or values separated by commas"),
    ],
)
def test_mistakes_name_their_place(
    file: Path, options: dict[str, Any], environ: dict[str, str], content: str, sentence: str
) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(SettingsError) as caught:
        load(options=options, environ=KEYS | environ, file=file)
    assert sentence.format(file=file) in caught.value.message


def test_a_missing_file_is_said(file: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load(options={}, environ=KEYS, file=file)


def test_a_secret_never_stands_in_an_error() -> None:
    with pytest.raises(SettingsError) as caught:
        load(options={}, environ={"CALLYARD_KEY": "k", "CALLYARD_SECRET": "hunter2"})
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("dev", [1, 2])
def test_development_mode_brings_keys_and_does_not_wait(dev: int) -> None:
    loaded = load(options={"dev": dev}, environ={})
    assert loaded.settings.keyring == {"devkey": "secret"}
    assert loaded.settings.drain.deadline_seconds == 0
    assert loaded.origins["secret"] == loaded.origins["drain.deadline_seconds"] == "development mode"


def test_own_keys_win_over_development_mode() -> None:
    loaded = load(options={"dev": 1, "drain.deadline_seconds": 9}, environ=KEYS)
    assert loaded.settings.keyring == {"k": SECRET}
    assert loaded.settings.drain.deadline_seconds == 9


def test_development_mode_from_a_variable_switched_off() -> None:
    with pytest.raises(SettingsError, match="No API key"):
        load(options={}, environ={"CALLYARD_DEV": "0"})


def test_the_workers_settings_are_nested() -> None:
    environ = KEYS | {"CALLYARD_NODE_NODE_IP": "203.0.113.1, 2001:db8::1", "CALLYARD_NODE_WORKERS": "3"}
    node = load(options={"node.udp_port": 9000}, environ=environ).settings.node
    assert ([str(ip) for ip in node.node_ip], node.workers, node.udp_port) == (["203.0.113.1", "2001:db8::1"], 3, 9000)
