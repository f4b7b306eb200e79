"""A network that closes to UDP in the middle of a call: its people come back by ICE-TCP, as who they were (F-10)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.e2e.harness.browser import Tabs, launched
from tests.e2e.harness.server import ServerProcess
from tests.e2e.harness.udp_block import udp_blocked
from tests.e2e.test_browser_session import CAMERA, flows, pair, publish_all

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may close another process's socket to UDP"),
]


@pytest.fixture
async def own() -> AsyncIterator[ServerProcess]:
    server = ServerProcess(workers=1)
    await server.start()
    yield server
    server.close()


@pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
async def test_browsers_go_on_over_tcp_when_udp_is_closed(own: ServerProcess, single: bool) -> None:
    async with launched() as browser:
        tabs = Tabs(browser, own, "closing")
        alice, bob = await pair(tabs, single)
        await publish_all(alice, bob)
        with udp_blocked(own.worker_pids()[0], own.udp_port):
            before = (await bob.call("stats", "alice", CAMERA))["frames"]
            # More than was on its way.
            await bob.holds(
                "async ([before]) => (await window.e2e.stats('alice', 'camera'))?.frames > before + 30",
                before,
                seconds=30,
            )
            await flows(alice, bob)
            for tab in (alice, bob):
                assert not await tab.call("told", "participantDisconnected", 1)
