"""Walls that neither import-linter nor the compiler sees: crates, licences, who reads the environment."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
CORE = ROOT / "sfu" / "core"

ALLOWED_LICENCES = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC",
    "MIT", "MIT-0", "OpenSSL", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip
NO_IO_CRATES = {"async-std", "crossbeam-queue", "libc", "mio", "nix", "pyo3", "rustix", "smol", "socket2", "tokio"}


@cache
def metadata() -> dict[str, Any]:
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--manifest-path", str(CORE / "Cargo.toml")]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def licences(expression: str) -> bool:
    """True when an allowed choice satisfies an SPDX expression; `/` is the old way to write OR."""

    def satisfied(text: str) -> bool:
        text = text.strip()
        depth, parts, start = 0, [], 0
        for word in re.finditer(r"\(|\)|\bOR\b|\bAND\b", text):
            depth += {"(": 1, ")": -1}.get(word.group(), 0)
            if depth == 0 and word.group() in ("OR", "AND"):
                parts.append((text[start : word.start()], word.group()))
                start = word.end()
        parts.append((text[start:], ""))
        if len(parts) == 1:
            if text.startswith("("):
                return satisfied(text[1:-1])
            return text in ALLOWED_LICENCES
        either: list[list[str]] = [[]]
        for part, operator in parts:
            either[-1].append(part)
            if operator == "OR":
                either.append([])
        return any(all(map(satisfied, group)) for group in either)

    return satisfied(expression.replace("/", " OR "))


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0", False),
        ("MIT/Apache-2.0", True),
        ("GPL-3.0 OR MIT", True),
        ("GPL-3.0 AND MIT", False),
        ("ISC AND (Apache-2.0 OR ISC) AND OpenSSL", True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("(GPL-2.0 OR LGPL-2.1) AND MIT", False),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", True),
    ],
)
def test_reading_licence_expressions(expression: str, allowed: bool) -> None:
    assert licences(expression) is allowed


def test_every_crate_has_a_licence_we_may_ship() -> None:
    """S-77"""
    refused = {
        f"{package['name']} {package['version']}: {package['license']}"
        for package in metadata()["packages"]
        if not licences(package["license"] or "none")
    }
    assert not refused


def test_every_crate_comes_from_the_registry_or_the_tree() -> None:
    """S-77"""
    sources = {package["source"] for package in metadata()["packages"]} - {None}
    assert sources == {"registry+https://github.com/rust-lang/crates.io-index"}


def test_the_protocol_core_lists_no_socket_thread_or_python_crate() -> None:
    manifest = tomllib.loads((CORE / "proto" / "Cargo.toml").read_text(encoding="utf-8"))
    assert not NO_IO_CRATES & manifest["dependencies"].keys()


@pytest.mark.parametrize("word", ["std::net::UdpSocket", "std::net::TcpStream", "std::thread", "std::fs", "std::env"])
def test_the_protocol_core_touches_nothing_outside(word: str) -> None:
    users = [path.name for path in (CORE / "proto" / "src").rglob("*.rs") if word in path.read_text(encoding="utf-8")]
    assert not users


def modules(package: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in (ROOT / package).rglob("*.py"):
        if "core" not in path.relative_to(ROOT / package).parts:
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def test_signaling_never_imports_the_compiled_core() -> None:
    offenders = []
    for path, tree in modules("signaling"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
            else:
                continue
            if any(name == "sfu._core" or name.startswith("sfu._core.") for name in names):
                offenders.append(str(path))
    # `doctor` asks whether it can be loaded, by name; it calls nothing in it.
    assert not offenders


def test_only_the_command_line_reads_the_environment() -> None:
    readers = set()
    for path, tree in modules("signaling"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                readers.add(str(path))
    assert readers == {"signaling/cli.py"}
