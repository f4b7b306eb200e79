"""`/calls/{type}/{id}`: create or get, read, change, end, reopen, extend, delete."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from msgspec import structs
from pydantic import BeforeValidator, Field

from signaling.api.v1.http import Ask, Body, Instant, Nothing, Route
from signaling.api.v1.replies import Reply
from signaling.api.v1.service import Outcome, Wanted
from signaling.calls import call_settings, identifiers, views
from signaling.calls.identifiers import CALL_ID
from signaling.calls.model import Task
from signaling.calls.operations import calls, rings
from signaling.calls.operations.members import NamedMember
from signaling.calls.problems import Problem, missing, not_found, unprocessable
from signaling.calls.rights import check_reach, others_to_reach, own, require
from signaling.calls.state import Turn

MEMBERS_MAX = 1_000
EXTEND_MAX_SECONDS = 604_800


class MemberItem(Body):
    """A member: an id alone, or an object."""

    user_id: str = Field(min_length=1, max_length=128)
    role: str | None = Field(None, max_length=64)
    custom: dict[str, Any] | None = None
    # Where the id stands in the body; a bare id has no /user_id below it. Not part of the wire.
    bare: bool = Field(False, exclude=True, alias="\0bare")


def _spelled_out(value: Any) -> Any:
    return {"user_id": value, "\0bare": True} if isinstance(value, str) else value


Members = Annotated[list[Annotated[MemberItem, BeforeValidator(_spelled_out)]], Field(max_length=MEMBERS_MAX)]


def named(items: list[MemberItem] | None, pointer: str) -> list[NamedMember]:
    return [
        NamedMember(item.user_id, item.role, item.custom, f"{pointer}/{index}" + ("" if item.bare else "/user_id"))
        for index, item in enumerate(items or [])
    ]


class PutCall(Body):
    members: Members | None = None
    member_ids: Annotated[list[str], Field(max_length=MEMBERS_MAX)] | None = None
    custom: dict[str, Any] | None = None
    settings: dict[str, Any] | None = Field(None, description=call_settings.ABOUT)
    team: str | None = Field(None, min_length=1, max_length=128)
    starts_at: Instant | None = None
    ring: bool = False
    notify: bool = False
    video: bool = False
    watch: bool = False
    connection_id: str | None = Field(None, max_length=64)

    def new_call(self) -> calls.NewCall:
        if self.members is not None and self.member_ids is not None:
            raise unprocessable("/member_ids", "Send members or member_ids, not both.")
        people = named(self.members, "/members")
        people += [
            NamedMember(user_id, None, None, f"/member_ids/{i}") for i, user_id in enumerate(self.member_ids or [])
        ]
        return calls.NewCall(people, self.custom or {}, self.settings or {}, self.team, milliseconds(self.starts_at))


class PostCall(PutCall):
    id: str | None = Field(None, max_length=64)


class PatchCall(Body):
    custom: dict[str, Any] | None = None
    settings: dict[str, Any] | None = Field(None, description=call_settings.ABOUT)
    starts_at: Instant | None = None


class Extend(Body):
    additional_seconds: int = Field(ge=1, le=EXTEND_MAX_SECONDS)


def milliseconds(at: datetime | None) -> datetime | None:
    return None if at is None else identifiers.whole_milliseconds(at)


def checked_cid(ask: Ask) -> tuple[str, str]:
    type_, call_id = ask.cid
    return type_, identifiers.check(CALL_ID, call_id, "/id")


async def put_call(ask: Ask) -> Reply:
    return await _get_or_create(ask, *checked_cid(ask), await ask.body(PutCall), forced_new=False)


async def post_call(ask: Ask) -> Reply:
    body = await ask.body(PostCall)
    call_id = body.id or ask.service.new_id()
    identifiers.check(CALL_ID, call_id, "/id")
    reply = await _get_or_create(ask, ask.path["type"], call_id, body, forced_new=True)
    reply.headers["location"] = f"/v1/calls/{ask.path['type']}/{call_id}"
    return reply


async def _get_or_create(ask: Ask, type_: str, call_id: str, body: PutCall, *, forced_new: bool) -> Reply:
    limit = ask.limit("members_limit")
    new = body.new_call()

    def operation(turn: Turn) -> dict[str, Any]:
        existing = turn.call.version > 0
        if existing:
            _enter_existing(turn, body)
        else:
            calls.create(turn, new)
        ring = _side_effects(turn, body, existing=existing)
        return call_reply(turn, limit, ring=ring, created=not existing)

    people = [one.user_id for one in new.members]
    wanted = Wanted(
        users=people,
        create="blank",
        members_shown=limit,
        reach=False,
        members=body.ring or body.notify,
        online=body.ring,
    )
    done = await ask.service.operate(ask.principal, type_, call_id, operation, wanted)
    _watch(ask, done, body.watch, body.connection_id)
    return Reply(done.result, 201 if done.created else 200, {"etag": f'"{done.turn.call.version}"'})


def _enter_existing(turn: Turn, body: PutCall) -> None:
    if turn.call.deleted_at is not None:
        gone = turn.call
        # Team and token come first: whoever could not see the call alive does not learn that it is gone.
        turn.state.call = _undeleted(turn)
        check_reach(turn)
        turn.state.call = gone
        raise Problem("gone", "This call was deleted; its id is taken.")
    check_reach(turn)
    held = require(turn, "call.read").capabilities
    for wanted, capability in ((body.ring, "call.ring"), (body.notify, "call.notify")):
        if wanted and capability not in held:
            raise missing(capability)


def _undeleted(turn: Turn) -> Any:
    return structs.replace(turn.call, deleted_at=None)


def _side_effects(turn: Turn, body: PutCall, *, existing: bool) -> Any:
    ring = turn.state.pending_ring
    if body.ring and ring is None and others_to_reach(turn):
        ring = rings.start(turn, user_ids=None, video=body.video)
    elif body.ring and not existing:
        require(turn, "call.ring")
    if body.notify:
        rings.notify(turn, user_ids=None, title=None, body=None)
    return ring


def call_reply(turn: Turn, limit: int, *, ring: Any, created: bool) -> dict[str, Any]:
    return {
        "call": views.call(turn),
        "members": views.members_page(turn, limit),
        "own_capabilities": sorted(own(turn).capabilities),
        "session": views.running_session(turn),
        "ring": rings.shown(turn, ring) if ring is not None else None,
        "created": created,
    }


def _watch(ask: Ask, done: Outcome[Any], watch: bool, connection_id: str | None) -> None:
    if watch and connection_id is not None:
        ask.service.channel.watch_over(connection_id, ask.principal, done.turn)


async def get_call(ask: Ask) -> Reply:
    limit = ask.limit("members_limit")
    watch = ask.flag("watch", False)

    def view(turn: Turn) -> tuple[dict[str, Any], Turn]:
        require(turn, "call.read")
        return call_reply(turn, limit, ring=turn.state.pending_ring, created=False), turn

    wanted = Wanted(members_shown=limit)
    if watch:
        # An operation, not a look: no event falls between the reply and the watching.
        done = await ask.service.operate(ask.principal, *checked_cid(ask), view, wanted)
        (shown, turn), connection_id = done.result, ask.query("connection_id")
        _watch(ask, done, watch, connection_id)
    else:
        shown, turn = await ask.service.look(ask.principal, *checked_cid(ask), view, wanted)
    return Reply(shown, headers={"etag": f'"{turn.call.version}"'})


async def patch_call(ask: Ask) -> Reply:
    body = await ask.body(PatchCall)
    said = frozenset(body.model_fields_set)
    if "custom" in said and body.custom is None:
        raise unprocessable("/custom", "Custom data is an object; null removes single names in it.")
    change = calls.CallChange(said, body.custom or {}, body.settings, milliseconds(body.starts_at))

    def operation(turn: Turn) -> dict[str, Any]:
        held = own(turn).capabilities
        if not held & {"call.update", "call.update_settings"}:
            raise missing("call.update")
        _check_version(ask, turn)
        calls.update(turn, change)
        return {"call": views.call(turn)}

    return await change_call(ask, operation)


def _check_version(ask: Ask, turn: Turn) -> None:
    wanted = ask.headers.get("if-match")
    if wanted is None or wanted.strip() == "*":
        return
    tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
    if f'"{turn.call.version}"' not in tags:
        raise Problem("version_mismatch", f"The call is at version {turn.call.version} by now.")


async def change_call(ask: Ask, operation: Callable[[Turn], dict[str, Any]], wanted: Wanted | None = None) -> Reply:
    """Run an operation whose result is the reply; the call's version goes along as ETag."""
    done = await ask.service.operate(ask.principal, *checked_cid(ask), operation, wanted)
    return Reply(done.result, ask.route.status, {"etag": f'"{done.turn.call.version}"'})


async def delete_call(ask: Ask) -> Reply:
    mode = ask.query("mode") or "soft"
    if mode not in ("soft", "hard"):
        raise unprocessable("/mode", "mode is soft or hard.")
    if mode == "soft":

        def soft(turn: Turn) -> dict[str, Any]:
            calls.delete(turn)
            return {"call": views.call(turn)}

        return await change_call(ask, soft)
    task_id = ask.service.new_id()

    def hard(turn: Turn) -> dict[str, Any]:
        if not turn.principal.is_server:
            if turn.call.deleted_at is not None:
                raise not_found()
            check_reach(turn)
            raise missing("app.admin")
        if turn.call.deleted_at is None:
            calls.delete(turn)
        turn.stored.append(
            Task(
                id=task_id,
                kind="delete_call",
                owner=turn.actor,
                argument=turn.call.key,
                status="pending",
                result=None,
                error=None,
                created_at=turn.now,
                updated_at=turn.now,
            )
        )
        return {"task_id": task_id}

    reply = await change_call(ask, hard, Wanted(reach=False))
    reply.status = 202
    return reply


def _changing(operation: Callable[[Turn], None]) -> Callable[[Ask], Any]:
    async def handler(ask: Ask) -> Reply:
        await ask.body(Nothing)

        def run(turn: Turn) -> dict[str, Any]:
            operation(turn)
            return {"call": views.call(turn)}

        return await change_call(ask, run)

    return handler


async def extend(ask: Ask) -> Reply:
    body = await ask.body(Extend)

    def operation(turn: Turn) -> dict[str, Any]:
        calls.extend(turn, body.additional_seconds)
        return {"session": views.running_session(turn)}

    return await change_call(ask, operation)


_CALL = "/v1/calls/{type}/{id}"
_SEEN = {"members_limit": "How many members the reply shows, 1 to 100."}
_WATCH = {"watch": "Have the socket watch the call.", "connection_id": "The socket's id, from its hello."}
ROUTES = [
    Route("PUT", _CALL, put_call, "Create a call, or get it", body=PutCall, query=_SEEN, creates=True,
          capability="call.read",
          example={"members": ["alice"], "custom": {"name": "Standup"}}),
    Route("POST", "/v1/calls/{type}", post_call, "Create a call with a generated id", body=PostCall, query=_SEEN,
          creates=True, example={"members": ["alice"]}, status=201),
    Route("GET", _CALL, get_call, "Read a call", query={**_SEEN, **_WATCH}, capability="call.read"),
    Route("PATCH", _CALL, patch_call, "Change a call", body=PatchCall, capability="call.update|call.update_settings",
          example={"custom": {"name": "Retrospective"}}),
    Route("DELETE", _CALL, delete_call, "Delete a call", query={"mode": "soft hides it, hard (server) wipes it."},
          capability="call.delete"),
    Route("POST", f"{_CALL}/end", _changing(calls.end), "End a call for everybody", body=Nothing,
          capability="call.end"),
    Route("POST", f"{_CALL}/reopen", _changing(calls.reopen), "Reopen an ended call", body=Nothing,
          capability="call.join_ended"),
    Route("POST", f"{_CALL}/extend", extend, "Move the end of the running session", body=Extend,
          capability="call.extend", example={"additional_seconds": 600}),
]  # fmt: skip
