"""Which addresses this server may call on behalf of others: the one such function in the product.

Every address a name resolves to is checked, and the connection goes to a checked address, so a name that changes its
answer gains nothing (DNS rebinding). Address blocks: IANA special-purpose registries (RFC 6890).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Prefixes that carry an IPv4 address inside: NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380).
_TRANSLATED = tuple(
    ipaddress.ip_network(block) for block in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
)

# Special blocks that some supported Pythons take for global: documentation (RFC 9637), SRv6 (RFC 9602), 6to4 relays
# (RFC 7526).
_SPECIAL = tuple(ipaddress.ip_network(block) for block in ("3fff::/20", "5f00::/16", "192.88.99.0/24"))

_LOOKUPS = ThreadPoolExecutor(256, "lookup")
"""A name whose servers do not answer keeps its thread for up to half a minute, however soon we give up; the loop's own
threads, of which uvloop has four for everything, would soon all wait for strangers' names."""


class ForbiddenAddress(Exception):
    """The destination is none that may be called."""


def is_public(address: IPAddress) -> bool:
    """Tell whether an address is one of the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.scope_id is not None or any(address in block for block in _TRANSLATED):
            return False
        if address.is_site_local:
            return False
    if any(address in block for block in _SPECIAL if block.version == address.version):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


@dataclass(frozen=True)
class Destination:
    """Where to connect: a checked address, and the name for TLS and the Host header."""

    host: str
    port: int
    address: str


@dataclass(frozen=True)
class OutboundPolicy:
    """`allowed`: hosts and CIDRs that may be called although not public. `plain`: whether `http` may be used."""

    allowed: tuple[str, ...] = ()
    plain: bool = False
    loopback: bool = False

    def check_url(self, url: str) -> tuple[str, int]:
        """Return host and port of a URL that has the right form; what it resolves to is checked when it is called."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ForbiddenAddress("This is not a URL.") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and self._plain_for(parts.hostname)):
            raise ForbiddenAddress("Only https is called.")
        if parts.username is not None or parts.password is not None or not parts.hostname or "%" in parts.netloc:
            raise ForbiddenAddress("A URL has a host, and no user name.")
        literal = _literal(parts.hostname)
        if literal is not None and not self.allows(parts.hostname, literal):
            raise ForbiddenAddress("This address is not public.")
        return parts.hostname, port or (443 if parts.scheme == "https" else 80)

    def _plain_for(self, host: str | None) -> bool:
        return self.plain or (host is not None and host.lower() in self.allowed)

    def allows(self, host: str, address: IPAddress) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        if self.loopback and (mapped or address).is_loopback:
            return True
        if is_public(address):
            return True
        for entry in self.allowed:
            if entry.lower() == host.lower():
                return True
            try:
                if address in ipaddress.ip_network(entry):
                    return True
            except ValueError:
                continue
        return False

    async def resolve(self, url: str) -> Destination:
        """Return where to connect for a URL; raises `ForbiddenAddress` if any of its addresses is not allowed."""
        host, port = self.check_url(url)
        literal = _literal(host)
        found = [literal] if literal is not None else await _lookup(host, port)
        for address in found:
            if not self.allows(host, address):
                raise ForbiddenAddress("The name resolves to an address that is not public.")
        return Destination(host, port, str(found[0]))


def _literal(host: str) -> IPAddress | None:
    """Return the address a host is written as, in every spelling the system's resolver would take."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # 127.1, 0x7f000001, 017700000001, 2130706433: inet_aton reads them all.
        return ipaddress.IPv4Address(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None


async def _lookup(host: str, port: int) -> Sequence[IPAddress]:
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        rows = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, ask)
    except OSError as error:
        raise ConnectionError(f"{host} does not resolve: {error}") from None
    return [ipaddress.ip_address(row[4][0]) for row in rows]
