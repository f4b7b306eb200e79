from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from signaling.settings import Settings

SECRET = "0123456789abcdef0123456789abcdef"
GOOD: dict[str, Any] = {"key": "k", "secret": SECRET}


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
    ("dev", "bind"), [(1, "127.0.0.1"), (1, "::1"), (1, "[::1]"), (1, "localhost"), (1, "127.8.8.8"), (2, "0.0.0.0")]
)
def test_development_keys_at_home_or_said_twice(dev: int, bind: str) -> None:
    settings = Settings.model_validate({"dev": dev, "key": "devkey", "secret": "secret", "bind": bind})
    assert settings.keyring == {"devkey": "secret"}


def test_development_mode_with_own_keys_may_be_public() -> None:
    assert Settings.model_validate(GOOD | {"dev": 1, "bind": "0.0.0.0"}).is_public
