"""What was decided about people of rooms, kept on disk: it outlives the room and the process, as their tokens do.

How it is kept: `kept_table.py`. Not here: what a decision means (`rooms/presence.py`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from signaling.kept_table import opened
from signaling.rooms.settings import RoomSettings
from signaling.rooms.state import Cutoff

log = structlog.get_logger(__name__)

_SCHEMA = (
    (
        "CREATE TABLE IF NOT EXISTS cutoff ("
        "number INTEGER PRIMARY KEY AUTOINCREMENT, room TEXT NOT NULL, identity TEXT NOT NULL, at REAL NOT NULL, "
        "cutoff BLOB NOT NULL, UNIQUE (room, identity))"
    ),
    "CREATE INDEX IF NOT EXISTS cutoff_at ON cutoff (at)",
)
_BUSY_SECONDS = 0.1
"""The predecessor may still write while its successor starts; the loop waits no longer for it."""


class KeptCutoffs:
    """Owned by one process and used from one thread; every call takes tens of microseconds.

    What the disk does not take is kept in memory and written with the next one.
    """

    def __init__(self, file: Path | None, settings: RoomSettings) -> None:
        """file: None keeps everything in memory, for tests."""
        self._most = settings.cutoffs_kept_max
        self._seconds = settings.cutoffs_kept_seconds
        self._unwritten: dict[tuple[str, str], tuple[float, Cutoff]] = {}
        self._database = opened("cutoffs", file, *_SCHEMA, busy_seconds=_BUSY_SECONDS)

    def keep(self, room: str, identity: str, cutoff: Cutoff, at: float) -> None:
        """Note what was decided at `at`, in Unix seconds, instead of what was decided before about the same one."""
        self._unwritten.pop((room, identity), None)
        self._unwritten[room, identity] = (at, cutoff)
        rows = [
            (room, identity, at, msgspec.msgpack.encode(cutoff))
            for (room, identity), (at, cutoff) in self._unwritten.items()
        ]
        try:
            with self._database:
                self._database.execute("BEGIN")
                self._database.executemany(
                    "INSERT OR REPLACE INTO cutoff (room, identity, at, cutoff) VALUES (?, ?, ?, ?)", rows
                )
                self._database.execute("DELETE FROM cutoff WHERE at < ?", (at - self._seconds,))
                self._database.execute(
                    "DELETE FROM cutoff WHERE number <= "
                    "(SELECT number FROM cutoff ORDER BY number DESC LIMIT 1 OFFSET ?)",
                    (self._most,),
                )
        except sqlite3.Error as error:
            log.error("cutoff_not_written", failure=str(error), waiting=len(rows))
            while len(self._unwritten) > self._most:
                del self._unwritten[next(iter(self._unwritten))]
        else:
            self._unwritten.clear()

    def of(self, room: str) -> dict[str, Cutoff]:
        """Return what holds in the room, by identity, oldest first."""
        cutoffs = {}
        with _told_if_unreadable(room):
            rows = self._database.execute("SELECT identity, cutoff FROM cutoff WHERE room = ? ORDER BY number", (room,))
            for identity, packed in rows:
                with _told_if_unreadable(room):
                    cutoffs[identity] = _decoder.decode(packed)
        for (of_room, identity), (_, cutoff) in self._unwritten.items():
            if of_room == room:
                cutoffs.pop(identity, None)
                cutoffs[identity] = cutoff
        return cutoffs

    def close(self) -> None:
        self._database.close()


@contextlib.contextmanager
def _told_if_unreadable(room: str) -> Iterator[None]:
    """Go on without: nobody else's join depends on it."""
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        log.error("cutoffs_unreadable", room=room, failure=str(error))


_decoder = msgspec.msgpack.Decoder(Cutoff)
