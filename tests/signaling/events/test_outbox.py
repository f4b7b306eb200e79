from __future__ import annotations

from pathlib import Path

from structlog.testing import capture_logs

from signaling.events.outbox import Delivery, Outbox


def test_what_is_owed_survives_in_order(tmp_path: Path) -> None:
    file = tmp_path / "made" / "outbox.sqlite"
    outbox = Outbox(file)
    outbox.add(["http://a", "http://b"], "standup", b"one")
    (second,) = outbox.add(["http://a"], "standup", b"two")
    # Not closed: as after SIGKILL, the file is all that is left.
    again = Outbox(file)
    assert [(owed.url, owed.body) for owed in again.owed()] == [
        ("http://a", b"one"),
        ("http://b", b"one"),
        ("http://a", b"two"),
    ]
    again.settle(second.number)
    assert [owed.body for owed in again.owed()] == [b"one", b"one"]


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite")
    (first,) = outbox.add(["http://a"], "r", b"one")
    outbox.settle(first.number)
    (second,) = outbox.add(["http://a"], "r", b"two")
    assert second == Delivery(first.number + 1, "http://a", "r", b"two")


def test_one_that_cannot_be_opened_is_told_and_ends_nothing(tmp_path: Path) -> None:
    """F-27"""
    file = tmp_path / "outbox.sqlite"
    file.write_bytes(b"x" * 4_096)
    with capture_logs() as logs:
        outbox = Outbox(file)
    assert [entry["event"] for entry in logs] == ["outbox_not_opened"]
    outbox.add(["http://a"], "r", b"one")
    assert len(outbox.owed()) == 1


def test_memory_only() -> None:
    outbox = Outbox(None)
    outbox.add(["http://a"], "r", b"one")
    assert len(outbox.owed()) == 1
