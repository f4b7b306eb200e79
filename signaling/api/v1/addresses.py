"""Where users were seen of late, for bans by address: as keyed hashes, never as addresses.

The hash is HMAC-SHA256 under a key derived from an API secret, of the whole IPv4 address or of the /64 that an IPv6
subscriber has. With several secrets a client is looked for under each, so that a rotation forgets no ban. Written once
a second for everybody, and for one user and address once a day. Not here: who is refused (`calls/rights.py`).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import groupby, islice

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.api import client_address
from signaling.store.database import Database, outlived, upsert
from signaling.store.kinds import milliseconds
from signaling.store.schema import addresses

PURPOSE = b"callyard: addresses of users"
WRITE_SECONDS = 1.0
NOTED_AGAIN_AFTER = timedelta(days=1)
NOTED_MAX = 50_000
"""Users and addresses of which this process remembers that they are written."""
UNWRITTEN_MAX = 10_000
"""Notes that wait for a database that is away; who comes then is noted when he comes again."""
AT_ONCE = 500


class SeenAddresses:
    def __init__(
        self, database: Database, keys: Mapping[str, str], now: Callable[[], datetime], *, per_user: int
    ) -> None:
        """keys: API secrets by name; what is noted is hashed under the first. per_user: how many are kept of each."""
        self.writing = asyncio.Lock()
        """Held while notes are written; whoever holds it knows that none is on its way."""
        self._database = database
        self._keys = [hmac.digest(secret.encode(), PURPOSE, "sha256") for secret in keys.values()]
        self._now = now
        self._per_user = per_user
        self._noted: OrderedDict[tuple[str, str], datetime] = OrderedDict()
        self._unwritten: dict[tuple[str, str], datetime] = {}

    def sources(self, address: str | None) -> tuple[str, ...]:
        """Return the hashes of a client's address, one for each key; none if it is not known.

        Loopback is not known: it is this machine's own, a proxy's that was not named in `http.trusted_proxies`.
        """
        known = client_address.parse(address) if address else None
        if known is None or known.is_loopback or known.is_unspecified:
            return ()
        place = known.packed[:8] if isinstance(known, ipaddress.IPv6Address) else known.packed
        return tuple(hmac.digest(key, place, "sha256").hex() for key in self._keys)

    def note(self, user_id: str, sources: tuple[str, ...]) -> None:
        """Remember that the user was seen there; it is written later."""
        if not sources:
            return
        seen, now = (user_id, sources[0]), self._now()
        before = self._noted.get(seen)
        if (before is not None and now - before < NOTED_AGAIN_AFTER) or len(self._unwritten) >= UNWRITTEN_MAX:
            return
        self._noted[seen] = self._unwritten[seen] = now
        self._noted.move_to_end(seen)
        while len(self._noted) > NOTED_MAX:
            self._noted.popitem(last=False)

    async def write(self) -> None:
        """Write what is noted."""
        async with self.writing:
            while self._unwritten:
                batch = dict(islice(self._unwritten.items(), AT_ONCE))
                async with self._database.write(alone="addresses") as connection:
                    await self._write(connection, batch)
                for seen in batch:
                    self._unwritten.pop(seen, None)

    async def _write(self, connection: AsyncConnection, batch: Mapping[tuple[str, str], datetime]) -> None:
        rows = [
            {"user_id": user, "address": hashed, "seen_at": milliseconds(at)} for (user, hashed), at in batch.items()
        ]
        await upsert(connection, addresses, rows, ("user_id", "address"))
        user_id, hashed = addresses.c.user_id, addresses.c.address
        kept = await connection.execute(
            select(user_id, hashed)
            .where(user_id.in_(sorted({user for user, _ in batch})))
            .order_by(user_id, addresses.c.seen_at.desc(), hashed)
        )
        for user, his in groupby(kept, key=lambda row: row.user_id):
            too_many = [row.address for row in islice(his, self._per_user, None)]
            if too_many:
                await connection.execute(delete(addresses).where(user_id == user, hashed.in_(too_many)))

    async def of_user(self, connection: AsyncConnection, user_id: str) -> list[str]:
        """Return the hashes of where he was seen, the latest first; `write` came before."""
        rows = await connection.execute(
            select(addresses.c.address).where(addresses.c.user_id == user_id).order_by(addresses.c.seen_at.desc())
        )
        return list(rows.scalars())

    async def forget(self, connection: AsyncConnection, user_id: str) -> None:
        """Forget where he was seen; the caller holds `writing`."""
        for seen in [seen for seen in self._unwritten if seen[0] == user_id]:
            del self._unwritten[seen]
        await connection.execute(delete(addresses).where(addresses.c.user_id == user_id))

    async def loop(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(WRITE_SECONDS)
            # What is noted while the database is away is written when it is back.
            with outlived("addresses_not_written"):
                await self.write()
