"""The parts of the worker process, and its reasons to exit."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import signal
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given
from hypothesis import strategies as st

from sfu import border, control
from sfu.node import Node
from sfu.settings import NodeSettings
from sfu.worker import Certificate, Launch, Link, LogLines, Memory, WorkerProcess, bind_core

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("remember"), st.sampled_from("abcd"), st.binary(max_size=40)),
        st.tuples(st.just("forget"), st.sampled_from("abcd"), st.just(b"")),
    ),
    max_size=60,
)


LAUNCH = Launch(
    worker="0-1", index=0, socket="", configuration="", addresses=(), udp_port=0, port_step=2,
    core={"bind": "127.0.0.1"}, cpu=None, memory_max_bytes=1, controller_max_queue_bytes=1,
    orphan_timeout_seconds=1, idle_orphan_timeout_seconds=1,
)  # fmt: skip


@given(OPERATIONS, st.integers(1, 50))
def test_memory_keeps_what_it_took_within_its_bound(operations: list[tuple[str, str, bytes]], part_bytes: int) -> None:
    memory, model = Memory(max_bytes=100), dict[str, bytes]()
    for operation, key, value in operations:
        if operation == "forget":
            memory.forget(key)
            model.pop(key, None)
        elif memory.remember(key, value):
            model[key] = value
        else:
            others = sum(len(k) + len(v) for k, v in model.items() if k != key)
            assert others + len(key) + len(value) > 100, "refused only for want of room"
        assert memory.size_bytes == sum(len(k) + len(v) for k, v in model.items()) <= 100
    parts = memory.parts(part_bytes)
    assert {item.key: item.value for part in parts for item in part.items} == model
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]


def test_the_certificate_is_an_ecdsa_p256_one_with_its_own_key_and_fingerprint() -> None:
    made = Certificate()
    certificate = x509.load_der_x509_certificate(made.certificate_der)
    key = load_der_private_key(made.key_der, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert certificate.public_key() == key.public_key()
    assert made.fingerprint.value.replace(":", "").lower() == certificate.fingerprint(hashes.SHA256()).hex()
    assert Certificate().fingerprint != made.fingerprint


def test_log_lines_are_json_with_the_call_sites_fields() -> None:
    record = logging.makeLogRecord({"msg": "worker_started", "levelname": "INFO", "worker": "0-a", "path": Path("/x")})
    line = json.loads(LogLines(as_json=True).format(record))
    assert datetime.fromisoformat(line.pop("timestamp")).timestamp() == pytest.approx(record.created, abs=1e-3)
    assert line == {"event": "worker_started", "level": "info", "worker": "0-a", "path": "/x"}


def test_log_lines_for_people_have_the_same_on_one_line() -> None:
    record = logging.makeLogRecord({"msg": "worker_started", "levelname": "INFO", "reason": "a\nb\x1b[31m"})
    line = LogLines(as_json=False).format(record)
    assert "[info     ] worker_started" in line
    assert line.endswith(r"reason='a\nb\x1b[31m'")


async def exit_of(pid: int) -> None:
    process = os.pidfd_open(pid)
    exited = asyncio.Event()
    asyncio.get_running_loop().add_reader(process, exited.set)
    try:
        async with asyncio.timeout(20):
            await exited.wait()
    finally:
        asyncio.get_running_loop().remove_reader(process)
        os.close(process)


@pytest.mark.parametrize("way", ["orphaned", "terminated"])
async def test_an_idle_worker_goes_when_nobody_needs_it(way: str, run_directory: Path) -> None:
    settings = NodeSettings(workers=1, udp_port=0, run_directory=run_directory, idle_orphan_timeout_seconds=1)
    node = Node(settings, lambda *_: None, lambda _: None)
    [worker] = await node.start()
    await node.detach()
    if way == "terminated":
        os.kill(worker.info.pid, signal.SIGTERM)
    await exit_of(worker.info.pid)


@pytest.mark.parametrize(("asked", "tried"), [(0, [0, 0, 0]), (7_000, [7_000, 7_002, 7_004])])
def test_a_port_that_is_taken_is_no_reason_to_give_up(
    asked: int, tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []

    def bind(config: bytes, *_: bytes) -> str:
        ports.append(msgspec.msgpack.decode(config)["udp_port"])
        if len(ports) < 3:
            raise OSError(errno.EADDRINUSE, "taken")
        return "bound"

    monkeypatch.setattr("sfu._core.Worker", bind)
    assert str(bind_core(msgspec.structs.replace(LAUNCH, udp_port=asked), Certificate())) == "bound"
    assert ports == tried


class Events:
    """A core that has only these to say."""

    def __init__(self, *batches: bytes) -> None:
        self.left = list(batches)

    def recv(self, _: int) -> bytes:
        return self.left.pop(0) if self.left else b""

    def failure(self) -> None:
        return None


class Written:
    """A transport that notes."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.is_closed = False

    def write(self, frame: bytes) -> None:
        self.frames.append(frame)

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.is_closed = True

    def messages(self) -> list[control.Upward]:
        bodies = control.FrameReader().feed(b"".join(self.frames))
        return [control.decode_upward(message) for body in bodies for message in control.split(body)]


async def test_events_that_fit_no_frame_are_said_to_be_lost() -> None:
    snapshot = msgspec.msgpack.encode([border.Snapshot()])
    core = Events(snapshot, bytes(control.MAX_FRAME_BYTES + 1), snapshot)
    welcome = control.Welcome(
        version=control.PROTOCOL_VERSION, worker="0-1", index=0, pid=1, build="", configuration="", udp_port=1,
        tcp_port=None, addresses=(), fingerprint=border.Fingerprint(algorithm="sha-256", value="AA"), started_at=0,
    )  # fmt: skip
    worker = WorkerProcess(LAUNCH, cast(Any, core), welcome)
    link, transport = Link(worker), Written()
    link.connection_made(cast(Any, transport))
    hello = control.Hello(version=control.PROTOCOL_VERSION, controller="test")
    link.data_received(b"".join(control.frames([control.encode(hello)])))
    worker._forward_events()
    greeting, event, fault = transport.messages()
    assert (greeting, event) == (welcome, border.Snapshot())
    assert isinstance(fault, control.Fault)
    assert fault.code == "events_lost"
    assert transport.is_closed
    assert not core.left
