"""Alphabets of ids, what people may be called, UUIDv7 (RFC 9562 §5.7), and the instants' one spelling.

Not here: a clock or a source of randomness; both are handed in.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from signaling.calls.problems import unprocessable
from signaling.rooms.names import has_controls, normal

CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
NAME = re.compile(r"[a-z0-9_-]{1,64}\Z")
USER_ID = re.compile(r"[A-Za-z0-9_@.-]{1,128}\Z")
DEVICE_ID = CALL_ID
GUEST_IDS = "guest-________-____-7___-____-____________"
"""What guests are called whom this server has made, for SQL's LIKE: a UUIDv7 behind the word."""
_GUEST_ID = re.compile(GUEST_IDS.replace("_", ".") + r"\Z", re.IGNORECASE)  # as SQLite's LIKE


def uuid7(now: datetime, random: bytes, after: str | None = None) -> str:
    """Return a UUIDv7 of `now` and 10 bytes of `random`.

    after: the id made before, if there is one; the new one sorts behind it even within a millisecond and when the
    clock was set back (RFC 9562 §6.2, method 2).
    """
    milliseconds = int(now.timestamp() * 1000) & (2**48 - 1)
    noise = int.from_bytes(random, "big") & (2**74 - 1)
    if after is not None:
        last = int(after.replace("-", ""), 16)
        last_noise = (last >> 64 & 0xFFF) << 62 | last & (2**62 - 1)
        if milliseconds <= last >> 80:
            # Far enough that the next id is no guess, near enough that a millisecond has room for billions.
            following = (last >> 80 << 74 | last_noise) + 1 + (noise & 0xFFFF_FFFF)
            milliseconds, noise = following >> 74, following & (2**74 - 1)
    value = milliseconds << 80 | 0x7 << 76 | (noise >> 62) << 64 | 0b10 << 62 | noise & (2**62 - 1)
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_guest_id(user_id: str) -> bool:
    """Tell whether a user is called as the guests are whom this server has made."""
    return _GUEST_ID.match(user_id) is not None


def check(pattern: re.Pattern[str], value: str, pointer: str) -> str:
    """Return `value` if it is in the alphabet, else 422 at `pointer`."""
    if not pattern.match(value):
        raise unprocessable(pointer, f"Must match {pattern.pattern.removesuffix(chr(92) + 'Z')}.")
    return value


def check_name(name: str, max_bytes: int, pointer: str) -> str:
    """Return a person's name in its one spelling, else 422 at `pointer`: what no room would take, no user is called."""
    spelled = normal(name)
    size = len(spelled.encode(errors="replace"))
    if size > max_bytes:
        raise unprocessable(pointer, f"The name has {size} bytes; at most {max_bytes} are taken.")
    if has_controls(spelled):
        raise unprocessable(pointer, "The name has control characters, or some that turn the direction of text.")
    return spelled


def rfc3339(at: datetime | None) -> str | None:
    """Return UTC with milliseconds and `Z`, null for None."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def whole_milliseconds(at: datetime) -> datetime:
    """Return the instant as it can be said on the wire, in UTC."""
    at = at.astimezone(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)
