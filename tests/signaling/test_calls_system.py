"""A calls system whose database is not there when it starts, or never will be."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from signaling.calls.media import Refuse
from signaling.calls.settings import CallsSettings
from signaling.calls_system import CallsSystem, create_calls_system
from signaling.errors import SettingsError
from tests.signaling.api.v1.test_crashes import breakable
from tests.signaling.api.world import KEY, SECRET, FakeMedia, Room


def system_on(database_url: str, media: FakeMedia) -> CallsSystem:
    return create_calls_system(CallsSettings(), database_url, media, {KEY: SECRET}, dev=True)


async def begun(system: CallsSystem) -> None:
    async with asyncio.timeout(5):
        while True:
            if system.service.put_off is None:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_start_without_its_database_changes_nothing_and_is_made_up_for(database_url: str) -> None:
    """F-24"""
    media = FakeMedia()
    media.rooms["left"] = Room()
    async with breakable(database_url) as (line, url):
        line.cut = True
        system = system_on(url, media)
        with capture_logs() as logs:
            await system.start()
            await asyncio.sleep(2)
        reasons = [entry["reason"] for entry in logs if entry["event"] == "database_away"]
        assert sorted(set(reasons)) == sorted(reasons), "each once"
        assert system.service.put_off in [f"Calls wait for the database ({reason})." for reason in reasons]
        # By the session's name alone nobody gets in, and nobody is told that he never will.
        verdict = await system.feed.admit("left", "alice:phone")
        assert isinstance(verdict, Refuse)
        assert verdict.code == "unavailable"
        assert list(media.rooms) == ["left"]
        line.cut = False
        await begun(system)
        # It is no session's.
        assert media.rooms == {}
        await system.stop()


async def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    """F-27"""
    in_the_way = tmp_path / "calls.db"
    in_the_way.mkdir()
    system = system_on(f"sqlite:///{in_the_way}", FakeMedia())
    await system.start()
    assert system.service.put_off == "Calls wait for the database (unable to open database file)."
    in_the_way.rmdir()
    await begun(system)
    await system.stop()


async def test_a_start_that_waits_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "calls.db").mkdir()
    system = system_on(f"sqlite:///{tmp_path}/calls.db", FakeMedia())
    await system.start()
    async with asyncio.timeout(5):
        await system.stop()


async def refused(database_url: str) -> str:
    system = system_on(database_url, FakeMedia())
    with pytest.raises(SettingsError) as refusal:
        await system.start()
    await system.service.database.close()
    return refusal.value.message


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_url_of_no_database_ends_the_start(database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    sentence = f'`database_url` cannot be used: database "{name}_not" does not exist.'
    assert await refused(f"{database_url}_not") == sentence


async def test_a_path_that_cannot_be_ends_the_start() -> None:
    assert await refused("sqlite:////dev/null/x/calls.db") == "`database_url` cannot be used: Not a directory."
