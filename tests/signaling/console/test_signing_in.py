"""Getting into the console: tokens, the session cookie, CSRF, host names, headers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from starlette.applications import Starlette

from signaling.calls.principal import mint
from signaling.console.dashboard import console_routes
from signaling.console.sessions import Operator, csrf_holds, open_session, read_session
from signaling.console.web import COOKIE
from tests.signaling.api.world import KEY, SECRET, START, World, code
from tests.signaling.console.conftest import Desk

PAGES = ["/console", "/console/calls", "/console/roles", "/console/types", "/console/webhooks", "/console/users",
         "/console/audit", "/console/types/default", "/console/calls/default/x", "/console/nowhere"]  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
async def test_without_a_session_there_is_only_the_login(stranger: Desk, page: str) -> None:
    reply = await stranger.http.get(page)
    assert reply.status_code == 303
    assert reply.headers["location"].startswith("/console/login")
    assert "Sign in to the console" in (await stranger.get(page)).text


async def test_every_post_needs_a_session_and_its_token(world: World, app: Starlette, stranger: Desk) -> None:
    posts = [route for route in console_routes(world.service) if "POST" in (getattr(route, "methods", None) or ())]
    assert len(posts) >= 10
    for route in posts:
        path = str(getattr(route, "path", "")).replace("{type}/{id}", "default/x")
        for name in ("{name}", "{webhook}", "{user}"):
            path = path.replace(name, "x")
        if path == "/console/login":
            continue
        reply = await stranger.http.post(path, data={"csrf": "guess"})
        assert (reply.status_code, reply.headers["location"]) == (303, "/console/login"), path
        signed_in = Desk(app)
        await signed_in.sign_in(world.token({"scope": "server"}))
        forged = await signed_in.http.post(path, data={"csrf": "0" * 64, "name": "evil", "do": "delete"})
        assert forged.status_code in (400, 404), path
        assert "not from this page" in forged.text or "There is no " in forged.text
        await signed_in.http.aclose()
    assert "evil" not in (await world.server.get("/roles")).text
    assert (await world.server.get("/audit")).json()["items"] == []


async def test_other_sites_cannot_post(world: World, desk: Desk) -> None:
    """S-53"""
    fields = {"csrf": desk.csrf, "name": "usher", "type": "default"}
    for header in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
    ):
        reply = await desk.http.post("/console/roles/new", data=fields, headers=header)
        assert reply.status_code == 400
    assert "usher" not in (await world.server.get("/roles")).text
    honest = {"sec-fetch-site": "same-origin", "origin": "http://localhost:7880"}
    assert (await desk.http.post("/console/roles/new", data=fields, headers=honest)).status_code == 303
    login = await desk.http.post("/console/login", data={"token": "x"}, headers={"sec-fetch-site": "cross-site"})
    assert login.status_code == 403


async def test_the_cookie_is_kept_from_scripts_and_other_sites(world: World, stranger: Desk) -> None:
    for scheme, secure in (("http", False), ("https", True)):
        reply = await stranger.http.post(
            "/console/login",
            data={"token": world.token({"scope": "server"}, seconds=60)},
            headers={"x-forwarded-proto": scheme},
        )
        cookie = reply.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert "path=/console" in cookie
        assert "max-age=60;" in cookie
        assert ("secure" in cookie) is secure


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"sub": "alice"}, 403),
        ({"scope": "anonymous", "calls": ["default:x"]}, 403),
        ({"sub": "boss", "calls": ["default:x"]}, 403),
        ({"sub": "boss", "role": "listener"}, 403),
        ({"sub": "boss", "ceiling": ["call.read"]}, 403),
        ({"sub": "boss", "teams": ["red"]}, 403),
        ({"sub": "alice", "video": {"roomJoin": True}}, 401),
    ],
)
async def test_only_admins_tokens_open_it(world: World, stranger: Desk, claims: dict[str, object], status: int) -> None:
    await world.users("boss", role="admin")
    reply = await stranger.http.post("/console/login", data={"token": world.token(claims)})
    assert reply.status_code == status
    assert "set-cookie" not in reply.headers
    for text in ("", "nonsense", "a.b.c"):
        assert (await stranger.http.post("/console/login", data={"token": text})).status_code == 401


async def test_an_app_admin_sees_what_the_api_lets_him(world: World, stranger: Desk) -> None:
    await world.users("boss", role="admin")
    await stranger.sign_in(world.token({"sub": "boss"}))
    page = await stranger.get("/console/roles")
    assert page.status_code == 200
    assert "Webhooks" not in page.text
    for forbidden in ("/console/webhooks", "/console/users", "/console/audit"):
        reply = await stranger.get(forbidden)
        assert reply.status_code == 403
        assert "app.admin" in reply.text
    # His rights are asked about at every request, not only when he signed in.
    await world.users("boss", role="user")
    assert "Sign in to the console" in (await stranger.get("/console/roles")).text


async def test_a_session_is_no_api_token_and_a_token_is_no_session(world: World, desk: Desk) -> None:
    cookie = desk.http.cookies[COOKIE]
    world.server.headers["authorization"] = f"Bearer {cookie}"
    assert code(await world.server.get("/call-types")) == (401, "unauthenticated")
    desk.http.cookies.clear()
    desk.http.cookies.set(COOKIE, world.token({"scope": "server"}), path="/console")
    assert "Sign in to the console" in (await desk.get("/console/calls")).text


async def test_a_session_ends(world: World, desk: Desk) -> None:
    reply = await desk.post("/console/logout")
    assert "Sign in to the console" in reply.text
    assert COOKIE not in desk.http.cookies
    await desk.sign_in(world.token({"scope": "server"}))
    world.clock.now += timedelta(hours=8, seconds=1)
    assert "Sign in to the console" in (await desk.get("/console/calls")).text


def test_forged_cookies_open_nothing() -> None:
    keys = {KEY: SECRET}
    cookie = open_session(keys, Operator(None, START + timedelta(hours=1)), START)
    session = read_session(keys, cookie, START)
    assert session is not None
    assert csrf_holds(session, session.csrf)
    assert not csrf_holds(session, "")
    assert not csrf_holds(session, "ü")
    expired = START + timedelta(hours=2)
    assert read_session(keys, cookie, expired) is None
    assert read_session({KEY: "other"}, cookie, START) is None
    claims = {"scope": "console", "sid": "s", "exp": int(expired.timestamp())}
    for wrong in ({"scope": "server"}, {"sid": 1}, {"sid": None}, {"exp": "soon"}, {"exp": 1e300}, {"admin": 5}):
        assert read_session(keys, mint({**claims, **wrong}, KEY, SECRET), START) is None
    for text in ("", "a.b.c", cookie + "x", cookie.replace(".", ""), "ü" * 10):
        assert read_session(keys, text, START) is None


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("localhost", True), ("127.0.0.1:7880", True), ("[::1]:7880", True), ("192.0.2.7", True),
        ("calls.example.org", True), ("CALLS.example.org:443", True),
        ("evil.example", False), ("calls.example.org.evil.example", False), ("localhost.evil.example", False),
        ("", False),
    ],
)  # fmt: skip
async def test_only_known_host_names_are_answered(app: Starlette, host: str, answered: bool) -> None:
    """S-53"""
    desk = Desk(app)
    for page in ("/console/login", "/console/calls"):
        reply = await desk.http.get(page, headers={"host": host})
        assert (reply.status_code != 421) is answered
    posted = await desk.http.post("/console/login", data={"token": "x"}, headers={"host": host})
    assert (posted.status_code != 421) is answered
    await desk.http.aclose()


async def test_every_page_carries_its_headers(desk: Desk, stranger: Desk) -> None:
    for reply in (await desk.get("/console/roles"), await desk.get("/console/nowhere"), await stranger.get("/console")):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["cache-control"] == "no-store"
        assert "<script>" not in reply.text
        assert " style=" not in reply.text


@pytest.mark.parametrize(
    "target", ["https://evil.example", "//evil.example", "/console//evil.example", "/console/\\evil", ""]
)
async def test_signing_in_leads_to_no_other_site(world: World, stranger: Desk, target: str) -> None:
    token = world.token({"scope": "server"})
    reply = await stranger.http.post("/console/login", data={"token": token, "next": target})
    assert reply.headers["location"] == "/console/calls"
    reply = await stranger.http.post("/console/login", data={"token": token, "next": "/console/audit"})
    assert reply.headers["location"] == "/console/audit"
