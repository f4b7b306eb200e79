"""`callyard load` against a real server process: everybody takes part, gets what he is to get, and is counted."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "signaling.cli", *arguments]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    arguments = command("serve", "--dev", "--port", str(port), "--udp-port", str(free_port()), "--workers", "1")
    environment = {**os.environ, "CALLYARD_STATE_DIR": str(tmp_path)}
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    yield f"ws://127.0.0.1:{port}"
    # The second signal ends it without waiting for rooms.
    process.terminate()
    time.sleep(0.2)
    process.terminate()
    process.wait(30)


def test_rooms_are_filled_and_everything_is_counted(server: str, tmp_path: Path) -> None:
    """F-40"""
    metrics = tmp_path / "load.prom"
    options = ["--rooms", "2", "--members", "2", "--publishers", "0", "--subscribers", "1", "--duration", "2"]
    options += ["--timeout", "60"]
    arguments = command("load", server, "--dev", "--json", "--prometheus", str(metrics), *options)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=150, check=False)
    outcome = json.loads(done.stdout)
    assert (done.returncode, outcome["failures"]) == (0, [])
    assert outcome["participants"] == outcome["joined"] == outcome["subscribers_with_media"] == 6
    # Four members publish; all six people receive.
    assert outcome["transports_connected"] == 10
    running = outcome["running"]
    # Each of four members is watched and heard by the other one of his room and by the viewer.
    assert (running["video"]["streams"], running["audio"]["streams"]) == (8, 8)
    assert running["video"]["received_packets"] > 0
    assert running["audio"]["lost"] <= running["audio"]["expected"] // 20
    assert 'callyard_load_received_packets{kind="audio"} ' in metrics.read_text()


def load(server: str, *options: str) -> dict[str, Any]:
    arguments = command("load", server, "--dev", "--json", "--timeout", "60", *options)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=150, check=False)
    outcome: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode, outcome["failures"]) == (0, [])
    return outcome


def test_small_clients_offer_aes_cm_alone_and_layers_are_as_many_as_asked_for(server: str) -> None:
    outcome = load(server, "--subscribers", "2", "--cipher", "cm", "--layers", "2", "--duration", "2")
    assert outcome["ciphers"] == {"aes128_cm_sha1_80": outcome["transports_connected"]}
    assert outcome["subscribers_with_media"] == 2
    assert outcome["running"]["video"]["received_packets"] > 0


def test_what_is_lost_is_asked_for_again_and_nothing_stands_still(server: str) -> None:
    running = load(server, "--subscribers", "2", "--loss", "10", "--duration", "4")["running"]
    assert running["video"]["recovered"] > 0
    assert running["audio"]["lost"] > 0
    assert running["audio"]["recovered"] == 0


def test_layers_that_nobody_wants_are_not_sent_with_dynacast(server: str) -> None:
    alone = ("--subscribers", "0", "--no-audio", "--duration", "8")
    with_it, without = load(server, *alone), load(server, *alone, "--no-dynacast")
    # The server waits three seconds before it says so.
    assert with_it["running"]["video"]["sent_packets"] < 0.7 * without["running"]["video"]["sent_packets"]


def test_who_cannot_take_part_is_told_and_fails_the_command(server: str) -> None:
    options = ["--subscribers", "1", "--duration", "1", "--timeout", "5"]
    arguments = command(
        "load", server, "--key", "devkey", "--secret", "wrong-secret-of-enough-bytes-for-hs256", *options
    )
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1
    assert "401" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
def test_everybody_leaves_when_it_is_told_to_end_though_its_shell_ignores_interrupts(
    server: str, number: signal.Signals
) -> None:
    arguments = command("load", server, "--dev", "--subscribers", "2", "--timeout", "60", "--duration", "600")
    process = subprocess.Popen(["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *arguments])
    try:
        participants(server, 3)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        participants(server, 0)
    finally:
        process.kill()
        process.wait()


def participants(server: str, count: int) -> None:
    """Waits until so many are there."""
    deadline = time.monotonic() + 60
    url = server.replace("ws:", "http:", 1) + "/metrics"
    while True:
        with urllib.request.urlopen(url, timeout=5) as reply:
            found = re.search(r"^callyard_participants(?:{.*})? (\S+)$", reply.read().decode(), re.MULTILINE)
        now = float(found[1]) if found else 0
        if now == count:
            return
        assert time.monotonic() < deadline, f"{now:g} participants"
        time.sleep(0.1)


def test_a_plan_of_nothing_is_refused() -> None:
    done = subprocess.run(
        command("load", "ws://127.0.0.1:1", "--dev", "--no-audio", "--no-video"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "nothing would be sent" in done.stderr
