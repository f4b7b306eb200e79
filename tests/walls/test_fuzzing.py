"""Whatever reads bytes from strangers is fuzzed, and every target is built and run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

CORE = Path(__file__).parents[2] / "sfu/core"
SOURCES = CORE / "proto/src"
TARGETS = CORE / "fuzz/targets"
_READS_BYTES = re.compile(
    r"^\s*pub fn (?:parse|read|restore|compound|classify|feed|unprotect_\w+|receive|primary)\b"
    r"[^{;]*?: &(?:'\w+ )?(?:mut )?\[u8\]",
    re.MULTILINE,
)
_PUBLIC = re.compile(r"^pub mod (\w+);", re.MULTILINE)
"""A private module is read through the one that holds it."""


def readers() -> set[str]:
    """The modules with a function that reads bytes, as a target names them: `rtp`, `codec::dd`."""
    found = set()
    for file in SOURCES.rglob("*.rs"):
        if _READS_BYTES.search(file.read_text()):
            path = list(file.relative_to(SOURCES).with_suffix("").parts)
            found.add("::".join(path[:-1] if path[-1] == "mod" else path))
    return found


def through(module: str) -> str:
    """The part of a module's name under which others can reach it."""
    reached: list[str] = []
    for name in module.split("::"):
        holder = SOURCES.joinpath(*reached)
        declared = holder / "mod.rs" if reached else SOURCES / "lib.rs"
        text = (declared if declared.exists() else holder.with_suffix(".rs")).read_text()
        if name not in _PUBLIC.findall(text):
            break
        reached.append(name)
    return "::".join(reached)


def test_every_reader_of_bytes_is_fuzzed() -> None:
    text = "".join(file.read_text() for file in TARGETS.glob("*.rs"))
    found = readers()
    known = {"rtp", "rtcp::read", "stun", "sdp::parse", "codec::dd", "codec::red", "sctp", "srtp::inbound", "framing"}
    assert known - found == set()
    named = set(re.findall(r"(?:callyard_proto|codec)::(\w+(?:::\w+)*)", text))
    named |= {
        f"{path}::{name}".removeprefix("::")
        for path, names in re.findall(r"callyard_proto(?:::(\w+))?::\{([^}]*)\}", text)
        for name in re.findall(r"\w+", names)
    }
    missing = {module for module in found if not any(name.startswith(through(module)) for name in named)}
    assert missing == set()


def test_every_target_is_built() -> None:
    manifest = tomllib.loads((CORE / "fuzz/Cargo.toml").read_text())
    assert {target["name"] for target in manifest["bin"]} == {file.stem for file in TARGETS.glob("*.rs")}
