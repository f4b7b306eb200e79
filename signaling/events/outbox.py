"""Deliveries that are still owed, kept on disk (`kept_table.py`) so that a killed process finds them again.

Not here: when and how often something is delivered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from signaling.kept_table import opened

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS delivery ("
    "number INTEGER PRIMARY KEY AUTOINCREMENT, url TEXT NOT NULL, room TEXT NOT NULL, body BLOB NOT NULL)"
)


@dataclass(frozen=True)
class Delivery:
    """`body` owed to `url`. Deliveries of one `room` and URL leave in the order of `number`."""

    number: int
    url: str
    room: str
    body: bytes


class Outbox:
    """Owned by one process and used from one thread; every call takes tens of microseconds.

    Writing raises `sqlite3.Error` where the disk takes nothing.
    """

    def __init__(self, file: Path | None) -> None:
        """file: None keeps everything in memory, for tests and for receivers that may miss events."""
        # Where it cannot be opened, what is in it is sent after the next start.
        self._database = opened("outbox", file, _SCHEMA)

    def add(self, urls: Iterable[str], room: str, body: bytes) -> list[Delivery]:
        """Note that `body` is owed to every one of `urls`."""
        added = []
        with self._database:
            for url in urls:
                cursor = self._database.execute(
                    "INSERT INTO delivery (url, room, body) VALUES (?, ?, ?)", (url, room, body)
                )
                # An INSERT that did not raise has a row id.
                added.append(Delivery(int(cursor.lastrowid or 0), url, room, body))
        return added

    def settle(self, number: int) -> None:
        """Forget a delivery: it was made, or given up."""
        self._database.execute("DELETE FROM delivery WHERE number = ?", (number,))

    def owed(self) -> list[Delivery]:
        """Return what is still owed, oldest first."""
        rows = self._database.execute("SELECT number, url, room, body FROM delivery ORDER BY number")
        return [Delivery(*row) for row in rows]

    def close(self) -> None:
        self._database.close()
