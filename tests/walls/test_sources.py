"""What must not stand in the sources, whoever writes it: one rule each, with where it is allowed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [path for package in ("sfu", "signaling") for path in sorted((ROOT / package).rglob("*.py"))]
RUST = [path for path in sorted((ROOT / "sfu/core").rglob("*.rs")) if "target" not in path.parts]


def calls(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


@pytest.mark.parametrize(
    "banned",
    [
        "pickle.",
        "marshal.",
        "shelve.",
        "dill.",
        "yaml.load",
        "yaml.unsafe_load",
        "eval",
        "exec",
        "os.system",
        "__import__",
    ],
)
def test_nothing_that_is_read_is_run(banned: str) -> None:
    """S-80"""
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in PYTHON
        for line, name in calls(path)
        if (name.startswith(banned) if banned.endswith(".") else name == banned)
    ]
    assert not found
    imports = re.compile(rf"^\s*(import|from) {re.escape(banned.rstrip('.'))}\b", re.MULTILINE)
    assert not [path for path in PYTHON if banned.endswith(".") and imports.search(path.read_text())]


def test_secrets_are_compared_in_constant_time() -> None:
    """S-32: no `==` touches a tag, a signature or a digest."""
    suspicious = re.compile(
        r"(?:\b(?:tag|mac|hmac|digest|signature|csrf)\b(?:\[[^]]*\])?\s*[!=]=(?!=)|[!=]=\s*(?:tag|mac|hmac|digest|signature)\b)"
    )
    checked = [
        *(path for path in RUST if path.name in ("stun.rs", "cipher.rs", "inbound.rs") or "srtp" in path.parts),
        *(path for path in PYTHON if path.name in ("tokens.py", "principal.py", "signatures.py", "sessions.py")),
    ]
    assert len(checked) >= 8
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in checked
        if path.name != "tests.rs"
        for number, line in enumerate(path.read_text().partition("#[cfg(test)]")[0].splitlines(), 1)
        if suspicious.search(line)
    ]
    assert not found
    for path, wanted in (
        ("sfu/core/proto/src/stun.rs", "ct_eq"),
        ("sfu/core/proto/src/srtp/cipher.rs", "ct_eq"),
        ("signaling/calls/principal.py", "compare_digest"),
        ("signaling/events/signatures.py", "compare_digest"),
    ):
        assert wanted in (ROOT / path).read_text()


def test_deadlines_are_kept_by_a_clock_that_nobody_sets() -> None:
    """F-29: the wall clock says what time it is, in tokens, records and logs; nothing waits by it.

    Each place that reads it is listed with what for, so that a further one is thought about.
    """
    allowed = {
        "signaling/app.py": "tokens are valid from and until moments of it",
        "signaling/calls_system.py": "calls start and end at moments of it; its timers are re-read from the store",
        "signaling/cli.py": "tokens",
        "signaling/client/events.py": "tokens",
        "signaling/events/signatures.py": "signed moments",
        "signaling/room_service_client.py": "tokens",
        "sfu/worker.py": "certificate, start and figures",
        "signaling/runtime.py": "moments that clients are told of",
    }
    wall = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now")
    skipped = ("probe", "load", "console")
    found = {
        str(path.relative_to(ROOT))
        for path in PYTHON
        if not set(skipped) & set(path.parts)
        for _, name in calls(path)
        if name in wall
    }
    assert found == allowed.keys()
    core = [path for path in RUST if "proto" in path.parts and "src" in path.parts]
    assert not [path for path in core if "SystemTime::now" in path.read_text().partition("#[cfg(test)]")[0]]


def test_no_claim_of_a_token_is_a_secret() -> None:
    """S-72: what a client can read in its own token."""
    from signaling.rooms.grants import Grants

    names = {name.lower() for name in Grants.__dataclass_fields__}
    assert len(names) > 10
    assert not [name for name in names if re.search(r"secret|password|credential|private|access_?key|api_?key", name)]


def test_no_process_needs_a_further_server() -> None:
    """F-21, F-22, S-75: no client of Redis, or of another store or bus than the database, is there."""
    clients = "(redis|valkey|aioredis|etcd3?|kazoo|nats|nats-py|pika|kafka|kafka-python|pymemcache|aiomcache)"
    imports = re.compile(rf"^\s*(?:import|from) {clients}\b", re.MULTILINE)
    assert not [path for path in PYTHON if imports.search(path.read_text())]
    installed = (ROOT / "requirements/runtime.txt").read_text()
    assert "starlette==" in installed
    assert not re.search(rf"^{clients}==", installed, re.MULTILINE)
