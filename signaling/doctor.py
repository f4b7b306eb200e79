"""What `callyard doctor` looks at: can this machine, with these settings, run a server well?

Each check gives a verdict and a sentence with the cure. It opens sockets for a moment and changes nothing.
"""

from __future__ import annotations

import errno
import importlib
import os
import resource
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sfu.node import NodeError, prepare_run_directory, run_directory
from sfu.settings import NodeSettings
from signaling.errors import SettingsError
from signaling.http_server import listen
from signaling.masking import masked
from signaling.settings import DEV_SECRET, SECRET_MIN_CHARACTERS, Settings
from signaling.settings_sources import LoadedSettings, value_at

_UDP_SEGMENT = 103
"""linux/udp.h; the socket module does not name it."""
_OPEN_FILES_MIN = 4096
_RECEIVE_BUFFER_MIN_BYTES = 5_000_000
"""Half a second of 10 000 packets/s of 1 kB: what a worker may have to wait for the processor."""


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    name: str
    verdict: Verdict
    sentence: str


def examine(loaded: LoadedSettings) -> Iterator[Finding]:
    """Run every check, in order of what a beginner meets first."""
    settings = loaded.settings
    yield from _keys(settings)
    yield _tcp_port(settings)
    yield _media_ports(settings.node)
    yield _state_dir(settings.state_dir)
    yield _run_directory(settings.node)
    yield _database(settings.calls_database_url)
    yield _open_files()
    yield _receive_buffer()
    yield _segmentation()
    yield _core()


def effective(loaded: LoadedSettings) -> Iterator[tuple[str, str, str]]:
    """Yield path, value and origin of every setting; secrets are masked, those within URLs too."""
    for path, origin in loaded.origins.items():
        yield path, _shown(value_at(loaded.settings, path)), origin


def _shown(value: Any) -> str:
    if isinstance(value, SecretStr):
        return "(set)" if value.get_secret_value() else ""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items())
    if isinstance(value, (tuple, list, frozenset)):
        return ", ".join(_shown(item) for item in value)
    return "" if value is None else masked(str(value))


def _keys(settings: Settings) -> Iterator[Finding]:
    for key, secret in settings.keyring.items():
        if secret == DEV_SECRET:
            verdict = Verdict.WARNING if not settings.is_public else Verdict.FAILURE
            yield Finding("keys", verdict, f"`{key}` has the published development secret: for local use only.")
        elif len(secret) < SECRET_MIN_CHARACTERS:
            sentence = f"The secret of `{key}` has {len(secret)} characters; `openssl rand -hex 32` makes a better one."
            yield Finding("keys", Verdict.WARNING, sentence)
        elif len(set(secret)) < 10:
            sentence = f"The secret of `{key}` repeats few characters; `openssl rand -hex 32` makes a better one."
            yield Finding("keys", Verdict.WARNING, sentence)
        else:
            yield Finding("keys", Verdict.OK, f"`{key}` has a secret of {len(secret)} characters.")


def _tcp_port(settings: Settings) -> Finding:
    try:
        listen(settings.bind, settings.port, 1).close()
    except SettingsError as error:
        return Finding("http port", Verdict.FAILURE, error.message)
    return Finding("http port", Verdict.OK, f"{settings.bind} port {settings.port} is free.")


def _media_ports(node: NodeSettings) -> Finding:
    if not node.udp_port:
        return Finding("media ports", Verdict.OK, "Any free ones are taken.")
    count = node.workers or len(os.sched_getaffinity(0))
    ports = range(node.udp_port, node.udp_port + count)
    kinds = [socket.SOCK_DGRAM, socket.SOCK_STREAM] if node.tcp else [socket.SOCK_DGRAM]
    taken = [str(port) for port in ports if any(_is_taken(node.bind, port, kind) for kind in kinds)]
    if taken:
        sentence = f"{', '.join(taken)} taken by another program: workers use later ones, which a firewall may stop."
        return Finding("media ports", Verdict.WARNING, sentence)
    over = "UDP and TCP" if node.tcp else "UDP"
    last = f" to {ports[-1]}" if count > 1 else ""
    return Finding("media ports", Verdict.OK, f"{over} {ports[0]}{last} free on {node.bind}.")


def _is_taken(address: IPv4Address | IPv6Address, port: int, kind: socket.SocketKind) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, kind) as trial:
            if kind is socket.SOCK_STREAM:
                # What was closed lately lingers and keeps nobody out.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            trial.bind((str(address), port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _existing(directory: Path) -> Path:
    """It, or where it would be made."""
    return next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())


def _run_directory(node: NodeSettings) -> Finding:
    directory = run_directory(node)
    if directory is None:
        return Finding("run directory", Verdict.OK, "Each start makes one of its own.")
    existing = _existing(directory)
    try:
        if existing == directory.absolute():
            prepare_run_directory(directory)
        elif not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
            raise NodeError(f"{directory} cannot be made in {existing}")
    except NodeError as error:
        return Finding("run directory", Verdict.FAILURE, f"{error}; set CALLYARD_NODE_RUN_DIRECTORY.")
    return Finding("run directory", Verdict.OK, f"{directory} is, or can be made, ours alone.")


def _state_dir(directory: Path) -> Finding:
    existing = _existing(directory)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        sentence = f"{existing} cannot be written to ({error.strerror}); set CALLYARD_STATE_DIR."
        return Finding("state directory", Verdict.FAILURE, sentence)
    free_mib = (usage := os.statvfs(existing)).f_bavail * usage.f_frsize // 1_048_576
    if free_mib < 100:
        return Finding("state directory", Verdict.WARNING, f"Only {free_mib} MiB are free at {existing}.")
    return Finding("state directory", Verdict.OK, f"{directory} can be written to, {free_mib} MiB free.")


def _database(url: str) -> Finding:
    # Slow to import, and every command imports this module.
    from signaling.store.location import located

    location = located(url)
    if location.get_backend_name() == "sqlite":
        return Finding("database", Verdict.OK, f"Calls are kept in SQLite, {location.database}: by one node alone.")
    return Finding("database", Verdict.OK, f"Calls are kept in PostgreSQL on {location.host or 'this machine'}.")


def _open_files() -> Finding:
    # The server allows itself the hard limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < _OPEN_FILES_MIN:
        sentence = f"{hard} open files are allowed; each participant needs one: `ulimit -Hn 65536`."
        return Finding("open files", Verdict.WARNING, sentence)
    return Finding("open files", Verdict.OK, f"{hard} open files are allowed.")


def _receive_buffer() -> Finding:
    try:
        limit = int(Path("/proc/sys/net/core/rmem_max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return Finding("receive buffer", Verdict.WARNING, "The kernel's limit of receive buffers cannot be read.")
    if limit < _RECEIVE_BUFFER_MIN_BYTES:
        sentence = (
            f"The kernel allows {limit} bytes; bursts may be lost under load: "
            f"`sysctl -w net.core.rmem_max={_RECEIVE_BUFFER_MIN_BYTES}`."
        )
        return Finding("receive buffer", Verdict.WARNING, sentence)
    return Finding("receive buffer", Verdict.OK, f"The kernel allows {limit} bytes.")


def _segmentation() -> Finding:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 1200)
        except OSError:
            sentence = (
                "The kernel has no UDP segmentation (GSO, Linux 4.18); sending costs about twice the processor time."
            )
            return Finding("udp segmentation", Verdict.WARNING, sentence)
    return Finding("udp segmentation", Verdict.OK, "The kernel segments UDP (GSO).")


def _core() -> Finding:
    try:
        core = importlib.import_module("sfu._core")
    except ImportError as error:
        return Finding(
            "media core", Verdict.FAILURE, f"The compiled core cannot be loaded ({error}); run `make setup`."
        )
    return Finding("media core", Verdict.OK, f"Version {core.__version__}.")
