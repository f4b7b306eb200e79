"""HTTP requests to strangers: checked destination, no redirects, no body of more than 64 KiB, one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import httpx2

from signaling.events.addresses import OutboundPolicy

BODY_MAX_BYTES = 65_536
_KEPT_MAX = 20
"""Connections to one name that are kept for further requests."""
_HOSTS_MAX = 32
"""Names to which connections are kept; the one that was not asked for longest gives way."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


@dataclass
class _Host:
    client: httpx2.AsyncClient
    requests: int = 0
    """Under way."""


class Outbound:
    """Connections go to the address that was checked, TLS and Host to the name that was asked for.

    One client a name: it keeps connections by address, and there may be others of that address, who are not to be
    trusted with what is for this one.
    """

    def __init__(self, policy: OutboundPolicy, *, tls: ssl.SSLContext | bool = True) -> None:
        self.policy = policy
        self._tls = tls if isinstance(tls, ssl.SSLContext) else httpx2.create_ssl_context(verify=tls, trust_env=False)
        self._hosts: dict[str, _Host] = {}
        """The one that was asked last comes last."""

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
        async with self._client_of(destination.host) as client:
            request = client.build_request("POST", target, content=body, headers={**headers, "host": host})
            request.extensions["sni_hostname"] = destination.host
            response = await client.send(request, stream=True)
            try:
                received = bytearray()
                async for chunk in response.aiter_raw():
                    received += chunk
                    if len(received) > BODY_MAX_BYTES:
                        break
                return Answer(response.status_code, bytes(received[:BODY_MAX_BYTES]))
            finally:
                await response.aclose()

    @contextlib.asynccontextmanager
    async def _client_of(self, name: str) -> AsyncIterator[httpx2.AsyncClient]:
        host = self._hosts.pop(name, None) or _Host(self._new_client())
        self._hosts[name] = host
        host.requests += 1
        try:
            yield host.client
        finally:
            host.requests -= 1
            idle = [name for name, one in self._hosts.items() if not one.requests]
            excess = max(0, len(self._hosts) - _HOSTS_MAX)
            for dropped in [self._hosts.pop(name) for name in idle[:excess]]:
                await dropped.client.aclose()

    def _new_client(self) -> httpx2.AsyncClient:
        # Each request has its own deadline, and who asks bounds how many there are: no pool that some could fill.
        return httpx2.AsyncClient(
            http1=True,
            http2=True,
            timeout=None,
            limits=httpx2.Limits(max_keepalive_connections=_KEPT_MAX),
            follow_redirects=False,
            verify=self._tls,
            trust_env=False,
        )

    async def close(self) -> None:
        for host in self._hosts.values():
            await host.client.aclose()
