"""livekit-client in Chromium: data, RPC, metadata, and every way it has to lose and regain a session."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import jwt
import pytest

from tests.e2e.harness.browser import Tab, Tabs
from tests.e2e.harness.server import EXTERNAL_URL, Endpoint
from tests.e2e.harness.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
CAMERA, SCREEN, MICROPHONE = "camera", "screen_share", "microphone"
PICTURE = {"source": CAMERA, "simulcast": True, "videoCodec": "vp8"}


async def pair(tabs: Tabs, single: bool) -> tuple[Tab, Tab]:
    alice, bob = await tabs.join("alice", single=single), await tabs.join("bob", single=single)
    await alice.event("participantActive")
    await bob.page.wait_for_function("() => window.e2e.people().join() === 'alice'", timeout=10_000)
    return alice, bob


async def publish_all(alice: Tab, bob: Tab) -> None:
    await alice.call("publishPicture", "red", "green", 640, 360, 15, PICTURE)
    await alice.call("publishTone", 440, {"source": MICROPHONE})
    await bob.call("publishTone", 1000, {"source": MICROPHONE})
    await flows(alice, bob)


async def flows(alice: Tab, bob: Tab) -> None:
    """Pictures that move, and both tones."""
    await bob.shows("alice", CAMERA, "red", "green", seconds=30)
    frames = (await bob.call("stats", "alice", CAMERA))["frames"]
    await bob.holds("async ([before]) => (await window.e2e.stats('alice', 'camera'))?.frames > before + 5", frames)
    await bob.hears("alice", 440)
    await alice.hears("bob", 1000)


@MODES
async def test_data_text_calls_and_metadata_pass(tabs: Tabs, single: bool) -> None:
    alice, bob = await pair(tabs, single)
    await alice.call("send", "reliable news", {"reliable": True, "topic": "t"})
    await bob.event("dataReceived")
    await alice.call("send", "lossy news", {"reliable": False})
    await bob.event("dataReceived", count=2)
    given = await bob.call("given", "dataReceived")
    assert [entry[:2] for entry in given] == [["reliable news", "alice"], ["lossy news", "alice"]]
    assert given[0][3] == "t"
    await bob.call("collectText", "chat")
    long = "text " * 8000
    await alice.call("sendText", long, {"topic": "chat"})
    await bob.page.wait_for_function("() => window.e2e.texts().length === 1", timeout=10_000)
    assert await bob.call("texts") == [["alice", long]]
    await bob.call("collectFiles", "files")
    await alice.call("sendFile", long, "long.txt", "files")
    assert await bob.until("files") == [["alice", "long.txt", long]]
    await bob.call("answer", "greet")
    assert await alice.call("ask", "bob", "greet", "hi") == "alice said hi"
    assert await alice.call("setMetadata", '{"seat": 4}')
    assert await alice.call("setAttributes", {"hand": "raised"})
    await bob.page.wait_for_function("() => window.e2e.metadata('alice') === '{\"seat\": 4}'", timeout=10_000)
    await bob.page.wait_for_function("() => window.e2e.attributes('alice').hand === 'raised'", timeout=10_000)


async def test_descriptions_are_compressed_on_their_way_to_a_browser(tabs: Tabs, server: Endpoint) -> None:
    proxy = await TcpProxy(server.url).start()
    try:
        alice = await tabs.join("alice", single=True)
        bob = await tabs.join("bob", single=True, url=proxy.url)
        await publish_all(alice, bob)
        # Without it, 57 kB.
        assert proxy.told_bytes < 20_000
    finally:
        await proxy.stop()


@MODES
async def test_a_cut_signal_connection_is_resumed(tabs: Tabs, server: Endpoint, single: bool) -> None:
    """F-12"""
    proxy = await TcpProxy(server.url).start()
    try:
        alice = await tabs.join("alice", single=single, url=proxy.url)
        bob = await tabs.join("bob", single=single)
        await publish_all(alice, bob)
        sid = await alice.call("sid")
        track = await bob.call("published", "alice", CAMERA)
        proxy.cut()
        await alice.event("reconnected", seconds=30)
        assert await alice.call("sid") == sid
        assert await bob.call("published", "alice", CAMERA) == track
        assert not await bob.call("told", "participantDisconnected", 1)
        assert not await alice.call("told", "localTrackUnpublished", 1)
        await flows(alice, bob)
        # The renewed connection serves for what is new.
        await bob.call("publishPicture", "blue", "grey", 320, 180, 10, {**PICTURE, "simulcast": False})
        await alice.shows("bob", CAMERA, "blue", "grey")
        await alice.call("send", "after", {"reliable": True})
        await bob.event("dataReceived")
    finally:
        await proxy.stop()


@MODES
async def test_who_resumes_on_the_other_mode_s_terms_meets_both(tabs: Tabs, server: Endpoint, single: bool) -> None:
    """The other one works in the other mode, so that a resume here renegotiates there too."""
    proxy = await TcpProxy(server.url).start()
    try:
        alice = await tabs.join("alice", single=single, url=proxy.url)
        bob = await tabs.join("bob", single=not single)
        await publish_all(alice, bob)
        proxy.cut()
        await alice.event("reconnected", seconds=30)
        await flows(alice, bob)
    finally:
        await proxy.stop()


# Scenario, whether the session's sid stays.
SCENARIOS = {
    "signal-reconnect": True,
    "resume-reconnect": False,
    "full-reconnect": False,
    "node-failure": False,
    "migration": False,
    "disconnect-signal-on-resume": None,
    "disconnect-signal-on-resume-no-messages": None,
}


@MODES
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_each_way_to_reconnect_brings_the_call_back(tabs: Tabs, single: bool, scenario: str) -> None:
    alice, bob = await pair(tabs, single)
    await publish_all(alice, bob)
    sid = await alice.call("sid")
    await alice.call("simulate", scenario)
    await alice.event("reconnected", seconds=60)
    await alice.until("isConnected", seconds=30)
    stays = SCENARIOS[scenario]
    if stays is not None:
        assert (await alice.call("sid") == sid) is stays
    await bob.page.wait_for_function(
        "([sid]) => window.e2e.sidOf('alice') === sid", arg=[await alice.call("sid")], timeout=30_000
    )
    await flows(alice, bob)


@MODES
@pytest.mark.skipif(EXTERNAL_URL is not None, reason="calls are ours alone")
async def test_who_reconnects_fully_in_a_call_has_not_left_it(
    tabs: Tabs, server: Endpoint, room: str, single: bool
) -> None:
    """Its client says goodbye first, and comes back with the token that it has."""
    call = f"/calls/default/{room}"
    async with httpx2.AsyncClient(base_url=f"{server.url}/v1", timeout=15) as client:

        async def asked(user: str, method: str, path: str) -> Any:
            claims = {"iss": server.key, "sub": user, "exp": int(time.time()) + 600}
            headers = {"Authorization": f"Bearer {jwt.encode(claims, server.secret, algorithm='HS256')}"}
            body = {"device_id": "page"} if method == "POST" else {}
            reply = await client.request(method, path, json=None if method == "GET" else body, headers=headers)
            assert reply.status_code in (200, 201), reply.text
            return reply.json()

        async def join(user: str) -> Tab:
            joined = await asked(user, "POST", f"{call}/join")
            return await tabs.join(f"{user}:page", single=single, token=joined["media"]["token"])

        await asked("alice", "PUT", call)
        alice, bob = await join("alice"), await join("bob")
        await alice.call("publishTone", 440, {"source": MICROPHONE})
        await bob.hears("alice:page", 440)
        sid = await alice.call("sid")
        await alice.call("simulate", "full-reconnect")
        await alice.event("reconnected", seconds=60)
        await alice.until("isConnected", seconds=30)
        assert await alice.call("sid") != sid
        # Longer than a goodbye waits.
        await asyncio.sleep(4)
        await bob.hears("alice:page", 440)
        shown = await asked("bob", "GET", f"{call}/participants")
        assert {one["user_id"]: one["state"] for one in shown["items"]} == {"alice": "joined", "bob": "joined"}


@MODES
async def test_a_screen_comes_after_a_full_reconnect_where_adaptive_stream_has_it_in_view(
    tabs: Tabs, single: bool
) -> None:
    options: dict[str, Any] = {"single": single, "adaptiveStream": True, "dynacast": True}
    alice, bob = await tabs.join("alice", **options), await tabs.join("bob", **options)
    await publish_all(alice, bob)
    await alice.call("simulate", "full-reconnect")
    await alice.event("reconnected", seconds=60)
    await flows(alice, bob)
    assert await alice.call("screen", True)
    await bob.until("showsSomething", "alice", SCREEN, seconds=30)
    await bob.call("moveTo", "alice", SCREEN, 5_000)
    await bob.holds(
        """async () => {
          const before = (await window.e2e.stats('alice', 'screen_share')).packets;
          await new Promise((done) => setTimeout(done, 1500));
          return (await window.e2e.stats('alice', 'screen_share')).packets === before;
        }"""
    )
    await bob.call("moveTo", "alice", SCREEN, 0)
    before = (await bob.call("stats", "alice", SCREEN))["frames"]
    await bob.holds(
        "async ([before]) => (await window.e2e.stats('alice', 'screen_share'))?.frames > before + 2", before
    )
    await flows(alice, bob)


@MODES
async def test_who_resumes_keeps_one_who_came_back_afresh_before(tabs: Tabs, single: bool) -> None:
    alice, bob = await pair(tabs, single)
    await publish_all(alice, bob)
    await alice.call("simulate", "full-reconnect")
    await alice.event("reconnected", seconds=40)
    await flows(alice, bob)
    await bob.call("simulate", "signal-reconnect")
    await bob.event("reconnected", seconds=40)
    await flows(alice, bob)


@MODES
async def test_tcp_may_be_asked_for(tabs: Tabs, single: bool) -> None:
    alice, bob = await pair(tabs, single)
    await publish_all(alice, bob)
    assert set(await alice.call("transportProtocol")) == {"udp"}
    await alice.call("simulate", "force-tcp")
    await alice.event("reconnected", seconds=60)
    await flows(alice, bob)
    assert set(await alice.call("transportProtocol")) == {"tcp"}


async def test_a_server_that_leaves_ends_the_session(tabs: Tabs) -> None:
    alice, _ = await pair(tabs, True)
    await alice.call("simulate", "server-leave")
    await alice.event("disconnected")
    assert await alice.call("given", "disconnected") == [[3]]  # SERVER_SHUTDOWN


async def test_a_simulated_speaker_is_told(tabs: Tabs) -> None:
    alice, _ = await pair(tabs, True)
    await alice.call("simulate", "speaker")
    await alice.event("activeSpeakersChanged")


@MODES
async def test_a_second_page_of_an_identity_replaces_the_first(tabs: Tabs, single: bool) -> None:
    first, bob = await pair(tabs, single)
    second = await tabs.join("alice", single=single)
    await first.event("disconnected")
    assert await first.call("given", "disconnected") == [[2]]  # DUPLICATE_IDENTITY
    await second.call("publishTone", 440, {"source": MICROPHONE})
    await bob.hears("alice", 440)


async def test_a_refused_page_is_told_why(tabs: Tabs, server: Endpoint) -> None:
    tab = await tabs.open("alice")
    expired = server.token("anywhere", "alice", ttl_seconds=-600)
    error = await tab.call("joinFails", server.ws_url, expired, {})
    assert error["status"] == 401
    assert len(error["message"].split()) > 2


async def test_a_page_that_is_closed_is_seen_to_go(tabs: Tabs) -> None:
    alice, bob = await pair(tabs, True)
    await alice.page.close(run_before_unload=True)
    await bob.event("participantDisconnected", seconds=30)
    assert await bob.call("people") == []
