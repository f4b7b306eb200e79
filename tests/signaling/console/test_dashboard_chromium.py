"""The dashboard in a real browser: the members-only recipe by keyboard (A-81), running calls (A-82), escaping (S-73).

The pictures of the documentation are made here, where `CALLYARD_TESTS_PICTURES` says so.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from playwright.async_api import Browser, Page, expect
from starlette.applications import Starlette

from signaling.console.backend import ParticipantFigures
from tests.signaling.api.world import World, code
from tests.signaling.console.browser import Watched, chromium, picture
from tests.signaling.console.conftest import Meter
from tests.signaling.console.test_pages import NASTY
from tests.signaling.listening import listening

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


@pytest.fixture
async def url(app: Starlette) -> AsyncIterator[str]:
    async with listening(app) as (port, _):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


async def sign_in(browser: Browser, world: World, url: str, scheme: str = "light", width: int = 1200) -> Watched:
    context = await browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    page = await context.new_page()
    watched = Watched(page)
    await page.goto(f"{url}/console/roles")
    await page.get_by_label("API token").fill(world.token({"scope": "server"}))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Roles & Permissions")).to_be_visible()
    return watched


async def tab_to(page: Page, selector: str) -> None:
    """Reach an element by the Tab key alone, as somebody without a mouse does."""
    for _ in range(120):
        if await page.evaluate("selector => document.activeElement?.matches(selector)", selector):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"{selector} is not reached by Tab")


async def choose(page: Page, selector: str, wanted: str) -> None:
    """Choose an option by typing its first letters."""
    await tab_to(page, selector)
    await page.keyboard.type(wanted, delay=20)
    await expect(page.locator(selector)).to_have_value(wanted)
    await page.wait_for_function(
        "([name, value]) => document.querySelector(`#grants-form [name=${name}]`)?.value === value",
        arg=[await page.locator(selector).get_attribute("name"), wanted],
    )


async def test_a81_members_only_by_keyboard(world: World, url: str, browser: Browser) -> None:
    await world.server.post("/call-types", {"name": "my-call-type"})
    await world.server.patch("/call-types/my-call-type/grants", {"call_member": {"remove": ["call.join"]}})
    watched = await sign_in(browser, world, url)
    page = watched.page
    join = "input[name=granted][value='call.join']"

    await choose(page, "#type-picker", "my-call-type")
    await page.evaluate("document.activeElement.blur()")
    await choose(page, "#role-picker", "user")
    await tab_to(page, join)
    await page.keyboard.press("Space")
    await expect(page.locator("#changes .minus")).to_have_text("− call.join")
    await tab_to(page, "#save")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_have_text("Saved.")
    await expect(page.locator(join)).not_to_be_checked()

    await choose(page, "#role-picker", "call_member")
    await tab_to(page, join)
    await page.keyboard.press("Space")
    await expect(page.locator("#changes .plus")).to_have_text("+ call.join")
    await tab_to(page, "#save")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_have_text("Saved.")

    # What must follow is that of A-80.
    await world.users("charlie")
    await world.call("my-call-type/x", by="host", members=[{"user_id": "charlie", "role": "call_member"}])
    await world.call("default/x", by="host")
    refused = await world.as_("dave").post("/calls/my-call-type/x/join", {})
    assert code(refused) == (403, "missing_capability")
    assert refused.json()["capability"] == "call.join"
    await world.as_("charlie").join("my-call-type/x")
    await world.as_("dave").join("default/x")

    await page.goto(f"{url}/console/audit")
    rows = page.get_by_role("row").filter(has_text="call_type.update").filter(has_text="my-call-type")
    await expect(rows).to_have_count(3)
    await expect(rows.nth(0)).to_contain_text("grants.call_member call.join")
    await expect(rows.nth(1)).to_contain_text("grants.user call.join")
    assert watched.complaints == []


async def test_a82_a_change_reaches_running_calls_of_the_scope(world: World, url: str, browser: Browser) -> None:
    await world.server.post("/call-types", {"name": "my-call-type"})
    joined = {}
    for type_ in ("my-call-type", "default"):
        await world.call(f"{type_}/x", by="host")
        joined[type_] = (await world.as_("dave").join(f"{type_}/x"))["participant"]
    listener = await world.listen(world.as_("dave"))
    watched = await sign_in(browser, world, url)
    page = watched.page
    await page.goto(f"{url}/console/roles?type=my-call-type&role=user")
    await page.locator("input[name=granted][value='call.join']").uncheck()
    await expect(page.locator("#changes")).to_contain_text("Reaches 1 running call with 1 participant at once")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status")).to_have_text("Saved.")
    assert [(room, reason) for room, _, reason in world.media.removed] == [
        (joined["my-call-type"]["session_id"], "lost_capability")
    ]
    told = listener.only("call.capabilities_updated")
    assert [(event["cid"], event["data"]["removed"]) for event in told] == [("my-call-type:x", ["call.join"])]
    assert watched.complaints == []


async def test_two_people_at_work_do_not_undo_each_other(world: World, url: str, browser: Browser) -> None:
    watched = await sign_in(browser, world, url)
    page = watched.page
    await world.server.patch("/call-types/default/grants", {"user": {"remove": ["call.ring"]}})
    await page.locator("input[name=granted][value='call.end']").check()
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status")).to_have_text("Saved.")
    await expect(page.locator("input[name=granted][value='call.end']")).to_be_checked()
    await expect(page.locator("input[name=granted][value='call.ring']")).not_to_be_checked()


async def test_a_live_call_is_watched_and_moderated(world: World, url: str, browser: Browser, meter: Meter) -> None:
    await world.users("host", "dave", "erin")
    await world.call("default/x", by="host")
    session = (await world.as_("host").join("default/x"))["participant"]["session_id"]
    meter.rooms[session] = [ParticipantFigures("host:phone", 900_000, 40_000, 18, 0.0, 0.01, "excellent")]
    watched = await sign_in(browser, world, url)
    page = watched.page
    await page.goto(f"{url}/console/calls")
    await page.get_by_role("link", name="default:x").click()
    await expect(page.locator("#chart-bitrate canvas")).to_be_visible()
    await expect(page.locator("#chart-joins canvas")).to_be_visible()
    people = page.locator("#people tbody tr")
    await expect(people).to_have_count(1)
    await world.as_("dave").join("default/x")
    await expect(people).to_have_count(2)
    await page.get_by_role("link", name="Why Dave may what he may").click()
    await expect(page.locator("#explained")).to_contain_text("grants of the role user in default")
    await page.evaluate(
        "target => htmx.ajax('GET', '/console/calls/default/x/explain?user=nobody', { target, swap: 'innerHTML' })",
        "#explained",
    )
    await expect(page.locator("#explained")).to_contain_text("There is no such user.")
    # Whoever is on a button keeps it while the list renews itself.
    await page.get_by_role("button", name="Mute the microphone of Dave").focus()
    await world.as_("erin").join("default/x")
    await page.wait_for_timeout(3_500)
    await expect(page.get_by_role("button", name="Mute the microphone of Dave")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("status")).to_have_text("Done.")
    assert (session, "dave:phone", ("microphone",)) in world.media.muted
    await page.get_by_role("button", name="Kick Dave").click()
    await expect(people).to_have_count(2)
    assert (session, "dave:phone", "kicked") in world.media.removed
    watched.expected.add("End the call for everybody?")
    await page.get_by_role("button", name="End call").click()
    await expect(page.get_by_role("button", name="Reopen")).to_be_visible()
    assert world.media.rooms == {}
    assert watched.complaints == []


async def test_s73_nothing_that_is_shown_runs(world: World, url: str, browser: Browser) -> None:
    """S-73"""
    corpus = [
        NASTY,
        "javascript:alert(1)",
        "<svg/onload=alert(1)>",
        "</title><script>alert(1)</script>",
        '"autofocus onfocus=alert(1) x="',
        "{{constructor.constructor('alert(1)')()}}",
        "<a hx-get=/console/calls hx-trigger=load>x</a>",
        "</textarea><iframe srcdoc='<script>alert(1)</script>'>",
        "&lt;script&gt;alert(1)&lt;/script&gt;",
    ]
    for number, text in enumerate(corpus):
        user = f"user{number}"
        await world.users(user, name=text, teams=[text], custom={text: text})
        await world.as_(user).post(f"/users/{user}/devices", {"provider": "fcm", "token": text})
        await world.call(f"default/call{number}", by=user, custom={"name": text, text: text}, team=text)
        await world.as_(user).join(f"default/call{number}")
        await world.users(f"other{number}")
        await world.server.put(f"/calls/default/call{number}/blocks/other{number}", {"reason": text})
        await world.server.put(f"/bans/other{number}", {"reason": text})
    watched = await sign_in(browser, world, url)
    page = watched.page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    addresses = ["calls", "calls?state=all", "users", "audit"]
    for number in range(len(corpus)):
        addresses += [f"calls/default/call{number}?user=user{number}", f"users/user{number}", f"users/other{number}"]
    for address in addresses:
        await page.goto(f"{url}/console/{address}")
        assert (
            await page.locator("script:not([src]), iframe, svg, img:not([alt='']), [onfocus], [onerror]").count() == 0
        )
    names = await page.goto(f"{url}/console/users")
    assert names is not None
    for text in corpus:
        await expect(page.get_by_role("link", name=text, exact=True)).to_be_visible()
    assert watched.complaints == []
    assert all(one.startswith(url) for one in asked)


async def test_a_ban_by_address_is_given_and_lifted_by_keyboard(world: World, url: str, browser: Browser) -> None:
    await world.users("alice", "bob")
    await world.call("default/x", by="alice")
    home = "203.0.113.7"
    assert (await world.as_("bob").at(home).get("/calls/default/x")).status_code == 200
    watched = await sign_in(browser, world, url)
    page = watched.page
    await page.goto(f"{url}/console/users/bob")
    box = page.get_by_role("checkbox", name="His addresses too")
    await expect(box).to_be_visible()
    await expect(box).not_to_be_checked()
    await tab_to(page, "input[name=reason]")
    await page.keyboard.type("spam")
    await tab_to(page, "input[name=ip]")
    await page.keyboard.press("Space")
    await expect(box).to_be_checked()
    await tab_to(page, "button[value=ban]")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("with the addresses he was seen at")).to_be_visible()
    # A neighbour from the same address is refused, from elsewhere he is not.
    carl = world.as_("carl")
    assert code(await carl.at(home).get("/calls/default/x")) == (403, "banned")
    assert (await carl.at("198.51.100.4").get("/calls/default/x")).status_code == 200
    await page.get_by_role("button", name="Lift the ban").click()
    await expect(box).to_be_visible()
    assert (await carl.at(home).get("/calls/default/x")).status_code == 200
    # Without the box the addresses stay free.
    await page.get_by_role("button", name="Ban from everything").click()
    await expect(page.get_by_text("Banned")).to_be_visible()
    await expect(page.get_by_text("with the addresses he was seen at")).not_to_be_visible()
    assert (await carl.at(home).get("/calls/default/x")).status_code == 200
    assert watched.complaints == []


async def test_pictures_for_the_documentation(world: World, url: str, browser: Browser, meter: Meter) -> None:
    await world.users("hanna", "alice", "bob", "dave")
    await world.server.post("/call-types", {"name": "my-call-type"})
    people = [{"user_id": "alice", "role": "speaker"}, {"user_id": "bob", "role": "call_member"}]
    await world.call("my-call-type/standup", by="hanna", custom={"name": "Daily standup"}, members=people)
    session = ""
    for user in ("hanna", "alice", "dave"):
        session = (await world.as_(user).join("my-call-type/standup", device="laptop"))["participant"]["session_id"]
        await world.advance(20)
    await world.call("livestream/launch", by="hanna", custom={"name": "Product launch"})
    meter.rooms[session] = [
        ParticipantFigures(f"{user}:laptop", 1_200_000, 2_300_000, rtt, 0.002, 0.004, "excellent")
        for user, rtt in (("hanna", 18.0), ("alice", 42.0), ("dave", 31.0))
    ]
    wanted = "CALLYARD_TESTS_PICTURES" in os.environ
    for scheme in ("light", "dark"):
        watched = await sign_in(browser, world, url, scheme)
        page = watched.page
        await page.goto(f"{url}/console/roles?type=my-call-type&role=user")
        await page.locator("input[name=granted][value='call.join']").uncheck()
        await expect(page.locator("#changes")).to_contain_text("Reaches 1 running call with 3 participants")
        if wanted:
            await picture(page, f"console-roles-{scheme}")
        await page.goto(f"{url}/console/calls/my-call-type/standup")
        await expect(page.locator("#chart-quality canvas")).to_be_visible()
        if wanted:
            for step in range(8):
                meter.rooms[session] = [
                    ParticipantFigures(
                        f"{user}:laptop", 900_000 + 90_000 * step, 2_100_000, rtt + step, 0.0, 0.004, "good"
                    )
                    for user, rtt in (("hanna", 18.0), ("alice", 42.0), ("dave", 31.0))
                ]
                world.clock.now += timedelta(seconds=2)
                await page.wait_for_timeout(2_000)
            await picture(page, f"console-call-{scheme}")
        # Contrast and width are looked at in both schemes: nothing is wider than the window, even a small one.
        await page.set_viewport_size({"width": 390, "height": 800})
        for address in (
            "roles",
            "calls",
            "types",
            "types/default",
            "users",
            "webhooks",
            "audit",
            "calls/my-call-type/standup",
        ):
            await page.goto(f"{url}/console/{address}")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        assert watched.complaints == []


async def test_everything_one_works_with_has_a_name(world: World, url: str, browser: Browser) -> None:
    await world.call("default/x", by="alice")
    await world.as_("alice").join("default/x")
    await world.server.post("/webhooks", {"url": "https://hooks.example.com/x"})
    hook = (await world.server.get("/webhooks")).json()["items"][0]["id"]
    watched = await sign_in(browser, world, url)
    page = watched.page
    pages = [
        "calls",
        "calls/default/x",
        "roles",
        "types",
        "types/default",
        "webhooks",
        f"webhooks/{hook}",
        "users",
        "users/alice",
        "audit",
        "app",
    ]
    for address in pages:
        await page.goto(f"{url}/console/{address}")
        nameless = await page.evaluate(
            """() => [...document.querySelectorAll('input:not([type=hidden]), select, button, a')].filter(one => {
                const label = one.labels?.[0]?.textContent || one.getAttribute('aria-label') || one.textContent;
                return !label.trim();
            }).map(one => one.outerHTML)"""
        )
        assert nameless == [], address
        assert await page.locator("h1").count() == 1
        assert await page.evaluate("document.documentElement.lang") == "en"
        # The first Tab offers to skip the navigation, and one sees where one is.
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the page"
        await page.keyboard.press("Tab")
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
