"""Who asks: verification of API tokens (RFC 7519, 7515) and the principal they make.

The key is looked up by `iss` only, the algorithm is ours (HS256), `exp` is mandatory, `crit` is refused. `now` is an
argument. Not here: which users exist, what a principal may do in a call (`rights.py`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from signaling.calls.capabilities import normalise
from signaling.calls.identifiers import USER_ID
from signaling.calls.model import UNNARROWED, TokenScope
from signaling.calls.problems import Problem

LEEWAY_SECONDS = 60
TOKEN_MAX_CHARACTERS = 16_384
REMEMBERED_TOKENS, REMEMBERED_MAX_CHARACTERS = 4_096, 1_024
"""Some 10 MB at most; a longer token is verified anew each time."""


@dataclass(frozen=True)
class Principal:
    """`kind`: server, user or anonymous. `acting`: a server token that acts on behalf of `user_id`.

    `sources`: hashes of the address he asks from (`api/v1/addresses.py`); none of a server, or if it is not known.
    """

    kind: str
    user_id: str | None
    expires_at: datetime
    name: str | None = None
    calls: frozenset[str] | None = None
    teams: frozenset[str] | None = None
    scope: TokenScope = UNNARROWED
    acting: bool = False
    sources: tuple[str, ...] = ()

    @property
    def is_server(self) -> bool:
        """Whether checks are bypassed: a server token that acts for nobody but itself."""
        return self.kind == "server" and not self.acting

    def on_behalf_of(self, user_id: str) -> Principal:
        return replace(self, user_id=user_id, acting=True)


def _refused(detail: str) -> Problem:
    return Problem("unauthenticated", detail)


def _unbase64(text: str) -> bytes:
    if "=" in text or not text.isascii():
        raise _refused("The token is not a JWT.")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _refused("The token is not a JWT.") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
        raise _refused("The token is not a JWT.")
    return raw


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _refused("The token is not a JWT.") from None
    if not isinstance(value, dict):
        raise _refused("The token is not a JWT.")
    return value


def _instant(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(f"The claim {name} is not a number.")
    # Beyond the year 9999 no datetime exists; nobody means it.
    if (isinstance(value, float) and not math.isfinite(value)) or not 0 <= value < 253_402_300_800:
        raise _refused(f"The claim {name} is no date.")
    return float(value)


def _strings(claims: Mapping[str, Any], name: str) -> list[str] | None:
    if name not in claims or claims[name] is None:
        return None
    value = claims[name]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _refused(f"The claim {name} is not a list of strings.")
    return value


def verify(token: str, keys: Mapping[str, str], now: datetime) -> Principal:
    """Return the principal of an API token, or raise 401 `unauthenticated` or `token_expired`."""
    return _principal(_signed_claims(token, keys), now)


class Verifier:
    """`verify` with keys that stay the same: what a token that was seen lately says is known, and that we signed it.

    Whether it holds at `now` is asked each time.
    """

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._keys = keys
        self._known: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def verify(self, token: str, now: datetime) -> Principal:
        claims = self._known.get(token)
        if claims is None:
            claims = _signed_claims(token, self._keys)
            if len(token) <= REMEMBERED_MAX_CHARACTERS:
                self._known[token] = claims
        else:
            self._known.move_to_end(token)
        if len(self._known) > REMEMBERED_TOKENS:
            self._known.popitem(last=False)
        return _principal(claims, now)


def _signed_claims(token: str, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return what a token of ours says."""
    if len(token) > TOKEN_MAX_CHARACTERS or token.count(".") != 2:
        raise _refused("The token is not a JWT.")
    signed, _, signature_text = token.rpartition(".")
    header_text, _, payload_text = signed.partition(".")
    header = _object(_unbase64(header_text))
    if header.get("alg") != "HS256":
        raise _refused("Tokens are signed with HS256.")
    if "crit" in header or "b64" in header:
        raise _refused("The token demands an extension that is not known here.")
    if header.get("typ", "JWT") not in ("JWT", "jwt"):
        raise _refused("The token is not a JWT.")
    claims = _object(_unbase64(payload_text))
    issuer = claims.get("iss")
    secret = keys.get(issuer) if isinstance(issuer, str) else None
    if not secret:
        raise _refused("The token's issuer is not one of our keys.")
    expected = hmac.new(secret.encode(), signed.encode("ascii"), hashlib.sha256).digest()
    if not hmac.compare_digest(expected, _unbase64(signature_text)):
        raise _refused("The token's signature does not hold.")
    return claims


def _principal(claims: Mapping[str, Any], now: datetime) -> Principal:
    at = now.timestamp()
    expires = _instant(claims, "exp")
    if expires is None:
        raise _refused("The token has no exp.")
    if at >= expires:
        raise Problem("token_expired", "The token has expired.")
    for name in ("nbf", "iat"):
        begins = _instant(claims, name)
        if begins is not None and begins > at + LEEWAY_SECONDS:
            raise _refused(f"The token's {name} lies in the future.")
    if "video" in claims or "sip" in claims:
        raise _refused("This is a media token; it opens the media server, not this API.")
    expires_at = datetime.fromtimestamp(expires, UTC)
    calls = _strings(claims, "calls")
    scope = claims.get("scope")
    if scope == "server":
        if claims.get("sub"):
            raise _refused("A server token has no sub; send On-Behalf-Of to act as a user.")
        return Principal("server", None, expires_at)
    if scope == "anonymous":
        if calls is None or claims.get("sub"):
            raise _refused("An anonymous token lists its calls and has no sub.")
        return Principal("anonymous", None, expires_at, calls=frozenset(calls))
    if scope is not None:
        raise _refused("The claim scope is server, anonymous or absent.")
    return _user(claims, expires_at, calls)


def _user(claims: Mapping[str, Any], expires_at: datetime, calls: list[str] | None) -> Principal:
    subject = claims.get("sub")
    if not isinstance(subject, str) or not USER_ID.match(subject):
        raise _refused("The claim sub is not a user id.")
    role, name = claims.get("role"), claims.get("name")
    if role is not None and not isinstance(role, str):
        raise _refused("The claim role is not a role's name.")
    ceiling, teams = _strings(claims, "ceiling"), _strings(claims, "teams")
    try:
        most = None if ceiling is None else normalise(ceiling, "/ceiling")
    except Problem:
        raise _refused("The claim ceiling names an unknown capability.") from None
    return Principal(
        "user",
        subject,
        expires_at,
        name=name if isinstance(name, str) else None,
        calls=None if calls is None else frozenset(calls),
        teams=None if teams is None else frozenset(teams),
        scope=TokenScope(role=role, ceiling=most),
    )


def mint(claims: Mapping[str, Any], key: str, secret: str) -> str:
    """Return a signed token with these claims; `iss` is `key`."""

    def part(value: Any) -> str:
        raw = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'iss': key, **claims})}"
    return f"{signed}.{part(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())}"
