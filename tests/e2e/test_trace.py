"""A participant's trace, recorded from a real call by the command line, played again by the simulator."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from livekit import rtc

from tests.e2e.harness.media import BLUE, RED, Picture, Tone, see
from tests.e2e.harness.people import Party
from tests.e2e.harness.server import REPOSITORY, Endpoint

pytestmark = pytest.mark.e2e

SECONDS = 5


def command_line(server: Endpoint, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "signaling.cli", *arguments, "--url", server.url]
    command += ["--dev"] if server.key == "devkey" else ["--key", server.key, "--secret", server.secret]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=os.environ)


def simulator(*arguments: str) -> str:
    command = ["cargo", "run", "--quiet", "--locked", "--manifest-path", str(REPOSITORY / "sfu/core/Cargo.toml")]
    command += ["-p", "callyard-sim", "--", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


async def test_a_call_is_recorded_and_decided_again_in_the_same_way(
    server: Endpoint, party: Party, room: str, tmp_path: Path
) -> None:
    alice, bob = await party.join("alice"), await party.join("bob")
    shown, tone = Picture(RED, BLUE, width=640, height=360), Tone(500)
    party.closes(shown.stop)
    party.closes(tone.stop)
    await alice.publish(tone.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await alice.publish(shown.track, simulcast=True, source=rtc.TrackSource.SOURCE_CAMERA)
    await see(await bob.track("alice", "video"), shown)
    video = (await bob.publication("alice", "video")).sid

    path = tmp_path / "trace.jsonl"
    arguments = ["trace", room, "bob", "--seconds", str(SECONDS), "--output", str(path)]
    result = await asyncio.to_thread(command_line, server, *arguments)
    assert result.returncode == 0, result.stderr

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    of: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        of.setdefault(line["line"], []).append(line)
    assert [line["line"] for line in lines[:3]] == ["header", "names", "state"]
    assert lines[-1]["line"] == "end"
    assert lines[-1]["reason"] == "time"
    times = [line["at_ns"] for line in lines if "at_ns" in line]
    assert times == sorted(times)
    assert SECONDS - 0.2 < times[-1] / 1e9 < SECONDS + 0.5
    assert len(of["tick"]) > SECONDS * 5
    sent = sum(len(line["packets"]) for line in of["sent"])
    told = sum(len(line["arrivals"]) for line in of["feedback"])
    assert sent > SECONDS * 50, "sound alone is fifty packets a second"
    assert told > sent / 2, "the client reports on what it gets"
    numbers = {number for number, track in of["names"][0]["tracks"].items() if track["track"] == video}
    chosen = [choice for line in of["outcome"] for choice in line["outcome"]["choices"]]
    assert {str(choice["downtrack"]) for choice in chosen} == numbers
    assert all(choice["layer"] is not None and choice["reason"] for choice in chosen)
    assert of["estimate"], "with its limit"
    assert "127.0.0.1" not in path.read_text(), "no addresses"

    report = await asyncio.to_thread(simulator, "replay", str(path))
    assert "decisions are the same" in report.splitlines()[-1], report[-2000:]
    assert report.splitlines()[-1].startswith("all "), report[-2000:]
    changed = await asyncio.to_thread(simulator, "replay", str(path), "--set", "estimate_max_bps=100000")
    assert "the first that differs under the changed settings" in changed


async def test_a_reader_that_goes_away_makes_room_for_the_next(server: Endpoint, party: Party, room: str) -> None:
    await party.join("alice")
    url = f"{server.url}/debug/rooms/{room}/trace?identity=alice&seconds=60"
    headers = {"authorization": f"Bearer {server.token(room, 'operator', room_admin=True)}"}

    async def begins(client: httpx2.AsyncClient) -> int:
        async with client.stream("GET", url, headers=headers) as reply:
            if reply.status_code == 200:
                await anext(reply.aiter_lines())
            return int(reply.status_code)

    async with httpx2.AsyncClient(timeout=30) as client, client.stream("GET", url, headers=headers) as reply:
        # Held: an iterator that is thrown away closes its stream.
        lines = reply.aiter_lines()
        await anext(lines)
        assert await begins(client) == 429
        await anext(lines)
    async with httpx2.AsyncClient(timeout=30) as client, asyncio.timeout(30):
        status = 0
        while status != 200:
            status = await begins(client)


async def test_who_is_not_there_is_said_and_leaves_no_file(server: Endpoint, room: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    arguments = ["trace", room, "nobody", "--output", str(path)]
    result = await asyncio.to_thread(command_line, server, *arguments)
    assert result.returncode == 1
    assert "requested room does not exist" in result.stderr
    assert not path.exists()
