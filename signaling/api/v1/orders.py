"""What follows from a commit and is done elsewhere or later: owed in the same transaction, so that no crash loses it.

Orders of a media node are done by the process that has it: permissions, removals, mutes, closing. Orders of no node
are what concerns many calls at once (a change of types, roles or bans): whoever committed the change does it, and
another process if he dies over it. Each is done at least once, and doing it twice changes nothing. Not here: how
anything is done (`service.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import structlog
from sqlalchemy import Select, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.calls.model import Order
from signaling.calls.state import CloseRoom, MuteTracks, Refresh, RemoveParticipant, RemoveUser, UpdateParticipant, Work
from signaling.events.owed import take_due
from signaling.store import schema
from signaling.store.database import Database, DatabaseAway, outlived, save
from signaling.store.kinds import ORDERS, milliseconds
from signaling.store.prepared import Prepared

log = structlog.get_logger(__name__)

TAKEN_FOR = timedelta(seconds=5)
"""So long an order of no node is left to whoever has taken it; then another process does it too."""
AT_ONCE = 100
WAIT_SECONDS = 1.0
"""How long an operation waits until another process has done its part; it is committed either way."""
LOOK_SECONDS = 0.02
POLL_MAX_MS = 250
"""What is taken from somebody has to be gone within a second, however seldom events are looked for."""
ANY_NODE = ""
EPOCH = datetime.fromtimestamp(0, UTC)
KINDS: dict[str, type[Any]] = {
    "close_room": CloseRoom,
    "update_participant": UpdateParticipant,
    "remove_participant": RemoveParticipant,
    "mute_tracks": MuteTracks,
    "refresh": Refresh,
    "remove_user": RemoveUser,
}
_KIND_OF = {work: kind for kind, work in KINDS.items()}
_ORDERS = schema.orders.c
_WAITING = Prepared(
    select(_ORDERS.id).where(_ORDERS.node == bindparam("node_"), _ORDERS.next_attempt_at <= bindparam("now_")).limit(1)
)


class Orders:
    """`carry_out` does a piece of work; it is asked for one at a time of each node."""

    def __init__(
        self,
        database: Database,
        node: str,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        carry_out: Callable[[Work], Awaitable[None]],
    ) -> None:
        self._database = database
        self._node = node
        self._now = now
        self._new_id = new_id
        self._carry_out = carry_out
        self._at_work = asyncio.Lock()

    def to(self, node: str, work: Work) -> Order:
        """Return an order to save in the transaction that it follows from."""
        now = self._now()
        return Order(
            id=self._new_id(),
            node=node,
            kind=_KIND_OF[type(work)],
            data=msgspec.to_builtins(work),
            state="pending",
            # At once, whatever the other machine's clock says; but what any process may do is first left to this one.
            next_attempt_at=now + TAKEN_FOR if node == ANY_NODE else EPOCH,
            created_at=now,
            updated_at=now,
        )

    async def owe(self, connection: AsyncConnection, work: Work) -> Order:
        """Have work that concerns many calls follow from a transaction; `do` it after the commit."""
        order = self.to(ANY_NODE, work)
        await save(connection, [order])
        return order

    async def do(self, order: Order) -> None:
        """Do it and forget it. Raises what went wrong; then it is still owed."""
        await self._carry_out(msgspec.convert(order.data, KINDS[order.kind]))
        async with self._database.write() as connection:
            await connection.execute(delete(schema.orders).where(_ORDERS.id == order.id))

    async def do_due(self, node: str) -> None:
        """Do what is due at a node, in the order in which it was committed."""
        now = self._now()
        async with self._database.read() as connection:
            if not await _WAITING.rows(connection, {"node_": node, "now_": milliseconds(now)}):
                return
        due = await take_due(self._database, ORDERS, now, now + TAKEN_FOR, AT_ONCE, _ORDERS.node == node)
        for order in due:
            try:
                await self.do(order)
            except DatabaseAway:
                raise
            except Exception:  # one order's fault; the others must not wait for it
                log.exception("order_failed", kind=order.kind)

    async def do_ours(self) -> None:
        """Do what is due at our own node."""
        async with self._at_work:
            await self.do_due(self._node)

    async def do_anybodys(self) -> None:
        """Do what somebody else has committed and not done."""
        await self.do_due(ANY_NODE)

    async def done(self, orders: Sequence[Order]) -> None:
        """Wait until others have done these, but not for long."""
        if orders:
            await self._until_done(select(_ORDERS.node).where(_ORDERS.id.in_([order.id for order in orders])))

    async def done_in(self, rooms: Collection[str]) -> None:
        """Wait until others have done what there is to do in these rooms, but not for long."""
        if rooms:
            await self._until_done(self._open_in(rooms))

    async def open_in(self, rooms: Collection[str]) -> frozenset[str]:
        """Return in which of these rooms others have something to do."""
        if not rooms:
            return frozenset()
        async with self._database.read() as connection:
            return frozenset(row.room for row in await connection.execute(self._open_in(rooms)))

    def _open_in(self, rooms: Collection[str]) -> Select[tuple[str, str]]:
        room = _ORDERS.doc["data", "room"].as_string()
        others = _ORDERS.node.not_in([ANY_NODE, self._node])
        return select(_ORDERS.node, room.label("room")).where(others, room.in_(list(rooms)))

    async def _until_done(self, query: Select[Any]) -> None:
        nodes: set[str] = set()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    async with self._database.read() as connection:
                        nodes = {row.node for row in await connection.execute(query)}
                    if not nodes:
                        return
                    await asyncio.sleep(LOOK_SECONDS)
        except DatabaseAway:
            pass  # it was logged; what they follow from is committed
        except TimeoutError:
            log.warning("media_node_late", nodes=sorted(nodes))

    async def forget(self, nodes: Iterable[str]) -> None:
        """Forget what was to be done at nodes that are dead."""
        async with self._database.write() as connection:
            await connection.execute(delete(schema.orders).where(_ORDERS.node.in_(list(nodes))))

    async def loop(self, work: Callable[[], Awaitable[None]], poll_ms: int) -> None:
        """Do `work`, again and again, until cancelled."""
        while True:
            with outlived("orders_failed"):
                await work()
            await asyncio.sleep(min(poll_ms, POLL_MAX_MS) / 1000)
