"""What of a setting may be shown: in `doctor`'s output, which people paste when they ask for help, and in logs."""

from __future__ import annotations

import re

_PASSWORD = re.compile(r"(?<=://)([^:/@]*:)[^@]*(?=@)")
_USER_OF_WEBSITE = re.compile(r"(?<=://)[^/?#]*(?=@)")
_VALUE_IN_QUERY = re.compile(r"(?<==)[^&]+")
_TOKEN_IN_PATH = re.compile(r"(?<=[^:/]/)(?=[^/?#]*\d)[^/?#]{16,}")
"""A long part with a digit in it: what chat services put where others have a password."""


def masked(text: str) -> str:
    """Return it without passwords; of a website's URL, as webhooks have, without all that may be a token: the user's
    name alone may be one."""
    if not text.startswith(("http://", "https://")):
        return _PASSWORD.sub(r"\1(set)", text)
    address, mark, query = _USER_OF_WEBSITE.sub("(set)", text).partition("?")
    return _TOKEN_IN_PATH.sub("(set)", address) + mark + _VALUE_IN_QUERY.sub("(set)", query)
