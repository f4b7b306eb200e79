"""What the push providers' protocols have in common: verdicts, signed JWTs (RFC 7515), and provider-neutral text."""

from __future__ import annotations

import base64
import enum
import json
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


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
