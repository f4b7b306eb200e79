"""Two network namespaces joined by nothing but two TUN devices, whose packets come to us.

Whatever runs in the first (a server and its publishers) reaches whatever runs in the second (a viewer) only through
the emulator. Linux only; making them needs CAP_NET_ADMIN and CAP_SYS_ADMIN, in practice root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_TUNSETIFF = 0x4004_54CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PREFIX = "callyard"
#: Nobody else lives in these namespaces, so that addresses may be the same in every lab.
SERVER_IP, VIEWER_IP = "10.91.0.1", "10.91.0.2"


class LabError(Exception):
    """The machine does not let us build it; the sentence says what is missing."""


@dataclass(frozen=True)
class Side:
    """One namespace and the packets that leave it (read) and enter it (written)."""

    namespace: str
    ip: str
    tun: int

    def command(self, *arguments: str) -> list[str]:
        """`arguments` as a command that runs in this namespace."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


@dataclass(frozen=True)
class Lab:
    server: Side
    viewer: Side


@contextlib.contextmanager
def lab(mtu: int = 1_500) -> Iterator[Lab]:
    """Build both sides, which vanish in the end. `LabError` if the machine does not let us."""
    _sweep()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_side("server", SERVER_IP, VIEWER_IP, mtu))
        viewer = stack.enter_context(_side("viewer", VIEWER_IP, SERVER_IP, mtu))
        yield Lab(server, viewer)


@contextlib.contextmanager
def _side(role: str, own: str, other: str, mtu: int) -> Iterator[Side]:
    namespace = f"{_PREFIX}-{os.getpid()}-{role}"
    device = f"cy{os.getpid()}{role[0]}"
    tun = _open_tun(device)
    try:
        _ip("netns", "add", namespace)
        try:
            # Clients take a device called `tun…` for a VPN and treat it as a last resort.
            _ip("link", "set", device, "netns", namespace, "name", "eth0")
            inside = ("-n", namespace)
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "link", "set", "eth0", "mtu", str(mtu), "txqueuelen", "1000", "up")
            _ip(*inside, "address", "add", own, "peer", other, "dev", "eth0")
            # Clients find out their address by asking for the way to the rest of the world.
            _ip(*inside, "route", "add", "default", "dev", "eth0")
            yield Side(namespace, own, tun)
        finally:
            _ip("netns", "delete", namespace)
    finally:
        os.close(tun)


def _open_tun(name: str) -> int:
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LabError(f"The kernel gives no TUN devices: /dev/net/tun: {error.strerror}.") from error
    try:
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(tun)
        if error.errno == errno.EPERM:
            raise LabError("The link emulator makes network devices: run it as root (CAP_NET_ADMIN).") from error
        raise LabError(f"The kernel gives no TUN device {name}: {error.strerror}.") from error
    return tun


def _ip(*arguments: str) -> None:
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LabError("`ip` is not installed (package iproute2).") from error
    if done.returncode != 0:
        raise LabError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}")


def _sweep() -> None:
    """Removes namespaces of processes that are no more. Their devices went with their descriptors."""
    for path in Path("/run/netns").glob(f"{_PREFIX}-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            subprocess.run(["ip", "netns", "delete", path.name], capture_output=True, check=False)


def family(namespace: str) -> Sequence[int]:
    """Processes that run in a namespace."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]
