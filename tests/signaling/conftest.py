"""Fixtures of the calls system: every test of `world` runs on SQLite and on PostgreSQL.

PostgreSQL is one cluster a test run, started from the programs Debian installs; each test gets a database copied from
one that is set up already. `CALLYARD_TESTS_WITHOUT_POSTGRESQL=1` leaves those out where none is installed.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from signaling.store.database import Database
from signaling.store.directory_repository import found_installation
from tests.signaling.api.world import START, World

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
DATABASES = ["sqlite"] if "CALLYARD_TESTS_WITHOUT_POSTGRESQL" in os.environ else ["sqlite", "postgresql"]
TEMPLATE = "calls_template"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where SQLite's files of tests are: they are for reading back, not for keeping."""


def _as_postgres(*command: str) -> list[str]:
    """PostgreSQL refuses to run as root; its own user is there where it is installed."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """Start a cluster of our own on a free port; yield the URL of the server."""
    assert POSTGRES, "install postgresql, or set CALLYARD_TESTS_WITHOUT_POSTGRESQL=1"
    binaries = POSTGRES[-1]
    # Not below pytest's own directory: its user may not look into it.
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
    options = (
        f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c max_connections=200"
        " -c fsync=off -c full_page_writes=off -c autovacuum=off -c shared_buffers=64MB"
    )
    control = str(binaries / "pg_ctl")
    log = str(directory / "log")
    start = _as_postgres(control, "-D", data, "-o", options, "-l", log, "-w", "start")
    subprocess.run(start, check=True, cwd="/", stdout=subprocess.DEVNULL)
    try:
        yield f"postgresql://postgres@127.0.0.1:{port}"
    finally:
        stop = _as_postgres(control, "-D", data, "-m", "immediate", "stop")
        subprocess.run(stop, check=True, cwd="/", stdout=subprocess.DEVNULL)
        shutil.rmtree(directory)


async def _execute(server: str, statement: str) -> None:
    connection = await asyncpg.connect(f"{server}/postgres")
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _set_up(url: str) -> None:
    database = Database(url)
    await database.migrate()
    async with database.write() as connection:
        await found_installation(connection, START, dev=True)
    await database.close()


@pytest.fixture(scope="session")
def postgresql_template(postgresql: str) -> str:
    """Return the server's URL once the database to copy is there."""
    asyncio.run(_execute(postgresql, f"CREATE DATABASE {TEMPLATE}"))
    asyncio.run(_set_up(f"{postgresql}/{TEMPLATE}"))
    return postgresql


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "template.db"
    asyncio.run(_set_up(f"sqlite:///{file}"))
    return file


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the URL of a database of the test's own, set up in development mode."""
    if request.param == "sqlite":
        with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
            shutil.copy(request.getfixturevalue("sqlite_template"), f"{directory}/calls.db")
            yield f"sqlite:///{directory}/calls.db"
        return
    server = request.getfixturevalue("postgresql_template")
    name = f"calls_{uuid.uuid4().hex}"
    asyncio.run(_execute(server, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY"))
    yield f"{server}/{name}"
    asyncio.run(_execute(server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    world = await World.open(database_url)
    yield world
    await world.close()
