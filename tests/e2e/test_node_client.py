"""The official SDK for Node: media by content, data, streams, calls, resuming, refusals."""

from __future__ import annotations

import asyncio

import pytest
from livekit import rtc

from tests.e2e.harness.media import BLUE, GREEN, RED, Picture, Tone, hear_tone, look
from tests.e2e.harness.nodes import NodeClient, Nodes
from tests.e2e.harness.people import Party, Person
from tests.e2e.harness.sdk_process import talk
from tests.e2e.harness.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


async def meet(party: Party, node: Nodes, single: bool, url: str | None = None) -> tuple[Person, NodeClient]:
    """Both are in, send, hear and see each other."""
    python, other = await party.join("python"), await node("node", single=single, url=url)
    await other.event("connected")
    await party.sends(python, Tone(440), Picture(RED, GREEN))
    await other.do("tone", hertz=660)
    await other.do("picture", left=GREEN, right=BLUE, width=640, height=360)
    await hear_tone(await python.track("node", "audio"), 660)
    await is_seen(await python.track("node", "video"))
    await other.hears("python", 440)
    await other.sees("python", RED, GREEN)
    return python, other


async def is_seen(track: rtc.Track) -> None:
    async with asyncio.timeout(20):
        async for seen in look(track):
            if seen.shows(GREEN, BLUE):
                return


@MODES
async def test_node_and_python_meet_and_talk(party: Party, node: Nodes, single: bool) -> None:
    python, other = await meet(party, node, single)
    # Longer than one packet takes.
    await python.me.send_text("ä" * 40_000, topic="t")
    assert (await other.event("text"))["text"] == "ä" * 40_000
    await talk(python, other, "node")


@MODES
async def test_node_resumes(party: Party, node: Nodes, single: bool) -> None:
    proxy = await TcpProxy(party.server.url).start()
    party.closes(proxy.stop)
    python, other = await meet(party, node, single, proxy.url)
    sid = (await python.sees("node")).sid
    proxy.cut()
    await other.event("reconnected")
    told = len(other.told)
    await other.sees("python", RED, GREEN, after=told)
    await is_seen(await python.track("node", "video"))
    await other.do("data", text="after", topic="u")
    await python.event("data_received")
    assert (await python.sees("node")).sid == sid
    assert not python.events("participant_disconnected")


async def test_node_is_told_why_it_is_refused(node: Nodes) -> None:
    refused = await node("node", single=True, token="garbage")
    message = (await refused.event("failed"))["message"]
    assert "401" in message
    assert "invalid token" in message
