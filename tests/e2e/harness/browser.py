"""Chromium with the official JavaScript client: a page per participant, driven from Python."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from bench.links.lab import Side
from tests.e2e.harness.server import REPOSITORY, Endpoint

CLIENT = REPOSITORY / "signaling/console/static/vendor/livekit-client.umd.js"
E2EE_WORKER = REPOSITORY / "tests/e2e/harness/vendor/livekit-client.e2ee.worker.js"
PAGE = REPOSITORY / "tests/e2e/harness/page.js"
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    "--auto-select-desktop-capture-source=Entire",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-backgrounding-occluded-windows",
)


def executable() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise AssertionError("no Chromium; tools/machine_packages installs it")


def _within(side: Side, directory: str) -> str:
    """A program that starts the browser in a namespace."""
    program = Path(directory, "chromium")
    program.write_text(f'#!/bin/sh\nexec {shlex.join(side.command(executable()))} "$@"\n')
    program.chmod(0o700)
    return str(program)


@asynccontextmanager
async def launched(*flags: str, side: Side | None = None) -> AsyncIterator[Browser]:
    """`side`: the namespace that it runs in."""
    with tempfile.TemporaryDirectory(prefix="callyard-browser-") as directory:
        program = _within(side, directory) if side is not None else executable()
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=program, args=[*FLAGS, *flags])
            try:
                yield browser
            finally:
                await browser.close()


class Tab:
    """One participant in a page of its own; what it can do is in `page.js`."""

    def __init__(self, page: Page, identity: str) -> None:
        self.page = page
        self.identity = identity

    async def call(self, name: str, *arguments: Any) -> Any:
        """`e2e.name(…arguments)` in the page."""
        return await self.page.evaluate("([name, given]) => window.e2e[name](...given)", [name, list(arguments)])

    async def until(self, name: str, *arguments: Any, seconds: float = 20, what: str = "") -> Any:
        """Waits until `e2e.name(…arguments)` is truthy and returns it."""
        return await self._until(lambda: self.call(name, *arguments), seconds, what or f"{name}{arguments}")

    async def holds(self, condition: str, *arguments: Any, seconds: float = 20) -> None:
        """Waits until this function of JavaScript, an async one too, is true of the arguments.

        Playwright's own `wait_for_function` takes any promise for true.
        """
        await self._until(lambda: self.page.evaluate(condition, list(arguments)), seconds, condition)

    async def _until(self, ask: Callable[[], Awaitable[Any]], seconds: float, what: str) -> Any:
        deadline = asyncio.get_running_loop().time() + seconds
        while not (found := await ask()):
            if asyncio.get_running_loop().time() > deadline:
                events = await self.call("events")
                raise AssertionError(f"{self.identity} waited {seconds} s in vain for {what}; told {events}")
            await asyncio.sleep(0.1)
        return found

    async def event(self, name: str, *, count: int = 1, seconds: float = 20) -> None:
        await self.until("told", name, count, seconds=seconds, what=f"{name} #{count}")

    async def shows(self, identity: str, source: str, left: str, right: str, *, seconds: float = 20) -> Any:
        """Waits until the video of `identity` shows these colours and moves on; returns its size."""
        return await self.until("shows", identity, source, left, right, seconds=seconds)

    async def hears(self, identity: str, frequency_hz: float, *, seconds: float = 20) -> None:
        await self.until("hears", identity, frequency_hz, seconds=seconds)


class Tabs:
    """The pages of one test."""

    def __init__(self, browser: Browser, server: Endpoint, room: str) -> None:
        self._browser = browser
        self._server = server
        self._room = room
        self._pages: list[Page] = []

    async def open(self, identity: str) -> Tab:
        """A page with the client loaded, on the server's own origin, not joined."""
        context = await self._browser.new_context(permissions=["camera", "microphone"], bypass_csp=True)
        page = await context.new_page()
        self._pages.append(page)
        await page.goto(self._server.url + "/")
        await page.add_script_tag(path=CLIENT)
        await page.add_script_tag(path=PAGE)
        return Tab(page, identity)

    async def join(
        self, identity: str, *, single: bool = True, url: str | None = None, token: str | None = None, **options: Any
    ) -> Tab:
        """`options`: of the client's Room; `connect` are those of its `connect`, `without_decoder` a codec it lacks."""
        tab = await self.open(identity)
        if lacking := options.pop("without_decoder", None):
            await tab.call("withoutDecoder", lacking)
        token = token or self._server.token(self._room, identity, can_update_own_metadata=True)
        connect = options.pop("connect", {})
        await tab.call("join", url or self._server.ws_url, token, {"singlePeerConnection": single, **options}, connect)
        return tab

    async def join_encrypted(self, identity: str, key: str, *, single: bool = True, **options: Any) -> Tab:
        """End to end: the server sees sealed frames only."""
        tab = await self.open(identity)
        token = self._server.token(self._room, identity)
        options = {"singlePeerConnection": single, **options}
        await tab.call("joinEncrypted", self._server.ws_url, token, options, E2EE_WORKER.read_text("utf-8"), key)
        return tab

    async def close(self) -> None:
        for page in self._pages:
            await page.context.close()
