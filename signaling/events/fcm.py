"""Firebase Cloud Messaging, HTTP v1: an OAuth token from the service account (RFC 7523), then one POST a message."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from signaling.calls.model import Device, PushJob, PushProvider
from signaling.events.outbound import Outbound
from signaling.events.push_message import Result, UnusableKey, Verdict, private_key, rs256, strings

ORIGIN = "https://fcm.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LIFETIME_SECONDS = 3_600
EARLY = timedelta(minutes=5)


def check_keys(provider: PushProvider) -> None:
    _key(provider)


def _key(provider: PushProvider) -> rsa.RSAPrivateKey:
    key = private_key(provider.config["service_account"]["private_key"], "service_account/private_key")
    if not isinstance(key, rsa.RSAPrivateKey):
        raise UnusableKey("service_account/private_key", "Service accounts have RSA keys.")
    return key


class Fcm:
    def __init__(self, outbound: Outbound) -> None:
        self._outbound = outbound
        self._tokens: dict[str, tuple[datetime, str]] = {}

    async def send(self, provider: PushProvider, device: Device, job: PushJob, now: datetime) -> Result:
        project = provider.config["service_account"]["project_id"]
        url = f"{provider.base_url or ORIGIN}/v1/projects/{project}/messages:send"
        body = msgspec.json.encode({"message": _message(device, job, now)})
        token = await self._token(provider, now)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        answer = await self._outbound.post(url, body, headers, timeout_seconds=10.0)
        if answer.status == 200:
            return Result(Verdict.SENT, 200, None)
        reason = _error(answer.body)
        if answer.status == 404 and reason == "UNREGISTERED":
            return Result(Verdict.DEAD, 404, reason)
        if answer.status == 401:
            self._tokens.pop(provider.name, None)
        return Result(Verdict.RETRY, answer.status, reason)

    async def _token(self, provider: PushProvider, now: datetime) -> str:
        known = self._tokens.get(provider.name)
        if known is not None and now < known[0]:
            return known[1]
        account = provider.config["service_account"]
        at = int(now.timestamp())
        claims = {
            "iss": account["client_email"],
            "scope": SCOPE,
            "aud": account["token_uri"],
            "iat": at,
            "exp": at + ASSERTION_LIFETIME_SECONDS,
        }
        form = urlencode({"grant_type": GRANT, "assertion": rs256(claims, _key(provider))}).encode()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await self._outbound.post(account["token_uri"], form, headers, timeout_seconds=10.0)
        try:
            reply = json.loads(answer.body)
            token, lifetime = str(reply["access_token"]), int(reply["expires_in"])
        except (ValueError, KeyError, TypeError):
            raise ConnectionError(f"the token endpoint answered {answer.status}") from None
        self._tokens[provider.name] = (now + timedelta(seconds=lifetime) - EARLY, token)
        return token


def _message(device: Device, job: PushJob, now: datetime) -> dict[str, Any]:
    ttl = max(0, int((job.expires_at - now).total_seconds()))
    message: dict[str, Any] = {"token": device.token, "data": strings(job.payload)}
    if job.kind == "ring":
        message["android"] = {"priority": "HIGH", "ttl": f"{ttl}s"}
    else:
        message["android"] = {"ttl": f"{ttl}s"}
        message["notification"] = {"title": job.payload["title"], "body": job.payload["body"]}
    return message


def _error(body: bytes) -> str | None:
    try:
        error = json.loads(body)["error"]
        for detail in error.get("details", ()):
            if "errorCode" in detail:
                return str(detail["errorCode"])
        return str(error["status"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
