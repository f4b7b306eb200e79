"""Two processes on one database at the same calls: a short run of what `contention.py` does for long."""

from __future__ import annotations

from tests.signaling.api.contention import work


async def test_two_processes_at_the_same_calls_lose_and_double_nothing(database_url: str) -> None:
    found = await work(database_url, seconds=2, processes=2, kills=0)
    assert found.versions
    assert any(times is not None for times in found.keys.values())
