"""Requests: retries with one idempotency key, tokens that are renewed, replies nobody expects."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from signaling.client import (
    Backstage,
    CallyardClient,
    Conflict,
    Forbidden,
    InvalidRequest,
    MediaConnectionFailed,
    MediaSdkMissing,
    RateLimited,
    Unauthenticated,
    Unavailable,
    VideoError,
)
from signaling.client.errors import error_of
from tests.signaling.api.world import World
from tests.signaling.client.conftest import People


class Script:
    """A server that answers by a script and remembers what it was asked."""

    def __init__(self, *replies: httpx2.Response | Exception) -> None:
        self.replies = list(replies)
        self.asked: list[httpx2.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def client(self, token: Any = "t") -> CallyardClient:
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(self))
        client = CallyardClient("https://calls.test/v1/", token, http=http)

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        client.transport._sleep = pause
        return client


def problem(status: int, code: str, **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    return httpx2.Response(status, json={"status": status, "code": code, "detail": "No.", **more}, headers=headers)


RING = {
    "ring": {"id": "r", "cid": "default:x", "state": "pending", "video": False, "expires_at": "2026-01-01T00:00:00Z"}
}


async def test_a_retried_post_keeps_its_key() -> None:
    script = Script(httpx2.ConnectError("gone"), problem(503, "unavailable"), httpx2.Response(201, json=RING))
    ring = await script.client().make_call("default", "x").ring()
    assert ring.id == "r"
    assert [str(request.url) for request in script.asked] == ["https://calls.test/v1/calls/default/x/rings"] * 3
    assert len({request.headers["idempotency-key"] for request in script.asked}) == 1
    assert len(script.pauses) == 2


async def test_the_server_says_how_long_to_wait() -> None:
    script = Script(problem(429, "rate_limited", headers={"retry-after": "7"}), httpx2.Response(201, json=RING))
    await script.client().make_call("default", "x").ring()
    assert script.pauses == [7.0]
    patient = Script(problem(429, "rate_limited", headers={"retry-after": "3600"}))
    with pytest.raises(RateLimited) as refused:
        await patient.client().make_call("default", "x").ring()
    assert refused.value.retry_after_seconds == 3600
    assert patient.pauses == []


async def test_attempts_are_bounded_and_refusals_are_not_repeated() -> None:
    script = Script(*[httpx2.ConnectError("gone")] * 10)
    with pytest.raises(Unavailable) as refused:
        await script.client().make_call("default", "x").get()
    assert refused.value.code == "unreachable"
    assert len(script.asked) == 4
    for status, code in ((409, "conflict"), (503, "no_media_node"), (500, "internal"), (422, "unprocessable")):
        once = Script(problem(status, code))
        with pytest.raises(VideoError) as error:
            await once.client().make_call("default", "x").join_session()
        assert (error.value.status, error.value.code) == (status, code)
        assert once.pauses == []


async def test_a_token_is_renewed_once() -> None:
    tokens = iter(["old", "new", "newer"])
    script = Script(problem(401, "token_expired"), httpx2.Response(201, json=RING), problem(401, "token_expired"))
    script.replies.append(problem(401, "token_expired"))
    client = script.client(lambda: next(tokens))
    call = client.make_call("default", "x")
    await call.ring()
    assert [request.headers["authorization"] for request in script.asked] == ["Bearer old", "Bearer new"]
    with pytest.raises(Unauthenticated):
        await call.ring()
    assert len(script.asked) == 4
    fixed = Script(problem(401, "token_expired"))
    with pytest.raises(Unauthenticated):
        await fixed.client("only").make_call("default", "x").ring()


@pytest.mark.parametrize(
    "reply",
    [
        httpx2.Response(200, text="<html>a proxy</html>"),
        httpx2.Response(200, json=[]),
        httpx2.Response(200, json={"call": {"cid": 1}}),
    ],
)
async def test_a_reply_that_breaks_the_promise_is_an_error_of_the_tree(reply: httpx2.Response) -> None:
    with pytest.raises(Unavailable) as error:
        await Script(reply).client().make_call("default", "x").get()
    assert error.value.code == "unexpected_reply"


async def test_a_refusal_that_is_no_problem_document(world: World) -> None:
    with pytest.raises(InvalidRequest) as error:
        await Script(httpx2.Response(418, text="teapot")).client().make_call("default", "x").get()
    assert error.value.status == 418


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "backstage", Backstage),
        (403, "invented_later", Forbidden),
        (409, "invented_later", Conflict),
        (451, "invented_later", InvalidRequest),
        (599, "", Unavailable),
    ],
)
def test_every_problem_finds_its_class(status: int, code: str, kind: type[VideoError]) -> None:
    assert type(error_of(status, {"code": code, "opens_at": 5, "errors": "none", "capability": None})) is kind


def test_hostile_problem_members_do_not_raise() -> None:
    error = error_of(403, {"code": "backstage", "opens_at": 5, "errors": "none", "capability": None, "title": []})
    assert (error.opens_at, error.errors, error.capability, error.title, error.request_id) == (None, (), None, "", None)


async def test_without_the_sdk_joining_says_what_to_install(
    world: World, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people("alice").make_call("default", "x").get_or_create()
    monkeypatch.setitem(sys.modules, "livekit", None)
    client = people.client(world.token({"sub": "alice"}), media_connector=None)
    with pytest.raises(MediaSdkMissing, match=r"callyard\[client\]"):
        await client.make_call("default", "x").join()
    assert world.media.rooms == {}
    joined = await client.make_call("default", "x").join_session()
    assert joined.media.url == "wss://media.example.com"


def failing(error: Exception) -> Callable[[Any], Any]:
    async def connect(media: Any) -> Any:
        raise error

    return connect


async def test_who_does_not_get_into_the_room_leaves_the_call(world: World, people: People) -> None:
    error = MediaConnectionFailed("media_connection_failed", "no way through")
    client = people.client(world.token({"sub": "alice"}), media_connector=failing(error))
    call = client.make_call("default", "x")
    await call.get_or_create()
    with pytest.raises(MediaConnectionFailed):
        await call.join()
    assert await call.participants() == []
    assert (call.room, call.participant) == (None, None)


async def test_the_media_token_is_renewed(world: World, people: People) -> None:
    call = people("alice").make_call("default", "x")
    await call.get_or_create()
    with pytest.raises(Conflict) as early:
        await call.media_token()
    assert early.value.code == "not_joined"
    await call.join()
    first = await call.media_token()
    await world.advance(60)
    assert (await call.media_token()).expires_at > first.expires_at


async def test_a_server_acts_on_behalf_of_a_user(world: World, people: People) -> None:
    await world.users("alice")
    client = people.client(world.token({"scope": "server"}), on_behalf_of="alice")
    assert (await client.make_call("default", "x").get_or_create()).call.created_by == "alice"
    nobody = people.client(world.token({"scope": "server"}), on_behalf_of="nobody")
    with pytest.raises(InvalidRequest) as refused:
        await nobody.make_call("default", "x").get()
    assert refused.value.code == "unknown_user"


async def test_users_devices_and_tokens(world: World, people: People) -> None:
    made = await people.server.admin.put_user("alice", name="Alice", teams=["red"], custom={"a": 1})
    assert (made.name, made.teams, made.custom) == ("Alice", ["red"], {"a": 1})
    token = await people.server.admin.create_token("alice", ceiling=["ReadCall"])
    narrow = people.client(token)
    assert (await narrow.user("alice")).name == "Alice"
    with pytest.raises(Forbidden):
        await narrow.make_call("default", "x").get_or_create()
    device = await people("alice").add_device("alice", "fcm", "registration")
    await people("alice").remove_device("alice", device)
    await people.server.admin.delete_user("alice")
    with pytest.raises(Unauthenticated):
        await people("alice").user("alice")
