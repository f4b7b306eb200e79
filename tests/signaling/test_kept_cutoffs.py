from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from signaling.kept_cutoffs import KeptCutoffs
from signaling.rooms.grants import Grants
from signaling.rooms.settings import RoomSettings
from signaling.rooms.state import Cutoff

REMOVED = Cutoff(before=100.0, expires_by=400.0, grants=None)
NARROWED = Cutoff(100.0, 0.0, Grants(key="k", identity="bob", can_publish=False, can_publish_sources=("camera",)))


def kept(file: Path | None, **settings: Any) -> KeptCutoffs:
    return KeptCutoffs(file, RoomSettings(**settings))


def test_what_was_decided_survives_in_order(tmp_path: Path) -> None:
    file = tmp_path / "made" / "cutoffs.sqlite"
    first = kept(file)
    first.keep("lobby", "alice", NARROWED, at=100)
    first.keep("lobby", "bob", NARROWED, at=101)
    first.keep("lobby", "alice", REMOVED, at=102)
    first.keep("hall", "alice", NARROWED, at=103)
    # Not closed: as after SIGKILL, the file is all that is left.
    again = kept(file)
    assert list(again.of("lobby").items()) == [("bob", NARROWED), ("alice", REMOVED)]
    assert again.of("hall") == {"alice": NARROWED}
    assert again.of("nowhere") == {}
    # The predecessor goes on for a while.
    first.keep("hall", "carol", REMOVED, at=104)
    assert list(again.of("hall")) == ["alice", "carol"]


def test_the_oldest_of_all_rooms_gives_way() -> None:
    """S-62"""
    cutoffs = kept(None, cutoffs_kept_max=10)
    for number in range(13):
        cutoffs.keep(f"room{number % 2}", f"p{number}", REMOVED, at=number)
    assert list(cutoffs.of("room0")) == ["p4", "p6", "p8", "p10", "p12"]
    assert list(cutoffs.of("room1")) == ["p3", "p5", "p7", "p9", "p11"]


def test_what_no_token_is_old_enough_for_any_more_is_forgotten() -> None:
    cutoffs = kept(None, cutoffs_kept_seconds=3600)
    cutoffs.keep("lobby", "alice", REMOVED, at=100)
    cutoffs.keep("lobby", "bob", REMOVED, at=3699)
    assert list(cutoffs.of("lobby")) == ["alice", "bob"]
    cutoffs.keep("lobby", "carol", REMOVED, at=3701)
    assert list(cutoffs.of("lobby")) == ["bob", "carol"]


def test_what_the_disk_does_not_take_is_kept_and_written_with_the_next(tmp_path: Path) -> None:
    file = tmp_path / "cutoffs.sqlite"
    cutoffs = kept(file, cutoffs_kept_max=10)
    cutoffs.keep("lobby", "alice", NARROWED, at=100)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with capture_logs() as logs:
        for number in range(10):
            cutoffs.keep("lobby", f"p{number}", REMOVED, at=101 + number)
        cutoffs.keep("lobby", "alice", REMOVED, at=111)
    assert {entry["event"] for entry in logs} == {"cutoff_not_written"}
    waiting = [*(f"p{number}" for number in range(1, 10)), "alice"]
    assert list(cutoffs.of("lobby").items()) == [(identity, REMOVED) for identity in waiting], "no more than may be"
    other.execute("ROLLBACK")
    cutoffs.keep("hall", "dora", REMOVED, at=112)
    again = kept(file)
    assert (list(again.of("lobby")), list(again.of("hall"))) == (waiting[1:], ["dora"])


def test_one_that_cannot_be_read_is_told_and_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "cutoffs.sqlite"
    cutoffs = kept(file)
    cutoffs.keep("lobby", "alice", REMOVED, at=100)
    cutoffs.keep("lobby", "bob", replace(REMOVED, before=7), at=100)
    sqlite3.connect(file, isolation_level=None).execute("UPDATE cutoff SET cutoff = x'c1' WHERE identity = 'alice'")
    with capture_logs() as logs:
        assert list(cutoffs.of("lobby")) == ["bob"]
    assert [entry["event"] for entry in logs] == ["cutoffs_unreadable"]
    cutoffs.close()
    with capture_logs():
        assert cutoffs.of("lobby") == {}


@pytest.mark.parametrize("decided", [REMOVED, NARROWED])
def test_in_memory_only(decided: Cutoff) -> None:
    cutoffs = kept(None)
    cutoffs.keep("lobby", "bob", decided, at=100)
    assert cutoffs.of("lobby") == {"bob": decided}


def test_where_nothing_can_be_kept_it_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with capture_logs() as logs:
        cutoffs = kept(tmp_path / "file" / "cutoffs.sqlite")
    assert [entry["event"] for entry in logs] == ["cutoffs_not_opened"]
    cutoffs.keep("lobby", "alice", REMOVED, at=100)
    assert cutoffs.of("lobby") == {"alice": REMOVED}
