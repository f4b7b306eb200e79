"""Another network during a call for the Python and the Go SDK (F-09 b): the session stays, media goes on both ways."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bench.links.lab import Side
from tests.e2e.harness.figures import note
from tests.e2e.harness.files import heard_in, write_picture, write_tone
from tests.e2e.harness.gophers import Gophers
from tests.e2e.harness.media import GREEN, RED
from tests.e2e.harness.network import Network
from tests.e2e.harness.sdk_process import SdkProcess
from tests.e2e.harness.server import REPOSITORY, ServerProcess

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
WITHIN_SECONDS = 45
"""The SDKs are told of no change: they notice by the silence of their own."""
AFRESH_SECONDS = 90


@pytest.fixture
async def server(network: Network) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(workers=1, side=network.lab.server)
    try:
        await process.start()
        yield process
    finally:
        process.close()


@contextlib.asynccontextmanager
async def python_client(
    server: ServerProcess, side: Side, room: str, identity: str, hertz: float, *, single: bool
) -> AsyncIterator[SdkProcess]:
    """It tells what happens as the Go client does."""
    command = [sys.executable, "-m", "tests.e2e.harness.python_client", "--url", server.ws_url]
    command += ["--token", server.token(room, identity), "--hertz", str(hertz), *(["--single"] if single else [])]
    process = await asyncio.create_subprocess_exec(
        *side.command(*command),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    client = SdkProcess(process)
    try:
        yield client
    finally:
        await client.close()


async def gets(client: SdkProcess, identity: str, hertz: float, seconds: float, pictures: int = 10) -> float:
    """Until so many further pictures of `identity` and two further parts of its tone have come; how long that took."""
    began = time.monotonic()
    before: dict[str, int] | None = None
    told = len(client.told)
    while time.monotonic() < began + seconds:
        for event in client.told[told:]:
            told += 1
            if event["event"] != "gets" or event["identity"] != identity:
                continue
            before = before or event
            is_more = event["pictures"] >= before["pictures"] + pictures and event["windows"] >= before["windows"] + 2
            if is_more and abs(event["hertz"] - hertz) < 15:
                return time.monotonic() - began
        await asyncio.sleep(0.1)
    raise AssertionError(f"nothing more of {identity} in {seconds} s; told {client.told[-5:]}")


def was_told(client: SdkProcess, *names: str) -> list[str]:
    return [event["event"] for event in client.told if event["event"] in names]


@MODES
async def test_the_python_sdk_goes_on_in_another_network(
    network: Network, server: ServerProcess, room: str, single: bool
) -> None:
    """F-09"""
    lab = network.lab
    async with (
        python_client(server, lab.server, room, "bob", 660, single=single) as bob,
        python_client(server, lab.viewer, room, "alice", 440, single=single) as alice,
    ):
        await gets(bob, "alice", 440, 40)
        await gets(alice, "bob", 660, 40)
        for number, address in enumerate(("10.91.7.7", "10.91.0.2")):
            network.move(address)
            seconds = await gets(bob, "alice", 440, WITHIN_SECONDS)
            note(f"python sdk moved {number}", seconds=round(seconds, 2), single=single)
            await gets(alice, "bob", 660, WITHIN_SECONDS)
        assert not was_told(bob, "participant_disconnected", "track_unsubscribed")
        assert not was_told(alice, "participant_disconnected", "disconnected")


@MODES
async def test_the_go_sdk_comes_back_in_another_network(
    network: Network, server: ServerProcess, program: Path, room: str, tmp_path: Path, single: bool
) -> None:
    """F-09: Pion looks for no other address in time, so that both sides give the session up; it joins afresh."""
    write_tone(tmp_path / "tone.ogg", 440, 240)
    # The SDK sends about one frame a second of such a file.
    write_picture(tmp_path / "picture.ivf", RED, GREEN, 30, key_every=1)
    lab = network.lab
    gophers = Gophers(program, server, room, tmp_path)
    try:
        async with python_client(server, lab.server, room, "bob", 660, single=single) as bob:
            alice = await gophers("alice", single=single, side=lab.viewer)
            await alice.event("connected")
            await alice.do("publish", path=str(tmp_path / "tone.ogg"))
            await alice.do("publish", path=str(tmp_path / "picture.ivf"))
            await alice.event("published", count=2)
            await gets(bob, "alice", 440, 40, pictures=3)
            assert abs(await hears(alice, "bob") - 660) < 10
            network.move("10.91.7.7")
            seconds = await gets(bob, "alice", 440, AFRESH_SECONDS, pictures=3)
            note("go sdk moved", seconds=round(seconds, 2), single=single)
            assert abs(await hears(alice, "bob") - 660) < 10
            assert not was_told(alice, "disconnected")
    finally:
        await gophers.close()


async def hears(client: SdkProcess, identity: str) -> float:
    """The tone of what comes from now on, in Hz."""
    before = len([event for event in client.told if is_sound(event, identity)])
    async with asyncio.timeout(AFRESH_SECONDS):
        while len(sounds := [event for event in client.told if is_sound(event, identity)]) < before + 3:
            await client.more()
    return heard_in(Path(sounds[-1]["path"]))


def is_sound(event: dict[str, Any], identity: str) -> bool:
    return event["event"] == "received" and event["identity"] == identity and Path(event["path"]).suffix == ".ogg"
