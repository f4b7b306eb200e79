"""The page of a plain room in a real browser: one invitation, two tabs, media both ways."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from signaling.console.invite import mint_invite
from tests.signaling.api.world import KEY, SECRET
from tests.signaling.console.browser import Watched, chromium
from tests.signaling.console.served import Served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("state"))
    yield server
    server.close()


async def test_one_invitation_lets_every_tab_in(server: Served) -> None:
    invite = mint_invite(KEY, SECRET, room="demo", now=time.time(), ttl_seconds=600)
    async with chromium() as browser:
        tabs = []
        for name in ("Alice", "Bob"):
            page = await (await browser.new_context()).new_page()
            tabs.append(Watched(page))
            await page.goto(f"{server.url}/call#invite={invite}")
            await page.get_by_label("Your name").fill(name)
            await page.get_by_role("button", name="Join").click()
        for watched in tabs:
            page = watched.page
            await expect(page.locator("#stage .tile")).to_have_count(2)
            await page.wait_for_function(
                "() => [...document.querySelectorAll('#stage video')].filter(one => one.videoWidth > 0).length === 2"
            )
            await expect(page.locator("#sounds audio")).to_have_count(1)
        bob = tabs[1].page
        await bob.get_by_role("button", name="Mute").click()
        await expect(tabs[0].page.locator(".tile.audio-muted .who")).to_have_text("Bob")
        await bob.get_by_role("button", name="Leave").click()
        await expect(tabs[0].page.locator("#stage .tile")).to_have_count(1)
        assert [complaint for watched in tabs for complaint in watched.complaints] == []
