"""Invitations: a link that lets anyone who holds it into one room, each tab as a participant of its own.

An invitation is a JWT with `scope: "invite"` and no grants, so that it opens nothing by itself; the call page exchanges
it for an access token with a fresh identity. Pure: keys and time are arguments.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from signaling.errors import InvalidInvite

INVITE_SCOPE = "invite"
ACCESS_TTL_SECONDS = 6 * 3600
"""How long an access token made from an invitation may be used to join; the signal connection refreshes it."""
NAME_MAX_CHARACTERS = 64


@dataclass(frozen=True)
class Access:
    """What the page needs to join."""

    token: str
    identity: str
    name: str
    room: str


def mint_invite(key: str, secret: str, *, room: str, now: float, ttl_seconds: int) -> str:
    """Return an invitation to `room`, valid for `ttl_seconds` from `now` (Unix seconds)."""
    claims = {"iss": key, "scope": INVITE_SCOPE, "room": room, "iat": int(now), "exp": int(now) + ttl_seconds}
    return jwt.encode(claims, secret, algorithm="HS256")


def redeem_invite(keys: Mapping[str, str], invite: str, *, name: str, now: float) -> Access:
    """Exchange an invitation for an access token with a fresh identity.

    Raises `InvalidInvite` where the invitation is forged, expired or not an invitation at all.
    """
    claims = _verified(keys, invite, now)
    name = " ".join(name.split())[:NAME_MAX_CHARACTERS]
    identity = f"guest-{secrets.token_hex(6)}"
    room = claims["room"]
    # An access token must not outlive the invitation it came from by more than one call.
    grants = {"roomJoin": True, "room": room, "canPublish": True, "canSubscribe": True, "canPublishData": True}
    payload = {
        "iss": claims["iss"],
        "sub": identity,
        "name": name or identity,
        "nbf": int(now) - 5,
        "exp": int(now) + ACCESS_TTL_SECONDS,
        "video": {**grants, "canUpdateOwnMetadata": True},
    }
    token = jwt.encode(payload, keys[claims["iss"]], algorithm="HS256")
    return Access(token=token, identity=identity, name=payload["name"], room=room)


def _verified(keys: Mapping[str, str], invite: str, now: float) -> dict[str, Any]:
    try:
        issuer = jwt.decode(invite, options={"verify_signature": False})["iss"]
        claims: dict[str, Any] = jwt.decode(
            invite,
            keys[issuer],
            algorithms=["HS256"],
            options={"verify_exp": False, "verify_iat": False, "require": ["exp", "iss"]},
        )
        valid = claims.get("scope") == INVITE_SCOPE and isinstance(claims.get("room"), str) and claims["room"]
        expired = claims["exp"] <= now
    except (jwt.PyJWTError, KeyError, TypeError) as error:
        raise InvalidInvite("This invitation was not made by this server.") from error
    if not valid:
        raise InvalidInvite("This link is not an invitation.")
    if expired:
        raise InvalidInvite("This invitation has expired; ask for a new link.")
    return claims
