"""A network that a test can close to UDP, whose NAT forgets, or that its client leaves for another one (needs root).

Server and client live in namespaces of their own (`bench.links.lab`); whatever passes between them passes through here.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
from collections.abc import Iterator

from bench.links.lab import Lab, lab

_UDP = 17
_BIGGEST_PACKET = 65_536
_DYNAMIC_PORTS = range(10_000, 60_000)


class Network:
    """What happens to packets between the two sides of a lab; everything may be changed while they flow."""

    def __init__(self, built: Lab) -> None:
        self.lab = built
        self.passes_udp_up = True
        self.passes_udp_down = True
        self._shift = 0
        """By how much the client's UDP ports look higher to the server: a NAT between them."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close_to_udp(self, *, down: bool = True) -> None:
        """Nothing comes up any more; unless `down` is said to stay open, nothing comes down either."""
        self.passes_udp_up = False
        self.passes_udp_down = not down

    def rebind(self) -> None:
        """The NAT forgets: the client's packets come from other ports, and what is sent to the old ones is lost."""
        self._shift += 1_009

    def move(self, address: str) -> None:
        """The client leaves its network for another, under another address; its connections are dead."""
        client = self.lab.viewer
        for arguments in (
            ["link", "set", "eth0", "down"],
            ["address", "flush", "dev", "eth0"],
            ["address", "add", address, "peer", self.lab.server.ip, "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "dev", "eth0"],
        ):
            subprocess.run(["ip", "-n", client.namespace, *arguments], check=True)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _carry(self) -> None:
        up, down = self.lab.viewer.tun, self.lab.server.tun
        while not self._stopped.is_set():
            readable, _, _ = select.select([up, down], [], [], 0.05)
            for source in readable:
                # An interface that is down gives and takes nothing.
                with contextlib.suppress(OSError):
                    passed = self._passed(os.read(source, _BIGGEST_PACKET), source == up)
                    if passed is not None:
                        os.write(down if source == up else up, passed)

    def _passed(self, packet: bytes, is_up: bool) -> bytes | None:
        """What leaves at the other end; nothing but IPv4 is carried."""
        if packet[0] >> 4 != 4:
            return None
        if packet[9] != _UDP:
            return packet
        if not (self.passes_udp_up if is_up else self.passes_udp_down):
            return None
        head = (packet[0] & 15) * 4
        at = head if is_up else head + 2
        port = int.from_bytes(packet[at : at + 2], "big")
        shifted = _shifted(port, self._shift if is_up else -self._shift)
        # RFC 768: a checksum of zero is none.
        return packet[:at] + shifted.to_bytes(2, "big") + packet[at + 2 : head + 6] + b"\0\0" + packet[head + 8 :]


def _shifted(port: int, by: int) -> int:
    if port not in _DYNAMIC_PORTS:
        return port
    return _DYNAMIC_PORTS[(port - _DYNAMIC_PORTS.start + by) % len(_DYNAMIC_PORTS)]


@contextlib.contextmanager
def between() -> Iterator[Network]:
    """Two namespaces and the network between them. `LabError` if the machine does not let us."""
    with lab() as built:
        network = Network(built)
        try:
            yield network
        finally:
            network.stop()
