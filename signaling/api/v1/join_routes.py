"""`…/join`, `…/media-token`, `…/leave`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import Field

from signaling.api.v1 import join_hook
from signaling.api.v1.call_routes import change_call, checked_cid
from signaling.api.v1.http import Ask, Body, Route
from signaling.api.v1.replies import Reply
from signaling.api.v1.service import Wanted, permission_of
from signaling.calls import views
from signaling.calls.identifiers import DEVICE_ID, check, rfc3339
from signaling.calls.model import LobbyEntry, Participant
from signaling.calls.operations import calls, joining
from signaling.calls.problems import Problem, not_found
from signaling.calls.rights import check_reach, own
from signaling.calls.state import Turn


class Join(Body):
    create: bool = False
    device_id: str = "default"
    hidden: bool = False
    region_hint: str | None = Field(None, max_length=64)
    resume: str | None = Field(None, max_length=64)


class WhoIsMeant(Body):
    participant_id: str = Field(min_length=1, max_length=64)


async def join(ask: Ask) -> Reply:
    body = await ask.body(Join)
    ask.creates = body.create
    check(DEVICE_ID, body.device_id, "/device_id")
    wish = joining.JoinWish(body.device_id, body.hidden, body.region_hint, body.resume)
    type_, call_id = checked_cid(ask)
    if ask.service.settings.before_join_url:
        await join_hook.ask(ask.service, ask.principal, type_, call_id)

    def operation(turn: Turn) -> Participant | LobbyEntry:
        if turn.call.version == 0:
            if not body.create:
                raise not_found()
            calls.create(turn, calls.NewCall())
        else:
            check_reach(turn)
        return joining.join(turn, wish)

    wanted = Wanted(create="blank" if body.create else "never", reach=False, nodes=True, from_memory=True)
    done = await ask.service.operate(ask.principal, type_, call_id, operation, wanted)
    if isinstance(done.result, LobbyEntry):
        return Reply({"lobby": views.lobby(done.result)}, 202)
    turn, participant = done.turn, done.result
    return Reply(
        {
            "call": views.call(turn),
            "session": views.running_session(turn),
            "participant": views.participant(participant, with_capabilities=True),
            "own_capabilities": sorted(own(turn).capabilities),
            "media": await _media(ask, turn, participant),
        }
    )


async def _media(ask: Ask, turn: Turn, participant: Participant) -> dict[str, Any]:
    service, room, session = ask.service, participant.session_id, turn.state.session
    node = (await service.nodes.living()).get(session.node) if session is not None else None
    if node is None:
        # It died a moment ago; who joins anew is placed at another.
        raise Problem("no_media_node", "The media node of this session is gone; join again.")
    expires_at = turn.now + timedelta(seconds=service.settings.media_token_ttl_seconds)
    token = service.media.mint_token(
        identity=participant.identity,
        name=participant.name,
        room=room,
        permission=permission_of(participant),
        now=turn.now,
        expires_at=expires_at,
    )
    return {
        "url": node.url,
        "token": token,
        "expires_at": rfc3339(expires_at),
        "ice_servers": [dict(server) for server in node.ice_servers],
    }


async def media_token(ask: Ask) -> Reply:
    body = await ask.body(WhoIsMeant)

    def view(turn: Turn) -> tuple[Turn, Participant]:
        return turn, joining.renew(turn, body.participant_id)

    turn, participant = await ask.service.look(ask.principal, *checked_cid(ask), view)
    return Reply({"media": await _media(ask, turn, participant)})


async def leave(ask: Ask) -> Reply:
    body = await ask.body(WhoIsMeant)

    def operation(turn: Turn) -> dict[str, Any]:
        joining.step_out(turn, body.participant_id)
        return {}

    await change_call(ask, operation, Wanted(also={"participants": body.participant_id}))
    return Reply(status=204)


_CALL = "/v1/calls/{type}/{id}"
ROUTES = [
    Route("POST", f"{_CALL}/join", join, "Join a call", body=Join, example={"device_id": "phone"}),
    Route("POST", f"{_CALL}/media-token", media_token, "Renew the media token", body=WhoIsMeant,
          example={"participant_id": "0190b5a4-0000-7000-8000-000000000000"}),
    Route("POST", f"{_CALL}/leave", leave, "Leave a call", body=WhoIsMeant, status=204,
          example={"participant_id": "0190b5a4-0000-7000-8000-000000000000"}),
]  # fmt: skip
