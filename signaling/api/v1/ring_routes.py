"""`…/rings` and `…/notify`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from signaling.api.v1.call_routes import MEMBERS_MAX, change_call, checked_cid
from signaling.api.v1.http import Ask, Body, Nothing, Route
from signaling.api.v1.replies import Reply
from signaling.api.v1.service import Wanted
from signaling.calls.identifiers import DEVICE_ID, check
from signaling.calls.operations import rings
from signaling.calls.state import Turn

UserIds = Annotated[list[str], Field(max_length=MEMBERS_MAX)]


class PostRing(Body):
    user_ids: UserIds | None = None
    video: bool = False
    timeout_ms: int | None = Field(None, ge=5_000, le=180_000)
    custom: dict[str, Any] | None = Field(
        None, description="Told with the ring; in pushes too, unless that would make them longer than 3 KiB."
    )


class Notify(Body):
    user_ids: UserIds | None = None
    title: str | None = Field(None, max_length=256, description="In pushes cut to what all push services take.")
    body: str | None = Field(
        None, max_length=1_024, description="In pushes cut to what all push services take: some 1.4 KB with the title."
    )


class Accept(Body):
    device_id: str = "default"


class Reject(Body):
    reason: str = Field("decline", min_length=1, max_length=64)
    device_id: str | None = None


def _wanted(ask: Ask) -> Wanted:
    return Wanted(also={"rings": ask.path["rid"]})


async def post_ring(ask: Ask) -> Reply:
    body = await ask.body(PostRing)

    def operation(turn: Turn) -> dict[str, Any]:
        ring = rings.start(
            turn, user_ids=body.user_ids, video=body.video, timeout_ms=body.timeout_ms, custom=body.custom
        )
        return {"ring": rings.shown(turn, ring)}

    return await change_call(ask, operation, Wanted(users=body.user_ids or [], members=True, online=True))


async def notify(ask: Ask) -> Reply:
    body = await ask.body(Notify)

    def operation(turn: Turn) -> dict[str, Any]:
        rings.notify(turn, user_ids=body.user_ids, title=body.title, body=body.body)
        return {}

    return await change_call(ask, operation, Wanted(users=body.user_ids or [], members=True))


async def get_ring(ask: Ask) -> Reply:
    def view(turn: Turn) -> dict[str, Any]:
        return {"ring": rings.shown(turn, rings.read(turn, ask.path["rid"]))}

    return Reply(await ask.service.look(ask.principal, *checked_cid(ask), view, _wanted(ask)))


async def accept(ask: Ask) -> Reply:
    body = await ask.body(Accept)
    check(DEVICE_ID, body.device_id, "/device_id")

    def operation(turn: Turn) -> dict[str, Any]:
        return {"ring": rings.shown(turn, rings.accept(turn, ask.path["rid"], body.device_id))}

    return await change_call(ask, operation, _wanted(ask))


async def reject(ask: Ask) -> Reply:
    body = await ask.body(Reject)
    if body.device_id is not None:
        check(DEVICE_ID, body.device_id, "/device_id")

    def operation(turn: Turn) -> dict[str, Any]:
        return {"ring": rings.shown(turn, rings.reject(turn, ask.path["rid"], body.reason, body.device_id))}

    return await change_call(ask, operation, _wanted(ask))


async def cancel(ask: Ask) -> Reply:
    await ask.body(Nothing)

    def operation(turn: Turn) -> dict[str, Any]:
        return {"ring": rings.shown(turn, rings.cancel(turn, ask.path["rid"]))}

    return await change_call(ask, operation, _wanted(ask))


_CALL = "/v1/calls/{type}/{id}"
_RING = f"{_CALL}/rings/{{rid}}"
ROUTES = [
    Route("POST", f"{_CALL}/rings", post_ring, "Ring members", body=PostRing, capability="call.ring",
          example={"video": True}, status=201),
    Route("GET", _RING, get_ring, "Read a ring"),
    Route("POST", f"{_RING}/accept", accept, "Accept a ring", body=Accept, example={"device_id": "phone"}),
    Route("POST", f"{_RING}/reject", reject, "Reject a ring", body=Reject, example={"reason": "decline"}),
    Route("POST", f"{_RING}/cancel", cancel, "Cancel a ring", body=Nothing),
    Route("POST", f"{_CALL}/notify", notify, "Notify members without ringing", body=Notify, capability="call.notify",
          example={"title": "Standup", "body": "starts now"}, status=202),
]  # fmt: skip
