"""The README's example of a call, run as it is written, and what it promises, in virtual time."""

from __future__ import annotations

import re
import textwrap
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from signaling.client import Backstage, MissingCapability, make_call
from signaling.client import client as client_module
from tests.signaling.api.world import Clock, World
from tests.signaling.client.conftest import People

README = Path(__file__).parents[3] / "README.md"


def block() -> str:
    """Return the one Python block of the README that makes a call."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    found = [code for code in blocks if "make_call" in code]
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """The example reads the system's clock, so the world begins at its time."""
    clock = Clock()
    clock.now = datetime.now(UTC)
    world = await World.open(database_url, clock=clock)
    yield world
    await world.close()


@pytest.fixture
async def today(world: World) -> AsyncIterator[People]:
    await world.users("host", "alice", "bob", "charlie", "doctor", "patient")
    people = People(world)
    await people.server.admin.create_call_type("my-call-type")
    await people.server.admin.change_grants("my-call-type", "user", remove=["JoinCall"])
    await people("owner").make_call("my-call-type", "members-only").get_or_create()
    yield people
    await people.close()


async def run(code: str, people: People, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the block with the names an application would have; only where the client connects to is ours."""
    monkeypatch.setattr(client_module, "_default", None)
    monkeypatch.setattr("signaling.client.CallyardClient", lambda url, token: people.client(token))
    source = f"async def example(url, token_for, client_of):\n{textwrap.indent(code, '    ')}\n    return locals()\n"
    names: dict[str, Any] = {}
    exec(compile(source, str(README), "exec"), names)
    token_for = lambda user: people.world.token({"sub": user})  # noqa: E731
    found: dict[str, Any] = await names["example"]("http://calls.test", token_for, people)
    return found


async def test_the_example_runs_as_written(world: World, today: People, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = await world.listen(world.as_("patient"))
    names = await run(block(), today, monkeypatch)
    call, room = names["call"], names["room"]
    assert room.connected
    assert call.info.custom == {"name": "My first call"}
    assert call.info.live is True
    assert {m.user_id: m.role async for m in call.members()} == dict.fromkeys(("host", "alice", "bob"), "admin")
    assert [frame["data"]["ring"]["video"] for frame in patient.only("call.ring")] == [True]
    with pytest.raises(MissingCapability):
        await today("dave").make_call("my-call-type", "members-only").join()
    assert (await make_call("livestream", "my-call-id").get()).call == call.info


@pytest.mark.parametrize("seconds", [0, 195])
async def test_regular_users_wait_for_the_clock_and_members_do_not(
    world: World, today: People, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    began = world.clock.now
    await run(block().split("room = await")[0], today, monkeypatch)
    await world.advance(seconds)
    member: Any = await today("alice").make_call("livestream", "my-call-id").join()
    assert member.connected
    dave = today("dave").make_call("livestream", "my-call-id")
    with pytest.raises(Backstage) as early:
        await dave.join()
    assert early.value.opens_at is not None
    # The example's own clock ran on a little while the world's stood still.
    assert 200 <= (early.value.opens_at - began).total_seconds() < 205
    await world.advance((early.value.opens_at - world.clock.now).total_seconds())
    regular: Any = await dave.join()
    assert regular.connected
