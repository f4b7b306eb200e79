"""The media nodes on the database: this process says every few seconds that its own is there, and reads the others.

A node is one signaling process with its workers. It keeps its id over a restart, for its rooms live on; a node that
has said nothing for a while is dead, and its sessions move when somebody joins. Not here: which node takes a room
(`calls/placement.py`), what becomes of a dead node's people (`media_feed.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from msgspec import structs
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.calls.media import MediaRooms
from signaling.calls.model import MediaNode, NodeFacts
from signaling.store import schema
from signaling.store.database import Database, fetch, save
from signaling.store.kinds import NODES, milliseconds

LOOK_SECONDS = 1.0
SIGNS_A_LIFE = 4
"""So many times a node says that it is there before it would count as dead."""


class Nodes:
    def __init__(
        self, database: Database, media: MediaRooms, now: Callable[[], datetime], *, lost_after: timedelta
    ) -> None:
        """lost_after: so long after its last sign a node counts as dead."""
        self._database = database
        self._media = media
        self._now = now
        self._lost_after = lost_after
        self._own: MediaNode | None = None
        self._others: tuple[MediaNode, ...] = ()

    @property
    def own(self) -> str:
        return self._media.node

    async def look(self) -> bool:
        """Say that our own node is there if that is due, and see which others are.

        Returns whether ours has been taken for dead, so that its sessions may have moved meanwhile.
        """
        now, facts = self._now(), await self._media.facts()
        known = self._own
        was_dead = known is not None and known.until <= now
        if known is None or known.facts != facts or known.until - now < self._lost_after * (1 - 1 / SIGNS_A_LIFE):
            until = now + self._lost_after
            created = now if known is None else known.created_at
            own = MediaNode(facts=facts, until=until, created_at=created, updated_at=now)
            async with self._database.write() as connection:
                await save(connection, [own])
            self._own = own
        async with self._database.read() as connection:
            await self.read(connection)
        return was_dead

    async def read(self, connection: AsyncConnection) -> None:
        """See which others there are."""
        self._others = tuple(node for node in await fetch(connection, NODES) if node.id != self.own)

    async def living(self) -> dict[str, NodeFacts]:
        """Return the living nodes, as last seen; our own as it is now, and first."""
        now = self._now()
        others = {node.id: node.facts for node in self._others if node.until > now}
        return {self.own: await self._media.facts(), **others}

    def lives(self, node: str) -> bool:
        return node == self.own or any(one.id == node and one.until > self._now() for one in self._others)

    async def forget_dead(self) -> None:
        """Remove nodes that have been dead for as long again: nobody needs to know that they were there."""
        before = milliseconds(self._now() - self._lost_after)
        async with self._database.write() as connection:
            await connection.execute(delete(schema.nodes).where(schema.nodes.c.until < before))

    async def retire(self) -> None:
        """Have our own node be dead at once: it stops, and its workers with it."""
        if self._own is not None:
            async with self._database.write() as connection:
                await save(connection, [structs.replace(self._own, until=self._now())])
