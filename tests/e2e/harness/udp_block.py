"""A network that lets no UDP through to a worker: a filter on its socket that takes nothing (needs root).

Not the other way: a server may send for a while yet, as one behind a firewall may that has just been closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_PIDFD_GETFD = 438
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)
"""`BPF_RET | BPF_K` with 0: of each datagram zero bytes are kept, which drops it."""


@contextlib.contextmanager
def udp_blocked(pid: int, port: int) -> Iterator[None]:
    """While it lasts, the process hears nothing that comes to its UDP port. Raises OSError without the rights."""
    sockets = _sockets(pid, port)
    try:
        program = ctypes.create_string_buffer(_RETURN_NOTHING)
        filters = struct.pack("HL", 1, ctypes.addressof(program))
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filters)
        yield
        for one in sockets:
            one.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    finally:
        for one in sockets:
            one.close()


def _sockets(pid: int, port: int) -> list[socket.socket]:
    """Ours of the same open sockets, as `dup` would give them."""
    inodes = {
        fields[9]
        for table in ("/proc/net/udp", "/proc/net/udp6")
        for fields in map(str.split, Path(table).read_text().splitlines()[1:])
        if int(fields[1].rpartition(":")[2], 16) == port
    }
    process = os.pidfd_open(pid)
    try:
        numbers = [
            int(entry.name)
            for entry in Path(f"/proc/{pid}/fd").iterdir()
            if str(entry.readlink()).removeprefix("socket:[").rstrip("]") in inodes
        ]
        libc = ctypes.CDLL(None, use_errno=True)
        found = []
        for number in numbers:
            fd = libc.syscall(_PIDFD_GETFD, process, number, 0)
            if fd < 0:
                raise OSError(ctypes.get_errno(), "the worker's socket cannot be had")
            found.append(socket.socket(fileno=fd))
        assert found, f"process {pid} has no socket on UDP port {port}"
        return found
    finally:
        os.close(process)
