"""Fixtures of the calls API: every test of `world` runs on SQLite and, where a server is installed, on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.signaling.api.world import World

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
WITHOUT_POSTGRES = "CALLYARD_TESTS_WITHOUT_POSTGRESQL" in os.environ


def _may_run_postgres() -> bool:
    return bool(POSTGRES) and not WITHOUT_POSTGRES and (os.geteuid() != 0 or shutil.which("runuser") is not None)


def _as_postgres(*command: str) -> list[str]:
    """PostgreSQL refuses to run as root; its own user is there where it is installed."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a cluster of our own on a free port; yield the URL of the server."""
    binaries = POSTGRES[-1]
    directory = Path("/tmp") / f"callyard-postgres-{uuid.uuid4().hex[:12]}"
    directory.mkdir(mode=0o700)
    if os.geteuid() == 0:
        account = pwd.getpwnam("postgres")
        os.chown(directory, account.pw_uid, account.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(directory / "data")
    subprocess.run(
        _as_postgres(str(binaries / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"),
        check=True,
        capture_output=True,
        cwd="/",
    )
    options = f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c fsync=off -c max_connections=200"
    control = str(binaries / "pg_ctl")
    log = str(directory / "log")
    subprocess.run(_as_postgres(control, "-D", data, "-o", options, "-l", log, "-w", "start"), check=True, cwd="/")
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        subprocess.run(_as_postgres(control, "-D", data, "-m", "immediate", "stop"), check=True, cwd="/")
        shutil.rmtree(directory)


async def _fresh_database(server: str) -> str:
    name = f"calls_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return f"{server}/{name}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/calls.db"
    if not _may_run_postgres():
        pytest.skip("no PostgreSQL is installed")
    return asyncio.run(_fresh_database(request.getfixturevalue("postgresql")))


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    world = await World.open(database_url)
    yield world
    await world.close()
