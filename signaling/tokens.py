"""Access tokens: read strictly, and signed for clients to come back with. RFC 7519, RFC 8725.

Only HS256, only keys of the keyring named by `iss`, `exp` always, clocks may differ by a minute. What the claims allow
is `rooms/grants.py`; the calls system's own tokens are `calls/principal.py`. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jwt
from jwt.types import Options

from signaling.errors import Unauthenticated
from signaling.rooms.grants import Grants, grants_of

LEEWAY_SECONDS = 60
_TOKEN_MAX_CHARACTERS = 65_536
_BAD = "invalid token"
_CHECKED_HERE: Options = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_sub": False,
}


def verify(token: str, keyring: Mapping[str, str], now: float) -> Grants:
    """Return what a token allows; raises `Unauthenticated`. `now`: Unix seconds."""
    claims = _verified_claims(token, keyring)
    expires, not_before = _time(claims, "exp"), _time(claims, "nbf")
    if expires is None:
        raise Unauthenticated(f"{_BAD}: it has no expiry")
    if now >= expires + LEEWAY_SECONDS:
        raise Unauthenticated(f"{_BAD}: it has expired")
    if not_before is not None and now < not_before - LEEWAY_SECONDS:
        raise Unauthenticated(f"{_BAD}: it is not valid yet")
    issued = next((at for at in (_time(claims, "iat"), not_before) if at is not None), now)
    return grants_of(claims, lifetime_seconds=int(max(0.0, min(expires - issued, 2**31))))


def _verified_claims(token: str, keyring: Mapping[str, str]) -> dict[str, Any]:
    if len(token) > _TOKEN_MAX_CHARACTERS:
        raise Unauthenticated(f"{_BAD}: it is too long")
    try:
        issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        secret = keyring.get(issuer) if isinstance(issuer, str) else None
        if not secret:
            raise Unauthenticated("invalid API key: the token's issuer is not known here")
        claims: dict[str, Any] = jwt.decode(token, secret, algorithms=["HS256"], options=_CHECKED_HERE)
    except jwt.InvalidSignatureError:
        raise Unauthenticated(f"{_BAD}: its signature does not hold") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise Unauthenticated(f"{_BAD}: {error}") from None
    return claims


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**53:
        raise Unauthenticated(f"{_BAD}: `{name}` is not a time")
    return float(value)


def sign(grants: Grants, keyring: Mapping[str, str], now: float) -> str:
    """Return a token with just these grants, valid as long as the one they came from."""
    key = grants.key if grants.key in keyring else next(iter(keyring))
    at = int(now)
    times = {"nbf": at, "iat": at, "exp": at + grants.lifetime_seconds}
    return jwt.encode({"iss": key, **times, **grants.claims()}, keyring[key], algorithm="HS256")
