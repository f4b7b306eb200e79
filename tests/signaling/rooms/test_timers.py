"""Deadlines by key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from signaling.rooms.timers import Timers


def test_the_earliest_is_due_first_and_each_once() -> None:
    timers: Timers[str] = Timers()
    timers.set("b", 2.0)
    timers.set("a", 1.0)
    assert timers.next() == 1.0
    assert timers.pop_due(0.9) is None
    assert [timers.pop_due(5.0) for _ in range(3)] == ["a", "b", None]
    assert timers.next() is None


def test_a_key_has_one_deadline_and_may_lose_it() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("a", 3.0)
    assert "a" in timers
    assert timers.pop_due(2.0) is None
    timers.clear("a")
    timers.clear("a")
    assert timers.pop_due(9.0) is None
    assert list(timers) == []


def test_what_was_set_in_vain_is_not_kept() -> None:
    timers: Timers[str] = Timers()
    for number in range(10_000):
        timers.set("a", 1000.0 + number)
    assert len(timers._heap) < 200
    assert timers.pop_due(20_000.0) == "a"
    assert timers.pop_due(20_000.0) is None


_STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 20)), max_size=200)


@given(_STEPS, st.integers(0, 20))
def test_what_is_due_is_what_a_plain_table_says(steps: list[tuple[str, int | None]], now: int) -> None:
    timers: Timers[str] = Timers()
    table: dict[str, int] = {}
    for key, at in steps:
        if at is None:
            timers.clear(key)
            table.pop(key, None)
        else:
            timers.set(key, at)
            table[key] = at
    assert timers.next() == (min(table.values()) if table else None)
    due = []
    while (key_due := timers.pop_due(now)) is not None:
        due.append(key_due)
    assert sorted(due) == sorted(key for key, at in table.items() if at <= now)
    assert [table[key] for key in due] == sorted(table[key] for key in due)
