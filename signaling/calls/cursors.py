"""Opaque cursors of keyset pages: the sort key of the row after (or before) which a page begins."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from signaling.calls.problems import unprocessable

CURSOR_MAX_CHARACTERS = 4_096


def encode(direction: str, key: list[Any]) -> str:
    raw = json.dumps([direction, key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(cursor: str, direction: str, length: int) -> list[Any]:
    """Return the key of a cursor of ours; 422 at `/next` or `/prev` for anything else."""
    wrong = unprocessable(f"/{direction}", "This is not a cursor of this list.")
    if len(cursor) > CURSOR_MAX_CHARACTERS:
        raise wrong
    try:
        value = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise wrong from None
    if not isinstance(value, list) or len(value) != 2 or value[0] != direction:
        raise wrong
    key = value[1]
    if not isinstance(key, list) or len(key) != length:
        raise wrong
    if not all(part is None or isinstance(part, str | int | float | bool) for part in key):
        raise wrong
    return key
