"""What an application's server or an app admin looks after: users, tokens, call types and their grants, roles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from signaling.client.models import CallType, User
from signaling.client.transport import Transport, segment


class Administration:
    """`client.admin`. Needs a server token; types and roles also an app admin's."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def put_user(
        self,
        user_id: str,
        *,
        name: str | None = None,
        image: str | None = None,
        role: str | None = None,
        teams: Iterable[str] | None = None,
        custom: Mapping[str, Any] | None = None,
    ) -> User:
        """Make a user, or change the named fields of an existing one."""
        body = {
            "name": name,
            "image": image,
            "role": role,
            "teams": None if teams is None else list(teams),
            "custom": None if custom is None else dict(custom),
        }
        said = {field: value for field, value in body.items() if value is not None}
        data = await self._transport.request("PUT", f"/users/{segment(user_id)}", said)
        return self._transport.value(data["user"], User)

    async def delete_user(self, user_id: str) -> None:
        await self._transport.request("DELETE", f"/users/{segment(user_id)}")

    async def create_token(
        self,
        user_id: str,
        *,
        ttl_seconds: int = 3_600,
        calls: Iterable[str] | None = None,
        role: str | None = None,
        ceiling: Iterable[str] | None = None,
        teams: Iterable[str] | None = None,
    ) -> str:
        """Return a user token; calls, role, ceiling and teams only narrow what the user may do."""
        body = {
            "calls": None if calls is None else list(calls),
            "role": role,
            "ceiling": None if ceiling is None else list(ceiling),
            "teams": None if teams is None else list(teams),
        }
        said = {field: value for field, value in body.items() if value is not None}
        body_all = {"user_id": user_id, "ttl_seconds": ttl_seconds, **said}
        return str((await self._transport.request("POST", "/tokens", body_all))["token"])

    async def call_types(self) -> Sequence[CallType]:
        data = await self._transport.request("GET", "/call-types", query={"limit": 100})
        return [self._transport.value(item, CallType) for item in data["items"]]

    async def call_type(self, name: str) -> CallType:
        return self._type(await self._transport.request("GET", f"/call-types/{segment(name)}"))

    async def create_call_type(self, name: str, *, base: str = "default", **fields: Any) -> CallType:
        """Make a call type as a copy of `base`; fields: settings, grants, requestable, default_member_role, …"""
        body = {"name": name, "base": base, **fields}
        return self._type(await self._transport.request("POST", "/call-types", body, once=True))

    async def update_call_type(self, name: str, **fields: Any) -> CallType:
        return self._type(await self._transport.request("PATCH", f"/call-types/{segment(name)}", fields))

    async def delete_call_type(self, name: str) -> None:
        await self._transport.request("DELETE", f"/call-types/{segment(name)}")

    async def change_grants(
        self,
        call_type: str,
        role: str,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
    ) -> CallType:
        """Add and remove capabilities of a role in calls of a type: `remove=["JoinCall"]`, any spelling."""
        path = f"/call-types/{segment(call_type)}/grants"
        body = {role: {"add": list(add), "remove": list(remove)}}
        return self._type(await self._transport.request("PATCH", path, body))

    async def roles(self) -> Sequence[str]:
        data = await self._transport.request("GET", "/roles", query={"limit": 100})
        return [item["name"] for item in data["items"]]

    async def create_role(self, name: str) -> None:
        await self._transport.request("POST", "/roles", {"name": name}, once=True)

    async def delete_role(self, name: str) -> None:
        await self._transport.request("DELETE", f"/roles/{segment(name)}")

    def _type(self, data: Any) -> CallType:
        return self._transport.value(data["call_type"], CallType)
