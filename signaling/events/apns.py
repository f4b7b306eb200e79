"""Apple Push Notification service, token-based, over HTTP/2. Rings go out as VoIP pushes, the rest as alerts."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from signaling.calls.model import Device, PushJob, PushProvider
from signaling.events.outbound import Outbound
from signaling.events.push_message import Result, UnusableKey, Verdict, es256, private_key

ORIGIN = "https://api.push.apple.com"
TOKEN_LIFETIME = timedelta(minutes=45)
"""Apple wants a provider token renewed between every 20 and every 60 minutes."""
DEAD_REASONS = ("BadDeviceToken",)


def check_keys(provider: PushProvider) -> None:
    _key(provider)


def _key(provider: PushProvider) -> ec.EllipticCurvePrivateKey:
    key = private_key(provider.config["auth_key"], "auth_key")
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UnusableKey("auth_key", "APNs keys are P-256.")
    return key


class Apns:
    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._tokens: dict[str, tuple[datetime, str]] = {}

    async def send(self, provider: PushProvider, device: Device, job: PushJob, now: datetime) -> Result:
        url = f"{provider.base_url or ORIGIN}/3/device/{device.token}"
        body = msgspec.json.encode(_body(job))
        headers = {
            "authorization": f"bearer {self._token(provider, now)}",
            "content-type": "application/json",
            **_headers(job, provider.config["bundle_id"]),
        }
        answer = await self._outbound.post(url, body, headers, timeout_seconds=10.0)
        if answer.status == 200:
            return Result(Verdict.SENT, 200, None)
        reason = _reason(answer.body)
        if answer.status == 410 or (answer.status == 400 and reason in DEAD_REASONS):
            return Result(Verdict.DEAD, answer.status, reason)
        if answer.status == 403:
            self._tokens.pop(provider.name, None)
        return Result(Verdict.RETRY, answer.status, reason)

    def _token(self, provider: PushProvider, now: datetime) -> str:
        known = self._tokens.get(provider.name)
        if known is not None and now - known[0] < TOKEN_LIFETIME and known[0] >= provider.created_at:
            return known[1]
        claims = {"iss": provider.config["team_id"], "iat": int(now.timestamp())}
        token = es256({"kid": provider.config["key_id"]}, claims, _key(provider))
        self._tokens[provider.name] = (now, token)
        return token


def _headers(job: PushJob, bundle_id: str) -> dict[str, str]:
    expiration = str(int(job.expires_at.timestamp()))
    if job.kind == "ring":
        kind, topic = "voip", f"{bundle_id}.voip"
    else:
        kind, topic = "alert", bundle_id
    return {"apns-push-type": kind, "apns-topic": topic, "apns-priority": "10", "apns-expiration": expiration}


def _body(job: PushJob) -> dict[str, Any]:
    if job.kind == "ring":
        return {"aps": {}, **job.payload}
    rest = {name: value for name, value in job.payload.items() if name not in ("title", "body")}
    return {"aps": {"alert": {"title": job.payload["title"], "body": job.payload["body"]}}, **rest}


def _reason(body: bytes) -> str | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value.get("reason") if isinstance(value, dict) else None
