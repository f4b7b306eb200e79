"""Standard-Webhooks signatures (https://www.standardwebhooks.com): making and verifying them. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from signaling.errors import CallyardError

PREFIX = "whsec_"
SECRET_BYTES = 32


class WebhookVerificationError(CallyardError):
    code = "webhook_not_verified"


def new_secret(random: bytes) -> str:
    return PREFIX + base64.b64encode(random).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return `v1,<base64>`."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def verify_webhook(
    body: bytes,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance_seconds: int = 300,
    now: float | None = None,
) -> dict[str, Any]:
    """Return the event of a webhook request, or raise `WebhookVerificationError`.

    secret: one, or several while they rotate. now: Unix seconds, the system's clock if absent.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, timestamp = lower["webhook-id"], int(lower["webhook-timestamp"])
        signatures = lower["webhook-signature"].split()
    except (KeyError, ValueError):
        raise WebhookVerificationError("A webhook header is missing or malformed.") from None
    if abs((time.time() if now is None else now) - timestamp) > tolerance_seconds:
        raise WebhookVerificationError("The webhook is too old, or from the future.")
    secrets = [secret] if isinstance(secret, str) else list(secret)
    expected = [sign(one, message_id, timestamp, body) for one in secrets]
    if not any(hmac.compare_digest(given.encode(), one.encode()) for given in signatures for one in expected):
        raise WebhookVerificationError("The webhook's signature does not hold.")
    try:
        event = json.loads(body)
    except ValueError:
        raise WebhookVerificationError("The webhook's body is not JSON.") from None
    if not isinstance(event, dict):
        raise WebhookVerificationError("The webhook's body is not an event.")
    return event
