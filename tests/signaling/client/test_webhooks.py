"""Verifying webhooks as a receiver does (W-1, W-2, W-4)."""

from __future__ import annotations

import pytest

from signaling.client import WebhookVerificationError, verify_webhook
from signaling.events.signatures import new_secret, sign

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, TIMESTAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
HEADERS = {
    "webhook-id": ID,
    "webhook-timestamp": str(TIMESTAMP),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_w1_the_published_vector_holds() -> None:
    assert sign(SECRET, ID, TIMESTAMP, BODY) == HEADERS["webhook-signature"]
    shouted = {name.upper(): value for name, value in HEADERS.items()}
    assert verify_webhook(BODY, shouted, SECRET, now=TIMESTAMP + 299) == {"test": 2432232314}


@pytest.mark.parametrize(
    ("body", "headers", "now"),
    [
        (BODY + b" ", {}, TIMESTAMP),
        (BODY, {}, TIMESTAMP + 301),
        (BODY, {}, TIMESTAMP - 301),
        (BODY, {"webhook-id": "msg_other"}, TIMESTAMP),
        (BODY, {"webhook-timestamp": str(TIMESTAMP + 1)}, TIMESTAMP),
        (BODY, {"webhook-timestamp": "soon"}, TIMESTAMP),
        (BODY, {"webhook-signature": ""}, TIMESTAMP),
        (BODY, {"webhook-signature": "v1a," + HEADERS["webhook-signature"][3:]}, TIMESTAMP),
        (BODY, {"webhook-signature": "v1,ünicode="}, TIMESTAMP),
    ],
)
def test_w2_a_changed_request_is_refused(body: bytes, headers: dict[str, str], now: float) -> None:
    """S-68"""
    with pytest.raises(WebhookVerificationError):
        verify_webhook(body, {**HEADERS, **headers}, SECRET, now=now)
    with pytest.raises(WebhookVerificationError):
        verify_webhook(BODY, {}, SECRET, now=TIMESTAMP)


def test_w4_two_secrets_hold_while_they_rotate() -> None:
    new = new_secret(bytes(range(32)))
    both = f"{sign(new, ID, TIMESTAMP, BODY)} {HEADERS['webhook-signature']}"
    rotating = {**HEADERS, "webhook-signature": both}
    for known in (SECRET, new, [SECRET, new]):
        assert verify_webhook(BODY, rotating, known, now=TIMESTAMP) == {"test": 2432232314}
    with pytest.raises(WebhookVerificationError):
        verify_webhook(BODY, HEADERS, new, now=TIMESTAMP)
