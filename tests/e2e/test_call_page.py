"""The built-in call page as a newcomer meets it: the link that the server printed, in two tabs."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.e2e.harness.browser import launched
from tests.e2e.harness.server import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fresh() -> AsyncIterator[ServerProcess]:
    server = ServerProcess(workers=1)
    try:
        await server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def printed(fresh: ServerProcess) -> str:
    """The link that a fresh server prints."""
    found = re.search(r"http://\S+/call#invite=[\w.-]+", fresh.log.read_text().replace("\n", ""))
    assert found is not None, fresh.tail()
    return found[0]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def another() -> AsyncIterator[Browser]:
    """A browser with a camera of its own: one that two tabs start anew at the same moment may stay dark."""
    async with launched() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def pages(browser: Browser, another: Browser) -> AsyncIterator[list[Page]]:
    allowed = ["camera", "microphone", "clipboard-read", "clipboard-write"]
    contexts = [await one.new_context(permissions=allowed) for one in (browser, another)]
    yield [await context.new_page() for context in contexts]
    for context in contexts:
        await context.close()


async def enter(page: Page, link: str, name: str) -> None:
    await page.goto(link)
    await page.fill("#name", name)
    await page.click("#join")
    await page.wait_for_selector("body[data-state=call]", timeout=20_000)


async def sees_move(page: Page, name: str) -> None:
    """Waits for a picture in the tile with that name which has moved for half a second."""
    await page.wait_for_function(
        """([name]) => {
          const tile = [...document.querySelectorAll('.tile')].find((one) => one.innerText.includes(name));
          const video = tile?.querySelector('video');
          return video && !tile.classList.contains('no-video') && video.videoWidth > 0 && video.currentTime > 0.5;
        }""",
        arg=[name],
        timeout=20_000,
    )


async def see_each_other(ann: Page, ben: Page) -> None:
    await asyncio.gather(sees_move(ann, "Ben"), sees_move(ben, "Ann"))


def labels() -> Iterator[str]:
    yield from ("Ann", "Ben")


async def test_two_tabs_are_in_a_call(printed: str, pages: list[Page]) -> None:
    errors: list[str] = []
    for page, name in zip(pages, labels(), strict=True):
        page.on("pageerror", lambda error: errors.append(str(error)))
        await enter(page, printed, name)
    ann, ben = pages
    # Each sees a tile with the other's name, and pictures that move in it.
    for page, other in ((ann, "Ben"), (ben, "Ann")):
        tile = page.locator(".tile", has_text=other)
        await tile.wait_for(timeout=15_000)
        await sees_move(page, other)
        assert await page.locator(".tile").count() == 2
        await page.wait_for_function("() => document.querySelectorAll('#sounds audio').length === 1", timeout=10_000)
    # Mute is seen by the other; the fake microphone beeps, so that it speaks before.
    await ben.locator(".tile.speaking", has_text="Ann").wait_for(timeout=15_000)
    await ann.click("#mic")
    await ben.locator(".tile.audio-muted", has_text="Ann").wait_for(timeout=10_000)
    await ann.click("#camera")
    await ben.locator(".tile.no-video", has_text="Ann").wait_for(timeout=10_000)
    await ann.click("#camera")
    await ben.locator(".tile:not(.no-video)", has_text="Ann").wait_for(timeout=10_000)
    # A shared screen is a tile of its own.
    await ann.click("#screen")
    await ben.locator(".tile.screen", has_text="Ann").wait_for(timeout=15_000)
    assert await ben.locator(".tile").count() == 3
    await ann.click("#screen")
    await ben.locator(".tile.screen").wait_for(state="detached", timeout=10_000)
    await ann.click("#leave")
    await ann.wait_for_selector("body[data-state=lobby]")
    await ben.locator(".tile", has_text="Ann").wait_for(state="detached", timeout=10_000)
    assert not errors


async def test_who_comes_back_after_a_worker_has_died_is_drawn(
    fresh: ServerProcess, printed: str, pages: list[Page]
) -> None:
    """The client says nothing of what changes in the last moments of its reconnection."""
    for page, name in zip(pages, labels(), strict=True):
        await enter(page, printed, name)
    await see_each_other(*pages)
    before = [await page.evaluate("() => callyardRoom.localParticipant.sid") for page in pages]
    for pid in fresh.worker_pids():
        os.kill(pid, signal.SIGKILL)
    for page, sid in zip(pages, before, strict=True):
        await page.wait_for_function(
            "([sid]) => callyardRoom.state === 'connected' && callyardRoom.localParticipant.sid !== sid", arg=[sid]
        )
    await see_each_other(*pages)
    for page in pages:
        assert await page.locator(".tile").count() == 2
        await page.wait_for_function("() => document.querySelectorAll('#sounds audio').length === 1", timeout=10_000)


async def test_who_reconnects_hears_the_same_tracks_again(printed: str, pages: list[Page]) -> None:
    for page, name in zip(pages, labels(), strict=True):
        await enter(page, printed, name)
    await see_each_other(*pages)
    ann, _ = pages
    before = await ann.evaluate("() => callyardRoom.localParticipant.sid")
    await ann.evaluate("() => void callyardRoom.simulateScenario('full-reconnect')")
    await ann.wait_for_function("([sid]) => callyardRoom.localParticipant.sid !== sid", arg=[before])
    for page in pages:
        await page.wait_for_function(
            """() => {
              const [other] = callyardRoom.remoteParticipants.values();
              const [publication] = other?.audioTrackPublications.values() || [];
              const sounds = document.querySelectorAll('#sounds audio');
              const heard = sounds[0]?.srcObject.getAudioTracks()[0];
              return publication?.track && sounds.length === 1 && heard === publication.track.mediaStreamTrack;
            }""",
            timeout=10_000,
        )
    await see_each_other(*pages)


async def test_the_quality_of_the_connection_is_shown(printed: str, pages: list[Page]) -> None:
    for page, name in zip(pages, labels(), strict=True):
        await enter(page, printed, name)
    await pages[0].wait_for_function(
        "() => document.querySelectorAll('.quality[data-quality=excellent]').length === 2", timeout=30_000
    )


async def test_a_link_that_was_tampered_with_says_so(printed: str, pages: list[Page]) -> None:
    page = pages[0]
    await page.goto(printed[:-6] + "AAAAAA")
    await page.fill("#name", "Mallory")
    await page.click("#join")
    await page.wait_for_function("() => document.getElementById('lobby-message').textContent.includes('invitation')")
    assert await page.get_attribute("body", "data-state") == "lobby"


async def test_the_invite_link_that_is_copied_lets_another_in(printed: str, pages: list[Page]) -> None:
    ann, ben = pages
    await enter(ann, printed, "Ann")
    await ann.click("#invite")
    await ann.wait_for_function("() => document.getElementById('toast').textContent === 'Invite link copied.'")
    await enter(ben, await ann.evaluate("() => navigator.clipboard.readText()"), "Ben")
    await ann.locator(".tile", has_text="Ben").wait_for(timeout=15_000)
    await ben.locator(".tile", has_text="Ann").wait_for(timeout=15_000)


SENT_DEVICE = """() => window.connections
  .flatMap((one) => one.getSenders()).filter(({ track }) => track?.kind === 'audio' && track.readyState === 'live')
  .map(({ track }) => track.getSettings().deviceId)"""


async def test_the_microphone_that_is_chosen_is_the_one_that_is_sent(printed: str, pages: list[Page]) -> None:
    page = pages[0]
    await page.add_init_script(
        """window.connections = [];
        window.RTCPeerConnection = class extends RTCPeerConnection {
          constructor(...given) { super(...given); window.connections.push(this); }
        };"""
    )
    await enter(page, printed, "Ann")
    await page.wait_for_function("() => document.querySelectorAll('#mic-device option').length > 1", timeout=10_000)
    devices = await page.eval_on_selector_all("#mic-device option", "(options) => options.map(({ value }) => value)")
    for chosen in (devices[-1], devices[0]):
        await page.select_option("#mic-device", chosen)
        await page.wait_for_function(f"([chosen]) => ({SENT_DEVICE})().join() === chosen", arg=[chosen], timeout=10_000)
        assert await page.input_value("#mic-device") == chosen


async def test_tiles_share_the_stage_by_the_number_of_people(printed: str, browser: Browser) -> None:
    contexts = []
    try:
        watching = None
        for people, columns in enumerate((1, 2, 2, 2, 3), start=1):
            context = await browser.new_context(viewport={"width": 1000, "height": 700})
            contexts.append(context)
            page = await context.new_page()
            await page.goto(printed)
            for box in ("#with-mic", "#with-camera"):
                await page.uncheck(box)
            await page.fill("#name", f"Person {people}")
            await page.click("#join")
            watching = watching or page
            await watching.wait_for_function(
                "([people]) => document.querySelectorAll('.tile').length === people", arg=[people], timeout=15_000
            )
            boxes = await watching.eval_on_selector_all(
                ".tile",
                """(tiles) => tiles.map((tile) => tile.getBoundingClientRect())
                    .map(({ left, top, right, bottom }) => [left, top, right, bottom])""",
            )
            assert len({round(left) for left, *_ in boxes}) == columns
            assert all(0 <= left < right <= 1000 and 0 <= top < bottom <= 700 for left, top, right, bottom in boxes)
            assert not any(
                one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
                for one, other in itertools.combinations(boxes, 2)
            ), boxes
    finally:
        for context in contexts:
            await context.close()
