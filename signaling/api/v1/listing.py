"""Pages of what is in memory anyway: short lists of one call. Long lists are paged by the store (`store/pages.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from signaling.api.v1.http import Ask
from signaling.api.v1.replies import Reply
from signaling.calls.cursors import decode, encode
from signaling.calls.problems import unprocessable


def listed(ask: Ask, values: Sequence[Any], view: Callable[[Any], Any], key: str = "id") -> Reply:
    """Return the page the query asks for; ordered by age, then by `key`."""
    limit, next_, prev = ask.limit(), ask.query("next"), ask.query("prev")
    if next_ is not None and prev is not None:
        raise unprocessable("/prev", "Send next or prev, not both.")

    def place(value: Any) -> list[Any]:
        return [round(value.created_at.timestamp() * 1000), getattr(value, key)]

    def cursor(text: str, direction: str) -> list[Any]:
        after = decode(text, direction, 2)
        if not isinstance(after[0], int) or not isinstance(after[1], str):
            raise unprocessable(f"/{direction}", "This is not a cursor of this list.")
        return after

    ordered = sorted(values, key=place)
    if prev is not None:
        before = cursor(prev, "prev")
        earlier = [value for value in ordered if place(value) < before]
        page, more_before, more_after = earlier[-limit:], len(earlier) > limit, True
    else:
        after = cursor(next_, "next") if next_ is not None else None
        later = [value for value in ordered if after is None or place(value) > after]
        page, more_before, more_after = later[:limit], next_ is not None, len(later) > limit
    return Reply(
        {
            "items": [view(value) for value in page],
            "next": encode("next", place(page[-1])) if page and more_after else None,
            "prev": encode("prev", place(page[0])) if page and more_before else None,
        }
    )
