"""`…/participants`, moderation, blocks, pins, reactions, custom events, captures, explain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from signaling.api.v1.call_routes import MEMBERS_MAX, change_call, checked_cid, milliseconds
from signaling.api.v1.http import Ask, Body, Instant, Nothing, Route
from signaling.api.v1.listing import listed
from signaling.api.v1.replies import Reply
from signaling.api.v1.service import Wanted
from signaling.calls import views
from signaling.calls.model import Block, Participant
from signaling.calls.operations import captures, messages, moderation
from signaling.calls.problems import not_found, unprocessable
from signaling.calls.rights import holding, own, require
from signaling.calls.state import Turn
from signaling.store.database import fetch_one
from signaling.store.kinds import CAPTURES, STORAGES
from signaling.store.pages import newest_first, page_of

# BCP 47, as the call's own setting takes it.
LANGUAGE = r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$"
UserIds = Annotated[list[str], Field(max_length=MEMBERS_MAX)]


class Mute(Body):
    user_ids: UserIds | None = None
    all: bool = False
    kinds: Annotated[list[Literal["audio", "video", "screen"]], Field(min_length=1, max_length=3)]
    except_: UserIds = Field([], alias="except")


class Kick(Body):
    block: bool = False


class PutBlock(Body):
    reason: str | None = Field(None, max_length=256)
    expires_at: Instant | None = None


class Reaction(Body):
    type: str = Field(min_length=1, max_length=64)
    emoji: str | None = Field(None, max_length=64)
    custom: dict[str, Any] = Field({})


class CustomEvent(Body):
    type: str = Field(min_length=1, max_length=64)
    custom: dict[str, Any] = Field({})
    to: UserIds | None = None


class Caption(Body):
    """A line of captions. `final`: it does not change any more."""

    text: str = Field(min_length=1, max_length=2_048)
    language: str | None = Field(None, max_length=64, pattern=LANGUAGE)
    final: bool = True
    user_id: str | None = Field(None, min_length=1, max_length=256)


class StartCapture(Body):
    """There is no engine yet: the capture fails at once, with `failure_reason` `no_engine`."""

    kind: str | None = Field(None, max_length=32)
    layout: str | None = Field(None, min_length=1, max_length=64)
    storage: str | None = Field(None, max_length=64, description="A storage's name; nothing is written to it yet.")


async def get_participants(ask: Ask) -> Reply:
    def view(turn: Turn) -> tuple[list[Participant], bool]:
        held = require(turn, "call.read").capabilities
        return turn.state.present(), "permission.grant" in held

    present, decider = await ask.service.look(ask.principal, *checked_cid(ask), view)

    def shown(participant: Participant) -> dict[str, Any]:
        mine = decider or participant.user_id == ask.principal.user_id
        return views.participant(participant, with_capabilities=mine)

    return listed(ask, views.visible(present, ask.principal.user_id, decider=decider), shown)


async def mute(ask: Ask) -> Reply:
    body = await ask.body(Mute)
    if body.all == (body.user_ids is not None):
        raise unprocessable("/user_ids", "Send user_ids, or all: true.")

    def operation(turn: Turn) -> dict[str, Any]:
        return {"muted": moderation.mute(turn, None if body.all else body.user_ids, body.kinds, body.except_)}

    return await change_call(ask, operation)


async def kick(ask: Ask) -> Reply:
    body, user_id = await ask.body(Kick), ask.path["user"]
    return await _quietly(ask, lambda turn: moderation.kick(turn, user_id, and_block=body.block), [user_id])


async def _quietly(ask: Ask, operation: Callable[[Turn], Any], users: list[str] | None = None) -> Reply:
    def run(turn: Turn) -> dict[str, Any]:
        operation(turn)
        return {}

    await change_call(ask, run, Wanted(users=users or []))
    return Reply(status=204)


async def get_blocks(ask: Ask) -> Reply:
    def view(turn: Turn) -> list[Block]:
        require(turn, "participant.block")
        return list(turn.state.blocks.values())

    return listed(ask, await ask.service.look(ask.principal, *checked_cid(ask), view), views.block, key="user_id")


async def put_block(ask: Ask) -> Reply:
    body, user_id = await ask.body(PutBlock), ask.path["user"]

    def operation(turn: Turn) -> dict[str, Any]:
        entry = moderation.block(turn, user_id, body.reason, milliseconds(body.expires_at))
        return {"block": views.block(entry)}

    return await change_call(ask, operation, Wanted(users=[user_id]))


async def delete_block(ask: Ask) -> Reply:
    user_id = ask.path["user"]
    return await _quietly(ask, lambda turn: moderation.unblock(turn, user_id), [user_id])


async def put_pin(ask: Ask) -> Reply:
    def operation(turn: Turn) -> dict[str, Any]:
        pinned = moderation.pin(turn, ask.path["participant"])
        return {"participant": views.participant(pinned, with_capabilities=False)}

    return await change_call(ask, operation)


async def delete_pin(ask: Ask) -> Reply:
    return await _quietly(ask, lambda turn: moderation.unpin(turn, ask.path["participant"]))


async def react(ask: Ask) -> Reply:
    body = await ask.body(Reaction)
    return await change_call(ask, lambda turn: {"reaction": messages.react(turn, body.type, body.emoji, body.custom)})


async def send_event(ask: Ask) -> Reply:
    body = await ask.body(CustomEvent)
    return await change_call(ask, lambda turn: {"event": messages.send(turn, body.type, body.custom, body.to)})


async def post_caption(ask: Ask) -> Reply:
    body = await ask.body(Caption)

    def operation(turn: Turn) -> dict[str, Any]:
        return {"caption": messages.caption(turn, body.text, body.language, body.user_id, final=body.final)}

    return await change_call(ask, operation)


async def explain(ask: Ask) -> Reply:
    """Say step by step why a user may do what he may."""
    user_id = ask.query("user") or ask.principal.user_id
    if user_id is None:
        raise unprocessable("/user", "Name the user.")

    def view(turn: Turn) -> dict[str, Any]:
        if user_id != turn.actor:
            require(turn, "permission.grant")
        else:
            own(turn)
        if user_id not in turn.facts.users:
            raise not_found("user")
        scope = turn.principal.scope if user_id == turn.actor else None
        held = holding(turn, user_id, scope) if scope else holding(turn, user_id)
        steps, before = [], frozenset[str]()
        for name, capabilities in held.steps:
            steps.append(
                {"step": name, "added": sorted(capabilities - before), "removed": sorted(before - capabilities)}
            )
            before = capabilities
        return {"user_id": user_id, "role": held.role, "capabilities": sorted(held.capabilities), "steps": steps}

    return Reply(await ask.service.look(ask.principal, *checked_cid(ask), view, Wanted(users=[user_id])))


async def _check_storage(ask: Ask, name: str) -> None:
    async with ask.service.database.read() as connection:
        if await fetch_one(connection, STORAGES, name=name) is None:
            raise unprocessable("/storage", f"There is no storage {name!r}.")


def _capture_routes(feature: captures.Feature) -> list[Route]:
    async def start(ask: Ask) -> Reply:
        body = await ask.body(StartCapture)
        if body.kind is not None and body.kind not in feature.kinds:
            raise unprocessable("/kind", f"kind is one of {', '.join(feature.kinds)}.")
        if body.storage is not None:
            await _check_storage(ask, body.storage)

        def operation(turn: Turn) -> dict[str, Any]:
            return {feature.name: views.capture(captures.start(turn, feature, body.kind, body.layout))}

        return await change_call(ask, operation)

    async def stop(ask: Ask) -> Reply:
        capture_id = ask.path["capture"]
        return await change_call(
            ask,
            lambda turn: {feature.name: views.capture(captures.stop(turn, feature, capture_id))},
            Wanted(also={"captures": capture_id}),
        )

    async def get(ask: Ask) -> Reply:
        def view(turn: Turn) -> str:
            require(turn, feature.read)
            return turn.call.key

        key = await ask.service.look(ask.principal, *checked_cid(ask), view)
        table = CAPTURES.table
        conditions = [table.c.call_key == key, table.c.feature == feature.plural]
        async with ask.service.database.read() as connection:
            page = await page_of(
                connection,
                CAPTURES,
                conditions,
                newest_first(CAPTURES),
                ask.limit(),
                ask.query("next"),
                ask.query("prev"),
            )
        return Reply(page.shown([views.capture(value) for value in page.items]))

    async def delete(ask: Ask) -> Reply:
        capture_id = ask.path["capture"]

        def run(turn: Turn) -> dict[str, Any]:
            captures.delete(turn, feature, capture_id)
            return {}

        await change_call(ask, run, Wanted(also={"captures": capture_id}))
        return Reply(status=204)

    path = f"{_CALL}/{feature.plural}"
    return [
        Route("POST", path, start, f"Start: {feature.name}", body=StartCapture, capability=feature.start, status=201,
              example={"kind": feature.kinds[0]}),
        Route("GET", path, get, f"List: {feature.plural}", query=_PAGE, capability=feature.read),
        Route("DELETE", f"{path}/{{capture}}/active", stop, f"Stop: {feature.name}", capability=feature.stop),
        Route("DELETE", f"{path}/{{capture}}", delete, f"Delete: {feature.name}", capability=feature.delete,
              status=204),
    ]  # fmt: skip


_CALL = "/v1/calls/{type}/{id}"
_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
ROUTES = [
    Route("GET", f"{_CALL}/participants", get_participants, "List participants", query=_PAGE, capability="call.read"),
    Route("POST", f"{_CALL}/participants/mute", mute, "Mute participants", body=Mute, capability="participant.mute",
          example={"all": True, "kinds": ["audio"]}),
    Route("POST", f"{_CALL}/participants/{{user}}/kick", kick, "Kick a user", body=Kick, capability="participant.kick",
          status=204, example={"block": False}),
    Route("GET", f"{_CALL}/blocks", get_blocks, "List blocked users", query=_PAGE, capability="participant.block"),
    Route("PUT", f"{_CALL}/blocks/{{user}}", put_block, "Block a user", body=PutBlock, capability="participant.block",
          example={"reason": "spam"}),
    Route("DELETE", f"{_CALL}/blocks/{{user}}", delete_block, "Unblock a user", capability="participant.block",
          status=204),
    Route("PUT", f"{_CALL}/pins/{{participant}}", put_pin, "Pin for everybody", capability="participant.pin_for_all",
          body=Nothing),
    Route("DELETE", f"{_CALL}/pins/{{participant}}", delete_pin, "Unpin", capability="participant.pin_for_all",
          status=204),
    Route("POST", f"{_CALL}/reactions", react, "React", body=Reaction, capability="reaction.send",
          example={"type": "hand", "emoji": "✋"}),
    Route("POST", f"{_CALL}/events", send_event, "Send a custom event", body=CustomEvent, capability="event.send",
          example={"type": "chat", "custom": {"text": "hello"}}),
    Route("POST", f"{_CALL}/captions/text", post_caption, "Show a line of captions", body=Caption,
          capability="captions.send", example={"text": "Good morning.", "language": "en"}),
    Route("GET", f"{_CALL}/capabilities/explain", explain, "Say why a user may do what he may",
          query={"user": "Whose rights; the caller's if absent."}),
    *(route for feature in captures.FEATURES.values() for route in _capture_routes(feature)),
]  # fmt: skip
