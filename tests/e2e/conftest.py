"""Fixtures of the end-to-end tests: one server for all that do not hurt each other, a room and its people per test."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.e2e.harness import gophers
from tests.e2e.harness.browser import Tabs, launched
from tests.e2e.harness.gophers import Gophers
from tests.e2e.harness.network import Network, between
from tests.e2e.harness.nodes import Nodes
from tests.e2e.harness.people import Party
from tests.e2e.harness.server import Endpoint, ServerProcess, external
from tests.namespaces import skipped_without_namespaces


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def server() -> AsyncIterator[Endpoint]:
    """The shared server, or the one that the environment names."""
    named = external()
    if named is not None:
        yield named
        return
    process = ServerProcess()
    try:
        await process.start()
        yield process
    finally:
        process.close()


@pytest.fixture
async def own_server() -> AsyncIterator[Callable[..., Awaitable[ServerProcess]]]:
    """Starts servers that the test may hurt: `await own_server("--webhook-url", …, workers=2)`."""
    started: list[ServerProcess] = []

    async def start(*arguments: str, workers: int = 2, environment: dict[str, str] | None = None) -> ServerProcess:
        process = ServerProcess(*arguments, workers=workers, environment=environment)
        started.append(process)
        await process.start()
        return process

    yield start
    for process in started:
        process.close()


@pytest.fixture
def network() -> Iterator[Network]:
    """A network for this test alone, between two namespaces."""
    with contextlib.ExitStack() as stack:
        with skipped_without_namespaces():
            built = stack.enter_context(between())
        yield built


@pytest.fixture
def room() -> str:
    """A room name that nobody else uses."""
    return f"room-{secrets.token_hex(5)}"


@pytest.fixture
async def party(server: Endpoint, room: str) -> AsyncIterator[Party]:
    """People for this test's room; they leave at its end."""
    gathered = Party(server, room)
    yield gathered
    await gathered.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def tabs(browser: Browser, server: Endpoint, room: str) -> AsyncIterator[Tabs]:
    """Pages with the JavaScript client for this test's room. Their tests run in the browser's loop, the session's."""
    opened = Tabs(browser, server, room)
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="session")
async def people(server: Endpoint, room: str) -> AsyncIterator[Party]:
    """`party` for tests that run in the session's loop."""
    gathered = Party(server, room)
    yield gathered
    await gathered.close()


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client made of the Go SDK."""
    return gophers.build(tmp_path_factory.mktemp("go") / "go_client")


@pytest.fixture
async def go(program: Path, server: Endpoint, room: str, tmp_path: Path) -> AsyncIterator[Gophers]:
    """`await go("identity", single=…)` starts a Go client for this test's room; its event `connected` says it is in."""
    gathered = Gophers(program, server, room, tmp_path)
    yield gathered
    await gathered.close()


@pytest_asyncio.fixture(loop_scope="session")
async def browsing_go(program: Path, server: Endpoint, room: str, tmp_path: Path) -> AsyncIterator[Gophers]:
    """`go` for tests that run in the session's loop."""
    gathered = Gophers(program, server, room, tmp_path)
    yield gathered
    await gathered.close()


@pytest.fixture
async def node(server: Endpoint, room: str) -> AsyncIterator[Nodes]:
    """`await node("identity", single=…)` starts a Node client for this test's room."""
    gathered = Nodes(server, room)
    yield gathered
    await gathered.close()
