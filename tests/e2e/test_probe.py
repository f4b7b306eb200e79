"""`callyard probe` as its users run it: a process, its exit code, what it prints and exports."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from tests.e2e.harness import metrics
from tests.e2e.harness.server import REPOSITORY, Endpoint, ServerProcess, free_ports
from tests.signaling.probe.relay import PASSWORD, USERNAME, relay

pytestmark = pytest.mark.e2e

StartServer = Callable[..., Awaitable[ServerProcess]]


IGNORING_INTERRUPTS = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""As the background jobs of a shell's scripts do."""


async def start(*arguments: str, within: Sequence[str] = ()) -> Process:
    command = [*within, sys.executable, "-m", "signaling.cli", "probe", *arguments]
    return await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdout=PIPE, stderr=PIPE)


async def probed(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = await start(*arguments)
    async with asyncio.timeout(60):
        out, error = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), error.decode()


async def report_of(server: Endpoint, *arguments: str) -> dict[str, Any]:
    keys = ["--key", server.key, "--secret", server.secret]
    code, out, error = await probed(server.ws_url, *keys, "--duration", "1.5", "--json", *arguments)
    assert (code, error) == (0, ""), out
    report: dict[str, Any] = json.loads(out)
    return report


@pytest.mark.parametrize(
    ("arguments", "mode", "path"),
    [
        ([], "dual", "udp"),
        (["--single"], "single", "udp"),
        (["--tcp"], "dual", "tcp"),
        (["--single", "--tcp"], "single", "tcp"),
    ],
    ids=["dual", "single", "tcp", "single-tcp"],
)
async def test_a_working_server_passes_with_its_figures(
    server: Endpoint, arguments: list[str], mode: str, path: str
) -> None:
    report = await report_of(server, *arguments)
    assert (report["ok"], report["mode"], report["failure"]) == (True, mode, None)
    first, second = report["legs"]
    for leg, tone_hz in ((first, 660), (second, 440)):
        assert leg["path"] == path
        assert leg["dtls_version"] == "DTLSv1.2"
        assert leg["srtp_cipher"].startswith("AEAD_AES_")
        assert leg["tone_hz"] == pytest.approx(tone_hz, abs=8)
        assert leg["audio"]["packets"] > 50
        assert leg["video"]["packets"] > 15
        assert leg["audio"]["lost"] == leg["video"]["lost"] == 0
        assert (leg["reliable_messages"], leg["lossy_messages"]) == (3, 10)
        assert 0 < leg["round_trip_seconds"] < 5
    steps = second["steps"]
    order = ["signal", "ice", "dtls", "first_packet", "first_frame"]
    assert sorted(order, key=steps.__getitem__) == order, steps


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_relayed_path_is_proved(server: Endpoint, transport: str) -> None:
    async with relay(transport) as running:
        uri = f"turn:127.0.0.1:{running.port}?transport={transport}"
        report = await report_of(server, "--turn", uri, "--turn-username", USERNAME, "--turn-password", PASSWORD)
        assert {leg["path"] for leg in report["legs"]} == {f"turn-{transport}"}
        assert running.to_peers > 100
        assert running.from_peers > 100


async def test_people_get_a_table_and_a_verdict(server: Endpoint) -> None:
    code, out, error = await probed(server.url, "--dev", "--duration", "1")
    assert (code, error) == (0, "")
    for expected in ("first frame", "AEAD_AES_", "660 Hz", "440 Hz", "works: audio, video and data passed"):
        assert expected in out


async def test_ready_tokens_are_taken(server: Endpoint, room: str) -> None:
    tokens = [part for name in ("ann", "ben") for part in ("--token", server.token(room, name))]
    code, out, _ = await probed(server.ws_url, *tokens, "--duration", "1")
    assert code == 0, out


@pytest.mark.parametrize(
    ("grants", "says"),
    [
        ({"can_publish": False}, "Failed at publish: "),
        ({"can_subscribe": False}, "Failed at first_packet: The second participant got no media packet"),
        (
            {"can_publish_data": False},
            "Failed at data: The second participant got 0 of 3 reliable and 0 lossy messages.",
        ),
        ({"room_join": False}, "Failed at signal: The server refused /rtc with status 401"),
    ],
    ids=["publish", "subscribe", "data", "join"],
)
async def test_what_is_not_allowed_fails_at_its_step(
    server: Endpoint, room: str, grants: dict[str, Any], says: str
) -> None:
    tokens = [part for name in ("ann", "ben") for part in ("--token", server.token(room, name, **grants))]
    code, out, _ = await probed(server.ws_url, *tokens, "--timeout", "3", "--duration", "1")
    assert code == 1
    assert says in out


async def test_a_wrong_secret_is_refused_in_a_sentence(server: Endpoint) -> None:
    code, out, _ = await probed(server.ws_url, "--key", server.key, "--secret", "w" * 32)
    assert code == 1
    assert "Failed at signal: The server refused /rtc with status 401" in out


@pytest.mark.parametrize(
    ("serving", "environment", "probing", "says"),
    [
        (["--node-ip", "203.0.113.1"], {}, [], "Failed at ice: No path to the server over UDP: "),
        ([], {"CALLYARD_NODE_TCP": "false"}, ["--tcp", "--single"], "Failed at ice: No path to the server over TCP: "),
    ],
    ids=["unreachable-address", "no-tcp"],
)
async def test_no_path_is_told_with_the_ways_tried(
    own_server: StartServer, serving: list[str], environment: dict[str, str], probing: list[str], says: str
) -> None:
    server = await own_server(*serving, workers=1, environment=environment)
    code, out, _ = await probed(server.ws_url, "--dev", "--timeout", "2", *probing)
    assert code == 1
    assert says in out


async def test_a_relay_that_is_not_there_is_told(server: Endpoint) -> None:
    code, out, _ = await probed(server.ws_url, "--dev", "--timeout", "2", "--turn", "turn:127.0.0.1:1")
    assert code == 1
    assert "Failed at ice: " in out


async def scraped(port: int) -> dict[tuple[str, str], float]:
    samples = await metrics.scrape(f"http://127.0.0.1:{port}")
    return {(sample.name, ",".join(sample.labels.values())): sample.value for sample in samples}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["interrupt", "terminate"])
async def test_watching_repeats_and_exports_and_ends_when_told(server: Endpoint, number: signal.Signals) -> None:
    port, _ = free_ports(1)
    arguments = ["--watch", "1", "--duration", "1", "--metrics-port", str(port), "--json"]
    room = f"watched-{secrets.token_hex(4)}"
    process = await start(server.ws_url, "--dev", "--room", room, *arguments, within=IGNORING_INTERRUPTS)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
        assert [line["ok"] for line in lines] == [True, True]
        seen = await scraped(port)
        assert seen["callyard_probe_success", ""] == 1
        assert seen["callyard_probe_runs_total", "success"] >= 2
        assert seen["callyard_probe_runs_total", "failure"] == 0
        assert seen["callyard_probe_step_seconds_count", "first_frame"] >= 2
        assert seen["callyard_probe_received_packets_total", "audio"] > 100
        assert 0 < seen["callyard_probe_round_trip_seconds", ""] < 5
        process.send_signal(number)
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
