"""What the push providers' protocols have in common: verdicts, signed JWTs (RFC 7515), and payloads that all take."""

from __future__ import annotations

import base64
import enum
import json
from dataclasses import dataclass
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

PAYLOAD_MAX_BYTES = 3_072
"""Of a payload as FCM is sent it, in JSON; the rest is for what providers put around it. APNs and FCM take 4 096 bytes,
APNs 5 120 of a ring, and Web Push 4 096 with 103 that encryption adds (RFC 8291 §4)."""
NAME_MAX_BYTES = 512
CUT = "…"


class Verdict(enum.Enum):
    SENT = "sent"
    DEAD = "dead"
    RETRY = "retry"


@dataclass(frozen=True)
class Result:
    verdict: Verdict
    status: int | None
    error: str | None


class UnusableKey(ValueError):
    """`field`: pointer of the key in the provider's own part of the request."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


def fitted(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload as every provider takes it: without `custom` if it is too long with it, and long texts cut.

    `title` and `body` are both there or neither.
    """
    fit = dict(payload)
    if fit.get("caller_name") is not None:
        fit["caller_name"] = _cut(fit["caller_name"], NAME_MAX_BYTES)
    if _size(strings(fit)) > PAYLOAD_MAX_BYTES:
        fit.pop("custom", None)
    if "title" in fit:
        rest = {name: value for name, value in fit.items() if name not in ("title", "body")}
        # FCM is sent them twice: to be shown, and among the data.
        room = (PAYLOAD_MAX_BYTES - _size(strings(rest))) // 2
        fit["title"] = _cut(fit["title"], room // 2)
        fit["body"] = _cut(fit["body"], room - _size(fit["title"]))
    return fit


def strings(payload: dict[str, Any]) -> dict[str, str]:
    """Return a payload as FCM's data: strings only."""
    said = {name: value for name, value in payload.items() if value is not None}
    return {n: v if isinstance(v, str) else msgspec.json.encode(v).decode() for n, v in said.items()}


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value))


def _cut(text: str, max_bytes: int) -> str:
    """Return as much of a text as has so many bytes as a JSON string, or less where much of it is escaped."""
    excess = _size(text) - max_bytes
    if excess <= 0:
        return text
    return text.encode()[: -excess - len(CUT.encode())].decode(errors="ignore") + CUT


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unbase64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def private_key(pem: str, field: str) -> Any:
    """Return the key of a PEM; `UnusableKey` of `field` if there is none."""
    try:
        return serialization.load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnusableKey(field, "This is not a private key in PEM.") from None


def es256(header: dict[str, Any], claims: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> str:
    """Return a JWT signed with ES256 (RFC 7518 §3.4)."""
    content = _content({"alg": "ES256", **header}, claims)
    r, s = decode_dss_signature(key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{content}.{base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def rs256(claims: dict[str, Any], key: rsa.RSAPrivateKey) -> str:
    """Return a JWT signed with RS256 (RFC 7518 §3.3)."""
    content = _content({"alg": "RS256", "typ": "JWT"}, claims)
    return f"{content}.{base64url(key.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _content(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
    return ".".join(base64url(part) for part in parts)
