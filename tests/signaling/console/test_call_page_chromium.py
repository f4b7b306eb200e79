"""The page of a call in real browsers against a whole server: the gate, ringing, asking, hosting, the lobby."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from playwright.async_api import Browser, Page, expect

from tests.signaling.console.browser import Watched, chromium, picture
from tests.signaling.console.served import Served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("state"))
    yield server
    server.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


WITHOUT_CAMERA = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (wanted) =>
  wanted.video ? Promise.reject(new DOMException('There is no camera.', 'NotFoundError')) : ask(wanted);
"""


class People:
    """Each in a browser context of his own, with the link an application would give him."""

    def __init__(self, server: Served, browser: Browser) -> None:
        self.server, self.browser = server, browser
        self.watched: list[Watched] = []

    async def open(self, user: str, call: str, *, width: int = 1100, camera: bool = False) -> Page:
        """Open the page of a call; without a camera, which is how most tests spare the machine."""
        context = await self.browser.new_context(viewport={"width": width, "height": 720})
        if not camera:
            await context.add_init_script(WITHOUT_CAMERA)
        page = await context.new_page()
        self.watched.append(Watched(page))
        token = f"#token={self.server.token(sub=user, name=user.title())}" if user else ""
        await page.goto(f"{self.server.url}/calls/{call}{token}")
        return page

    def api(self, method: str, path: str, user: str = "", **body: Any) -> Any:
        claims = {"sub": user, "name": user.title()} if user else {"scope": "server"}
        headers = {"authorization": f"Bearer {self.server.token(**claims)}"}
        reply = httpx2.request(method, f"{self.server.url}/v1{path}", headers=headers, json=body)
        assert reply.is_success, reply.text
        return reply.json() if reply.content else None


@pytest.fixture
async def people(server: Served, browser: Browser) -> AsyncIterator[People]:
    people = People(server, browser)
    yield people
    assert [complaint for one in people.watched for complaint in one.complaints] == []


async def join(page: Page, text: str = "Join") -> None:
    await page.get_by_role("button", name=text, exact=True).click()
    await expect(page.locator("#call")).to_be_visible()


def tiles(page: Page) -> Any:
    return page.locator("#stage .tile")


async def test_two_people_meet_and_see_each_other(people: People) -> None:
    alice = await people.open("alice", "default/meeting", camera=True)
    await expect(alice.locator("#call-line")).to_contain_text("there is no such call yet")
    assert "token" not in alice.url
    await alice.get_by_label("Camera").check()
    await join(alice, "Create and join")
    bob = await people.open("bob", "default/meeting", camera=True)
    await expect(bob.get_by_label("Camera")).to_be_checked()
    await expect(bob.locator("#call-line")).to_contain_text("1 in the call")
    await join(bob)
    for page in (alice, bob):
        await expect(tiles(page)).to_have_count(2)
        await expect(page.locator("#people-count")).to_have_text("2")
        await page.wait_for_function(
            "() => [...document.querySelectorAll('#stage video')].filter(video => video.videoWidth > 0).length === 2"
        )
    await bob.get_by_role("button", name="Leave").click()
    await expect(bob.locator("#lobby-message")).to_have_text("You left the call.")
    await expect(tiles(alice)).to_have_count(1)
    await join(bob)
    await expect(tiles(alice)).to_have_count(2)


async def test_the_gate_counts_down_and_opens(people: People) -> None:
    starts_at = (datetime.now(UTC) + timedelta(seconds=200)).isoformat()
    settings = {"backstage": {"enabled": True, "join_ahead_time_seconds": 193}}
    people.api("PUT", "/calls/livestream/soon", "host", starts_at=starts_at, settings=settings)
    viewer = await people.open("dave", "livestream/soon")
    await expect(viewer.locator("#gate")).to_contain_text("Opens in 0:0")
    button = viewer.get_by_role("button", name="Join", exact=True)
    await expect(button).to_be_disabled()
    await expect(button).to_be_enabled()
    await join(viewer)
    await expect(viewer.get_by_role("button", name="Start video")).to_be_hidden()
    # Long waits are shown as people read clocks.
    later = (datetime.now(UTC) + timedelta(hours=2, seconds=30)).isoformat()
    people.api(
        "PUT",
        "/calls/livestream/later",
        "host",
        starts_at=later,
        settings={"backstage": {"enabled": True, "join_ahead_time_seconds": 1}},
    )
    waiting = await people.open("dave", "livestream/later")
    await expect(waiting.locator("#countdown")).to_have_text(re.compile(r"^2:00:\d\d$"))


async def test_the_host_goes_live_and_those_who_wait_come_in(people: People) -> None:
    host = await people.open("hanna", "livestream/show")
    await join(host, "Create and join")
    await expect(host.locator("#live-badge")).to_have_text("backstage")
    viewer = await people.open("dave", "livestream/show")
    await expect(viewer.locator("#gate")).to_contain_text("Not live yet")
    await host.get_by_role("button", name="Go live").click()
    await expect(viewer.locator("#call")).to_be_visible()
    await expect(viewer.locator("#live-badge")).to_have_text("LIVE")
    await host.get_by_role("button", name="Stop live").click()
    await expect(viewer.locator("#lobby")).to_be_visible()
    await expect(viewer.locator("#gate")).to_contain_text("Not live yet")


async def test_ringing_and_answering(people: People) -> None:
    people.api("PUT", "/users/bob", name="Bob")
    people.api("PUT", "/users/carol", name="Carol")
    people.api("PUT", "/calls/default/ringing", "alice", member_ids=["bob", "carol"])
    alice = await people.open("alice", "default/ringing")
    bob = await people.open("bob", "default/ringing")
    carol = await people.open("carol", "default/ringing")
    await join(alice)
    await expect(bob.locator("#ready")).to_be_visible()
    await alice.get_by_role("button", name="Ring members").click()
    await expect(bob.locator("#ring-text")).to_have_text("Alice is calling with video")
    await carol.get_by_role("button", name="Decline").click()
    await expect(alice.locator("#toast")).to_have_text("carol declined.")
    await expect(carol.locator("#ringing")).to_be_hidden()
    await bob.get_by_role("button", name="Accept").click()
    await expect(bob.locator("#call")).to_be_visible()
    await expect(tiles(alice)).to_have_count(2)


async def test_asking_to_speak_and_being_heard(people: People) -> None:
    host = await people.open("hanna", "audio_room/talk")
    await join(host, "Create and join")
    await host.get_by_role("button", name="Go live").click()
    await expect(host.locator("#live-badge")).to_have_text("LIVE")
    dave = await people.open("dave", "audio_room/talk")
    await join(dave)
    await expect(dave.locator("#mic")).to_be_hidden()
    await dave.get_by_role("button", name="Ask to speak").click()
    await expect(host.locator("#people-wait")).to_have_text("1 waiting")
    await host.locator("#people-toggle").click()
    await expect(host.locator("#request-list")).to_contain_text("Dave")
    await host.get_by_role("button", name="Grant: Dave").click()
    await expect(dave.locator("#toast")).to_have_text("You may speak now.")
    await dave.get_by_role("button", name="Unmute").click()
    await expect(host.locator("#sounds audio")).to_have_count(1)
    # The host may silence him, and nobody but he himself turns the microphone on again.
    await host.get_by_role("button", name="Mute: Dave").click()
    await expect(dave.locator("#toast")).to_have_text("The host muted you.")
    await expect(dave.get_by_role("button", name="Unmute")).to_be_visible()


async def test_the_lobby(people: People) -> None:
    people.api("PUT", "/calls/default/lobby", "host", settings={"lobby": {"enabled": True}})
    host = await people.open("host", "default/lobby")
    await join(host)
    await host.locator("#people-toggle").click()
    for user, verdict in (("dave", "Admit"), ("erin", "Deny")):
        page = await people.open(user, "default/lobby")
        await page.get_by_role("button", name="Join", exact=True).click()
        await expect(page.locator("#gate")).to_contain_text("Waiting for the host to let you in")
        await host.get_by_role("button", name=f"{verdict}: {user}").click()
        if verdict == "Admit":
            await expect(page.locator("#call")).to_be_visible()
        else:
            await expect(page.locator("#lobby-message")).to_have_text("The host did not let you in.")
            await expect(page.locator("#call")).to_be_hidden()


async def test_the_host_removes_somebody_and_ends_the_call(people: People) -> None:
    people.api("PUT", "/calls/default/hosted", "host")
    host = await people.open("host", "default/hosted")
    await join(host)
    dave = await people.open("dave", "default/hosted")
    await join(dave)
    await host.locator("#people-toggle").click()
    await host.get_by_role("button", name="Remove: Dave").click()
    await expect(dave.locator("#lobby-message")).to_have_text("You are not in the call any more.")
    await join(dave)
    await expect(dave.get_by_role("button", name="End for all")).to_be_hidden()
    people.watched[0].expected.add("End the call for everybody?")
    await host.get_by_role("button", name="End for all").click()
    await expect(dave.locator("#gate")).to_contain_text("This call has ended.")
    await expect(dave.locator("#join")).to_be_hidden()
    await expect(host.get_by_role("button", name="Reopen the call")).to_be_visible()


async def test_guests_come_by_name_where_they_may(people: People) -> None:
    people.api("PUT", "/calls/default/open", "host")
    page = await people.open("", "default/open")
    await page.get_by_label("Your name").fill("<b>Visitor</b>")
    await page.get_by_role("button", name="Continue as a guest").click()
    await expect(page.locator("#lobby-message")).to_contain_text("takes no guests")
    people.api("PATCH", "/app", guests_enabled=True)
    await page.get_by_role("button", name="Continue as a guest").click()
    await join(page)
    await expect(page.locator("#stage .who")).to_have_text("<b>Visitor</b> (you)")
    stranger = await people.open("", "default/open")
    await stranger.get_by_text("I have a token").click()
    await stranger.get_by_label("Token").fill("not.a.token")
    await stranger.get_by_role("button", name="Continue as a guest").click()
    await expect(stranger.locator("#lobby-message")).to_contain_text("expired or is not valid")


async def test_a_call_is_chosen_by_type_and_id(people: People) -> None:
    page = await people.open("", "")
    await page.goto(f"{people.server.url}/calls")
    await page.get_by_label("Call type").fill("livestream")
    await page.get_by_label("Call id").fill("launch")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{people.server.url}/calls/livestream/launch")


async def test_pictures_for_the_documentation(people: People) -> None:
    people.api("PUT", "/users/hanna", name="Hanna")
    starts_at = (datetime.now(UTC) + timedelta(seconds=500)).isoformat()
    settings = {"backstage": {"enabled": True, "join_ahead_time_seconds": 300}}
    people.api(
        "PUT",
        "/calls/livestream/launch",
        "hanna",
        starts_at=starts_at,
        settings=settings,
        custom={"name": "Product launch"},
    )
    viewer = await people.open("dave", "livestream/launch", width=760)
    await expect(viewer.locator("#gate")).to_contain_text("Opens in 3:")
    host = await people.open("hanna", "livestream/launch", camera=True)
    await expect(host.get_by_label("Camera")).to_be_checked()
    await join(host, "Join backstage")
    await host.get_by_role("button", name="Go live").click()
    await expect(viewer.locator("#call")).to_be_visible()
    await viewer.get_by_role("button", name="Ask to speak").click()
    await host.locator("#people-toggle").click()
    await expect(host.get_by_role("button", name="Grant: Dave")).to_be_visible()
    waiting = await people.open("erin", "livestream/again", width=760)
    people.api(
        "PUT",
        "/calls/livestream/again",
        "hanna",
        starts_at=starts_at,
        settings=settings,
        custom={"name": "Product launch"},
    )
    await waiting.reload()
    await expect(waiting.locator("#gate")).to_contain_text("Opens in")
    if "CALLYARD_TESTS_PICTURES" in os.environ:
        await picture(host, "call-host")
        await picture(waiting, "call-gate")
