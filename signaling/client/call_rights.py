"""Rights in a call: asking for them, deciding, why somebody has them; moderation and the lobby's decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from signaling.client.call_base import CallBase, zoned
from signaling.client.models import Block, CapabilitySet, Explanation, LobbyEntry, PermissionRequest
from signaling.client.transport import segment


class Rights(CallBase):
    """What people may do, and what is done about them."""

    async def request_permissions(self, capabilities: Iterable[str]) -> PermissionRequest:
        """Ask for media capabilities that one's role may ask for; the answer is an event."""
        data = await self._post("/permission-requests", {"capabilities": list(capabilities)})
        return self._client.transport.value(data["request"], PermissionRequest)

    async def permission_requests(self) -> Sequence[PermissionRequest]:
        """Return who waits for an answer."""
        return [request async for request in self._pages("GET", "/permission-requests", PermissionRequest, 100)]

    async def grant(self, request: PermissionRequest | str) -> PermissionRequest:
        """Grant a request. `Conflict` if somebody decided meanwhile; `error.problem["request"]` says how."""
        return await self._decide(request, "grant")

    async def deny(self, request: PermissionRequest | str) -> PermissionRequest:
        return await self._decide(request, "deny")

    async def _decide(self, request: PermissionRequest | str, verdict: str) -> PermissionRequest:
        request_id = request if isinstance(request, str) else request.id
        data = await self._post(f"/permission-requests/{segment(request_id)}/{verdict}")
        return self._client.transport.value(data["request"], PermissionRequest)

    async def withdraw_request(self, request: PermissionRequest | str) -> None:
        request_id = request if isinstance(request, str) else request.id
        await self._send("DELETE", f"/permission-requests/{segment(request_id)}")

    async def change_capabilities(
        self,
        user_id: str,
        *,
        grant: Iterable[str] = (),
        revoke: Iterable[str] = (),
        persist: bool = False,
    ) -> CapabilitySet:
        """Grant and revoke directly. persist: beyond the session, in the membership."""
        body = {"grant": list(grant), "revoke": list(revoke), "persist": persist}
        data = await self._send("PATCH", f"/participants/{segment(user_id)}/capabilities", body)
        return self._client.transport.value(data, CapabilitySet)

    async def explain(self, user_id: str | None = None) -> Explanation:
        """Say step by step why a user may do what he may; oneself if nobody is named."""
        self._named()
        path = self.path("/capabilities/explain")
        return await self._client.transport.get(Explanation, "GET", path, query={"user": user_id})

    async def mute(
        self,
        user_ids: Iterable[str] | None = None,
        *,
        kinds: Iterable[str] = ("audio",),
        except_user_ids: Iterable[str] = (),
    ) -> Mapping[str, Sequence[str]]:
        """Mute users, or all; kinds: audio, video, screen. Returns who was muted of what. Nobody can be unmuted."""
        body: dict[str, Any] = {"kinds": list(kinds)}
        body |= {"all": True} if user_ids is None else {"user_ids": list(user_ids)}
        if excepted := list(except_user_ids):
            body["except"] = excepted
        data = await self._post("/participants/mute", body)
        return {one["user_id"]: one["kinds"] for one in data["muted"]}

    async def kick(self, user_id: str, *, block: bool = False) -> None:
        await self._post(f"/participants/{segment(user_id)}/kick", {"block": block})

    async def block(self, user_id: str, *, reason: str | None = None, expires_at: datetime | None = None) -> Block:
        body = {"reason": reason, "expires_at": zoned(expires_at)}
        data = await self._send("PUT", f"/blocks/{segment(user_id)}", body)
        return self._client.transport.value(data["block"], Block)

    async def unblock(self, user_id: str) -> None:
        await self._send("DELETE", f"/blocks/{segment(user_id)}")

    async def lobby(self) -> Sequence[LobbyEntry]:
        """Return who waits in the lobby."""
        return [entry async for entry in self._pages("GET", "/lobby", LobbyEntry, 100)]

    async def lobby_entry(self, entry: LobbyEntry | str) -> LobbyEntry:
        """Return an entry as it is now: one's own, also when it was denied or has expired, or any for who decides."""
        entry_id = entry if isinstance(entry, str) else entry.id
        self._named()
        path = self.path(f"/lobby/{segment(entry_id)}")
        data = await self._client.transport.request("GET", path)
        return self._client.transport.value(data["lobby"], LobbyEntry)

    async def admit(self, entry: LobbyEntry | str) -> LobbyEntry:
        return await self._on_lobby(entry, "admit")

    async def deny_entry(self, entry: LobbyEntry | str) -> LobbyEntry:
        return await self._on_lobby(entry, "deny")

    async def _on_lobby(self, entry: LobbyEntry | str, verdict: str) -> LobbyEntry:
        entry_id = entry if isinstance(entry, str) else entry.id
        data = await self._post(f"/lobby/{segment(entry_id)}/{verdict}")
        return self._client.transport.value(data["lobby"], LobbyEntry)
