"""Acceptance: push (A-26, A-28, A-30, A-31), against gateways on this machine that speak the vendors' protocols."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from signaling.calls.settings import CallsSettings
from signaling.events.webpush import host_of
from tests.signaling.api.world import World, code, pointers
from tests.signaling.events.gateways import (
    Answer,
    Browser,
    Gateway,
    Oauth,
    Received,
    base64url,
    certificate,
    gateway,
    pem,
    verified_jwt,
)

FCM_KEY = rsa.generate_private_key(65_537, 2_048)
EMAIL = "push@example.iam.gserviceaccount.com"


@dataclass
class Vendors:
    """The gateways, the keys they know, and what they answer next: by token, status and body."""

    world: World
    apns: Gateway
    fcm: Gateway
    oauth: Gateway
    web: Gateway
    apns_key: ec.EllipticCurvePrivateKey
    vapid_key: ec.EllipticCurvePrivateKey
    tokens: Oauth
    failing: dict[str, Answer] = field(default_factory=dict)

    @property
    def vapid_public(self) -> str:
        point = serialization.PublicFormat.UncompressedPoint
        return base64url(self.vapid_key.public_key().public_bytes(serialization.Encoding.X962, point))

    async def register(self, user: str, provider: str, token: str) -> str:
        reply = await self.world.as_(user).post(f"/users/{user}/devices", {"provider": provider, "token": token})
        assert reply.status_code == 201, reply.text
        device_id: str = reply.json()["device"]["id"]
        return device_id

    async def log(self, user: str, device: str) -> list[tuple[str, str, int, int | None]]:
        reply = await self.world.as_(user).get(f"/users/{user}/devices/{device}/deliveries")
        assert reply.status_code == 200, reply.text
        return [(d["kind"], d["state"], d["attempts"], d["last_status"]) for d in reply.json()["items"]]


@contextlib.asynccontextmanager
async def tarpit() -> AsyncIterator[tuple[str, list[int]]]:
    """A server that takes requests and answers none; yield its URL, at another address than the gateways, and how many
    connections there are."""
    over, connections = asyncio.Event(), [0]

    async def hang(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections[0] += 1
        await over.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.2", 0)
    yield f"http://127.0.0.2:{server.sockets[0].getsockname()[1]}", connections
    over.set()
    server.close()


@contextlib.asynccontextmanager
async def sending(world: World) -> AsyncIterator[None]:
    """Send as a server does, without waiting for anybody."""
    loop = asyncio.create_task(world.system.push.loop(world.service.push_owed, 60))
    yield
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def arrival(of: Gateway) -> Received:
    """Return the next request that arrives within 4 s; a hanging one is given up after 5 s."""
    for _ in range(400):
        if of.received:
            return of.received.pop(0)
        await asyncio.sleep(0.01)
    raise AssertionError("nothing arrived")


async def held(connections: list[int], *, at_least: int) -> int:
    """Return how many connections a tarpit holds, once there are so many."""
    for _ in range(300):
        if connections[0] >= at_least:
            break
        await asyncio.sleep(0.01)
    return connections[0]


@pytest.fixture
async def vendors(database_url: str, tmp_path: Path) -> AsyncIterator[Vendors]:
    async with opened(database_url, tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def opened(database_url: str, tmp_path: Path, **settings: Any) -> AsyncIterator[Vendors]:
    server, client = certificate(tmp_path)
    apns_key, vapid_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    failing: dict[str, Answer] = {}

    def apns(request: Received) -> Answer:
        if len(request.body) > (5_120 if request.headers["apns-push-type"] == "voip" else 4_096):
            return 413, {"reason": "PayloadTooLarge"}
        return failing.get(request.path.removeprefix("/3/device/"), (200, None))

    def fcm(request: Received) -> Answer:
        if request.headers["authorization"] != f"Bearer {tokens.given[-1]}":
            return 401, {"error": {"status": "UNAUTHENTICATED"}}
        if len(request.body) > 4_096:
            return 413, {"error": {"status": "INVALID_ARGUMENT"}}
        return failing.get(request.json["message"]["token"], (200, {"name": "projects/demo/messages/1"}))

    def browsers(request: Received) -> Answer:
        return (413, None) if len(request.body) > 4_096 else failing.get(request.path, (201, None))

    async with contextlib.AsyncExitStack() as stack:
        tokens = Oauth(FCM_KEY.public_key(), lambda: f"{oauth.url}/token", EMAIL)
        oauth = await stack.enter_async_context(gateway(tokens))
        of_apple = await stack.enter_async_context(gateway(apns, server))
        of_google = await stack.enter_async_context(gateway(fcm))
        of_browsers = await stack.enter_async_context(gateway(browsers, server))
        world = await World.open(database_url, tls=client, settings=CallsSettings(**settings))
        stack.push_async_callback(world.close)
        made = Vendors(world, of_apple, of_google, oauth, of_browsers, apns_key, vapid_key, tokens, failing)
        account = {
            "project_id": "demo",
            "client_email": EMAIL,
            "private_key": pem(FCM_KEY),
            "token_uri": f"{oauth.url}/token",
        }
        number = f"{vapid_key.private_numbers().private_value:064x}"
        web = {
            "subject": "mailto:ops@example.org",
            "public_key": made.vapid_public,
            "private_key": base64url(bytes.fromhex(number)),
        }
        own = {
            "team_id": "TEAM123456",
            "key_id": "KEY1234567",
            "auth_key": pem(apns_key),
            "bundle_id": "org.example.app",
        }
        for body in (
            {"name": "apns-main", "type": "apns", "base_url": made.apns.url, "apns": own},
            {"name": "fcm-main", "type": "fcm", "base_url": made.fcm.url, "fcm": {"service_account": account}},
            {"name": "web", "type": "webpush", "webpush": web},
        ):
            reply = await world.server.post("/push-providers", body)
            assert reply.status_code == 201, reply.text
            assert "PRIVATE" not in reply.text
        await world.users("alice", "bob", "carl")
        yield made


async def test_a_26_a_ring_reaches_phones_that_are_offline(vendors: Vendors) -> None:
    world = vendors.world
    voip = await vendors.register("bob", "apns_voip", "aa11")
    fcm = await vendors.register("bob", "fcm", "fcm-bob")
    plain = await vendors.register("bob", "apns", "cc33")
    ring = (await world.call("default/x", by="alice", members=["bob"], ring=True, video=True))["ring"]
    await world.settle()
    payload = {
        "type": "call.ring",
        "cid": "default:x",
        "ring_id": ring["id"],
        "caller_id": "alice",
        "caller_name": "Alice",
        "video": True,
        "expires_at": ring["expires_at"],
        "custom": {},
    }
    (push,) = vendors.apns.take()
    assert (push.http, push.method, push.path) == ("2", "POST", "/3/device/aa11")
    assert push.json == {"aps": {}, **payload}
    assert {name: push.headers[name] for name in push.headers if name.startswith("apns-")} == {
        "apns-push-type": "voip",
        "apns-topic": "org.example.app.voip",
        "apns-priority": "10",
        "apns-expiration": str(int(world.clock.now.timestamp()) + 30),
    }
    header, claims = verified_jwt(push.headers["authorization"].removeprefix("bearer "), vendors.apns_key.public_key())
    assert (header["alg"], header["kid"], claims["iss"]) == ("ES256", "KEY1234567", "TEAM123456")
    assert claims["iat"] == int(world.clock.now.timestamp())
    (data,) = vendors.fcm.take()
    assert (data.method, data.path) == ("POST", "/v1/projects/demo/messages:send")
    message = data.json["message"]
    assert message["token"] == "fcm-bob"
    assert message["android"] == {"priority": "HIGH", "ttl": "30s"}
    assert message["data"] == {**payload, "video": "true", "custom": "{}"}
    assert "notification" not in message
    assert await vendors.log("bob", voip) == [("ring", "delivered", 1, 200)]
    assert await vendors.log("bob", fcm) == [("ring", "delivered", 1, 200)]
    assert await vendors.log("bob", plain) == []


async def test_a_26_a_browser_reads_the_ring(vendors: Vendors) -> None:
    world, browser = vendors.world, Browser()
    await vendors.register("bob", "webpush", browser.subscription(f"{vendors.web.url}/push/bob?x=1"))
    ring = (await world.call("default/x", by="alice", members=["bob"], ring=True))["ring"]
    await world.settle()
    (push,) = vendors.web.take()
    assert (push.method, push.path) == ("POST", "/push/bob?x=1")
    assert push.headers["content-encoding"] == "aes128gcm"
    assert (push.headers["urgency"], push.headers["ttl"]) == ("high", "30")
    said = browser.read(push.body)
    assert (said["type"], said["ring_id"], said["video"]) == ("call.ring", ring["id"], False)
    token, key = push.headers["authorization"].removeprefix("vapid ").split(", ")
    assert key == f"k={vendors.vapid_public}"
    _, claims = verified_jwt(token.removeprefix("t="), vendors.vapid_key.public_key())
    assert (claims["aud"], claims["sub"]) == (vendors.web.url, "mailto:ops@example.org")
    now = int(world.clock.now.timestamp())
    assert now < claims["exp"] <= now + 86_400


async def test_a_28_notify_is_an_alert_to_everybody_but_the_caller(vendors: Vendors) -> None:
    world = vendors.world
    for user, provider, token in (
        ("bob", "apns", "aa"),
        ("bob", "apns_voip", "bb"),
        ("carl", "fcm", "carl"),
        ("alice", "fcm", "alice"),
    ):
        await vendors.register(user, provider, token)
    bob, alice = await world.listen(world.as_("bob")), await world.listen(world.as_("alice"))
    made = await world.call("default/x", by="alice", members=["bob", "carl"], notify=True)
    assert made["ring"] is None
    await world.settle()
    (alert,) = vendors.apns.take()
    assert alert.path == "/3/device/aa"
    assert (alert.headers["apns-push-type"], alert.headers["apns-topic"]) == ("alert", "org.example.app")
    body = alert.json
    assert body["aps"]["alert"] == {"title": "Alice", "body": "invites you to a call"}
    assert (body["type"], body["cid"]) == ("call.notification", "default:x")
    (message,) = (request.json["message"] for request in vendors.fcm.take())
    assert message["token"] == "carl"
    assert message["notification"] == {"title": "Alice", "body": "invites you to a call"}
    assert message["data"]["type"] == "call.notification"
    heard = bob.only("call.notification")
    assert [(f["data"]["title"], f["data"]["body"], f["data"]["call"]["cid"]) for f in heard] == [
        ("Alice", "invites you to a call", "default:x")
    ]
    assert alice.only("call.notification") == []
    await world.advance(60)
    assert bob.frames() == []
    assert vendors.apns.take() == vendors.fcm.take() == []
    sent = await world.as_("alice").post(
        "/calls/default/x/notify", {"user_ids": ["carl"], "title": "Hey", "body": "Now"}
    )
    assert sent.status_code == 202
    await world.settle()
    assert [r.json["message"]["notification"] for r in vendors.fcm.take()] == [{"title": "Hey", "body": "Now"}]


async def test_a_30_with_both_nobody_is_told_twice(vendors: Vendors) -> None:
    world = vendors.world
    for user, provider, token in (
        ("bob", "apns_voip", "b1"),
        ("bob", "apns", "b2"),
        ("bob", "fcm", "b3"),
        ("carl", "apns", "c1"),
    ):
        await vendors.register(user, provider, token)
    await world.call("default/x", by="alice", members=["bob", "carl"], ring=True, notify=True)
    await world.settle()
    got = {request.path.rpartition("/")[2]: request.json["type"] for request in vendors.apns.take()}
    assert got == {"b1": "call.ring", "c1": "call.notification"}
    assert [r.json["message"]["data"]["type"] for r in vendors.fcm.take()] == ["call.ring"]


async def test_what_is_too_long_for_a_push_is_left_out_or_cut_and_the_rest_arrives(vendors: Vendors) -> None:
    world, browser = vendors.world, Browser()
    alice, bob = world.as_("alice"), world.as_("bob")
    devices = [
        await vendors.register("bob", provider, token)
        for provider, token in (
            ("apns_voip", "aa"),
            ("apns", "bb"),
            ("fcm", "cc"),
            ("webpush", browser.subscription(f"{vendors.web.url}/push/bob")),
        )
    ]
    await world.call("default/x", by="alice", members=["bob"])
    custom = {"note": "あ" * 3_400}
    ring = (await alice.post("/calls/default/x/rings", {"custom": custom})).json()["ring"]
    await world.settle()
    (apple,), (google,), (web,) = vendors.apns.take(), vendors.fcm.take(), vendors.web.take()
    for said in (apple.json, google.json["message"]["data"], browser.read(web.body)):
        assert (said["type"], said["ring_id"], said["caller_name"]) == ("call.ring", ring["id"], "Alice")
        assert "custom" not in said
    read = (await bob.get(f"/calls/default/x/rings/{ring['id']}")).json()["ring"]
    assert read["custom"] == custom
    for title, body in (("Standup", "あ" * 1_024), ("あ" * 256, "あ" * 1_024)):
        await alice.post("/calls/default/x/notify", {"title": title, "body": body})
        await world.settle()
        (apple,), (google,), (web,) = vendors.apns.take(), vendors.fcm.take(), vendors.web.take()
        for shown in (apple.json["aps"]["alert"], google.json["message"]["notification"], browser.read(web.body)):
            for text, whole in ((shown["title"], title), (shown["body"], body)):
                assert text == whole or (text[-1] == "…" and whole.startswith(text[:-1]) and len(text) > 200)
    log = [entry for device in devices for entry in await vendors.log("bob", device)]
    assert sorted((kind, state, attempts) for kind, state, attempts, _ in log) == [
        *[("notification", "delivered", 1)] * 6,
        *[("ring", "delivered", 1)] * 3,
    ]


async def test_a_ring_with_a_little_custom_data_carries_it(vendors: Vendors) -> None:
    world, custom = vendors.world, {"note": "あ" * 900}
    await vendors.register("bob", "apns_voip", "aa")
    await world.call("default/x", by="alice", members=["bob"])
    await world.as_("alice").post("/calls/default/x/rings", {"custom": custom})
    await world.settle()
    (push,) = vendors.apns.take()
    assert push.json["custom"] == custom


async def test_a_31_a_dead_token_takes_its_device_away_and_is_not_tried_again(vendors: Vendors) -> None:
    world = vendors.world
    vendors.failing.update(
        {
            "gone": (410, {"reason": "Unregistered"}),
            "bad": (400, {"reason": "BadDeviceToken"}),
            "fcm-gone": (404, {"error": {"status": "NOT_FOUND", "details": [{"errorCode": "UNREGISTERED"}]}}),
        }
    )
    dead = [
        await vendors.register("bob", provider, token)
        for provider, token in (("apns_voip", "gone"), ("apns_voip", "bad"), ("fcm", "fcm-gone"))
    ]
    alive = await vendors.register("bob", "apns_voip", "alive")
    await world.call("default/x", by="alice", members=["bob"], ring=True)
    await world.settle()
    for _ in range(5):
        await world.advance(5)
    assert sorted(r.path for r in vendors.apns.take() if r.headers["apns-push-type"] == "voip") == [
        "/3/device/alive",
        "/3/device/bad",
        "/3/device/gone",
    ]
    assert len(vendors.fcm.take()) == 1
    devices = (await world.as_("bob").get("/users/bob/devices")).json()["items"]
    assert [d["id"] for d in devices] == [alive]
    assert [await vendors.log("bob", device) for device in dead] == [
        [("ring", "failed", 1, 410)],
        [("ring", "failed", 1, 400)],
        [("ring", "failed", 1, 404)],
    ]


async def test_other_failures_are_tried_three_times_before_the_ring_expires(vendors: Vendors) -> None:
    world = vendors.world
    vendors.failing["busy"] = (503, {"reason": "ServiceUnavailable"})
    vendors.failing["fcm-busy"] = (500, {"error": {"status": "INTERNAL"}})
    device = await vendors.register("bob", "apns_voip", "busy")
    android = await vendors.register("bob", "fcm", "fcm-busy")
    await world.call("default/x", by="alice", members=["bob"], ring=True)
    await world.settle()
    for _ in range(8):
        await world.advance(2)
    assert len(vendors.apns.take()) == 3
    assert len(vendors.fcm.take()) == 3
    assert await vendors.log("bob", device) == [("ring", "failed", 3, 503)]
    assert await vendors.log("bob", android) == [("ring", "failed", 3, 500)]


async def test_a_ring_that_has_expired_is_not_sent(vendors: Vendors) -> None:
    world = vendors.world
    device = await vendors.register("bob", "apns_voip", "late")
    await world.call("default/x", by="alice", members=["bob"], ring=True)
    world.clock.now = world.clock.now.replace(minute=5)
    await world.settle()
    assert [r for r in vendors.apns.take() if r.headers["apns-push-type"] == "voip"] == []
    assert await vendors.log("bob", device) == [("ring", "failed", 0, None)]


async def test_who_missed_a_call_is_told_by_alert(vendors: Vendors) -> None:
    world = vendors.world
    await vendors.register("bob", "apns", "bob")
    ring = (await world.call("default/x", by="alice", members=["bob"], ring=True))["ring"]
    await world.advance(30)
    (alert,) = vendors.apns.take()
    assert alert.json["aps"]["alert"] == {"title": "Alice", "body": "tried to call you"}
    assert (alert.json["type"], alert.json["ring_id"]) == ("call.ring_missed", ring["id"])


async def test_who_is_kept_out_is_not_pushed_to(vendors: Vendors) -> None:
    """Though he is a member still: blocked, banned, or of another team by now."""
    world = vendors.world
    template = {"title": "Now", "body": "Come"}
    kinds = dict.fromkeys(("ring", "notification", "missed", "live_started", "session_started"), template)
    await world.server.patch("/call-types/livestream", {"notifications": kinds})
    await world.server.patch("/app", {"multi_tenant_enabled": True})
    members = ("bob", "carl", "dora", "emil")
    await world.users("alice", *members, teams=["red"])
    for name in members:
        for provider in ("apns_voip", "fcm"):
            await vendors.register(name, provider, f"{provider}-{name}")
    for call_id in ("x", "y"):
        await world.call(f"livestream/{call_id}", by="alice", members=list(members))
        await world.as_("alice").put(f"/calls/livestream/{call_id}/blocks/bob", {})
    await world.server.put("/bans/carl", {})
    await world.server.patch("/users/dora", {"teams": ["blue"]})
    await world.as_("alice").post("/calls/livestream/x/rings", {})
    await world.settle()
    await world.advance(30)
    await world.as_("alice").post("/calls/livestream/x/notify", {})
    await world.call("livestream/x", by="alice", ring=True, notify=True)
    await world.as_("alice").put("/calls/livestream/x/live")
    await world.as_("alice").join("livestream/x")
    # From memory, too.
    await world.as_("alice").join("livestream/y")
    await world.settle()
    sent = [request.path.rpartition("/")[2] for request in vendors.apns.take()]
    sent += [request.json["message"]["token"] for request in vendors.fcm.take()]
    assert sorted(sent) == ["apns_voip-emil"] * 2 + ["fcm-emil"] * 7


async def test_live_and_session_alerts_need_a_template(vendors: Vendors) -> None:
    world = vendors.world
    await vendors.register("bob", "fcm", "bob")
    await world.call("livestream/x", by="alice", members=["bob"])
    await world.as_("alice").put("/calls/livestream/x/live")
    await world.settle()
    assert vendors.fcm.take() == []
    await world.as_("alice").delete("/calls/livestream/x/live")
    template = {"title": "Live now", "body": "Come and see"}
    changed = await world.server.patch(
        "/call-types/livestream", {"notifications": {"live_started": template, "session_started": template}}
    )
    assert changed.json()["call_type"]["notifications"]["live_started"] == template
    await world.as_("alice").put("/calls/livestream/x/live", {"notify": False})
    await world.settle()
    assert vendors.fcm.take() == []
    await world.as_("alice").delete("/calls/livestream/x/live")
    await world.as_("alice").put("/calls/livestream/x/live")
    await world.as_("alice").join("livestream/x")
    await world.settle()
    messages = [request.json["message"] for request in vendors.fcm.take()]
    assert sorted(m["data"]["type"] for m in messages) == ["call.live_started", "session.started"]
    assert {tuple(m["notification"].items()) for m in messages} == {(("title", "Live now"), ("body", "Come and see"))}


async def test_a_token_of_the_oauth_endpoint_is_used_until_it_ends(vendors: Vendors) -> None:
    world = vendors.world
    await vendors.register("bob", "fcm", "bob")
    await world.call("default/x", by="alice", members=["bob"])
    for _ in range(2):
        await world.as_("alice").post("/calls/default/x/notify")
        await world.settle()
    assert len(vendors.oauth.take()) == 1
    await world.advance(3_500)
    await world.as_("alice").post("/calls/default/x/notify")
    await world.settle()
    assert len(vendors.oauth.take()) == 1
    assert [r.headers["authorization"] for r in vendors.fcm.take()] == ["Bearer access-1"] * 2 + ["Bearer access-2"]


async def test_providers_keys_are_checked_and_never_shown(vendors: Vendors) -> None:
    world = vendors.world
    listed = await world.server.get("/push-providers")
    assert sorted(p["name"] for p in listed.json()["items"]) == ["apns-main", "fcm-main", "web"]
    for secret in ("PRIVATE", "private_key", "auth_key"):
        assert secret not in listed.text
    assert "PRIVATE" not in (await world.server.get("/audit")).text
    own: dict[str, Any] = {"team_id": "T", "key_id": "K", "auth_key": "nonsense", "bundle_id": "b"}
    reply = await world.server.post("/push-providers", {"name": "broken", "type": "apns", "apns": own})
    assert code(reply) == (422, "unprocessable")
    assert pointers(reply) == ["/apns/auth_key"]
    reply = await world.server.post("/push-providers", {"name": "broken", "type": "fcm", "apns": own})
    assert pointers(reply) == ["/apns"]
    again = {"name": "apns-main", "type": "apns", "apns": {**own, "auth_key": pem(vendors.apns_key)}}
    assert code(await world.server.post("/push-providers", again)) == (409, "conflict")
    assert (await world.server.delete("/push-providers/web")).status_code == 204
    assert code(await world.server.delete("/push-providers/web")) == (404, "not_found")


async def test_a_device_belongs_to_whoever_registered_it_last(vendors: Vendors) -> None:
    world = vendors.world
    await vendors.register("bob", "fcm", "one-phone")
    again = await world.as_("bob").post("/users/bob/devices", {"provider": "fcm", "token": "one-phone"})
    assert again.status_code == 200
    await vendors.register("carl", "fcm", "one-phone")
    assert (await world.as_("bob").get("/users/bob/devices")).json()["items"] == []
    missing = {"provider": "fcm", "token": "t", "push_provider": "nowhere"}
    reply = await world.as_("bob").post("/users/bob/devices", missing)
    assert (code(reply), pointers(reply)) == ((422, "unprocessable"), ["/push_provider"])
    assert code(await world.as_("carl").get("/users/bob/devices")) == (403, "missing_capability")


async def test_endpoints_of_one_user_that_hang_hold_up_nobody_else(vendors: Vendors) -> None:
    """F-36"""
    world, browser = vendors.world, Browser()
    await vendors.register("bob", "apns_voip", "bob")
    async with tarpit() as (url, connections):
        for number in range(20):
            await vendors.register("carl", "webpush", browser.subscription(f"{url}/{number}"))
        await vendors.register("carl", "apns_voip", "carl")
        await world.users("mallory")
        await world.call("default/tar", by="mallory", members=["carl"])
        async with sending(world):
            for _ in range(10):
                assert (await world.as_("mallory").post("/calls/default/tar/notify")).status_code == 202
            await world.call("default/x", by="alice", members=["bob"], ring=True)
            assert (await arrival(vendors.apns)).path == "/3/device/bob"
            assert await held(connections, at_least=3) <= world.service.settings.push_at_once_per_user


async def test_a_provider_that_hangs_holds_up_no_other(database_url: str, tmp_path: Path) -> None:
    """F-36"""
    async with opened(database_url, tmp_path, push_at_once_per_provider=4) as vendors, tarpit() as (url, connections):
        world = vendors.world
        assert (await world.server.delete("/push-providers/fcm-main")).status_code == 204
        account = {"project_id": "demo", "client_email": EMAIL, "private_key": pem(FCM_KEY)}
        fcm = {"service_account": {**account, "token_uri": f"{vendors.oauth.url}/token"}}
        body = {"name": "fcm-main", "type": "fcm", "base_url": url, "fcm": fcm}
        assert (await world.server.post("/push-providers", body)).status_code == 201
        people = [f"u{number}" for number in range(6)]
        await world.users(*people)
        for user in people:
            await vendors.register(user, "fcm", user)
        await vendors.register("bob", "apns_voip", "bob")
        async with sending(world):
            await world.call("default/all", by="alice", members=people, ring=True)
            await world.call("default/x", by="alice", members=["bob"], ring=True)
            assert (await arrival(vendors.apns)).path == "/3/device/bob"
            assert await held(connections, at_least=4) == 4


async def test_a_push_service_that_hangs_holds_up_no_other_of_its_kind(database_url: str, tmp_path: Path) -> None:
    """F-36"""
    async with opened(database_url, tmp_path, push_at_once_per_host=2) as vendors, tarpit() as (url, connections):
        world, browser = vendors.world, Browser()
        people = [f"u{number}" for number in range(4)]
        await world.users(*people)
        for user in people:
            await vendors.register(user, "webpush", browser.subscription(f"{url}/{user}"))
        await vendors.register("bob", "webpush", browser.subscription(f"{vendors.web.url}/bob"))
        async with sending(world):
            await world.call("default/all", by="alice", members=people, ring=True)
            await world.call("default/x", by="alice", members=["bob"], ring=True)
            assert (await arrival(vendors.web)).path == "/bob"
            assert await held(connections, at_least=2) == 2


async def test_who_is_rung_is_told_before_who_is_merely_notified(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path, push_at_once_per_provider=1) as vendors:
        world = vendors.world
        await vendors.register("bob", "apns", "alerts")
        await vendors.register("carl", "apns_voip", "rings")
        for _ in range(3):
            await world.call("default/x", by="alice", members=["bob"], notify=True)
        await world.call("default/y", by="alice", members=["carl"], ring=True)
        await world.settle()
        paths = [request.path for request in vendors.apns.take()]
        assert paths == ["/3/device/rings", *["/3/device/alerts"] * 3]


async def test_so_much_waits_for_a_user_and_no_more(database_url: str, tmp_path: Path) -> None:
    async with opened(database_url, tmp_path, push_waiting_per_user=3) as vendors:
        world = vendors.world
        device = await vendors.register("bob", "fcm", "bob")
        for _ in range(5):
            await world.call("default/x", by="alice", members=["bob"], notify=True)
        await world.call("default/x", by="alice", members=["bob"], ring=True)
        await world.settle()
        log = await vendors.log("bob", device)
        assert sorted(kind for kind, *_ in log) == ["notification"] * 3 + ["ring"]
        await world.call("default/x", by="alice", members=["bob"], notify=True)
        await world.settle()
        assert len(await vendors.log("bob", device)) == 5


async def test_of_too_many_devices_the_one_not_heard_of_for_longest_gives_way(
    database_url: str, tmp_path: Path
) -> None:
    async with opened(database_url, tmp_path, devices_per_user=2) as vendors:
        world = vendors.world
        await vendors.register("carl", "fcm", "carl")
        for token in ("first", "second"):
            await vendors.register("bob", "fcm", token)
            world.clock.now += timedelta(seconds=1)
        again = await world.as_("bob").post("/users/bob/devices", {"provider": "fcm", "token": "first"})
        assert again.status_code == 200
        world.clock.now += timedelta(seconds=1)
        await vendors.register("bob", "fcm", "third")
        for user, tokens in (("bob", ["third", "first"]), ("carl", ["carl"])):
            devices = (await world.as_(user).get(f"/users/{user}/devices")).json()["items"]
            assert [device["token"] for device in devices] == tokens


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("https://updates.push.services.Mozilla.com/wpush/v2/x", "mozilla.com"),
        ("https://wns2-by3p.notify.windows.com./w/?token=x", "windows.com"),
        ("https://203.0.113.7/x", "203.0.113.7"),
        ("https://[2001:db8::1]:8443/x", "2001:db8::1"),
        ("https://intranet/x", "intranet"),
        ("https://[broken/x", ""),
        (f"https://{'a' * 300}/x", "a" * 253),
    ],
)
def test_a_push_service_is_known_by_its_domain(endpoint: str, host: str) -> None:
    """Push services have many hosts, and who owns a domain has as many as he likes."""
    assert host_of(Browser().subscription(endpoint)) == host
    assert host_of("nonsense") == host_of("[]") == host_of('{"endpoint": 5}') == ""
