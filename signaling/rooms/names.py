"""Names as clients and coordinators give them: one spelling each, nothing that would change how others' text is shown.

The calls system holds people's names to it too. Not here: how long each may be at most (`settings.py`), ids.
"""

from __future__ import annotations

import unicodedata

from signaling.errors import InvalidRequest, TooLarge

_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""Embeddings, overrides and isolates of direction (UAX #9 §2.1-2.4), and separators that end a line. Marks of direction
stay: they change nothing but the place of a neighbouring full stop."""


def normal(text: str) -> str:
    """Return the composed form (NFC, UAX #15): what looks the same and is the same to people is one name."""
    return unicodedata.normalize("NFC", text)


def has_controls(text: str) -> bool:
    """Whether there are C0 or C1 controls, DEL, or what turns the direction of the text that follows."""
    return any(unicodedata.category(character) == "Cc" or character in _OVERRIDES for character in text)


def check_text(what: str, text: str, max_bytes: int) -> None:
    """Raises `TooLarge` or `InvalidRequest`."""
    check_size(what, text.encode(errors="replace"), max_bytes)
    if has_controls(text):
        raise InvalidRequest(f"The {what} has control characters.")


def check_size(what: str, encoded: bytes, max_bytes: int) -> None:
    """Raises `TooLarge`."""
    if len(encoded) > max_bytes:
        raise TooLarge(f"The {what} has {len(encoded)} bytes; at most {max_bytes} are taken.")
