"""HTTP requests to strangers: checked destination, no redirects, no body of more than 64 KiB, one deadline."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import httpx2

from signaling.events.addresses import OutboundPolicy

BODY_MAX_BYTES = 65_536
_KEPT_MAX = 20
"""Connections that are kept for further requests."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


class Outbound:
    """One client; connections go to the address that was checked, TLS and Host to the name that was asked for."""

    def __init__(self, policy: OutboundPolicy, *, tls: ssl.SSLContext | bool = True) -> None:
        self.policy = policy
        self._tls = tls
        # Each request has its own deadline, and who asks bounds how many there are: no pool that some could fill.
        self._client = httpx2.AsyncClient(
            http1=True,
            http2=True,
            timeout=None,
            limits=httpx2.Limits(max_keepalive_connections=_KEPT_MAX),
            follow_redirects=False,
            verify=tls,
            trust_env=False,
        )

    def beside(self) -> Outbound:
        """Return another under the same rules, whose requests share no connection with these."""
        return Outbound(self.policy, tls=self._tls)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_seconds: float) -> Answer:
        """Send; raises `ForbiddenAddress`, or `ConnectionError` for whatever the network does."""
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._post(url, body, headers)
        except TimeoutError:
            raise ConnectionError(f"no answer within {timeout_seconds:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise ConnectionError(str(error) or type(error).__name__) from None

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        destination = await self.policy.resolve(url)
        parts = urlsplit(url)
        address = f"[{destination.address}]" if ":" in destination.address else destination.address
        target = urlunsplit((parts.scheme, f"{address}:{destination.port}", parts.path or "/", parts.query, ""))
        host = parts.netloc.rpartition("@")[2]
        request = self._client.build_request("POST", target, content=body, headers={**headers, "host": host})
        request.extensions["sni_hostname"] = destination.host
        response = await self._client.send(request, stream=True)
        try:
            received = bytearray()
            async for chunk in response.aiter_raw():
                received += chunk
                if len(received) > BODY_MAX_BYTES:
                    break
            return Answer(response.status_code, bytes(received[:BODY_MAX_BYTES]))
        finally:
            await response.aclose()

    async def close(self) -> None:
        await self._client.aclose()
