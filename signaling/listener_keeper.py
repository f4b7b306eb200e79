"""Keeps the listening socket open while signaling is dead, so that clients wait for its successor instead of failing.

Without it a client whose signal connection breaks finds the port closed, gives its media up and joins afresh. A
process of its own: it hands the socket to whoever connects to its Unix socket, and ends when it is told to or when
nobody has come for a while. Not here: serving anything.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ORPHAN_SECONDS = 30.0
"""How long the socket is kept for a successor. Longer than a restart takes, shorter than people wait."""
_GOODBYE = b"bye"
_SOCKET_NAME = "listener.keeper"
"""Not `.sock`: that is how workers are found."""
_ANSWER_SECONDS = 2.0


class Keeper:
    """Signaling's end: while this connection stands, the keeper knows that it is needed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def dismiss(self) -> None:
        """The server stops for good: the port is free again."""
        with contextlib.suppress(OSError):
            self._connection.sendall(_GOODBYE)
        self._connection.close()


def inherit(directory: Path, address: tuple[str, int]) -> tuple[socket.socket, Keeper] | None:
    """Take over the listener that a predecessor left, if it listens on `address`; port 0 takes any."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ANSWER_SECONDS)
    try:
        connection.connect(str(directory / _SOCKET_NAME))
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        listener = socket.socket(fileno=descriptors[0])
    except (OSError, IndexError):
        connection.close()
        return None
    listener.setblocking(False)
    if listener.getsockname()[:2] != address:
        listener.close()
        Keeper(connection).dismiss()
        return None
    return listener, Keeper(connection)


def keep(directory: Path, listener: socket.socket) -> Keeper | None:
    """Start a keeper for `listener`; None if it cannot be had, which costs nothing until signaling dies."""
    path = directory / _SOCKET_NAME
    if _is_needed(path):
        return None
    server = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        server.bind(str(path))
        server.listen(4)
        descriptors = (listener.fileno(), server.fileno())
        subprocess.Popen(  # noqa: S603 - the arguments are all ours
            # By its path, isolated: it needs the standard library and nothing of the environment.
            [sys.executable, "-I", __file__, *map(str, descriptors), str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=descriptors,
            start_new_session=True,
        )
    except OSError:
        server.close()
        return None
    server.close()
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_ANSWER_SECONDS)
    try:
        connection.connect(str(path))
        # Our own socket comes back as a copy; it shows that the keeper is up, and is not needed.
        _, copies, _, _ = socket.recv_fds(connection, 1, 1)
    except OSError:
        connection.close()
        return None
    for copy in copies:
        os.close(copy)
    return Keeper(connection)


def _is_needed(path: Path) -> bool:
    """Whether a keeper is there whose server lives: it answers nobody else."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(path))
            _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        except TimeoutError:
            return True
        except OSError:
            return False
    for descriptor in descriptors:
        os.close(descriptor)
    return False


def main(listener: int, server_descriptor: int, path: Path) -> None:
    """Hand the listener to each comer; the last one is the server that lives."""
    server = socket.socket(fileno=server_descriptor)
    try:
        while True:
            server.settimeout(ORPHAN_SECONDS)
            try:
                connection, _ = server.accept()
            except TimeoutError:
                return
            with connection:
                connection.settimeout(None)
                with contextlib.suppress(OSError):
                    socket.send_fds(connection, [b"L"], [listener])
                    if connection.recv(len(_GOODBYE)) == _GOODBYE:
                        return
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
