"""Idempotency keys of POST: the first reply is kept, and given again to the same request.

Same key with another body: 422. Still being answered: 409. A fault of the server is not kept, and the request may be
made again, unless something was committed for it: that is noted in the same transaction, so nothing is done twice,
whoever dies when. Such a key is answered 409.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from signaling.api.v1.replies import Reply, as_problem, problem_response, response
from signaling.calls.problems import Problem, unprocessable
from signaling.errors import Refusal
from signaling.store.database import ALSO, Database
from signaling.store.kinds import milliseconds
from signaling.store.prepared import Parameters, Prepared
from signaling.store.schema import idempotency

Claim = dict[str, Any]

KEY_MAX_CHARACTERS = 255
ABANDONED_AFTER = timedelta(minutes=1)
"""An answer that takes longer belongs to a process that died; if it has not, it commits nothing any more."""
BEGUN = 0
"""The status of a request for which something was committed and whose answer is not known; None: nothing was yet."""

_OF_CLAIM = (
    idempotency.c.scope == bindparam("scope_"),
    idempotency.c.idempotency_key == bindparam("key_"),
    idempotency.c.created_at == bindparam("claimed_"),
)
_NOTE = Prepared(update(idempotency).where(*_OF_CLAIM).values(status=BEGUN))
_KEEP = Prepared(
    update(idempotency)
    .where(*_OF_CLAIM)
    .values(status=bindparam("status_"), headers=bindparam("headers_"), body=bindparam("body_"))
)
_FORGET = Prepared(delete(idempotency).where(*_OF_CLAIM, idempotency.c.status.is_(None)))


class Idempotency:
    def __init__(self, database: Database, now: Callable[[], datetime], ttl_seconds: int) -> None:
        self._database = database
        self._now = now
        self._ttl = timedelta(seconds=ttl_seconds)

    async def run(
        self,
        scope: str,
        key: str,
        digest: str,
        handler: Callable[[], Awaitable[Reply]],
    ) -> Response:
        """Answer once; return the stored reply afterwards."""
        if not 1 <= len(key) <= KEY_MAX_CHARACTERS:
            raise unprocessable("/Idempotency-Key", f"A key has 1 to {KEY_MAX_CHARACTERS} characters.")
        claim, known = await self._claim(scope, key, digest)
        if known is not None:
            return self._replayed(known, digest)
        try:
            answer = await _noting(claim, handler)
        except Refusal as refusal:
            problem = as_problem(refusal)
            if problem.status in (401, 429) or problem.status >= 500:
                await self._run(_FORGET, claim)
                raise
            answer = problem_response(problem, key, {})
        except BaseException:
            await self._run(_FORGET, claim)
            raise
        headers = {k: v for k, v in answer.headers.items() if k not in ("content-length", "x-request-id")}
        kept = {"status_": answer.status_code, "headers_": json.dumps(headers), "body_": bytes(answer.body).decode()}
        await self._run(_KEEP, {**claim, **kept})
        return answer

    async def _claim(self, scope: str, key: str, digest: str) -> tuple[Claim, Any]:
        """Take the key; return the claim to it, and what is known of it if it was taken before."""
        table, now = idempotency, self._now()
        claim = {"scope_": scope, "key_": key, "claimed_": milliseconds(now)}
        new = {"scope": scope, "idempotency_key": key, "body_sha256": digest, "created_at": milliseconds(now)}
        for _ in range(2):
            try:
                async with self._database.write() as connection:
                    await connection.execute(table.insert(), {**new, "status": None, "headers": None, "body": None})
            except IntegrityError:
                pass
            else:
                return claim, None
            async with self._database.write() as connection:
                mine = (table.c.scope == scope, table.c.idempotency_key == key)
                row = (await connection.execute(select(table).where(*mine))).first()
                if row is None:
                    continue
                limit = self._ttl if row.status is not None else ABANDONED_AFTER
                if row.created_at > milliseconds(now - limit):
                    return claim, row
                # The one that was seen, and not another's who took it over meanwhile.
                await connection.execute(delete(table).where(*mine, table.c.created_at == row.created_at))
        raise Problem("conflict", "A request with this key is being answered.")

    def _replayed(self, row: Any, digest: str) -> Response:
        if row.body_sha256 != digest:
            raise unprocessable("/Idempotency-Key", "This key was used for another request.")
        if row.status is None:
            raise Problem("conflict", "A request with this key is being answered.")
        if row.status == BEGUN:
            raise Problem("conflict", "A request with this key was begun; whether it was finished is not known.")
        headers = {**json.loads(row.headers), "idempotency-replayed": "true"}
        return Response(row.body, row.status, headers)

    async def _run(self, statement: Prepared, parameters: Parameters) -> None:
        async with self._database.write() as connection:
            await statement.run(connection, parameters)


async def _noting(claim: Claim, handler: Callable[[], Awaitable[Reply]]) -> Response:
    """Answer, and note with everything that is committed for it that it was."""

    async def note(connection: AsyncConnection) -> None:
        if await _NOTE.run(connection, claim) != 1:
            raise Problem("conflict", "This took too long: somebody else answers the request now.")

    before = ALSO.set(note)
    try:
        return response(await handler())
    finally:
        ALSO.reset(before)
