"""Deadlines by key; virtual, so that tests jump time. Not here: what happens when one is due."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
_STALE_MAX = 64


class Timers(Generic[K]):
    """At most one deadline per key, in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._count = 0

    def __contains__(self, key: K) -> bool:
        return key in self._at

    def set(self, key: K, at: float) -> None:
        self._at[key] = at
        # The count keeps keys from being compared.
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, key))
        if len(self._heap) > 2 * len(self._at) + _STALE_MAX:
            self._heap = [entry for entry in self._heap if self._at.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def clear(self, key: K) -> None:
        self._at.pop(key, None)

    def __iter__(self) -> Iterator[K]:
        return iter(self._at)

    def next(self) -> float | None:
        """Return the earliest deadline."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._at.get(key) == at:
                return at
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> K | None:
        """Take the earliest key whose deadline has come."""
        at = self.next()
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._at[key]
        return key
