"""Whose address a request comes from: the peer's, or behind proxies that the operator trusts, what these wrote down.

One place for everybody: it corrects the `client` of the ASGI scope, and whoever wants an address reads it there. What
comes from a trusted proxy without a usable `X-Forwarded-For` has no address (None), never the proxy's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse(text: str) -> IPAddress | None:
    """Return the address that is written there, an IPv4-mapped one as IPv4; None if it is none."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


class TrustedProxies:
    """ASGI middleware. `trusted`: the proxies' addresses as CIDRs; with none, nothing is believed."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = app
        self._trusted = [ipaddress.ip_network(block) for block in trusted]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._trusted and scope["type"] in ("http", "websocket") and scope["client"] is not None:
            peer = parse(scope["client"][0])
            if peer is not None and self._trusts(peer):
                client = self._behind(scope)
                # In place: the connection keeps its own hold of the scope.
                scope["client"] = None if client is None else (str(client), 0)
        await self._app(scope, receive, send)

    def _behind(self, scope: Scope) -> IPAddress | None:
        """Return the last address that no trusted proxy has: each proxy appends whom it heard, so what stands further
        left is anybody's claim."""
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for entry in reversed(",".join(lines).split(",")):
            address = parse(entry)
            if address is None or not self._trusts(address):
                return address
        return None

    def _trusts(self, address: IPAddress) -> bool:
        return any(address in block for block in self._trusted)
