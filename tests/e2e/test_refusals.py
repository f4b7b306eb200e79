"""Who is refused is told so before the upgrade: a status, a sentence, and the same at `…/validate`."""

from __future__ import annotations

import base64
import secrets
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from livekit import rtc as sdk
from livekit.protocol import rtc
from websockets.exceptions import InvalidStatus

from tests.e2e.harness.people import Party
from tests.e2e.harness.server import Endpoint
from tests.e2e.harness.signal_client import ask, dual_path, join_request, signal_connection, single_path

pytestmark = pytest.mark.e2e


def signed(server: Endpoint, secret: str | None = None, **claims: Any) -> str:
    """A token with exactly these claims over good ones; None takes a claim away."""
    now = int(time.time())
    video = {"roomJoin": True, "room": "refusals"}
    payload = {"iss": server.key, "sub": "alice", "nbf": now - 5, "exp": now + 60, "video": video, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, secret or server.secret, algorithm="HS256")


def unsigned(server: Endpoint) -> str:
    claims = {"iss": server.key, "sub": "alice", "exp": int(time.time()) + 60, "video": {"roomJoin": True, "room": "x"}}
    return jwt.encode(claims, "", algorithm="none")


REFUSED: dict[str, tuple[int, Callable[[Endpoint], str | None]]] = {
    "no token": (401, lambda server: None),
    "garbage": (401, lambda server: "not.a.token"),
    "a bad signature": (401, lambda server: signed(server, "wrong" * 8)),
    "no signature": (401, unsigned),
    "an unknown key": (401, lambda server: signed(server, iss="stranger")),
    "an expired token": (401, lambda server: signed(server, exp=int(time.time()) - 120, nbf=int(time.time()) - 240)),
    "a token of tomorrow": (401, lambda server: signed(server, nbf=int(time.time()) + 86_400)),
    "no permission to join": (401, lambda server: signed(server, video={"room": "refusals", "roomCreate": True})),
    "no grants": (401, lambda server: signed(server, video=None)),
    "no identity": (400, lambda server: signed(server, sub=None)),
    "no room": (400, lambda server: signed(server, video={"roomJoin": True})),
}


@pytest.mark.parametrize("path", [dual_path, single_path], ids=["dual", "single"])
@pytest.mark.parametrize("case", REFUSED)
async def test_a_bad_token_is_refused_with_a_sentence(server: Endpoint, case: str, path: Any) -> None:
    status, make = REFUSED[case]
    token = make(server)
    with pytest.raises(InvalidStatus) as refused:
        async with signal_connection(server, path(), token):
            pass
    response = refused.value.response
    assert response.status_code == status
    sentence = response.body.decode().strip()
    assert len(sentence.split()) >= 2, sentence
    assert not sentence.startswith(("<", "{"))
    validated = await ask(server, path().replace("?", "/validate?"), token)
    assert (validated.status_code, validated.text.strip()) == (status, sentence)


@pytest.mark.parametrize("path", [dual_path, single_path], ids=["dual", "single"])
async def test_a_good_token_is_taken_from_header_and_query(server: Endpoint, path: Any, room: str) -> None:
    token = server.token(room, "alice")
    validated = await ask(server, path().replace("?", "/validate?"), token)
    assert (validated.status_code, validated.text.strip()) == (200, "success")
    validated = await ask(server, path().replace("?", "/validate?") + f"&access_token={token}", None)
    assert (validated.status_code, validated.text.strip()) == (200, "success")
    for in_query in (True, False):
        async with signal_connection(server, path(), token, in_query=in_query) as client:
            assert (await client.receive()).join.participant.identity == "alice"


BAD_JOIN_REQUESTS = {
    "absent": "/rtc/v1?protocol=16",
    "not base64": "/rtc/v1?join_request=%25%25%25",
    "not a message": "/rtc/v1?join_request=" + base64.urlsafe_b64encode(b"\xff" * 40).decode(),
    "not gzip": "/rtc/v1?join_request="
    + urllib.parse.quote(
        base64.urlsafe_b64encode(
            rtc.WrappedJoinRequest(compression=rtc.WrappedJoinRequest.GZIP, join_request=b"plain").SerializeToString()
        ).decode()
    ),
}


@pytest.mark.parametrize("case", BAD_JOIN_REQUESTS)
async def test_a_bad_join_request_is_refused(server: Endpoint, room: str, case: str) -> None:
    path = BAD_JOIN_REQUESTS[case]
    with pytest.raises(InvalidStatus) as refused:
        async with signal_connection(server, path, server.token(room, "alice")):
            pass
    assert refused.value.response.status_code == 400
    assert len(refused.value.response.body.split()) >= 2
    assert (await ask(server, path.replace("?", "/validate?"), server.token(room, "alice"))).status_code == 400


@pytest.mark.parametrize("compressed", [True, False], ids=["gzip", "plain"])
async def test_a_join_request_comes_packed_or_plain(server: Endpoint, room: str, compressed: bool) -> None:
    path = single_path(join_request(metadata="m", participant_attributes={"a": "b"}), compressed=compressed)
    token = server.token(room, "alice", can_update_own_metadata=True)
    async with signal_connection(server, path, token) as client:
        join = (await client.receive()).join
        assert join.participant.metadata == "m"
        assert dict(join.participant.attributes) == {"a": "b"}
        assert not join.subscriber_primary


async def test_metadata_at_the_join_needs_its_permission(server: Endpoint, room: str) -> None:
    path = single_path(join_request(metadata="mine"))
    with pytest.raises(InvalidStatus) as refused:
        async with signal_connection(server, path, server.token(room, "alice", can_update_own_metadata=False)):
            pass
    assert refused.value.response.status_code == 401


async def test_a_request_that_is_no_websocket_finds_nothing(server: Endpoint, room: str) -> None:
    assert (await ask(server, dual_path(), server.token(room, "alice"))).status_code == 404


async def test_any_origin_may_ask(server: Endpoint, room: str) -> None:
    answer = await ask(server, "/rtc/validate?protocol=16", server.token(room, "alice"), Origin="https://app.example")
    assert answer.headers["access-control-allow-origin"] in {"*", "https://app.example"}


async def test_the_server_says_that_it_is_there(server: Endpoint) -> None:
    answer = await ask(server, "/", None)
    assert (answer.status_code, answer.text.strip()) == (200, "OK")


async def test_the_sdk_shows_why_it_was_refused(party: Party, server: Endpoint) -> None:
    with pytest.raises(sdk.ConnectError) as refused:
        await party.join("alice", token=signed(server, "wrong" * 8))
    assert "401" in refused.value.message


async def test_a_resume_is_checked_like_a_join(server: Endpoint, room: str) -> None:
    path = dual_path(reconnect=1, sid="PA_whatever")
    with pytest.raises(InvalidStatus) as refused:
        async with signal_connection(server, path, signed(server, "wrong" * 8)):
            pass
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize("path", ["dual", "single"])
async def test_a_resume_of_an_unknown_session_is_sent_to_join_afresh(server: Endpoint, room: str, path: str) -> None:
    sid = f"PA_{secrets.token_hex(6)}"
    paths = {
        "dual": dual_path(reconnect=1, sid=sid),
        "single": single_path(join_request(reconnect=True, participant_sid=sid)),
    }
    async with signal_connection(server, paths[path], server.token(room, "alice")) as client:
        first = await client.receive()
        assert first.WhichOneof("message") == "leave"
        assert first.leave.action == rtc.LeaveRequest.RECONNECT
        assert first.leave.reason == 6  # STATE_MISMATCH
