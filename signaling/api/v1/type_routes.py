"""`/call-types`, `/roles`, `/capabilities`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, RootModel
from sqlalchemy import select

from signaling.api.v1.http import Ask, Body, Route
from signaling.api.v1.listing import listed
from signaling.api.v1.replies import Reply
from signaling.calls import call_settings, directory, views
from signaling.calls.capabilities import catalogue
from signaling.calls.identifiers import NAME, check
from signaling.calls.model import CallType, Role
from signaling.calls.problems import Problem, not_found
from signaling.calls.state import Refresh
from signaling.store import schema
from signaling.store.database import deletion, fetch, save
from signaling.store.kinds import CALL_TYPES, ROLES

Names = Annotated[list[str], Field(max_length=200)]


class ChangeType(Body):
    settings: dict[str, Any] | None = Field(None, description=call_settings.ABOUT)
    grants: dict[str, Names | None] | None = None
    requestable: dict[str, Names | None] | None = None
    default_member_role: str | None = None
    notifications: dict[str, Any] | None = None


class NewType(ChangeType):
    name: str
    base: str = "default"


class Delta(Body):
    add: Names = Field([])
    remove: Names = Field([])


class Grants(RootModel[dict[str, Delta]]):
    """Role → what is added and removed."""


class NewRole(Body):
    name: str


async def list_types(ask: Ask) -> Reply:
    types = list(ask.service.directory.types.values())
    return listed(ask, types, views.call_type, key="name")


async def get_type(ask: Ask) -> Reply:
    return Reply({"call_type": views.call_type(_known(ask.service.directory.types, ask.path["name"]))})


def _known(types: dict[str, CallType], name: str) -> CallType:
    if name not in types:
        raise Problem("call_type_not_found", f"There is no call type {name!r}.")
    return types[name]


async def post_type(ask: Ask) -> Reply:
    body = await ask.body(NewType)
    check(NAME, body.name, "/name")
    service = ask.service
    async with service.realm() as (connection, current):
        base = _known(current.types, body.base)
        made = directory.new_type(body.name, base, body.model_dump(), current.roles, service.now())
        if body.name in current.types:
            raise Problem("conflict", f"There is a call type {body.name!r} already.")
        await save(connection, [made])
        await service.note(connection, ask.principal, "call_type.create", made.name, None, views.call_type(made))
    return Reply({"call_type": views.call_type(made)}, 201)


async def patch_type(ask: Ask) -> Reply:
    body = await ask.body(ChangeType)
    return await _change(ask, lambda known, roles, now: directory.changed_type(known, body.model_dump(), roles, now))


async def patch_grants(ask: Ask) -> Reply:
    body = (await ask.body(Grants)).root
    delta = {role: (change.add, change.remove) for role, change in body.items()}
    return await _change(ask, lambda known, roles, now: directory.granted_delta(known, delta, roles, now))


async def _change(ask: Ask, change: Any) -> Reply:
    service, name = ask.service, ask.path["name"]
    async with service.realm() as (connection, current):
        before = _known(current.types, name)
        after: CallType = change(before, current.roles, service.now())
        await save(connection, [after])
        shown = views.call_type(after)
        await service.note(connection, ask.principal, "call_type.update", name, views.call_type(before), shown)
        await service.announce(connection, ask.principal, "type.updated", {"call_type": shown})
        order = await service.orders.owe(connection, Refresh("type_changed", type_=name))
    await service.orders.do(order)
    await service.recheck_watchers(name)
    return Reply({"call_type": shown})


async def delete_type(ask: Ask) -> Reply:
    service, name = ask.service, ask.path["name"]
    async with service.realm() as (connection, current):
        known = _known(current.types, name)
        directory.refuse_built_in(known.built_in, "call type")
        if (await connection.execute(select(schema.calls.c.key).where(schema.calls.c.type == name).limit(1))).first():
            raise Problem("conflict", "There are calls of this type.")
        await connection.execute(deletion(CALL_TYPES, name=name))
        await service.note(connection, ask.principal, "call_type.delete", name, views.call_type(known), None)
    return Reply(status=204)


async def list_roles(ask: Ask) -> Reply:
    async with ask.service.database.read() as connection:
        roles = await fetch(connection, ROLES)
    return listed(ask, roles, views.role, key="name")


async def post_role(ask: Ask) -> Reply:
    body = await ask.body(NewRole)
    check(NAME, body.name, "/name")
    service, now = ask.service, ask.service.now()
    made = Role(name=body.name, built_in=False, created_at=now, updated_at=now)
    async with service.realm() as (connection, current):
        if body.name in current.roles:
            raise Problem("conflict", f"There is a role {body.name!r} already.")
        await save(connection, [made])
        await service.note(connection, ask.principal, "role.create", made.name, None, views.role(made))
        await service.announce(connection, ask.principal, "role.updated", {"role": views.role(made)})
    return Reply({"role": views.role(made)}, 201)


async def delete_role(ask: Ask) -> Reply:
    service, name = ask.service, ask.path["name"]
    async with service.realm() as (connection, current):
        found = await fetch(connection, ROLES, schema.roles.c.name == name)
        if not found:
            raise not_found("role")
        directory.refuse_built_in(found[0].built_in, "role")
        members, users = schema.members, schema.users
        held = (await connection.execute(select(members.c.user_id).where(members.c.role == name).limit(1))).first()
        held = (
            held
            or (
                await connection.execute(
                    select(users.c.id).where(users.c.role == name, users.c.deleted.is_(False)).limit(1)
                )
            ).first()
        )
        if held or directory.uses_role(current.types, name):
            raise Problem("role_in_use", "A type grants the role something, or somebody has it.")
        await connection.execute(deletion(ROLES, name=name))
        await service.note(connection, ask.principal, "role.delete", name, views.role(found[0]), None)
    return Reply(status=204)


async def list_capabilities(ask: Ask) -> Reply:
    return Reply({"items": catalogue(), "next": None, "prev": None})


_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
_TYPE = "/v1/call-types/{name}"
ROUTES = [
    Route("GET", "/v1/call-types", list_types, "List call types", auth="admin", query=_PAGE),
    Route("POST", "/v1/call-types", post_type, "Make a call type", auth="admin", body=NewType, status=201,
          example={"name": "my-call-type", "base": "default"}),
    Route("GET", _TYPE, get_type, "Read a call type", auth="admin"),
    Route("PATCH", _TYPE, patch_type, "Change a call type", auth="admin", body=ChangeType,
          example={"settings": {"video": {"enabled": False}}}),
    Route("DELETE", _TYPE, delete_type, "Delete a call type", auth="admin", status=204),
    Route("PATCH", f"{_TYPE}/grants", patch_grants, "Add and remove capabilities of roles", auth="admin", body=Grants,
          example={"user": {"remove": ["JoinCall"]}, "call_member": {"add": ["join-call"]}}),
    Route("GET", "/v1/roles", list_roles, "List roles", auth="admin", query=_PAGE),
    Route("POST", "/v1/roles", post_role, "Make a role", auth="admin", body=NewRole, status=201,
          example={"name": "usher"}),
    Route("DELETE", "/v1/roles/{name}", delete_role, "Delete a role", auth="admin", status=204),
    Route("GET", "/v1/capabilities", list_capabilities, "List capabilities", auth="admin", query=_PAGE),
]  # fmt: skip
