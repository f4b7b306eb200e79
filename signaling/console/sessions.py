"""Console sessions as values: the cookie, and the CSRF token that belongs to it. Pure: keys and time are arguments.

The cookie is a JWT signed with an API secret and with `scope: "console"`, which the API refuses; an API token is no
cookie either. Nothing is stored, so that a session ends by itself, by logging out, or with its key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import jwt

from signaling.calls.principal import mint

SCOPE = "console"
LIFETIME = timedelta(hours=8)
"""The longest an operator stays signed in; never longer than the token he signed in with."""


@dataclass(frozen=True)
class Operator:
    """Who signed in: an app admin, or the application's server (None)."""

    user_id: str | None
    expires_at: datetime


@dataclass(frozen=True)
class Session:
    operator: Operator
    csrf: str


def open_session(keys: Mapping[str, str], operator: Operator, now: datetime) -> str:
    """Return the cookie of a new session."""
    name, secret = next(iter(keys.items()))
    expires_at = min(operator.expires_at, now + LIFETIME)
    claims = {"scope": SCOPE, "sid": secrets.token_urlsafe(24), "exp": int(expires_at.timestamp())}
    if operator.user_id is not None:
        claims["admin"] = operator.user_id
    return mint(claims, name, secret)


def read_session(keys: Mapping[str, str], cookie: str, now: datetime) -> Session | None:
    """Return the session of a cookie; None if it is forged, expired or no session at all."""
    try:
        issuer = jwt.decode(cookie, options={"verify_signature": False})["iss"]
        secret = keys[issuer]
        options = {"verify_exp": False, "verify_iat": False, "require": ["exp", "iss"]}
        claims = jwt.decode(cookie, secret, algorithms=["HS256"], options=options)  # type: ignore[arg-type]
        expires_at = datetime.fromtimestamp(claims["exp"], UTC)
        session_id, user_id = claims["sid"], claims.get("admin")
    except (jwt.PyJWTError, KeyError, TypeError, ValueError, OverflowError):
        return None
    if claims.get("scope") != SCOPE or expires_at <= now or not isinstance(session_id, str):
        return None
    if user_id is not None and not isinstance(user_id, str):
        return None
    return Session(Operator(user_id, expires_at), _csrf(secret, session_id))


def csrf_holds(session: Session, given: str) -> bool:
    return hmac.compare_digest(session.csrf.encode(), given.encode())


def _csrf(secret: str, session_id: str) -> str:
    return hmac.new(secret.encode(), f"console csrf {session_id}".encode(), hashlib.sha256).hexdigest()
