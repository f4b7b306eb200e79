"""Who has an event socket, told to the other processes on the database: whichever rings, `online` means the same.

Written once a second, as far as it changed, and believed for a minute: those of a killed process run out. Not here:
what a ring makes of it (`operations/rings.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import delete

from signaling.events.channel import Channel
from signaling.store.database import Database, DatabaseAway, outlived, upsert
from signaling.store.kinds import milliseconds
from signaling.store.schema import presence

LOOK_SECONDS = 1.0
RENEW_SECONDS = 20.0
BELIEVED_FOR = timedelta(seconds=60)
AT_ONCE = 500


class Presence:
    def __init__(self, database: Database, channel: Channel, process: str, now: Callable[[], datetime]) -> None:
        """process: an id of this process that no other has."""
        self._database = database
        self._channel = channel
        self._process = process
        self._now = now
        self._written: frozenset[str] = frozenset()
        self._renewed_at = -math.inf

    async def write(self) -> None:
        """Write down who has come and gone since the last time; now and then everybody who is there."""
        online, now = self._channel.online(), milliseconds(self._now())
        renews = time.monotonic() - self._renewed_at >= RENEW_SECONDS
        came = sorted(online if renews else online - self._written)
        gone = sorted(self._written - online)
        if not (came or gone):
            return
        async with self._database.write() as connection:
            until = now + BELIEVED_FOR // timedelta(milliseconds=1)
            rows = [{"user_id": user_id, "process": self._process, "until": until} for user_id in came]
            if rows:
                await upsert(connection, presence, rows, ("user_id", "process"))
            for start in range(0, len(gone), AT_ONCE):
                users = presence.c.user_id.in_(gone[start : start + AT_ONCE])
                await connection.execute(delete(presence).where(presence.c.process == self._process, users))
            if renews:
                await connection.execute(delete(presence).where(presence.c.until < now))
        self._written = online
        if renews:
            self._renewed_at = time.monotonic()

    async def forget(self) -> None:
        """Have nobody of this process be online any more."""
        async with self._database.write() as connection:
            await connection.execute(delete(presence).where(presence.c.process == self._process))

    async def loop(self) -> None:
        """Write until cancelled."""
        try:
            while True:
                # Who came while the database was away is written when it is back; nobody's ring ends it for the others.
                with outlived("presence_failed"):
                    await self.write()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            with contextlib.suppress(DatabaseAway):
                await self.forget()
