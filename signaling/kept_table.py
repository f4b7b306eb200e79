"""A small SQLite database of one process, in write-ahead mode: safe against its death, not against the machine's.

No fsync a change, as the loop would wait for the disk. Not here: what is kept (`kept_cutoffs.py`, `events/outbox.py`).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


def opened(what: str, file: Path | None, *schema: str, busy_seconds: float = 5.0) -> sqlite3.Connection:
    """Open it, made if need be. Where the disk does not take it, that is logged, and it is one in memory: rooms go on,
    and the next start tries again.

    what: its name in the log. file: None keeps everything in memory. schema: statements that may run again.
    busy_seconds: how long a call waits for another process that writes. Used from one thread; every call takes tens of
    microseconds.
    """
    try:
        return _opened(file, schema, busy_seconds)
    except (sqlite3.Error, OSError) as error:
        log.error(f"{what}_not_opened", failure=str(error))
        return _opened(None, schema, busy_seconds)


def _opened(file: Path | None, schema: tuple[str, ...], busy_seconds: float) -> sqlite3.Connection:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(file or ":memory:", isolation_level=None, timeout=busy_seconds)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", *schema):
        database.execute(statement)
    return database
