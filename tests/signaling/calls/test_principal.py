"""Attacks on API tokens (S-60, S-61): nothing of the table is accepted; and what a good token says."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from signaling.calls import principal
from signaling.calls.model import TokenScope
from signaling.calls.principal import TOKEN_MAX_CHARACTERS, Principal, Verifier, mint, verify
from signaling.calls.problems import Problem

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
AT = int(NOW.timestamp())
SECRET = "a secret of thirty-two characters"
KEYS = {"devkey": SECRET, "empty": "", "other": "another secret, as long as the first"}
GOOD: dict[str, Any] = {"iss": "devkey", "sub": "alice", "exp": AT + 600}
RSA = rsa.generate_private_key(65_537, 2_048)
PUBLIC_PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(value: Any) -> str:
    return b64(value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode())


def hs(content: str, secret: str = SECRET, digest: Any = hashlib.sha256) -> bytes:
    return hmac.new(secret.encode(), content.encode(), digest).digest()


def token(
    claims: Any = None,
    header: Any = None,
    sign: Callable[[str], bytes] = hs,
    **more: Any,
) -> str:
    """Return a token with the header and claims given; by default a good one."""
    claims = {**GOOD, **more} if claims is None else claims
    content = f"{part({'alg': 'HS256', 'typ': 'JWT'} if header is None else header)}.{part(claims)}"
    return f"{content}.{b64(sign(content))}"


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name not in names}


def rs256(content: str) -> bytes:
    return RSA.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256())


def es256(content: str) -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).sign(content.encode(), ec.ECDSA(hashes.SHA256()))


def mangled(change: Callable[[list[str]], list[str]]) -> str:
    return ".".join(change(token().split(".")))


def flip(text: str, index: int) -> str:
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[index] ^= 1
    return b64(bytes(raw))


def none(_content: str) -> bytes:
    return b""


HS = {"alg": "HS256", "typ": "JWT"}
ATTACKS: dict[str, str] = {
    # the algorithm
    **{f"alg {alg}, unsigned": token(header={"alg": alg}, sign=none) for alg in ("none", "None", "NONE", "nOnE", "")},
    "alg none, signed": token(header={"alg": "none"}),
    "alg none, no third part": token(header={"alg": "none"}, sign=none).rstrip("."),
    "no alg": token(header={"typ": "JWT"}),
    "alg null": token(header={"alg": None}),
    "alg a list": token(header={"alg": ["HS256"]}),
    "alg a number": token(header={"alg": 256}),
    "alg hs256": token(header={"alg": "hs256"}),
    "alg HS256 with a space": token(header={"alg": "HS256 "}),
    "alg HS384": token(header={"alg": "HS384"}, sign=lambda c: hs(c, digest=hashlib.sha384)),
    "alg HS512": token(header={"alg": "HS512"}, sign=lambda c: hs(c, digest=hashlib.sha512)),
    "alg RS256": token(header={"alg": "RS256"}, sign=rs256),
    "alg RS256, signed with the secret": token(header={"alg": "RS256"}),
    "alg ES256": token(header={"alg": "ES256"}, sign=es256),
    "alg ES256, a signature of zeros": token(header={"alg": "ES256"}, sign=lambda _: bytes(64)),
    "alg PS256": token(header={"alg": "PS256"}, sign=rs256),
    "HS256 with a public key as secret": token(sign=lambda c: hs(c, PUBLIC_PEM.decode())),
    # keys named by the token
    "jwk in the header": token(header={**HS, "jwk": {"kty": "oct", "k": b64(b"mine")}}, sign=lambda c: hs(c, "mine")),
    "jku in the header": token(header={**HS, "jku": "https://evil.example/jwks"}, sign=lambda c: hs(c, "mine")),
    "x5u in the header": token(header={**HS, "x5u": "https://evil.example/x"}, sign=lambda c: hs(c, "mine")),
    "x5c in the header": token(header={**HS, "x5c": ["MIIB"]}, sign=lambda c: hs(c, "mine")),
    "kid a path to an empty file": token(header={**HS, "kid": "../../../../dev/null"}, sign=lambda c: hs(c, "")),
    "kid SQL": token(header={**HS, "kid": "x' UNION SELECT 'mine"}, sign=lambda c: hs(c, "mine")),
    "iss of a key that is empty": token(iss="empty", sign=lambda c: hs(c, "")),
    "iss unknown": token(iss="nobody"),
    "iss missing": token(without("iss")),
    "iss null": token(iss=None),
    "iss a list": token(iss=["devkey"]),
    "iss an object": token(iss={"devkey": 1}),
    "iss of another key": token(iss="other"),
    # extensions
    "crit unknown": token(header={**HS, "crit": ["exp"], "exp": AT + 600}),
    "crit empty": token(header={**HS, "crit": []}),
    "crit null": token(header={**HS, "crit": None}),
    "b64 false": token(header={**HS, "b64": False, "crit": ["b64"]}),
    "b64 alone": token(header={**HS, "b64": True}),
    "typ of something else": token(header={"alg": "HS256", "typ": "JOSE+JSON"}),
    "cty of a nested token": token(token().encode(), header={**HS, "cty": "JWT"}),
    # the expiry
    "no exp": token(without("exp")),
    "exp null": token(exp=None),
    "exp a string": token(exp=str(AT + 600)),
    "exp true": token(exp=True),
    "exp a list": token(exp=[AT + 600]),
    "exp NaN": token(b'{"iss":"devkey","sub":"alice","exp":NaN}'),
    "exp Infinity": token(b'{"iss":"devkey","sub":"alice","exp":Infinity}'),
    "exp 1e400": token(b'{"iss":"devkey","sub":"alice","exp":1e400}'),
    "exp beyond all dates": token(exp=10**20),
    "exp huge": token(b'{"iss":"devkey","sub":"alice","exp":1' + b"0" * 5_000 + b"}"),
    "exp negative": token(exp=-1),
    "exp zero": token(exp=0),
    "exp past": token(exp=AT - 1),
    "exp now": token(exp=AT),
    "exp long past": token(exp=1_000_000_000),
    "exp twice": token(f'{{"iss":"devkey","sub":"alice","exp":1,"exp":{AT + 600}}}'.encode()),
    # other times
    "nbf in the future": token(nbf=AT + 61),
    "nbf a string": token(nbf=str(AT)),
    "nbf NaN": token(f'{{"iss":"devkey","sub":"alice","exp":{AT + 600},"nbf":NaN}}'.encode()),
    "nbf null": token(nbf=None),
    "iat in the future": token(iat=AT + 61),
    "iat a string": token(iat="now"),
    # the signature
    "no signature": mangled(lambda p: [p[0], p[1], ""]),
    "signature cut": mangled(lambda p: [p[0], p[1], p[2][:-4]]),
    "signature longer": mangled(lambda p: [p[0], p[1], p[2] + "AAAA"]),
    "signature flipped at its end": mangled(lambda p: [p[0], p[1], flip(p[2], 31)]),
    "signature flipped at its start": mangled(lambda p: [p[0], p[1], flip(p[2], 0)]),
    "signature padded": mangled(lambda p: [p[0], p[1], p[2] + "="]),
    "signature with a bit that decoders ignore": mangled(lambda p: [p[0], p[1], p[2][:-1] + chr(ord(p[2][-1]) + 1)]),
    "signature in standard base64": token(sign=lambda c: hs(c)).rpartition(".")[0] + "." + "+/" * 21 + "A",
    "signature of another secret": token(sign=lambda c: hs(c, "mine")),
    "claims of another token": mangled(lambda p: [p[0], part({**GOOD, "sub": "admin"}), p[2]]),
    "header of another token": mangled(lambda p: [part({**HS, "kid": "x"}), p[1], p[2]]),
    # the form
    "empty": "",
    "dots": "..",
    "two parts": mangled(lambda p: p[:2]),
    "four parts": mangled(lambda p: [*p, p[2]]),
    "five parts, as JWE": mangled(lambda p: [*p, p[2], p[2]]),
    "JSON serialisation": json.dumps({"payload": part(GOOD), "signatures": [{"signature": "x"}]}),
    "a line break inside": mangled(lambda p: [p[0], p[1] + "\n", p[2]]),
    "a space inside": mangled(lambda p: [p[0] + " ", p[1], p[2]]),
    "a letter beyond ASCII": mangled(lambda p: [p[0], p[1] + "é", p[2]]),
    "header no JSON": token(header=b"nonsense"),
    "header a list": token(header=[HS]),
    "claims no JSON": token(b"nonsense"),
    "claims a list": token([GOOD]),
    "claims nested without end": token(b"[" * 20_000 + b"]" * 20_000),
    "claims not UTF-8": token(b'{"iss":"devkey","sub":"\xff","exp":2000000000}'),
    "claims with a byte order mark": token(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    "alg twice": token(header=b'{"alg":"none","alg":"HS256"}'),
    "sub twice": token(f'{{"iss":"devkey","sub":"bob","sub":"alice","exp":{AT + 600}}}'.encode()),
    "too long": token(name="x" * TOKEN_MAX_CHARACTERS),
    # what it says
    "no sub": token(without("sub")),
    "sub empty": token(sub=""),
    "sub a number": token(sub=7),
    "sub outside the alphabet": token(sub="alice:phone"),
    "sub with a line break at its end": token(sub="alice\n"),
    "sub too long": token(sub="a" * 129),
    "scope unknown": token(scope="root"),
    "scope a list": token(scope=["server"]),
    "server with a sub": token(scope="server"),
    "anonymous without calls": token({**without("sub"), "scope": "anonymous"}),
    "anonymous with a sub": token(scope="anonymous", calls=["default:x"]),
    "calls a string": token(calls="default:x"),
    "calls with a number": token(calls=[1]),
    "teams a string": token(teams="red"),
    "role a list": token(role=["admin"]),
    "ceiling of nothing known": token(ceiling=["everything"]),
    "a media token": token(video={"roomJoin": True, "room": "x"}),
    "a media token without rights": token(video={}),
    "a SIP token": token(sip={"admin": True}),
}


def test_the_table_is_long_enough() -> None:
    assert len(ATTACKS) >= 100
    assert verify(token(), KEYS, NOW).user_id == "alice"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_s_60_s_61_no_attack_is_accepted(attack: str) -> None:
    """S-60"""
    with pytest.raises(Problem) as refused:
        verify(attack, KEYS, NOW)
    assert refused.value.status == 401
    assert refused.value.code in ("unauthenticated", "token_expired")


def test_only_an_honest_token_past_its_time_is_called_expired() -> None:
    for expired in ("exp past", "exp now", "exp long past", "exp zero"):
        with pytest.raises(Problem) as refused:
            verify(ATTACKS[expired], KEYS, NOW)
        assert refused.value.code == "token_expired"
    with pytest.raises(Problem) as refused:
        verify(token(exp=AT - 1, sign=lambda c: hs(c, "mine")), KEYS, NOW)
    assert refused.value.code == "unauthenticated"


def test_clocks_may_differ_by_a_minute_at_the_beginning_not_at_the_end() -> None:
    """S-63"""
    assert verify(token(nbf=AT + 60, iat=AT + 60), KEYS, NOW).user_id == "alice"
    assert verify(token(exp=AT + 0.5), KEYS, NOW).expires_at == NOW + timedelta(seconds=0.5)


def test_what_a_good_token_says() -> None:
    server = verify(mint({"scope": "server", "exp": AT + 1}, "devkey", SECRET), KEYS, NOW)
    assert (server.kind, server.is_server, server.user_id) == ("server", True, None)
    assert server.on_behalf_of("bob").is_server is False
    user = verify(token(calls=["default:x"], role="listener", ceiling=["JoinCall"], teams=["red"], name="A"), KEYS, NOW)
    assert (user.kind, user.user_id, user.name, user.calls, user.teams) == (
        "user", "alice", "A", frozenset({"default:x"}), frozenset({"red"}),
    )  # fmt: skip
    assert user.scope == TokenScope(role="listener", ceiling=frozenset({"call.join"}))
    viewer = verify(token({**without("sub"), "scope": "anonymous", "calls": ["a:b"]}), KEYS, NOW)
    assert (viewer.kind, viewer.user_id, viewer.calls) == ("anonymous", None, frozenset({"a:b"}))


def test_what_is_remembered_of_a_token_is_what_it_says_and_neither_its_time_nor_another_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(principal, "REMEMBERED_TOKENS", 2)
    verifier = Verifier(KEYS)
    good = token(nbf=AT - 10)
    for _ in range(2):
        assert verifier.verify(good, NOW) == verify(good, KEYS, NOW)
    assert list(verifier._known) == [good]
    for at, code in ((NOW + timedelta(seconds=600), "token_expired"), (NOW - timedelta(hours=1), "unauthenticated")):
        with pytest.raises(Problem) as refused:
            verifier.verify(good, at)
        assert refused.value.code == code
    forged = good[:-1] + ("A" if good[-1] != "A" else "B")
    with pytest.raises(Problem):
        verifier.verify(forged, NOW)
    # The one that was used last stays, a very long one is not kept, and one that was refused neither.
    for name in ("bob", "carol"):
        verifier.verify(token(sub=name), NOW)
        verifier.verify(good, NOW)
    verifier.verify(token(name="A" * principal.REMEMBERED_MAX_CHARACTERS), NOW)
    assert set(verifier._known) == {good, token(sub="carol")}


@given(st.text(max_size=200) | st.builds(lambda *p: ".".join(p), st.text(), st.text(), st.text()))
def test_no_text_at_all_raises_anything_else(text: str) -> None:
    with pytest.raises(Problem):
        verify(text, KEYS, NOW)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["iss", "sub", "exp", "nbf", "iat", "scope", "calls", "role", "ceiling", "teams", "name", "video"]),
)
def test_any_value_in_any_claim_is_refused_or_means_the_same_user(value: Any, name: str) -> None:
    principal = _verified(token(**{name: value}))
    if principal is not None:
        assert principal.user_id == (value if name == "sub" else "alice")
        assert principal.kind == "user"


def _verified(text: str) -> Principal | None:
    """Return the principal, None if it was refused as such; whatever else is raised fails the test."""
    try:
        return verify(text, KEYS, NOW)
    except Problem as refused:
        return None if refused.status == 401 else verify(text, KEYS, NOW)
