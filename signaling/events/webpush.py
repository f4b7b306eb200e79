"""Web Push: delivery (RFC 8030), encryption aes128gcm (RFC 8188, 8291), identification VAPID (RFC 8292).

A device's token is the browser's subscription as JSON: `{"endpoint", "keys": {"p256dh", "auth"}}`.
"""

from __future__ import annotations

import ipaddress
import json
import os
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from signaling.calls.model import Device, PushJob, PushProvider
from signaling.events.outbound import Outbound
from signaling.events.push_message import Result, UnusableKey, Verdict, base64url, es256, private_key, unbase64url

RECORD_SIZE = 4_096
VAPID_LIFETIME = timedelta(hours=12)
"""RFC 8292 §2 allows at most 24 hours."""
DEAD_STATUSES = (404, 410)
HOST_MAX_CHARACTERS = 253
"""Of a domain name (RFC 1035 §2.3.4)."""


def check_keys(provider: PushProvider) -> None:
    public = (
        _key(provider)
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    if base64url(public) != provider.config["public_key"].rstrip("="):
        raise UnusableKey("public_key", "The public key is not that of the private key.")


def _key(provider: PushProvider) -> ec.EllipticCurvePrivateKey:
    text = provider.config["private_key"]
    if "BEGIN" in text:
        key = private_key(text, "private_key")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UnusableKey("private_key", "VAPID keys are P-256.")
        return key
    try:
        return ec.derive_private_key(int.from_bytes(unbase64url(text), "big"), ec.SECP256R1())
    except ValueError:
        raise UnusableKey("private_key", "This is not a VAPID private key.") from None


def encrypt(plain: bytes, p256dh: bytes, auth: bytes, own: ec.EllipticCurvePrivateKey, salt: bytes) -> bytes:
    """Return the body of a push message. `own` and `salt` are new for each message."""
    theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), p256dh)
    own_public = own.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    shared = own.exchange(ec.ECDH(), theirs)
    material = _hkdf(auth, shared, b"WebPush: info\0" + p256dh + own_public, 32)
    key = _hkdf(salt, material, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _hkdf(salt, material, b"Content-Encoding: nonce\0", 12)
    header = salt + RECORD_SIZE.to_bytes(4, "big") + len(own_public).to_bytes(1, "big") + own_public
    # The delimiter 2 marks the last record (RFC 8188 §2).
    return header + AESGCM(key).encrypt(nonce, plain + b"\x02", None)


def _hkdf(salt: bytes, material: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(material)


def host_of(subscription: str) -> str:
    """Return the domain of a subscription's endpoint, or its address; "" if it has none.

    The last two labels: a push service has many hosts, and who owns a domain has as many as he likes.
    """
    try:
        host = (urlsplit(json.loads(subscription)["endpoint"]).hostname or "").rstrip(".")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ".".join(host.split(".")[-2:])[:HOST_MAX_CHARACTERS]


class WebPush:
    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound

    async def send(self, provider: PushProvider, device: Device, job: PushJob, now: datetime) -> Result:
        plain = msgspec.json.encode(job.payload)
        try:
            subscription: dict[str, Any] = json.loads(device.token)
            endpoint = str(subscription["endpoint"])
            p256dh, auth = (unbase64url(subscription["keys"][name]) for name in ("p256dh", "auth"))
            body = encrypt(plain, p256dh, auth, ec.generate_private_key(ec.SECP256R1()), os.urandom(16))
        except (ValueError, KeyError, TypeError):
            return Result(Verdict.DEAD, None, "the subscription is malformed")
        parts = urlsplit(endpoint)
        claims = {
            "aud": f"{parts.scheme}://{parts.netloc}",
            "exp": int((now + VAPID_LIFETIME).timestamp()),
            "sub": provider.config["subject"],
        }
        token = es256({"typ": "JWT"}, claims, _key(provider))
        headers = {
            "authorization": f"vapid t={token}, k={provider.config['public_key'].rstrip('=')}",
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(max(0, int((job.expires_at - now).total_seconds()))),
            "urgency": "high" if job.kind == "ring" else "normal",
        }
        target = endpoint if provider.base_url is None else provider.base_url + parts.path
        answer = await self._outbound.post(target, body, headers, timeout_seconds=10.0)
        if 200 <= answer.status < 300:
            return Result(Verdict.SENT, answer.status, None)
        verdict = Verdict.DEAD if answer.status in DEAD_STATUSES else Verdict.RETRY
        return Result(verdict, answer.status, f"the push service answered {answer.status}")
