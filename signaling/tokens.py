"""Access tokens: read strictly, and signed for clients to come back with. RFC 7515, RFC 7519, RFC 8725.

Only HS256, only keys of the keyring named by `iss`, `exp` always, clocks may differ by a minute; JSON that two parsers
could read in two ways (names twice, NaN, half characters) is none. What the claims allow
is `rooms/grants.py`; the calls system's own tokens are `calls/principal.py`. Time is an argument.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

import jwt

from signaling.errors import Unauthenticated
from signaling.rooms.grants import Grants, grants_of
from signaling.rooms.settings import RoomSettings

LEEWAY_SECONDS = 60
_FIRST_EXPIRY = "firstExp"
"""In tokens that we refresh: `exp` of the one that the application made out."""
_NAMES = 4
"""The longest claims besides metadata and attributes: identity twice, name, room."""
_OTHER_CLAIMS_BYTES = 2_048
_BAD = "invalid token"
_signatures = jwt.PyJWS()
_DEFAULTS = RoomSettings()


def max_characters(settings: RoomSettings) -> int:
    """Return how long a token may be: as long as `sign` makes it of all that a participant may have."""
    texts = settings.metadata_max_bytes + settings.attributes_max_bytes + _NAMES * settings.name_max_bytes
    # JSON has two bytes for a quotation mark; base64 has four for three.
    return (2 * texts + _OTHER_CLAIMS_BYTES) * 4 // 3


def verify(token: str, keyring: Mapping[str, str], now: float, settings: RoomSettings = _DEFAULTS) -> Grants:
    """Return what a token allows; raises `Unauthenticated`. `now`: Unix seconds."""
    if len(token) > max_characters(settings):
        raise Unauthenticated(f"{_BAD}: it is too long")
    claims = _verified_claims(token, keyring)
    expires, first_expires, not_before = (_time(claims, name) for name in ("exp", _FIRST_EXPIRY, "nbf"))
    if expires is None:
        raise Unauthenticated(f"{_BAD}: it has no expiry")
    if now >= expires + LEEWAY_SECONDS:
        raise Unauthenticated(f"{_BAD}: it has expired")
    if not_before is not None and now < not_before - LEEWAY_SECONDS:
        raise Unauthenticated(f"{_BAD}: it is not valid yet")
    # LiveKit's JavaScript SDK for servers writes `nbf: 0` and no `iat`.
    issued = next((at for at in (_time(claims, "iat"), not_before) if at), None)
    lifetime = expires - (now if issued is None else issued)
    return grants_of(
        claims,
        lifetime_seconds=int(max(0.0, min(lifetime, 2**31))),
        issued_at=issued or 0.0,
        expires_at=expires if first_expires is None else first_expires,
    )


def _verified_claims(token: str, keyring: Mapping[str, str]) -> dict[str, Any]:
    try:
        claims = _object(_signatures.decode(token, options={"verify_signature": False}))
        issuer = claims.get("iss")
        secret = keyring.get(issuer) if isinstance(issuer, str) else None
        if not secret:
            raise Unauthenticated("invalid API key: the token's issuer is not known here")
        header = token.partition(".")[0]
        _object(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
        _signatures.decode(token, secret, algorithms=["HS256"])
    except jwt.InvalidSignatureError:
        raise Unauthenticated(f"{_BAD}: its signature does not hold") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise Unauthenticated(f"{_BAD}: {error}") from None
    return claims


def _object(raw: bytes) -> dict[str, Any]:
    """Read a JSON object that can be read in one way only; raises `ValueError`."""
    value = json.loads(raw.decode(), object_pairs_hook=_without_repetition, parse_constant=_no_number)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    # Half a surrogate pair is no character, and nothing that speaks UTF-8 can pass it on.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a number")


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise Unauthenticated(f"{_BAD}: `{name}` is not a time")
    return float(value)


def sign(grants: Grants, keyring: Mapping[str, str], now: float) -> str:
    """Return a token with just these grants, valid as long as the one they came from.

    It says the very moment, and never a whole second: what applications make out is known by that (`check_cutoff`).
    """
    key = grants.key if grants.key in keyring else next(iter(keyring))
    at = now if now % 1 else now - 0.0005
    times = {"nbf": int(now), "iat": at, "exp": math.ceil(now) + grants.lifetime_seconds}
    times |= {_FIRST_EXPIRY: grants.expires_at} if grants.expires_at else {}
    claims = {"iss": key, **times, **grants.claims()}
    # Not escaped: a character of Chinese would have six bytes for its three.
    payload = json.dumps(claims, ensure_ascii=False, separators=(",", ":")).encode()
    return _signatures.encode(payload, keyring[key], algorithm="HS256")
