"""Idempotency keys of POST: the first reply is kept, and given again to the same request.

Same key with another body: 422. Still being answered: 409. A fault of the server is not kept.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from signaling.api.v1.replies import Reply, as_problem, problem_response, response
from signaling.calls.problems import Problem, unprocessable
from signaling.errors import Refusal
from signaling.store.database import Database
from signaling.store.kinds import milliseconds
from signaling.store.schema import idempotency

KEY_MAX_CHARACTERS = 255
ABANDONED_AFTER = timedelta(minutes=1)
"""An answer that takes longer belongs to a process that died."""


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
        known = await self._claim(scope, key, digest)
        if known is not None:
            return self._replayed(known, digest)
        try:
            answer = response(await handler())
        except Refusal as refusal:
            problem = as_problem(refusal)
            if problem.status in (401, 429) or problem.status >= 500:
                await self._forget(scope, key)
                raise
            answer = problem_response(problem, key, {})
        except BaseException:
            await self._forget(scope, key)
            raise
        await self._keep(scope, key, answer)
        return answer

    async def _claim(self, scope: str, key: str, digest: str) -> Any:
        table, now = idempotency, self._now()
        for _ in range(2):
            try:
                async with self._database.write() as connection:
                    await connection.execute(
                        table.insert(),
                        {
                            "scope": scope,
                            "idempotency_key": key,
                            "body_sha256": digest,
                            "status": None,
                            "headers": None,
                            "body": None,
                            "created_at": milliseconds(now),
                        },
                    )
                return None
            except IntegrityError:
                async with self._database.write() as connection:
                    row = (await connection.execute(select(table).where(*self._where(scope, key)))).first()
                    if row is None:
                        continue
                    limit = self._ttl if row.status is not None else ABANDONED_AFTER
                    if row.created_at > milliseconds(now - limit):
                        return row
                    await connection.execute(delete(table).where(*self._where(scope, key)))
        raise Problem("conflict", "A request with this key is being answered.")

    def _replayed(self, row: Any, digest: str) -> Response:
        if row.body_sha256 != digest:
            raise unprocessable("/Idempotency-Key", "This key was used for another request.")
        if row.status is None:
            raise Problem("conflict", "A request with this key is being answered.")
        headers = {**json.loads(row.headers), "idempotency-replayed": "true"}
        return Response(row.body, row.status, headers)

    async def _keep(self, scope: str, key: str, answer: Response) -> None:
        headers = {k: v for k, v in answer.headers.items() if k not in ("content-length", "x-request-id")}
        async with self._database.write() as connection:
            await connection.execute(
                update(idempotency)
                .where(*self._where(scope, key))
                .values(status=answer.status_code, headers=json.dumps(headers), body=bytes(answer.body).decode("utf-8"))
            )

    async def _forget(self, scope: str, key: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(delete(idempotency).where(*self._where(scope, key)))

    @staticmethod
    def _where(scope: str, key: str) -> list[Any]:
        return [idempotency.c.scope == scope, idempotency.c.idempotency_key == key]
