from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from signaling.settings import Settings

SECRET = "0123456789abcdef0123456789abcdef"
GOOD: dict[str, Any] = {"key": "k", "secret": SECRET}
TURN: dict[str, Any] = {"turn_urls": ["turn:turn.example.org"], "turn_username": "me", "turn_credential": "secret"}


def problem(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(fields)
    return caught.value.errors()[0]["msg"]


def test_defaults_listen_at_home() -> None:
    settings = Settings.model_validate(GOOD)
    assert (settings.bind, settings.port, settings.is_public) == ("127.0.0.1", 7880, False)


def test_settings_do_not_change() -> None:
    settings = Settings.model_validate(GOOD)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "port", 1)  # noqa: B010 - the type checker refuses the plain form


def test_the_keyring_starts_with_the_main_key() -> None:
    settings = Settings.model_validate(GOOD | {"keys": {"other": SECRET}})
    assert list(settings.keyring.items()) == [("k", SECRET), ("other", SECRET)]


def test_secrets_do_not_show_in_their_text() -> None:
    assert SECRET not in repr(Settings.model_validate(GOOD | {"keys": {"other": SECRET}}))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "no API key"),
        ({"key": "k"}, "`key` and `secret` are given together"),
        ({"secret": SECRET}, "`key` and `secret` are given together"),
        ({"key": "k", "secret": "short"}, "has 5 characters; at least 32"),
        (GOOD | {"keys": {"old": "short"}}, "the secret of key `old`"),
        (GOOD | {"port": 65_536}, "less than or equal to 65535"),
        (GOOD | {"webhooks": {"key": "ghost"}}, "not among the API keys"),
        (GOOD | {"webhooks": {"urls": ["ftp://x"]}}, "not an http:// or https:// URL"),
        (GOOD | {"http": {"body_max_bytes": 1}}, "greater than or equal to 65536"),
        (GOOD | {"ice": {"stun_urls": ["stun.example.org:3478"]}}, "`stun.example.org:3478` is no STUN server's URL"),
        (GOOD | {"ice": {"stun_urls": ["stun://stun.example.org"]}}, "no STUN server's URL"),
        (GOOD | {"ice": {"stun_urls": ["stun:"]}}, "no STUN server's URL"),
        (GOOD | {"ice": {"stun_urls": ["turn:turn.example.org"]}}, "no STUN server's URL"),
        (GOOD | {"ice": {**TURN, "turn_urls": ["turn.example.org:443"]}}, "no TURN server's URL"),
        (GOOD | {"ice": {**TURN, "turn_urls": ["turn:turn.example.org?transport=quic"]}}, "no TURN server's URL"),
        (GOOD | {"ice": {**TURN, "turn_username": ""}}, "`ice.turn_urls` need `ice.turn_username`"),
        (GOOD | {"ice": {**TURN, "turn_credential": ""}}, "and `ice.turn_credential`"),
        (GOOD | {"public_url": "calls.example.org"}, "`calls.example.org` is no website's URL"),
        (GOOD | {"public_url": "calls.example.org:7880"}, "no website's URL"),
        (GOOD | {"public_url": "wss://calls.example.org"}, "no website's URL"),
        (GOOD | {"public_url": "https:///calls"}, "no website's URL"),
        (GOOD | {"public_url": "https://[::1"}, "Invalid IPv6 URL"),
        (GOOD | {"database_url": "mysql://db/calls"}, "of the kind `mysql` cannot be used"),
        (GOOD | {"database_url": "postgresql://me:p@ss@db/calls"}, "one `@` too many"),
        ({"dev": 1, "key": "devkey", "secret": "secret", "bind": "0.0.0.0"}, "public knowledge"),
        ({"dev": 1, "key": "devkey", "secret": "secret", "bind": "::"}, "public knowledge"),
        ({"dev": 1, "key": "devkey", "secret": "secret", "bind": "example.org"}, "public knowledge"),
    ],
)
def test_what_cannot_be_used_is_said(fields: dict[str, Any], sentence: str) -> None:
    assert sentence in problem(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"ice": {"stun_urls": ["stun:stun.example.org:3478", "stuns:192.0.2.1", "stun:[2001:db8::1]:3478"]}},
        {"ice": TURN},
        {"ice": {**TURN, "turn_urls": ["turns:turn.example.org:443?transport=tcp", "turn:[2001:db8::1]"]}},
        {"public_url": ""},
        {"public_url": "https://calls.example.org"},
        {"public_url": "http://[::1]:7880/"},
    ],
)
def test_what_browsers_are_told_may_have_these_forms(fields: dict[str, Any]) -> None:
    Settings.model_validate(GOOD | fields)


@pytest.mark.parametrize(
    ("dev", "bind"), [(1, "127.0.0.1"), (1, "::1"), (1, "[::1]"), (1, "localhost"), (1, "127.8.8.8"), (2, "0.0.0.0")]
)
def test_development_keys_at_home_or_said_twice(dev: int, bind: str) -> None:
    settings = Settings.model_validate({"dev": dev, "key": "devkey", "secret": "secret", "bind": bind})
    assert settings.keyring == {"devkey": "secret"}


def test_development_mode_with_own_keys_may_be_public() -> None:
    assert Settings.model_validate(GOOD | {"dev": 1, "bind": "0.0.0.0"}).is_public
