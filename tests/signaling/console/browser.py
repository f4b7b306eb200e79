"""Real Chromium for the console's tests, and pictures of its pages for the documentation."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Dialog, Page, async_playwright, expect

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "docs" / "images"
CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
PATIENCE_MS = 45_000
"""How long anything may take: a test machine may be busy with much else."""

expect.set_options(timeout=PATIENCE_MS)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        await browser.close()


class Watched:
    """A page whose complaints are collected: script errors, refused resources, dialogs."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", lambda message: self._said(message.type, message.text))
        self.expected: set[str] = set()
        """Questions that are answered with yes; any other dialog is a complaint."""
        page.on("dialog", self._asked)

    async def _asked(self, dialog: Dialog) -> None:
        if dialog.message in self.expected:
            await dialog.accept()
        else:
            self.complaints.append(f"dialog: {dialog.message}")
            await dialog.dismiss()

    def _said(self, kind: str, text: str) -> None:
        # A refusal is an answer with a status of its own; the browser reports each as an error. And LiveKit's client
        # logs whatever a server closes.
        expected = "Failed to load resource" in text or "roomID: " in text
        if kind == "error" and not expected:
            self.complaints.append(f"console: {text}")


async def picture(page: Page, name: str) -> None:
    """Write a picture for the documentation, with the times that change from run to run covered."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=PICTURES / f"{name}.png", scale="css", animations="disabled")
