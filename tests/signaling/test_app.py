"""The whole process, started as people start it: what it prints, answers and does when it is told to stop."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from signaling.app import Server
from signaling.errors import SettingsError
from signaling.settings import Settings

ROOT = Path(__file__).parent.parent.parent


class Process:
    def __init__(self, state: Path, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CALLYARD_")}
        environment |= {"CALLYARD_STATE_DIR": str(state), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        options = ["serve", "--dev", "--port", str(self.port), "--udp-port", "0", "--workers", "1", *arguments]
        # As a background job of a shell's script, which ignores interrupts from the start.
        command = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "signaling.cli", *options]
        self.child = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_started(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            if "server_started" in line:
                return
        raise AssertionError("the process ended before it had started")

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=5) as reply:
            return reply.status, reply.read().decode()


@contextlib.contextmanager
def running(state: Path, *arguments: str) -> Iterator[Process]:
    process = Process(state, *arguments)
    try:
        process.wait_started()
        yield process
    finally:
        process.child.kill()
        process.child.communicate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(tmp_path_factory.mktemp("state")) as process:
        yield process


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/", "OK"),
        ("/healthz", "OK"),
        ("/readyz", '"ready":true'),
        ("/metrics", "callyard_build_info{"),
        ("/call", "<"),
    ],
)
def test_it_answers(path: str, content: str, server: Process) -> None:
    status, text = server.get(path)
    assert status == 200
    assert content in text


METRICS = {
    "rooms",
    "participants",
    "join_duration_seconds",
    "tracks_published",
    "tracks_subscribed",
    "transports",
    "transports_connected",
    "packets",
    "bytes",
    "packets_dropped",
    "copies_withheld",
    "feedback_messages",
    "retransmitted_packets",
    "forward_latency_seconds",
    "worker_cpu_seconds",
    "packet_thread_cpu_seconds",
    "worker_loop_lag_seconds",
    "signaling_loop_lag_seconds",
    "build_info",
    "worker_info",
}


def test_its_metrics_are_whole_and_keep_the_conventions(server: Process) -> None:
    families = {family.name: family for family in text_string_to_metric_families(server.get("/metrics")[1])}
    assert {f"callyard_{name}" for name in METRICS} - families.keys() == set()
    assert {sample.labels["kind"] for sample in families["callyard_feedback_messages"].samples} >= {
        "nack",
        "pli",
        "fir",
    }
    for name in ("join_duration", "forward_latency"):
        assert families[f"callyard_{name}_seconds"].type == "histogram"
    for family in families.values():
        assert family.documentation.endswith(".")
        assert family.type != "unknown"
        # Base units, and `_total` of counters alone.
        assert not re.search(r"_(ms|us|milliseconds|microseconds|minutes|kilobytes|kbps|percent)(_|$)", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample
            assert not {"room", "participant", "identity", "sid", "address", "path", "track"} & sample.labels.keys()


def test_a_browser_finds_the_call_page(server: Process) -> None:
    assert '<a href="/call">' in server.get("/", accept="text/html")[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_how_to_begin_and_stops_when_told(number: signal.Signals, tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.child.send_signal(number)
        output, log = process.child.communicate(timeout=30)
    assert process.child.returncode == 0, log
    assert f"URL     ws://localhost:{process.port}" in output
    assert "key     devkey" in output
    assert "secret  secret" in output
    assert re.search(rf"http://localhost:{process.port}/call#invite=[\w.-]+\n", output)
    assert re.search(rf"http://localhost:{process.port}/console; sign in with this token:\n  [\w.-]+\n", output)
    assert '"event": "server_stopped"' in log
    assert "Traceback" not in log


async def test_a_start_that_fails_leaves_the_workers_and_their_calls_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F-14"""
    made = Server(Settings(key="devkey", secret="s" * 32, state_dir=tmp_path))
    ended = []

    async def start() -> None:
        ended.append("started")

    async def stop(_: float) -> None:
        ended.append("stopped")

    async def detach() -> None:
        ended.append("detached")

    async def fail() -> None:
        raise SettingsError("the database is of a newer version")

    monkeypatch.setattr(made.rooms, "start", start)
    monkeypatch.setattr(made.rooms.node, "stop", stop)
    monkeypatch.setattr(made.rooms.node, "detach", detach)
    monkeypatch.setattr(made.calls.service, "prepare", fail)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(SettingsError):
        await made.run(listener)
    assert ended == ["started", "detached"]
