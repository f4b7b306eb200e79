"""What all routes have in common (§5.1, §7.2): idempotency keys, bodies, problems, rate limits, acting for others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from signaling.api.v1 import join_hook
from signaling.calls.settings import CallsSettings, RateLimits
from tests.signaling.api.world import World, code, pointers


async def test_a_key_makes_a_post_once(world: World) -> None:
    alice, key = world.as_("alice"), {"idempotency-key": "k1"}
    first = await alice.post("/calls/default", {"custom": {"n": 1}}, headers=key)
    again = await alice.post("/calls/default", {"custom": {"n": 1}}, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    assert len((await alice.post("/calls/query", {})).json()["items"]) == 1
    other = await alice.post("/calls/default", {"custom": {"n": 2}}, headers=key)
    assert code(other) == (422, "unprocessable")
    bobs = await world.as_("bob").post("/calls/default", {"custom": {"n": 1}}, headers=key)
    assert bobs.json()["call"]["id"] != first.json()["call"]["id"]
    elsewhere = await alice.post("/calls/livestream", {"custom": {"n": 1}}, headers=key)
    assert elsewhere.json()["call"]["type"] == "livestream"
    await world.advance(86_401)
    fresh = await alice.post("/calls/default", {"custom": {"n": 2}}, headers=key)
    assert fresh.json()["call"]["id"] != first.json()["call"]["id"]


async def test_a_key_is_one_visitors_alone(world: World) -> None:
    """His reply has a token in it."""
    await world.server.patch("/app", {"guests_enabled": True})
    nobody, key = world.as_("nobody"), {"idempotency-key": "k1"}
    nobody.headers = {}
    here, there = nobody.at("203.0.113.7"), nobody.at("203.0.113.8")
    first, again, other = [await who.post("/guests", {"name": "V"}, headers=key) for who in (here, here, there)]
    assert [reply.status_code for reply in (first, again, other)] == [201, 201, 201]
    assert (again.json(), again.headers["idempotency-replayed"]) == (first.json(), "true")
    assert other.json()["user"]["id"] != first.json()["user"]["id"]
    assert other.json()["token"] != first.json()["token"]


async def test_a_key_goes_no_further_than_the_token_it_came_with(world: World) -> None:
    key, wide = {"idempotency-key": "k1"}, world.as_("alice")
    made = await wide.post("/calls/default", {}, headers=key)
    assert made.status_code == 201
    narrowings: list[dict[str, Any]] = [
        {"ceiling": ["call.read"]},
        {"calls": ["default:x"]},
        {"role": "listener"},
        {"teams": []},
    ]
    for claims in narrowings:
        reply = await world.as_("alice", **claims).post("/calls/default", {}, headers=key)
        assert "idempotency-replayed" not in reply.headers, claims
    # From wherever he asks, and with a fresh token.
    again = await world.as_("alice").at("203.0.113.7").post("/calls/default", {}, headers=key)
    assert (again.json(), again.headers["idempotency-replayed"]) == (made.json(), "true")
    long = await wide.post(f"/calls/{'x' * 600}", {}, headers=key)
    assert 400 <= long.status_code < 500


async def test_two_at_once_with_a_key_are_one(world: World) -> None:
    key = {"idempotency-key": "k1"}
    replies = await asyncio.gather(*(world.as_("alice").post("/calls/default", {}, headers=key) for _ in range(8)))
    made = {reply.json()["call"]["id"] for reply in replies if reply.status_code == 201}
    assert len(made) == 1
    assert {code(reply) for reply in replies if reply.status_code != 201} <= {(409, "conflict")}
    assert len((await world.as_("alice").post("/calls/query", {})).json()["items"]) == 1


async def test_a_refusal_is_kept_under_its_key_too(world: World) -> None:
    await world.call("default/x", by="alice")
    key = {"idempotency-key": "k1"}
    refused = await world.as_("bob").post("/calls/default/x/end", headers=key)
    assert code(refused) == (403, "missing_capability")
    await world.server.patch("/call-types/default/grants", {"user": {"add": ["call.end"]}})
    again = await world.as_("bob").post("/calls/default/x/end", headers=key)
    assert code(again) == (403, "missing_capability")
    assert again.headers["idempotency-replayed"] == "true"
    assert (await world.as_("bob").post("/calls/default/x/end", headers={"idempotency-key": "k2"})).status_code == 200
    for wrong in ("", "x" * 256):
        reply = await world.as_("bob").post("/calls/default/x/end", headers={"idempotency-key": wrong})
        assert code(reply) == (422, "unprocessable")


async def _participants(world: World) -> int:
    async with world.service.database.read() as connection:
        return int((await connection.exec_driver_sql("SELECT count(*) FROM participants")).scalar_one())


async def test_what_was_committed_is_not_done_again_though_its_answer_was_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.call("default/x", by="alice")
    alice, key = world.as_("alice"), {"idempotency-key": "k1"}
    world.media.available = False
    refused = await alice.post("/calls/default/x/join", {}, headers=key)
    assert code(refused) == (503, "no_media_node")
    world.media.available = True

    def broken(**_: object) -> str:
        raise ZeroDivisionError

    # Nothing was done for the first, so this one is carried out; and fails when it is committed.
    with monkeypatch.context() as fault:
        fault.setattr(world.media, "mint_token", broken)
        assert code(await alice.post("/calls/default/x/join", {}, headers=key)) == (500, "internal")
    assert await _participants(world) == 1
    for seconds in (0, 3_600):
        await world.advance(seconds)
        assert code(await alice.post("/calls/default/x/join", {}, headers=key)) == (409, "conflict")
    assert await _participants(world) == 1
    await world.advance(86_401)
    assert (await alice.post("/calls/default/x/join", {}, headers=key)).status_code == 200


async def test_who_takes_too_long_commits_nothing_once_another_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.call("default/x", by="alice")
    alice, key = world.as_("alice"), {"idempotency-key": "k1"}
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*_: Any) -> None:
        asked.set()
        await go_on.wait()

    with monkeypatch.context() as busy:
        busy.setattr(world.service, "settings", CallsSettings(before_join_url="https://hooks.example.com"))
        busy.setattr(join_hook, "ask", slow)
        first = asyncio.create_task(alice.post("/calls/default/x/join", {}, headers=key))
        await asked.wait()
    await world.advance(59)
    assert code(await alice.post("/calls/default/x/join", {}, headers=key)) == (409, "conflict")
    await world.advance(1)
    second = await alice.post("/calls/default/x/join", {}, headers=key)
    assert second.status_code == 200
    go_on.set()
    assert code(await first) == (409, "conflict")
    assert await _participants(world) == 1
    again = await alice.post("/calls/default/x/join", {}, headers=key)
    assert again.json() == second.json()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"nonsense", 400),
        (b'{"custom": NaN}', 400),
        (b'{"custom": {"a": 1, "a": 2}}', 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"null", 422),
        (b'{"custom": []}', 422),
        (b'{"custom": {"a": "\\u0000"}}', 422),
        (b'{"custom": {"a": "\\ud800"}}', 422),
        (b'{"ring": 1}', 422),
        (b'{"ring": "true"}', 422),
        (b'{"nonsense": 1}', 422),
        (b'{"starts_at": 1767225600}', 422),
        (b'{"starts_at": "tomorrow"}', 422),
        (b'{"members": [{"user": "alice"}]}', 422),
        (b'{"members": [7]}', 422),
        (b'{"members": {}}', 422),
    ],
)
async def test_bodies_that_make_no_sense(world: World, body: bytes, status: int) -> None:
    reply = await world.http.request("PUT", "/v1/calls/default/x", content=body, headers=world.as_("alice").headers)
    assert code(reply) == (status, "invalid_request" if status == 400 else "unprocessable")
    if status == 422:
        assert len(pointers(reply)) >= 1
    assert code(await world.server.get("/calls/default/x")) == (404, "not_found")


@pytest.mark.parametrize(
    "at",
    [
        "0001-01-01T00:00:00Z",  # what Go's JSON has for no time
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59Z",
        "9999-01-01T00:00:00Z",
        "9999-12-31T23:59:59-12:00",
    ],
)
async def test_an_instant_that_nobody_means_is_pointed_at(world: World, at: str) -> None:
    await world.users("bob")
    ahead = {"backstage": {"enabled": True, "join_ahead_time_seconds": 86_400}}
    await world.call("default/x", by="alice", settings=ahead)
    for method, path, field in (
        ("PUT", "/calls/default/y", "starts_at"),
        ("POST", "/calls/default", "starts_at"),
        ("PATCH", "/calls/default/x", "starts_at"),
        ("PUT", "/calls/default/x/blocks/bob", "expires_at"),
        ("PUT", "/bans/bob", "expires_at"),
    ):
        reply = await world.server.request(method, path, {field: at})
        assert (code(reply), pointers(reply)) == ((422, "unprocessable"), [f"/{field}"]), path
    # To compare with, it will do, as long as it is one in UTC.
    found = await world.server.post("/calls/query", {"filter": {"created_at": {"$gt": at}}})
    assert found.status_code == (200 if at.endswith("Z") else 422)
    for fine in ("1970-01-01T00:00:00+14:00", "9998-12-31T23:59:59-12:00"):
        assert (await world.as_("alice").patch("/calls/default/x", {"starts_at": fine})).status_code == 200
        assert (await world.as_("alice").get("/calls/default/x")).status_code == 200


async def test_one_rates_a_session_once_and_may_change_ones_mind(world: World) -> None:
    await world.call("default/x", by="alice")
    bob, path = world.as_("bob"), "/calls/default/x/feedback"
    session = (await bob.join("default/x"))["session"]["id"]
    large = await bob.post(path, {"rating": 5, "custom": {"a": "x" * 16_384}})
    assert code(large) == (413, "custom_too_large")
    first = (await bob.post(path, {"rating": 5})).json()["feedback"]
    await world.advance(1)
    again = (await bob.post(path, {"rating": 2, "reason": "echo"})).json()["feedback"]
    assert (again["id"], again["rating"], again["reason"]) == (first["id"], 2, "echo")
    await world.as_("alice").join("default/x")
    await world.as_("alice").post(path, {"rating": 4})
    stats = (await world.as_("alice").get(f"/calls/default/x/sessions/{session}/stats")).json()["stats"]
    assert stats["feedback"] == {"count": 2, "rating_mean": 3.0}


async def test_every_wrong_value_is_pointed_at(world: World) -> None:
    body = {"membrs": [], "ring": "yes", "members": [{"user_id": "", "rle": "x"}], "a/b~c": 1}
    reply = await world.as_("alice").put("/calls/default/x", body)
    assert sorted(pointers(reply)) == ["/a~1b~0c", "/members/0/rle", "/members/0/user_id", "/membrs", "/ring"]
    query = await world.as_("alice").get("/calls/default/x", params={"limt": "3"})
    assert code(query) == (404, "not_found")
    await world.call("default/x", by="alice")
    assert pointers(await world.as_("alice").get("/calls/default/x", params={"limt": "3"})) == ["/limt"]
    for limit in ("0", "101", "-1", "1.5", "many", ""):
        for path in ("/calls/default/x/members", "/calls/default/x/participants", "/calls/default/x/sessions"):
            assert pointers(await world.as_("alice").get(path, params={"limit": limit})) == ["/limit"]
    both = await world.as_("alice").get("/calls/default/x/members", params={"next": "a", "prev": "b"})
    assert pointers(both) == ["/prev"]
    assert pointers(await world.as_("alice").get("/calls/default/x/members", params={"next": "nonsense"})) == ["/next"]


async def test_an_unknown_path_or_method_is_a_problem_too(world: World) -> None:
    assert code(await world.as_("alice").get("/nothing")) == (404, "not_found")
    reply = await world.as_("alice").delete("/calls/query")
    assert code(reply) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "POST"
    assert (await world.server.put("/users/query")).status_code == 201


async def test_a_body_beyond_the_limit_is_not_read(world: World) -> None:
    """S-55"""
    reply = await world.as_("alice").put("/calls/default/x", {"custom": {"a": "x" * 300_000}})
    assert code(reply) == (413, "too_large")


async def test_acting_for_a_user_has_that_users_rights(world: World) -> None:
    await world.users("alice", "bob")
    alice, bob = world.on_behalf("alice"), world.on_behalf("bob")
    made = await alice.put("/calls/default/x")
    assert made.json()["call"]["created_by"] == "alice"
    assert code(await bob.post("/calls/default/x/end")) == (403, "missing_capability")
    assert code(await alice.get("/webhooks")) == (403, "missing_capability")
    joined = await bob.join("default/x")
    assert joined["participant"]["user_id"] == "bob"
    unknown = await world.on_behalf("nobody").get("/calls/default/x")
    assert code(unknown) == (422, "unknown_user")
    assert (await world.server.put("/calls/default/y")).json()["call"]["created_by"] is None
    server = await world.server.post("/calls/default/x/join")
    assert code(server) == (422, "unprocessable")


async def test_users_are_made_by_their_first_request_and_deleted_for_good(world: World) -> None:
    await world.as_("alice", name="Alice A.").put("/calls/default/x")
    user = (await world.as_("alice").get("/users/alice")).json()["user"]
    assert (user["name"], user["role"], user["teams"], user["custom"]) == ("Alice A.", "user", [], {})
    assert (await world.as_("alice", name="Other").get("/users/alice")).json()["user"]["name"] == "Alice A."
    joined = await world.as_("alice").join("default/x")
    assert (await world.server.delete("/users/alice")).status_code == 204
    assert code(await world.as_("alice").get("/calls/default/x")) == (401, "unauthenticated")
    assert world.media.removed == [(joined["session"]["id"], "alice:phone", "removed")]
    assert code(await world.server.get("/users/alice")) == (404, "not_found")
    assert code(await world.server.delete("/users/alice")) == (404, "not_found")
    wrong = await world.as_("bob").put("/calls/default/y", {"members": ["alice"]})
    assert code(wrong) == (422, "unknown_user")


async def test_users_are_made_changed_and_searched(world: World) -> None:
    made = await world.server.put("/users/alice", {"name": "Alice", "teams": ["red"], "custom": {"floor": 3}})
    assert (made.status_code, made.json()["user"]["teams"]) == (201, ["red"])
    changed = await world.server.patch(
        "/users/alice", {"image": "https://example.com/a.png", "custom": {"floor": None}}
    )
    assert (changed.json()["user"]["image"], changed.json()["user"]["custom"]) == ("https://example.com/a.png", {})
    assert changed.json()["user"]["name"] == "Alice"
    await world.users("bob", role="moderator", teams=["blue", "red"])
    for wanted, found in (
        ({"role": "moderator"}, ["bob"]),
        ({"teams": {"$contains": "red"}}, ["alice", "bob"]),
        ({"teams": {"$in": ["blue", "green"]}}, ["bob"]),
        ({"name": {"$prefix": "Al"}}, ["alice"]),
        ({"id": {"$nin": ["alice"]}}, ["bob"]),
    ):
        reply = await world.server.post("/users/query", {"filter": wanted, "sort": [{"field": "id"}]})
        assert [u["id"] for u in reply.json()["items"]] == found
    for wrong in ("a:b", "a/b", "ä", "x" * 129, "anonymous-1"):
        reply = await world.server.put(f"/users/{wrong}")
        assert code(reply) in ((422, "unprocessable"), (404, "not_found"))
    assert pointers(await world.server.put("/users/carl", {"role": "wizard"})) == ["/role"]


async def test_custom_text_contains_its_parts_and_a_list_its_items(world: World) -> None:
    custom: dict[str, Any] = {
        "a": {"tags": ["red", "blue"], "at": {"floors": [1, 2.5, 30]}},
        "b": {"tags": "a red car", "at": {"floors": ["1", True, None]}},
        "c": {"tags": {"red": 1}, "at": {"floors": 1}},
        "d": {"tags": ["reddish", ["red"], 'a "red" one']},
    }
    for name, value in custom.items():
        await world.call(f"default/{name}", by="alice", custom=value)
    for wanted, found in (
        ({"custom.tags": {"$contains": "red"}}, ["a", "b"]),
        ({"custom.tags": {"$contains": 'a "red" one'}}, ["d"]),
        ({"custom.at.floors": {"$contains": 1}}, ["a"]),
        ({"custom.at.floors": {"$contains": 2.5}}, ["a"]),
        ({"custom.at.floors": {"$contains": "1"}}, ["b"]),
        ({"custom.at.floors": {"$contains": 3}}, []),
        ({"$not": {"custom.tags": {"$contains": "red"}}}, ["c", "d"]),
    ):
        reply = await world.as_("alice").post("/calls/query", {"filter": wanted, "sort": [{"field": "id"}]})
        assert [item["call"]["id"] for item in reply.json()["items"]] == found, wanted
    for wrong in (True, None, ["red"]):
        reply = await world.as_("alice").post("/calls/query", {"filter": {"custom.tags": {"$contains": wrong}}})
        assert pointers(reply) == ["/filter/custom.tags/$contains"]


async def test_every_422_says_what_is_wrong_where(world: World) -> None:
    """Also where it is no part of a body: the user on whose behalf is asked, and frames of an event socket."""
    reply = await world.on_behalf("ghost").get("/calls/default/x")
    assert (code(reply), pointers(reply)) == ((422, "unknown_user"), ["/On-Behalf-Of"])
    listener = await world.listen(world.as_("alice"))
    for frame, pointer in (
        ({"type": "dance"}, "/type"),
        ({"type": "auth"}, "/token"),
        ({"type": "subscribe", "cids": "default:x"}, "/cids"),
        ({"type": "resume", "last": []}, "/last"),
        ({"type": "resume", "last": {"default:x": "seven"}}, "/last"),
    ):
        await world.events.frame(listener.socket, json.dumps(frame))
        (answer,) = listener.frames()
        assert answer["type"] == "error"
        assert [fault["pointer"] for fault in answer["problem"]["errors"]] == [pointer]


async def test_guests_are_welcome_if_the_app_says_so(world: World) -> None:
    nobody = world.as_("nobody")
    nobody.headers = {}
    assert code(await nobody.post("/guests", {"name": "Visitor"})) == (409, "feature_disabled")
    await world.server.patch("/app", {"guests_enabled": True})
    reply = await nobody.post("/guests", {"name": "Visitor"})
    assert reply.status_code == 201
    guest = reply.json()
    assert (guest["user"]["name"], guest["user"]["role"]) == ("Visitor", "guest")
    await world.call("default/x", by="alice")
    nobody.headers = {"authorization": f"Bearer {guest['token']}"}
    joined = await nobody.join("default/x")
    assert (joined["participant"]["user_id"], joined["participant"]["role"]) == (guest["user"]["id"], "guest")


@pytest.mark.parametrize(
    "name", ["Al\u202ece", "\u2067Alice", "Al\nice", "\x1b[31mAlice", "x" * 257, "\u00e9" * 129, "a\u2028b"]
)
async def test_s_49_nobody_is_called_what_no_room_would_take(world: World, name: str) -> None:
    """Neither in users, nor as a guest, nor by the claim of a token."""
    for method in ("put", "patch"):
        reply = await getattr(world.server, method)("/users/alice", {"name": name})
        assert (code(reply), pointers(reply)) == ((422, "unprocessable"), ["/name"])
    assert code(await world.server.get("/users/alice")) == (404, "not_found")
    await world.server.patch("/app", {"guests_enabled": True})
    nobody = world.as_("nobody")
    nobody.headers = {}
    reply = await nobody.post("/guests", {"name": name})
    assert (code(reply), pointers(reply)) == ((422, "unprocessable"), ["/name"])
    assert code(await world.as_("alice", name=name).get("/users/alice")) == (401, "unauthenticated")


async def test_s_49_names_of_all_scripts_have_one_spelling(world: World) -> None:
    for given, kept in (
        ("Zoe\u0308", "Zo\u00eb"),
        ("\u200f\u0645\u0631\u062d\u0628\u0627", None),
        ("\u540d\u524d", None),
    ):
        shown = (await world.server.put("/users/zoe", {"name": given})).json()["user"]
        assert shown["name"] == (kept or given)
    for wrong in ("a\u202eb", "a%0Ab", "a%00b"):
        reply = await world.server.put(f"/users/{wrong}", {})
        assert (code(reply), pointers(reply)) == ((422, "unprocessable"), ["/id"])
    assert code(await world.as_("a\u202eb").get("/users/zoe")) == (401, "unauthenticated")


async def test_tokens_are_made_for_users(world: World) -> None:
    await world.users("alice")
    body = {"user_id": "alice", "ttl_seconds": 60, "calls": ["default:x"], "ceiling": ["JoinCall", "call.read"]}
    reply = await world.server.post("/tokens", body)
    assert (reply.status_code, reply.json()["expires_at"]) == (201, "2026-01-01T09:01:00.000Z")
    await world.call("default/x", by="alice")
    await world.call("default/y", by="alice")
    client = world.as_("alice")
    client.headers = {"authorization": f"Bearer {reply.json()['token']}"}
    shown = await client.get("/calls/default/x")
    assert shown.json()["own_capabilities"] == ["call.join", "call.read"]
    assert code(await client.get("/calls/default/y")) == (404, "not_found")
    await world.advance(60)
    assert code(await client.get("/calls/default/x")) == (401, "token_expired")
    assert pointers(await world.server.post("/tokens", {"user_id": "nobody"})) == ["/user_id"]
    assert pointers(await world.server.post("/tokens", {"user_id": "alice", "ceiling": ["fly"]})) == ["/ceiling/0"]


async def test_too_many_requests_are_told_when_to_come_back(database_url: str) -> None:
    """S-78"""
    limits = RateLimits(user_requests_per_minute=3, app_requests_per_minute=5)
    world = await World.open(database_url, settings=CallsSettings(rate_limits=limits), dev=False)
    alice, bob = world.as_("alice"), world.as_("bob")
    replies = [await alice.get("/calls/default/x") for _ in range(3)]
    assert [r.headers["ratelimit-remaining"] for r in replies] == ["2", "1", "0"]
    refused = await alice.get("/calls/default/x")
    assert code(refused) == (429, "rate_limited")
    assert (refused.headers["retry-after"], refused.json()["retry_after_ms"]) == ("20", 20_000)
    assert (await alice.get("/users/alice")).status_code == 200
    assert code(await bob.get("/calls/default/x")) == (404, "not_found")
    await bob.get("/calls/default/x")
    assert code(await bob.get("/calls/default/x")) == (429, "rate_limited")
    world.clock.now = world.clock.now.replace(second=20)
    assert code(await alice.get("/calls/default/x")) == (404, "not_found")
    assert code(await world.server.get("/calls/default/x")) == (404, "not_found")
    await world.close()


async def test_calls_are_found_sorted_and_paged(world: World) -> None:
    for number in range(30):
        body: dict[str, Any] = {"custom": {"n": number, "odd": bool(number % 2)}}
        if number % 3 == 0:
            body["starts_at"] = f"2026-02-01T10:{number:02}:00Z"
        await world.call(f"{'default' if number % 2 else 'livestream'}/c{number:02}", by="alice", **body)
        await world.advance(1)

    async def page(**body: Any) -> dict[str, Any]:
        reply = await world.as_("bob").post("/calls/query", body)
        assert reply.status_code == 200, reply.text
        shown: dict[str, Any] = reply.json()
        return shown

    def ids(shown: dict[str, Any]) -> list[str]:
        return [item["call"]["id"] for item in shown["items"]]

    newest = await page()
    assert ids(newest) == [f"c{n:02}" for n in range(29, 4, -1)]
    rest = await page(next=newest["next"])
    assert (ids(rest), rest["next"]) == ([f"c{n:02}" for n in range(4, -1, -1)], None)
    assert ids(await page(prev=rest["prev"])) == ids(newest)
    by_start = [{"field": "starts_at", "direction": "asc"}, {"field": "id", "direction": "desc"}]
    first = await page(sort=by_start, limit=8)
    assert ids(first) == ["c00", "c03", "c06", "c09", "c12", "c15", "c18", "c21"]
    # A call made meanwhile moves nothing that is still to come.
    await world.call("default/c03b", by="alice", starts_at="2026-02-01T10:04:00Z")
    second = await page(sort=by_start, limit=8, next=first["next"])
    assert ids(second) == ["c24", "c27", "c29", "c28", "c26", "c25", "c23", "c22"]
    assert ids(await page(filter={"custom.odd": True, "custom.n": {"$lt": 6}}, sort=[{"field": "id"}])) == [
        "c01",
        "c03",
        "c05",
    ]
    assert ids(
        await page(
            filter={"$or": [{"id": "c02"}, {"starts_at": {"$lte": "2026-02-01T12:00:00+02:00"}}]},
            sort=[{"field": "id"}],
        )
    ) == ["c00", "c02"]
    assert ids(await page(filter={"backstage": True}, limit=3)) == ["c28", "c26", "c24"]
    assert ids(await page(filter={"members": {"$contains": "bob"}})) == []
    await world.as_("alice").join("default/c29")
    assert ids(await page(filter={"ongoing": True})) == ["c29"]
    assert ids(await page(filter={"participant_count": {"$gte": 1}})) == ["c29"]
    assert ids(await page(filter={"$not": {"type": "livestream"}, "ended_at": None}, limit=2)) == ["c03b", "c29"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"filter": {"colour": "red"}}, "/filter/colour"),
        ({"filter": {"id": {"$regex": ".*"}}}, "/filter/id/$regex"),
        ({"filter": {"live": {"$gt": True}}}, "/filter/live/$gt"),
        ({"filter": {"created_at": "yesterday"}}, "/filter/created_at"),
        ({"filter": {"created_at": {"$contains": "2026"}}}, "/filter/created_at/$contains"),
        ({"filter": {"id": 7}}, "/filter/id"),
        ({"filter": {"custom": {"a": 1}}}, "/filter/custom"),
        ({"filter": {"custom.a'--": 1}}, "/filter/custom.a'--"),
        ({"filter": {"$and": []}}, "/filter/$and"),
        ({"filter": {"$not": {"$not": {"$not": {"$not": {"$not": {"id": "x"}}}}}}}, "/filter/$not/$not/$not/$not/$not"),
        ({"filter": {"$or": [{"id": str(n)} for n in range(31)]}}, "/filter/$or/30/id"),
        ({"filter": {"id": {}}}, "/filter/id"),
        ({"filter": {"id": {"$in": "x"}}}, "/filter/id/$in"),
        ({"sort": [{"field": "custom.n"}]}, "/sort/0/field"),
        ({"sort": [{"field": "id", "direction": "up"}]}, "/sort/0/direction"),
        ({"sort": [{"field": "id"}, {"field": "id"}]}, "/sort/1/field"),
        ({"sort": [{"field": f} for f in ("id", "type", "created_at", "updated_at")]}, "/sort"),
        ({"limit": 101}, "/limit"),
        ({"next": "nonsense"}, "/next"),
    ],
)
async def test_a_wrong_filter_is_pointed_at(world: World, body: dict[str, Any], pointer: str) -> None:
    reply = await world.as_("alice").post("/calls/query", body)
    assert (code(reply), pointers(reply)[0]) == ((422, "unprocessable"), pointer)


async def test_a_search_shows_what_reading_each_call_shows(world: World, database_url: str) -> None:
    """Also by a process that has none of them in memory, and of calls with everything in them."""
    await world.users("alice", "bob", "mallory")
    members = [{"user_id": "bob", "role": "host"}]
    for number in range(4):
        await world.call(f"default/c{number}", by="alice", members=members, ring=number < 2)
        await world.as_("alice").join(f"default/c{number}")
    ring = (await world.as_("bob").get("/calls/default/c0")).json()["ring"]["id"]
    await world.as_("bob").post(f"/calls/default/c0/rings/{ring}/reject")
    await world.as_("alice").post("/calls/default/c0/rings")
    await world.as_("alice").put("/calls/default/c2/blocks/mallory")
    await world.as_("alice").patch("/calls/default/c3/participants/bob/capabilities", {"revoke": ["call.end"]})
    other = await World.open(database_url, clock=world.clock)
    for user in ("alice", "bob", "mallory"):
        cold = (await other.as_(user).post("/calls/query", {"sort": [{"field": "id"}]})).json()["items"]
        read = [await world.as_(user).get(f"/calls/default/c{number}") for number in range(4)]
        shown = [reply.json() for reply in read if reply.status_code == 200]
        assert cold == [{"call": one["call"], "own_capabilities": one["own_capabilities"]} for one in shown]
        assert len(cold) == (3 if user == "mallory" else 4)
        rings = [(await other.as_(user).get(f"/calls/default/c{n}")).json().get("ring") for n in (0, 1)]
        assert rings == [one["ring"] for one in shown[:2]]
    await other.close()
