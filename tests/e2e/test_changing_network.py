"""Networks that change during a call in Chromium: closed to UDP (F-10), a NAT that forgets, another one (F-09).

The session is kept each time: nobody is seen to leave, and pictures and sound go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from tests.e2e.harness.browser import Tab, Tabs, launched
from tests.e2e.harness.figures import note
from tests.e2e.harness.network import Network
from tests.e2e.harness.server import ServerProcess
from tests.e2e.test_browser_session import CAMERA, flows, publish_all

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])


class Call(NamedTuple):
    """Alice behind the network that changes, Bob beside the server."""

    network: Network
    alice: Tab
    bob: Tab


@pytest.fixture(params=[True, False], ids=["single", "dual"])
async def call(request: pytest.FixtureRequest, network: Network) -> AsyncIterator[Call]:
    server = ServerProcess(workers=1, side=network.lab.server)
    try:
        await server.start()
        # Microphones and cameras, and with them addresses of single interfaces, are for secure origins only.
        flag = f"--unsafely-treat-insecure-origin-as-secure={server.url}"
        async with launched(flag, side=network.lab.viewer) as hers, launched(flag, side=network.lab.server) as his:
            alice = await Tabs(hers, server, "changing").join("alice", single=request.param)
            bob = await Tabs(his, server, "changing").join("bob", single=request.param)
            await alice.event("participantActive")
            yield Call(network, alice, bob)
    finally:
        server.close()


async def goes_on(call: Call, sid: str, *, limit: float, what: str) -> None:
    """Pictures of Alice move again for Bob within `limit` seconds, she is who she was, and each hears the other."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    before = await frames(call.bob)
    # More than was on its way.
    moved = "async ([before]) => (await window.e2e.stats('alice', 'camera'))?.frames > before + 10"
    await call.bob.holds(moved, before, seconds=limit)
    note(what, seconds=round(loop.time() - began, 2))
    await flows(call.alice, call.bob)
    assert await call.alice.call("sid") == sid
    for tab in (call.alice, call.bob):
        assert not await tab.call("told", "participantDisconnected", 1)
        assert not await tab.call("told", "trackUnpublished", 1)


async def frames(tab: Tab) -> int:
    return int((await tab.call("stats", "alice", CAMERA))["frames"])


@pytest.mark.parametrize("down", [True, False], ids=["both-ways", "up-only"])
async def test_a_call_goes_on_over_tcp_when_udp_is_closed(call: Call, down: bool) -> None:
    """F-10"""
    await publish_all(call.alice, call.bob)
    sid = await call.alice.call("sid")
    call.network.close_to_udp(down=down)
    await goes_on(call, sid, limit=20, what=f"udp closed {'both ways' if down else 'up'}")


async def test_one_who_only_publishes_goes_on_over_tcp_when_udp_is_closed(call: Call) -> None:
    """F-10: nothing that she is sent goes unanswered; her missing checks tell."""
    await call.alice.call("publishPicture", "red", "green", 640, 360, 15, {"source": CAMERA, "videoCodec": "vp8"})
    await call.bob.shows("alice", CAMERA, "red", "green", seconds=30)
    sid = await call.alice.call("sid")
    # Long enough for the server to know how often she checks.
    await asyncio.sleep(12)
    before = await frames(call.bob)
    began = asyncio.get_running_loop().time()
    call.network.close_to_udp()
    moved = "async ([before]) => (await window.e2e.stats('alice', 'camera'))?.frames > before + 30"
    await call.bob.holds(moved, before, seconds=30)
    note("udp closed both ways, publishes only", seconds=round(asyncio.get_running_loop().time() - began, 2))
    assert await call.alice.call("sid") == sid
    assert not await call.bob.call("told", "participantDisconnected", 1)


async def test_a_nat_that_forgets_costs_no_session(call: Call) -> None:
    """F-09 (a)"""
    await publish_all(call.alice, call.bob)
    sid = await call.alice.call("sid")
    for number in range(3):
        call.network.rebind()
        await goes_on(call, sid, limit=15, what=f"nat rebound {number}")


async def test_another_network_costs_no_session(call: Call) -> None:
    """F-09 (b): what a laptop or a telephone does between Wi-Fi and LTE."""
    await publish_all(call.alice, call.bob)
    sid = await call.alice.call("sid")
    for number, address in enumerate(("10.91.7.7", "10.91.0.2")):
        call.network.move(address)
        await goes_on(call, sid, limit=25, what=f"moved {number}")
