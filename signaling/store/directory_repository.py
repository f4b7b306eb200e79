"""What is true for all calls: types, roles, app settings, bans, users.

Kept in memory under one revision that every change of any of them moves; users are read on demand.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.calls.call_types import built_in_roles, built_in_types, fresh_app
from signaling.calls.model import App, Ban, CallType, User
from signaling.store import schema
from signaling.store.database import fetch, fetch_one, save
from signaling.store.kinds import APP, BANS, CALL_TYPES, ROLES, USERS
from signaling.store.prepared import Prepared

CACHED_USERS = 50_000
_REVISION = Prepared(select(schema.realm.c.revision))


class Directory:
    """One snapshot, refreshed when its revision has moved."""

    def __init__(self) -> None:
        self.revision = -1
        self.refreshed_at = -math.inf
        self.app: App = fresh_app(datetime.min.replace(tzinfo=UTC), dev=False)
        self.types: dict[str, CallType] = {}
        self.roles: frozenset[str] = frozenset()
        self.bans: dict[str, Ban] = {}
        self.banned_addresses: dict[str, list[Ban]] = {}
        self._users: OrderedDict[str, User] = OrderedDict()

    async def refresh(self, connection: AsyncConnection, revision: int | None = None) -> None:
        """Read what has changed; `revision`: the realm's, if the caller has just read it."""
        if revision is None:
            revision = int((await _REVISION.rows(connection))[0].revision)
        self.refreshed_at = time.monotonic()
        if revision <= self.revision:
            return
        app = (await fetch(connection, APP))[0]
        types = {t.name: t for t in await fetch(connection, CALL_TYPES)}
        roles = frozenset(role.name for role in await fetch(connection, ROLES))
        bans = {ban.user_id: ban for ban in await fetch(connection, BANS)}
        if revision <= self.revision:
            return  # somebody else was here while the database was waited for
        self.app, self.types, self.roles, self.bans = app, types, roles, bans
        self.banned_addresses = {}
        for ban in bans.values():
            for address in ban.addresses:
                self.banned_addresses.setdefault(address, []).append(ban)
        self._users.clear()
        self.revision = revision

    async def users(self, connection: AsyncConnection, ids: Iterable[str]) -> dict[str, User]:
        """Return those of the users that exist, deleted ones too."""
        wanted = set(ids)
        found = {user_id: self._users[user_id] for user_id in wanted & self._users.keys()}
        absent, read = sorted(wanted - found.keys()), list[User]()
        if not absent:
            return found
        revision = int((await _REVISION.rows(connection))[0].revision)
        if len(absent) == 1:
            user = await fetch_one(connection, USERS, id=absent.pop())
            read += [user] if user is not None else []
        for start in range(0, len(absent), 500):
            read += await fetch(connection, USERS, schema.users.c.id.in_(absent[start : start + 500]))
        for user in read:
            found[user.id] = user
            # Who was read before the last change of users may be out of date.
            if revision >= self.revision:
                self.remember(user)
        return found

    def known_user(self, user_id: str | None) -> User | None:
        """Return a user who was read lately, as every caller's is when he is authenticated."""
        return self._users.get(user_id or "")

    def remembered_users(self) -> Mapping[str, User]:
        """Return the users that were read lately."""
        return self._users

    def remember(self, user: User) -> None:
        self._users[user.id] = user
        self._users.move_to_end(user.id)
        while len(self._users) > CACHED_USERS:
            self._users.popitem(last=False)

    def forget(self, user_ids: Iterable[str]) -> None:
        """These are users no more, without any change of what concerns all calls."""
        for user_id in user_ids:
            self._users.pop(user_id, None)


async def make_user(connection: AsyncConnection, user: User) -> None:
    """Put in a user; who is there already stays as he is."""
    insert: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(schema.users)
    await connection.execute(insert.values(USERS.row(user)).on_conflict_do_nothing())


async def lock_realm(connection: AsyncConnection) -> None:
    """Take the realm for a change, so that two of them do not lose one another's; moves the revision."""
    await connection.execute(update(schema.realm).values(revision=schema.realm.c.revision + 1))


async def found_installation(connection: AsyncConnection, now: datetime, *, dev: bool) -> None:
    """Put in the built-in types and roles and the app's settings, where there are none."""
    insert: Any = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(schema.realm)
    await connection.execute(insert.values(id=1, revision=1).on_conflict_do_nothing())
    await lock_realm(connection)
    if not await fetch(connection, APP):
        await save(connection, [fresh_app(now, dev=dev)])
    known_types = {t.name for t in await fetch(connection, CALL_TYPES)}
    known_roles = {role.name for role in await fetch(connection, ROLES)}
    await save(connection, [t for t in built_in_types(now) if t.name not in known_types])
    await save(connection, [role for role in built_in_roles(now) if role.name not in known_roles])
