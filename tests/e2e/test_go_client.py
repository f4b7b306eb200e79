"""The official Go SDK, which is a WebRTC stack of its own: media by content, data, RPC, reconnecting."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from livekit import rtc

from tests.e2e.harness.files import heard_in, seen_in, write_picture, write_tone
from tests.e2e.harness.gophers import Gophers
from tests.e2e.harness.media import BLUE, GREEN, RED, Picture, Tone, hear_tone, look
from tests.e2e.harness.people import Party
from tests.e2e.harness.sdk_process import talk
from tests.e2e.harness.server import Endpoint
from tests.e2e.harness.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
SIGNAL_RECONNECT, NODE_FAILURE = 0, 6


@MODES
async def test_go_and_python_hear_and_see_each_other(party: Party, go: Gophers, single: bool, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.ogg", 660, 30)
    write_picture(tmp_path / "picture.ivf", GREEN, BLUE, 20)
    python, gopher = await party.join("python"), await go("gopher", single=single)
    await gopher.event("connected")
    tone, picture = Tone(440), Picture(RED, GREEN)
    await party.sends(python, tone, picture)
    await gopher.do("publish", path=str(tmp_path / "tone.ogg"), name="tone")
    await gopher.do("publish", path=str(tmp_path / "picture.ivf"), name="picture")
    await gopher.event("published", count=2)
    await hear_tone(await python.track("gopher", "audio"), 660)
    await look_for(await python.track("gopher", "video"))
    audio = await python.publication("gopher", "audio")
    assert (audio.name, audio.source) == ("tone", rtc.TrackSource.SOURCE_MICROPHONE)
    for mime in ("audio/opus", "video/VP8"):
        subscribed = await gopher.event("subscribed", identity="python", mime=mime)
        received = await gopher.event("received", sid=subscribed["sid"], count=3)
        if mime == "audio/opus":
            assert abs(heard_in(Path(received["path"])) - 440) < 10
            assert received["packets"] > 100
        else:
            assert seen_in(Path(received["path"])).shows(RED, GREEN)


async def look_for(track: Any) -> None:
    async with asyncio.timeout(20):
        async for seen in look(track):
            if seen.shows(GREEN, BLUE):
                return


@MODES
async def test_data_calls_and_metadata_pass_between_go_and_python(party: Party, go: Gophers, single: bool) -> None:
    python, gopher = await party.join("python"), await go("gopher", single=single)
    await gopher.event("connected")
    await python.event("participant_active")
    await talk(python, gopher, "gopher")


@MODES
async def test_two_go_clients_hear_each_other(go: Gophers, single: bool, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.ogg", 500, 30)
    write_tone(tmp_path / "b.ogg", 900, 30)
    first, second = await go("first", single=single), await go("second", single=not single)
    await first.event("connected")
    await second.event("connected")
    await first.do("publish", path=str(tmp_path / "a.ogg"))
    await second.do("publish", path=str(tmp_path / "b.ogg"))
    for client, other, frequency in ((first, "second", 900), (second, "first", 500)):
        received = await client.event("received", identity=other, count=3)
        assert abs(heard_in(Path(received["path"])) - frequency) < 10


@MODES
async def test_a_go_client_resumes(party: Party, go: Gophers, single: bool, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.ogg", 660, 60)
    proxy = await TcpProxy(party.server.url).start()
    party.closes(proxy.stop)
    python, gopher = await party.join("python"), await go("gopher", single=single, url=proxy.url)
    sid = (await gopher.event("connected"))["sid"]
    await gopher.do("publish", path=str(tmp_path / "tone.ogg"))
    await hear_tone(await python.track("gopher", "audio"), 660)
    proxy.cut()
    await gopher.event("reconnected", seconds=40)
    assert (await python.sees("gopher")).sid == sid
    assert not python.events("participant_disconnected")
    await hear_tone(await python.track("gopher", "audio"), 660)
    await gopher.do("data", text="after")
    await python.event("data_received")


@MODES
async def test_a_go_client_joins_afresh(party: Party, go: Gophers, single: bool, tmp_path: Path) -> None:
    write_tone(tmp_path / "tone.ogg", 660, 60)
    python, gopher = await party.join("python"), await go("gopher", single=single)
    await gopher.event("connected")
    await gopher.do("publish", path=str(tmp_path / "tone.ogg"))
    old = (await gopher.event("published"))["sid"]
    await hear_tone(await python.track("gopher", "audio"), 660)
    await gopher.do("simulate", scenario=NODE_FAILURE)
    await gopher.event("reconnected", seconds=40)
    await python.track("gopher", "audio", not_sid=old, seconds=20)


async def test_a_go_client_is_told_why_it_is_refused(go: Gophers, server: Endpoint) -> None:
    gopher = await go("gopher", single=True, token=server.token("x", "gopher", ttl_seconds=-600))
    assert "unauthorized" in (await gopher.event("failed"))["message"].lower()


async def test_a_go_client_that_is_killed_is_seen_to_go(party: Party, go: Gophers) -> None:
    """F-11"""
    python, gopher = await party.join("python"), await go("gopher", single=True)
    await gopher.event("connected")
    await python.sees("gopher")
    gopher.process.kill()
    await python.loses("gopher", seconds=30)
