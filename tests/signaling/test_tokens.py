"""Tokens: what holds, and a table of forgeries and malformed ones of which none may."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import math
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from signaling.errors import Unauthenticated
from signaling.rooms.grants import Grants
from signaling.tokens import LEEWAY_SECONDS, sign, verify

NOW = 1_700_000_000.0
SECRET = "a secret of at least thirty-two bytes"
KEYRING = {"devkey": SECRET, "other": "another secret of thirty-two bytes!!"}
CLAIMS: dict[str, Any] = {
    "iss": "devkey",
    "sub": "alice",
    "nbf": int(NOW),
    "exp": int(NOW) + 600,
    "video": {"roomJoin": True, "room": "lobby"},
}


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw_token(payload: bytes | str, header: bytes | str | None = None, secret: str | bytes = SECRET) -> str:
    """Sign exactly these bytes with HS256."""
    head = header if header is not None else '{"alg":"HS256","typ":"JWT"}'
    parts = [encoded(part.encode() if isinstance(part, str) else part) for part in (head, payload)]
    key = secret.encode() if isinstance(secret, str) else secret
    signature = hmac.new(key, ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, encoded(signature)])


def token(secret: str = SECRET, header: dict[str, Any] | None = None, **changed: Any) -> str:
    claims = {name: value for name, value in {**CLAIMS, **changed}.items() if value is not ...}
    return raw_token(json.dumps(claims), json.dumps({"alg": "HS256", "typ": "JWT", **(header or {})}), secret)


def with_video(**changed: Any) -> str:
    return token(video={**CLAIMS["video"], **changed})


# --- what holds -----------------------------------------------------------------------------------------------------


def test_a_token_is_read() -> None:
    grants = verify(
        token(
            name="Alice",
            metadata="m",
            attributes={"a": "b"},
            kind="agent",
            video={
                "roomJoin": True,
                "room": "lobby",
                "canPublish": False,
                "canPublishSources": ["camera"],
                "hidden": True,
            },
            roomConfig={"emptyTimeout": 5},
            roomPreset="large",
        ),
        KEYRING,
        NOW,
    )
    assert grants == Grants(
        key="devkey",
        identity="alice",
        name="Alice",
        metadata="m",
        attributes={"a": "b"},
        kind="agent",
        room="lobby",
        room_join=True,
        can_publish=False,
        can_publish_data=False,
        can_publish_sources=("camera",),
        hidden=True,
        room_config={"emptyTimeout": 5},
        room_preset="large",
    )


def test_rights_that_are_not_named_are_given_and_grants_are_not() -> None:
    grants = verify(token(video={}), KEYRING, NOW)
    assert (grants.can_publish, grants.can_subscribe, grants.can_publish_data) == (True, True, True)
    assert not any((grants.room_join, grants.room_admin, grants.room_create, grants.hidden, grants.recorder))
    assert not grants.can_update_own_metadata


@pytest.mark.parametrize(("offset", "holds"), [(-1, True), (LEEWAY_SECONDS - 1, True), (LEEWAY_SECONDS, False)])
def test_an_expired_token_holds_for_the_leeway_and_no_longer(offset: float, holds: bool) -> None:
    """S-61"""
    check(token(), CLAIMS["exp"] + offset, holds)


@pytest.mark.parametrize(("offset", "holds"), [(0, True), (-LEEWAY_SECONDS, True), (-LEEWAY_SECONDS - 1, False)])
def test_a_token_holds_a_leeway_before_its_time_and_no_sooner(offset: float, holds: bool) -> None:
    """S-63"""
    check(token(), NOW + offset, holds)


def check(text: str, now: float, holds: bool) -> None:
    if holds:
        assert verify(text, KEYRING, now).identity == "alice"
    else:
        with pytest.raises(Unauthenticated):
            verify(text, KEYRING, now)


def test_a_kid_and_an_unknown_header_are_no_harm() -> None:
    assert verify(token(header={"kid": "../../../dev/null", "x": 1}), KEYRING, NOW).identity == "alice"


def test_what_is_signed_holds_the_same_grants_and_no_more() -> None:
    grants = verify(
        token(
            name="Alice",
            attributes={"a": "b"},
            exp=int(NOW) + 86_400,
            video={**CLAIMS["video"], "canSubscribe": False, "canPublishSources": ["camera"], "roomAdmin": True},
        ),
        KEYRING,
        NOW,
    )
    again = verify(sign(grants, KEYRING, NOW + 100), KEYRING, NOW + 100)
    assert again == grants
    assert again.lifetime_seconds == 86_400


def test_a_token_of_the_javascript_sdk_does_not_say_when_it_was_made_out() -> None:
    grants = verify(token(nbf=0, exp=int(NOW) + 21_600), KEYRING, NOW)
    assert (grants.issued_at, grants.expires_at, grants.lifetime_seconds) == (0.0, NOW + 21_600, 21_600)
    assert verify(token(), KEYRING, NOW + 5).issued_at == NOW


@pytest.mark.parametrize("elapsed", [0.0, 0.25, 1.0, 100.999])
def test_a_refreshed_token_says_the_very_moment_and_how_long_the_first_one_held(elapsed: float) -> None:
    grants = verify(token(nbf=0, exp=int(NOW) + 120), KEYRING, NOW)
    for _ in range(2):
        grants = verify(sign(grants, KEYRING, NOW + elapsed), KEYRING, NOW + elapsed)
        assert grants.issued_at % 1, "a whole second would be taken for rounded"
        assert grants.issued_at == pytest.approx(NOW + elapsed, abs=0.001)
        assert grants.issued_at <= NOW + elapsed
        assert (grants.expires_at, grants.lifetime_seconds) == (NOW + 120, 600)


def test_a_short_token_is_refreshed_for_ten_minutes() -> None:
    grants = verify(token(exp=int(NOW) + 5), KEYRING, NOW)
    fresh = sign(grants, KEYRING, NOW)
    assert verify(fresh, KEYRING, NOW + 599).identity == "alice"
    with pytest.raises(Unauthenticated):
        verify(fresh, KEYRING, NOW + 600 + LEEWAY_SECONDS)


# --- what does not --------------------------------------------------------------------------------------------------


def _algorithms() -> dict[str, str]:
    """Other algorithms, and keys taken for secrets (CVE-2022-29217, CVE-2024-37568, CVE-2021-39215)."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())

    def private(key: Any) -> bytes:
        pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem

    def public(key: Any) -> bytes:
        pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem

    payload = json.dumps(CLAIMS)
    unsigned = f"{encoded(json.dumps({'alg': 'none'}).encode())}.{encoded(payload.encode())}."
    jwk = {"kty": "oct", "k": encoded(b"attacker")}
    return {
        "none": unsigned,
        "none with our signature": raw_token(payload, '{"alg":"none"}'),
        **{
            f"none as {name}": f"{encoded(json.dumps({'alg': name}).encode())}.{encoded(payload.encode())}."
            for name in ("None", "NONE", "nOnE", "none ", "", "HS256\x00")
        },
        "no algorithm": raw_token(payload, '{"typ":"JWT"}'),
        "null algorithm": raw_token(payload, '{"alg":null}'),
        "algorithm as list": raw_token(payload, '{"alg":["HS256"]}'),
        "lower case": raw_token(payload, '{"alg":"hs256"}'),
        "HS384": jwt.encode(CLAIMS, SECRET * 2, algorithm="HS384"),
        "HS384 with our secret": jwt.encode(CLAIMS, SECRET + " " * 20, algorithm="HS384"),
        "HS512": jwt.encode(CLAIMS, SECRET * 2, algorithm="HS512"),
        "RS256": jwt.encode(CLAIMS, private(rsa_key), algorithm="RS256"),
        "PS256": jwt.encode(CLAIMS, private(rsa_key), algorithm="PS256"),
        "ES256": jwt.encode(CLAIMS, private(ec_key), algorithm="ES256"),
        "HS256 by an RSA public key": raw_token(payload, secret=public(rsa_key)),
        "HS256 by an EC public key": raw_token(payload, secret=public(ec_key)),
        "RS256 over an HMAC": raw_token(payload, '{"alg":"RS256"}'),
        "empty key": raw_token(payload, secret=""),
        "the issuer as key": raw_token(payload, secret="devkey"),
        "another issuer's key": raw_token(payload, secret=KEYRING["other"]),
        "jwk": raw_token(payload, json.dumps({"alg": "HS256", "jwk": jwk}), "attacker"),
        "jku": raw_token(payload, '{"alg":"HS256","jku":"https://attacker.example/keys"}', "attacker"),
        "x5u": raw_token(payload, '{"alg":"HS256","x5u":"https://attacker.example/chain"}', "attacker"),
        "x5c": raw_token(payload, json.dumps({"alg": "HS256", "x5c": [encoded(public(rsa_key))]}), "attacker"),
        "kid of nothing": raw_token(payload, '{"alg":"HS256","kid":"/dev/null"}', ""),
        "kid by SQL": raw_token(payload, json.dumps({"alg": "HS256", "kid": "x' UNION SELECT 'a"}), "a"),
        "kid of another type": raw_token(payload, '{"alg":"HS256","kid":{"a":1}}'),
        "unknown crit": raw_token(payload, '{"alg":"HS256","crit":["exp2"],"exp2":1}'),
        "empty crit": raw_token(payload, '{"alg":"HS256","crit":[]}'),
        "crit of another type": raw_token(payload, '{"alg":"HS256","crit":"exp"}'),
        "b64 off": raw_token(payload, '{"alg":"HS256","b64":false,"crit":["b64"]}'),
        "two algorithms": raw_token(payload, '{"alg":"none","alg":"HS256"}'),
    }


def _texts() -> dict[str, str]:
    good = token()
    header, payload, signature = good.split(".")
    last = signature[:-1] + ("A" if signature[-1] != "A" else "B")
    return {
        "nothing": "",
        "dots": "..",
        "one part": header,
        "no signature": f"{header}.{payload}",
        "empty signature": f"{header}.{payload}.",
        "four parts": f"{good}.{signature}",
        "five parts, as if encrypted": f"{header}.{payload}.{signature}.{payload}.{signature}",
        "cut signature": good[:-4],
        "longer signature": good + "AAAA",
        "other last character": f"{header}.{payload}.{last}",
        "payload of another token": f"{header}.{token(sub='bob').split('.')[1]}.{signature}",
        "whitespace": f" {good}",
        "line break inside": f"{header}.\n{payload}.{signature}",
        "standard base64": good.replace("-", "+").replace("_", "/") + "+",
        "not ASCII": good + "é",
        "half a character": good + "\ud800",
        "NUL": good + "\x00",
        "huge": token(metadata="x" * 300_000),
        "huge garbage": "x" * 10_000_000,
        "payload is an array": raw_token("[1]"),
        "payload is a string": raw_token('"devkey"'),
        "payload is null": raw_token("null"),
        "payload is no JSON": raw_token("{"),
        "payload is UTF-16": raw_token(json.dumps(CLAIMS).encode("utf-16")),
        "payload is no UTF-8": raw_token(b'{"iss":"devkey","sub":"\xff"}'),
        "payload nests for ever": raw_token("[" * 20_000),
        "payload nests objects": raw_token('{"a":' * 5_000 + "1" + "}" * 5_000),
        "header nests for ever": raw_token(json.dumps(CLAIMS), "[" * 20_000),
        "header is an array": raw_token(json.dumps(CLAIMS), '["HS256"]'),
        "number of 5000 digits": raw_token(json.dumps(CLAIMS)[:-1] + ',"n":' + "9" * 5_000 + "}"),
    }


def _times() -> dict[str, str]:
    payload = json.dumps(CLAIMS)
    exp = f'"exp": {CLAIMS["exp"]}'
    values = {
        "a string": f'"{CLAIMS["exp"]}"',
        "true": "true",
        "a list": f"[{CLAIMS['exp']}]",
        "an object": "{}",
        "NaN": "NaN",
        "Infinity": "Infinity",
        "infinite": "1e999",
        "huge": str(2**64),
        "huger": "9" * 400,
        "negative infinity": "-1e999",
        "zero": "0",
        "negative": "-1",
        "a past float": "1e9",
        "an empty string": '""',
    }
    rows = {f"exp is {name}": raw_token(payload.replace(exp, f'"exp": {value}')) for name, value in values.items()}
    rows["no exp"] = token(exp=...)
    rows["null exp"] = token(exp=None)
    rows["exp under another name"] = token(exp=..., Exp=CLAIMS["exp"], expires=CLAIMS["exp"])
    for name in ("a string", "true", "a list", "an object", "NaN", "infinite", "huge", "huger"):
        rows[f"nbf is {name}"] = raw_token(payload.replace(f'"nbf": {CLAIMS["nbf"]}', f'"nbf": {values[name]}'))
    rows["nbf ahead"] = token(nbf=int(NOW) + 3600)
    rows["iat is a string"] = token(iat="yesterday")
    rows["exp twice"] = raw_token(payload.replace(exp, f'"exp": 1, {exp}'))
    rows["exp twice, late first"] = raw_token(payload.replace(exp, f'{exp}, "exp": {CLAIMS["exp"] + 1}'))
    return rows


def _claims() -> dict[str, str]:
    issuers = (None, "", "nobody", 1, True, ["devkey"], {"a": "devkey"}, "devkey\x00", "DEVKEY", " devkey")
    wrong: tuple[Any, ...] = (1, True, [], {}, 1.5)
    rows = {f"issuer {value!r}": token(iss=value) for value in issuers}
    rows |= {
        f"{name} is {value!r}": token(**{name: value})
        for name in ("sub", "name", "metadata", "kind", "roomPreset")
        for value in wrong
    }
    videos: tuple[Any, ...] = (None, 1, "roomJoin", [], True)
    rows |= {f"video is {value!r}": token(video=value) for value in videos}
    flags = ("roomJoin", "roomAdmin", "canPublish", "canSubscribe", "hidden", "recorder", "canUpdateOwnMetadata")
    no_flags: tuple[Any, ...] = (1, "true", [], {})
    rows |= {f"{name} is {value!r}": with_video(**{name: value}) for name in flags for value in no_flags}
    rows |= {f"room is {value!r}": with_video(room=value) for value in wrong}
    sources: tuple[Any, ...] = ("camera", ["webcam"], [1], [None], [["camera"]], [{}], {"camera": True}, 5, True)
    rows |= {f"sources are {value!r}": with_video(canPublishSources=value) for value in sources}
    attributes: tuple[Any, ...] = ([], "a", 1, {"a": 1}, {"a": None}, {"a": {}})
    rows |= {f"attributes are {value!r}": token(attributes=value) for value in attributes if value != []}
    no_configs: tuple[Any, ...] = ([], "x", 1, True)
    rows |= {f"room configuration is {value!r}": token(roomConfig=value) for value in no_configs}
    payload = json.dumps(CLAIMS)
    rows["issuer twice"] = raw_token(payload.replace('"iss": "devkey"', '"iss": "other", "iss": "devkey"'))
    rows["identity twice"] = raw_token(payload.replace('"sub": "alice"', '"sub": "bob", "sub": "alice"'))
    rows["grant twice"] = raw_token(payload.replace('"roomJoin": true', '"roomJoin": false, "roomJoin": true'))
    rows["half a character in the identity"] = raw_token(payload.replace("alice", "\\ud800"))
    rows["half a character in an attribute"] = raw_token(payload[:-1] + ',"attributes":{"a":"\\udc00"}}')
    return rows


FORGERIES = _algorithms() | _texts() | _times() | _claims()


@pytest.mark.parametrize("name", list(FORGERIES))
def test_no_forged_or_malformed_token_is_accepted(name: str) -> None:
    """S-60, S-61"""
    with pytest.raises(Unauthenticated) as refusal:
        verify(FORGERIES[name], KEYRING, NOW)
    assert refusal.value.message


def test_without_keys_nothing_holds() -> None:
    for keyring in ({}, {"devkey": ""}):
        for text in (token(), raw_token(json.dumps(CLAIMS), secret="")):
            with pytest.raises(Unauthenticated):
                verify(text, keyring, NOW)


RANDOM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_NAMES = ("sub", "name", "metadata", "attributes", "kind", "video", "exp", "nbf", "iat", "roomConfig", "scope")
_GRANTS = ("roomJoin", "room", "canPublish", "canPublishSources", "hidden", "agent", "destinationRoom")


@RANDOM
@given(
    st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=4),
    st.dictionaries(st.sampled_from(_GRANTS), _JSON, max_size=3),
)
def test_any_claims_are_read_or_refused_and_what_is_read_can_be_signed(
    claims: dict[str, Any], video: dict[str, Any]
) -> None:
    text = raw_token(json.dumps({**CLAIMS, "video": {**CLAIMS["video"], **video}, **claims}))
    try:
        grants = verify(text, KEYRING, NOW)
    except Unauthenticated:
        return
    assert not any(isinstance(value, float) and math.isnan(value) for value in claims.values())
    assert verify(sign(grants, KEYRING, NOW), KEYRING, NOW).permission() == grants.permission()


@RANDOM
@given(st.text() | st.binary().map(encoded) | st.text(alphabet="abcXYZ019-_.="))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verify(text, KEYRING, NOW)


@RANDOM
@given(st.data())
def test_no_single_changed_character_is_accepted(data: st.DataObject) -> None:
    """S-60"""
    text = token()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from([c for c in "ABCxyz019-_.=" if c != text[at]]))
    with pytest.raises(Unauthenticated):
        verify(text[:at] + other + text[at + 1 :], KEYRING, NOW)
