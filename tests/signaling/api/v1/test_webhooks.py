"""Acceptance: webhooks (W-1 … W-4) and their routes. W-5 is in `test_crashes.py`."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from signaling.events.signatures import WebhookVerificationError, sign, verify_webhook
from tests.signaling.api.world import World, code, pointers
from tests.signaling.events.gateways import Answer, Gateway, Received, gateway

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE, TIMESTAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
HEADERS = {"Webhook-Id": MESSAGE, "WEBHOOK-TIMESTAMP": str(TIMESTAMP), "webhook-signature": SIGNATURE}


class Endpoint:
    """An application's webhook endpoint; `status` is what it answers."""

    def __init__(self) -> None:
        self.status = 204
        self.gateway = Gateway(self)

    def __call__(self, request: Received) -> Answer:
        return self.status, None

    def events(self) -> list[dict[str, Any]]:
        return [request.json for request in self.gateway.take()]


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    async with gateway(made) as server:
        made.gateway = server
        yield made


async def subscribe(world: World, endpoint: Endpoint, **body: Any) -> dict[str, Any]:
    reply = await world.server.post("/webhooks", {"url": f"{endpoint.gateway.url}/hook", **body})
    assert reply.status_code == 201, reply.text
    webhook: dict[str, Any] = reply.json()["webhook"]
    return webhook


async def deliveries(world: World, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await world.server.get(f"/webhooks/{webhook['id']}/deliveries")).json()["items"]
    return items


def test_w_1_the_signature_is_the_standards() -> None:
    assert sign(SECRET, MESSAGE, TIMESTAMP, BODY) == SIGNATURE
    assert verify_webhook(BODY, HEADERS, SECRET, now=TIMESTAMP + 10) == {"test": 2432232314}


@pytest.mark.parametrize(
    ("body", "headers", "secret", "now"),
    [
        (BODY + b" ", HEADERS, SECRET, TIMESTAMP),
        (BODY, {**HEADERS, "webhook-signature": "v1,AAAA"}, SECRET, TIMESTAMP),
        (BODY, {**HEADERS, "webhook-signature": SIGNATURE.removeprefix("v1,")}, SECRET, TIMESTAMP),
        (BODY, {**HEADERS, "webhook-signature": "v1a," + SIGNATURE.removeprefix("v1,")}, SECRET, TIMESTAMP),
        (BODY, {**HEADERS, "Webhook-Id": "msg_other"}, SECRET, TIMESTAMP),
        (BODY, {**HEADERS, "WEBHOOK-TIMESTAMP": str(TIMESTAMP + 1)}, SECRET, TIMESTAMP),
        (BODY, HEADERS, SECRET, TIMESTAMP + 301),
        (BODY, HEADERS, SECRET, TIMESTAMP - 301),
        (BODY, HEADERS, "whsec_" + base64.b64encode(b"another secret of enough bytes").decode(), TIMESTAMP),
        (BODY, {}, SECRET, TIMESTAMP),
        (BODY, {**HEADERS, "WEBHOOK-TIMESTAMP": "soon"}, SECRET, TIMESTAMP),
    ],
)
def test_w_2_what_was_changed_or_is_old_is_refused(body: bytes, headers: dict[str, str], secret: str, now: int) -> None:
    """S-68"""
    with pytest.raises(WebhookVerificationError):
        verify_webhook(body, headers, secret, now=now)


def test_w_2_either_secret_verifies_while_they_rotate() -> None:
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    signatures = f"{sign(other, MESSAGE, TIMESTAMP, BODY)} {SIGNATURE}"
    for secrets in (SECRET, other, [SECRET], [other, SECRET]):
        assert verify_webhook(BODY, {**HEADERS, "webhook-signature": signatures}, secrets, now=TIMESTAMP)


async def test_w_1_a_delivery_is_the_envelope_signed(world: World, endpoint: Endpoint) -> None:
    webhook = await subscribe(world, endpoint)
    assert webhook["secret"].startswith("whsec_")
    assert len(base64.b64decode(webhook["secret"].removeprefix("whsec_"))) >= 24
    made = await world.call("default/x", by="alice")
    await world.settle()
    (request,) = endpoint.gateway.take()
    assert (request.method, request.path) == ("POST", "/hook")
    assert request.headers["content-type"] == "application/json"
    event = verify_webhook(request.body, request.headers, webhook["secret"], now=world.clock.now.timestamp())
    assert event == {
        "id": request.headers["webhook-id"],
        "type": "call.created",
        "cid": "default:x",
        "session_id": None,
        "seq": 1,
        "prev_seq": 0,
        "at": "2026-01-01T09:00:00.000Z",
        "actor": "alice",
        "data": {"call": made["call"], "members": made["members"]},
    }
    (delivery,) = await deliveries(world, webhook)
    assert (delivery["event_id"], delivery["type"], delivery["cid"]) == (event["id"], "call.created", "default:x")
    assert (delivery["state"], delivery["attempts"], delivery["last_status"], delivery["next_attempt_at"]) == (
        "delivered", 1, 204, None,
    )  # fmt: skip


async def test_w_3_down_for_ten_minutes_nothing_is_lost(world: World, endpoint: Endpoint) -> None:
    """F-36"""
    webhook = await subscribe(world, endpoint)
    endpoint.status = 503
    await world.call("default/x", by="alice")
    for number in range(10):
        await world.as_("alice").patch("/calls/default/x", {"custom": {"n": number}})
    await world.settle()
    seen = [request.headers["webhook-id"] for request in endpoint.gateway.take()]
    assert len(set(seen)) == 11
    for _ in range(60):
        await world.advance(10)
    pending = await deliveries(world, webhook)
    assert {(d["state"], d["last_status"]) for d in pending} == {("pending", 503)}
    # 5 s, 30 s, 2 min: the fourth attempt is over, the fifth follows after 10 min, ± 20 % each.
    assert {d["attempts"] for d in pending} == {4}
    again = [request.headers["webhook-id"] for request in endpoint.gateway.take()]
    assert set(again) == set(seen)
    endpoint.status = 200
    for _ in range(60):
        await world.advance(10)
    events = endpoint.events()
    assert sorted(e["id"] for e in events) == sorted(seen)
    by_seq = sorted(events, key=lambda e: e["seq"])
    assert [(e["prev_seq"], e["seq"]) for e in by_seq] == [(n, n + 1) for n in range(11)]
    assert [e["data"]["call"]["custom"].get("n") for e in by_seq] == [None, *range(10)]
    assert {d["state"] for d in await deliveries(world, webhook)} == {"delivered"}


async def test_w_3_a_delivery_is_given_up_after_a_day_and_sent_again_on_demand(
    world: World, endpoint: Endpoint
) -> None:
    webhook = await subscribe(world, endpoint)
    endpoint.status = 500
    await world.call("default/x", by="alice")
    for _ in range(14):
        await world.advance(29_000)
    (failed,) = await deliveries(world, webhook)
    assert (failed["state"], failed["attempts"]) == ("failed", 8)
    endpoint.status = 200
    first = endpoint.gateway.take()
    reply = await world.server.post(f"/webhooks/{webhook['id']}/redeliver", {"delivery_id": failed["id"]})
    assert (reply.status_code, reply.json()["delivery"]["state"]) == (202, "pending")
    await world.settle()
    (request,) = endpoint.gateway.take()
    assert (request.body, request.headers["webhook-id"]) == (first[0].body, first[0].headers["webhook-id"])
    assert [d["state"] for d in await deliveries(world, webhook)] == ["delivered"]
    wrong = await world.server.post(f"/webhooks/{webhook['id']}/redeliver", {"delivery_id": "nothing"})
    assert (code(wrong), pointers(wrong)) == ((422, "unprocessable"), ["/delivery_id"])


async def test_w_4_a_rotated_secret_loses_nothing(world: World, endpoint: Endpoint) -> None:
    webhook = await subscribe(world, endpoint)
    old = webhook["secret"]
    rotated = (await world.server.post(f"/webhooks/{webhook['id']}/rotate-secret", {"overlap_seconds": 60})).json()
    new = rotated["webhook"]["secret"]
    assert new != old
    await world.call("default/x", by="alice")
    await world.settle()
    (during,) = endpoint.gateway.take()
    now = world.clock.now.timestamp()
    for secret in (old, new):
        assert verify_webhook(during.body, during.headers, secret, now=now)["type"] == "call.created"
    first = during.headers["webhook-signature"].split()[0]
    timestamp = int(during.headers["webhook-timestamp"])
    assert first == sign(new, during.headers["webhook-id"], timestamp, during.body)
    await world.advance(61)
    await world.as_("alice").patch("/calls/default/x", {"custom": {"n": 1}})
    await world.settle()
    (after,) = endpoint.gateway.take()
    assert verify_webhook(after.body, after.headers, new, now=now + 61)["type"] == "call.updated"
    with pytest.raises(WebhookVerificationError):
        verify_webhook(after.body, after.headers, old, now=now + 61)
    assert (await world.server.get(f"/webhooks/{webhook['id']}")).json()["webhook"]["secret"] is None
    assert new not in (await world.server.get("/audit")).text


async def test_an_endpoint_hears_what_it_asked_for(world: World, endpoint: Endpoint) -> None:
    await subscribe(world, endpoint, events=["call.updated", "member.*", "type.updated"])
    await subscribe(world, endpoint, events=["call.created"], call_types=["livestream"])
    await subscribe(world, endpoint, enabled=False)
    await world.users("bob")
    await world.call("default/x", by="alice")
    await world.as_("alice").patch("/calls/default/x", {"custom": {"n": 1}})
    await world.as_("alice").patch("/calls/default/x/members", {"upsert": ["bob"]})
    await world.call("livestream/y", by="alice")
    await world.server.patch("/call-types/default/grants", {"listener": {"add": ["media.audio"]}})
    await world.settle()
    got = sorted((e["cid"] or "", e["type"], e["prev_seq"], e["seq"]) for e in endpoint.events())
    assert got == [
        ("", "type.updated", None, None),
        ("default:x", "call.updated", 0, 2),
        ("default:x", "member.added", 2, 3),
        ("livestream:y", "call.created", 0, 1),
    ]


async def test_what_is_for_clients_alone_stays_from_webhooks(world: World, endpoint: Endpoint) -> None:
    await subscribe(world, endpoint, events=["lobby.*", "captions.text", "session.counts"])
    await world.call("default/x", by="alice", settings={"lobby": {"enabled": True}})
    assert (await world.as_("bob").post("/calls/default/x/join")).status_code == 202
    await world.settle()
    assert endpoint.events() == []


async def test_410_switches_an_endpoint_off(world: World, endpoint: Endpoint) -> None:
    webhook = await subscribe(world, endpoint)
    endpoint.status = 410
    await world.call("default/x", by="alice")
    await world.settle()
    assert (await world.server.get(f"/webhooks/{webhook['id']}")).json()["webhook"]["enabled"] is False
    assert [(d["state"], d["last_status"]) for d in await deliveries(world, webhook)] == [("failed", 410)]
    endpoint.gateway.take()
    await world.call("default/y", by="alice")
    await world.settle()
    assert endpoint.events() == []


async def test_a_redirect_is_not_followed(world: World, endpoint: Endpoint) -> None:
    webhook = await subscribe(world, endpoint)
    endpoint.status = 302
    await world.call("default/x", by="alice")
    await world.settle()
    assert [(d["state"], d["last_status"]) for d in await deliveries(world, webhook)] == [("pending", 302)]


async def test_an_endpoint_is_changed_and_deleted(world: World, endpoint: Endpoint) -> None:
    webhook = await subscribe(world, endpoint)
    path = f"/webhooks/{webhook['id']}"
    changed = (await world.server.patch(path, {"events": ["call.*"], "call_types": ["default"]})).json()["webhook"]
    assert (changed["events"], changed["call_types"], changed["secret"]) == (["call.*"], ["default"], None)
    assert (await world.server.patch(path, {"call_types": None})).json()["webhook"]["call_types"] is None
    wrong = await world.server.patch(path, {"events": ["call.*", "nonsense"]})
    assert pointers(wrong) == ["/events/1"]
    assert json.loads((await world.server.get("/webhooks")).text)["items"][0]["id"] == webhook["id"]
    assert (await world.server.delete(path)).status_code == 204
    assert code(await world.server.get(path)) == (404, "not_found")
    assert code(await world.as_("alice").get("/webhooks")) == (403, "missing_capability")
