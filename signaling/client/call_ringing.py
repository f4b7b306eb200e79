"""Ringing: every ring is an object of the server, which owns its timers; accept and reject are compare-and-set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from signaling.client.call_lifecycle import Lifecycle
from signaling.client.errors import Conflict
from signaling.client.models import Ring
from signaling.client.transport import segment


class Ringing(Lifecycle):
    """Rings and notifications of a call."""

    async def ring(
        self,
        user_ids: Iterable[str] | None = None,
        *,
        video: bool = False,
        timeout_ms: int | None = None,
        custom: Mapping[str, Any] | None = None,
    ) -> Ring:
        """Ring members; all others if nobody is named."""
        body = {
            "user_ids": None if user_ids is None else list(user_ids),
            "video": video,
            "timeout_ms": timeout_ms,
            "custom": None if custom is None else dict(custom),
        }
        return self._rang(await self._post("/rings", {k: v for k, v in body.items() if v is not None}))

    async def notify(
        self, user_ids: Iterable[str] | None = None, *, title: str | None = None, body: str | None = None
    ) -> None:
        """Send members a notification that does not ring."""
        fields = {"user_ids": None if user_ids is None else list(user_ids), "title": title, "body": body}
        await self._post("/notify", {k: v for k, v in fields.items() if v is not None})

    async def get_ring(self, ring_id: str) -> Ring:
        self._named()
        return self._rang(await self._client.transport.request("GET", self.path(f"/rings/{segment(ring_id)}")))

    async def accept(self, ring_id: str | None = None, *, device_id: str | None = None) -> Ring:
        """Accept a ring: without an id the one that is pending. `Conflict` if it was resolved elsewhere."""
        path = await self._ring_path(ring_id)
        return self._rang(await self._post(f"{path}/accept", {"device_id": device_id or self._client.device_id}))

    async def reject(
        self, ring_id: str | None = None, *, reason: str = "decline", device_id: str | None = None
    ) -> Ring:
        """Reject a ring. reason: decline, busy, or a text of yours up to 64 characters."""
        path = await self._ring_path(ring_id)
        body = {"reason": reason, "device_id": device_id or self._client.device_id}
        return self._rang(await self._post(f"{path}/reject", body))

    async def cancel_ring(self, ring_id: str | None = None) -> Ring:
        path = await self._ring_path(ring_id)
        return self._rang(await self._post(f"{path}/cancel"))

    async def _ring_path(self, ring_id: str | None) -> str:
        if ring_id is None:
            last = self.ring_in_progress
            # A ring that one callee has accepted is pending no more, and rings on for the others.
            pending = (await self.get()).ring or last
            if pending is None:
                raise Conflict("no_ring", "Nothing is ringing in this call.")
            ring_id = pending.id
        return f"/rings/{segment(ring_id)}"

    def _rang(self, data: Any) -> Ring:
        self.ring_in_progress = self._client.transport.value(data["ring"], Ring)
        return self.ring_in_progress
