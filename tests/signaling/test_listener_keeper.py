"""The listening socket outlives its server: whoever connects meanwhile is served by the successor."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from signaling import listener_keeper


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_client_that_connects_while_the_server_is_dead_is_served_by_its_successor(
    tmp_path: Path, listener: socket.socket
) -> None:
    address = listener.getsockname()
    first = listener_keeper.keep(tmp_path, listener)
    assert first is not None
    # What a SIGKILL does: both ends of the dead process close.
    listener.close()
    first._connection.close()
    with socket.create_connection(address, timeout=5) as client:
        client.sendall(b"hello")
        inherited = listener_keeper.inherit(tmp_path, address)
        assert inherited is not None
        successor, keeper = inherited
        successor.setblocking(True)
        with successor, successor.accept()[0] as served:
            assert served.recv(5) == b"hello"
        keeper.dismiss()


def test_a_server_that_stops_for_good_frees_its_port(tmp_path: Path, listener: socket.socket) -> None:
    address = listener.getsockname()
    keeper = listener_keeper.keep(tmp_path, listener)
    assert keeper is not None
    listener.close()
    keeper.dismiss()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            socket.create_server(address).close()
            break
        except OSError:
            time.sleep(0.01)
    else:
        pytest.fail("the port is still taken")
    assert listener_keeper.inherit(tmp_path, address) is None


def test_the_keeper_of_a_server_that_lives_is_left_to_it(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_keeper, "_ANSWER_SECONDS", 0.3)
    address = listener.getsockname()
    first = listener_keeper.keep(tmp_path, listener)
    assert first is not None
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert listener_keeper.keep(tmp_path, other) is None
    # As SIGKILL does: its own successor finds it.
    listener.close()
    first._connection.close()
    inherited = listener_keeper.inherit(tmp_path, address)
    assert inherited is not None
    inherited[0].close()
    inherited[1].dismiss()


def test_a_keeper_of_another_address_is_sent_away(tmp_path: Path, listener: socket.socket) -> None:
    first = listener_keeper.keep(tmp_path, listener)
    assert first is not None
    first._connection.close()
    assert listener_keeper.inherit(tmp_path, ("127.0.0.1", 1)) is None
