"""`…/members`: list, search, change, remove."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from signaling.api.v1.call_routes import MEMBERS_MAX, Members, change_call, checked_cid, named
from signaling.api.v1.http import PAGE_DEFAULT, PAGE_MAX, Ask, Body, Route
from signaling.api.v1.replies import Reply
from signaling.api.v1.service import Wanted
from signaling.calls import views
from signaling.calls.operations import members
from signaling.calls.queries import MEMBER_FIELDS, compile_filter, compile_sort
from signaling.calls.rights import require
from signaling.calls.state import Turn
from signaling.store.kinds import MEMBERS
from signaling.store.pages import Column, page_of
from signaling.store.queries import condition, member_columns
from signaling.store.schema import members as members_table


class PatchMembers(Body):
    upsert: Members | None = None
    remove: Annotated[list[str], Field(max_length=MEMBERS_MAX)] | None = None
    force: bool = False


class QueryMembers(Body):
    filter: dict[str, Any] | None = None
    sort: list[Any] | None = None
    limit: int = Field(PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    next: str | None = None
    prev: str | None = None


async def list_members(ask: Ask) -> Reply:
    return await _page(ask, QueryMembers(limit=ask.limit(), next=ask.query("next"), prev=ask.query("prev")))


async def query_members(ask: Ask) -> Reply:
    return await _page(ask, await ask.body(QueryMembers))


async def _page(ask: Ask, body: QueryMembers) -> Reply:
    def reach(turn: Turn) -> str:
        require(turn, "member.read")
        return turn.call.key

    key = await ask.service.look(ask.principal, *checked_cid(ask), reach)
    wanted = compile_filter(body.filter or {}, MEMBER_FIELDS)
    sort = compile_sort(body.sort or [{"field": "created_at", "direction": "asc"}], ("user_id", "created_at"))
    columns = member_columns()
    order = [Column(columns[name], descending) for name, descending in sort]
    if "user_id" not in dict(sort):
        order.append(Column(columns["user_id"], order[-1].descending))
    async with ask.service.database.read(long=True) as connection:
        conditions = [members_table.c.call_key == key, condition(wanted, columns)]
        page = await page_of(connection, MEMBERS, conditions, order, body.limit, body.next, body.prev)
        users = await ask.service.directory.users(connection, [member.user_id for member in page.items])
    return Reply(page.shown([views.member(member, users) for member in page.items]))


async def patch_members(ask: Ask) -> Reply:
    body = await ask.body(PatchMembers)
    upsert = named(body.upsert, "/upsert")

    def operation(turn: Turn) -> dict[str, Any]:
        members.change(turn, upsert, body.remove or [], force=body.force)
        return {"members": views.members_page(turn)}

    people = [one.user_id for one in upsert] + (body.remove or [])
    return await change_call(ask, operation, Wanted(users=people, members_shown=views.MEMBERS_PAGE))


async def delete_member(ask: Ask) -> Reply:
    user_id, force = ask.path["user"], ask.flag("force", False)

    def operation(turn: Turn) -> dict[str, Any]:
        members.remove_one(turn, user_id, force=force)
        return {}

    await change_call(ask, operation, Wanted(users=[user_id]))
    return Reply(status=204)


_MEMBERS = "/v1/calls/{type}/{id}/members"
_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
ROUTES = [
    Route("GET", _MEMBERS, list_members, "List members", query=_PAGE, capability="member.read"),
    Route("POST", f"{_MEMBERS}/query", query_members, "Search members", body=QueryMembers, capability="member.read",
          example={"filter": {"role": "admin"}}),
    Route("PATCH", _MEMBERS, patch_members, "Add, change and remove members at once", body=PatchMembers,
          capability="member.add|member.update|member.remove", example={"upsert": [{"user_id": "alice"}]}),
    Route("DELETE", f"{_MEMBERS}/{{user}}", delete_member, "Remove a member", capability="member.remove", status=204,
          query={"force": "Remove the last admin too."}),
]  # fmt: skip
