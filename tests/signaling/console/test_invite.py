"""Invitations open one room, with a fresh identity each time, and nothing else."""

from __future__ import annotations

import jwt
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from signaling.console.invite import mint_invite, redeem_invite
from signaling.console.routes import call_page_routes
from signaling.errors import InvalidInvite

KEYS = {"devkey": "a-secret-that-is-long-enough-for-hs256"}
NOW = 1_800_000_000.0


def invite(**changes: object) -> str:
    claims = {"iss": "devkey", "scope": "invite", "room": "demo", "iat": NOW, "exp": NOW + 60} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, KEYS["devkey"], algorithm="HS256")


def test_each_redemption_is_a_participant_of_its_own() -> None:
    link = mint_invite("devkey", KEYS["devkey"], room="demo", now=NOW, ttl_seconds=60)
    first = redeem_invite(KEYS, link, name="  Ada   Lovelace ", now=NOW)
    second = redeem_invite(KEYS, link, name="", now=NOW)
    assert first.identity != second.identity
    assert (first.name, first.room) == ("Ada Lovelace", "demo")
    assert second.name == second.identity
    claims = jwt.decode(
        first.token, KEYS["devkey"], algorithms=["HS256"], options={"verify_exp": False, "verify_nbf": False}
    )
    assert claims["sub"] == first.identity
    assert claims["video"]["roomJoin"] is True
    assert claims["video"]["room"] == "demo"
    assert "roomAdmin" not in claims["video"]


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (invite(exp=NOW - 1), "expired"),
        (invite(scope="server"), "not an invitation"),
        (invite(scope=None), "not an invitation"),
        (invite(room=None), "not an invitation"),
        (invite(room=7), "not an invitation"),
        (invite(exp=None), "not made by this server"),
        (invite(iss="nobody"), "not made by this server"),
        (invite()[:-4] + "AAAA", "not made by this server"),
        ("rubbish", "not made by this server"),
        (
            jwt.encode({"iss": "devkey", "scope": "invite", "room": "x", "exp": NOW + 9}, "", algorithm="none"),
            "not made by",
        ),
    ],
)
def test_what_is_not_a_valid_invitation_is_refused(token: str, sentence: str) -> None:
    with pytest.raises(InvalidInvite, match=sentence):
        redeem_invite(KEYS, token, name="x", now=NOW)


def test_the_page_exchanges_its_invitation() -> None:
    client = TestClient(Starlette(routes=call_page_routes(KEYS, clock=lambda: NOW)))
    page = client.get("/call")
    assert page.status_code == 200
    assert "livekit-client.umd.js" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert client.get("/static/vendor/livekit-client.umd.js").status_code == 200
    access = client.post("/call/access", json={"invite": invite(), "name": "Ada"})
    assert access.status_code == 200
    assert access.json()["room"] == "demo"
    assert access.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{}", 400, "invalid_request"),
        (b"[1]", 400, "invalid_request"),
        (b"\xff", 400, "invalid_request"),
        (b'{"invite": "x"}', 401, "invalid_invite"),
        (b"x" * 9000, 413, "too_large"),
    ],
)
def test_a_bad_exchange_gets_a_plain_answer(body: bytes, status: int, code: str) -> None:
    client = TestClient(Starlette(routes=call_page_routes(KEYS, clock=lambda: NOW)))
    reply = client.post("/call/access", content=body)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
