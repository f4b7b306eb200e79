"""`…/live`, the lobby, permission requests and capabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from signaling.api.v1.call_routes import change_call, checked_cid
from signaling.api.v1.http import Ask, Body, Nothing, Route
from signaling.api.v1.listing import listed
from signaling.api.v1.replies import Reply
from signaling.api.v1.service import Wanted
from signaling.calls import views
from signaling.calls.operations import live, lobby, permissions
from signaling.calls.state import Turn

Capabilities = Annotated[list[str], Field(max_length=64)]


class GoLive(Body):
    """What is started fails at once, with `no_engine`: there is no engine yet. The call goes live all the same."""

    start_broadcast: bool = False
    start_recording: bool = False
    start_captions: bool = False
    start_transcription: bool = False
    notify: bool = True


class AskFor(Body):
    capabilities: Annotated[list[str], Field(min_length=1, max_length=8)]


class ChangeCapabilities(Body):
    grant: Capabilities = Field([])
    revoke: Capabilities = Field([])
    persist: bool = False


async def go_live(ask: Ask) -> Reply:
    body = await ask.body(GoLive)
    wanted = {
        "broadcasts": body.start_broadcast,
        "recordings": body.start_recording,
        "captions": body.start_captions,
        "transcriptions": body.start_transcription,
    }

    def operation(turn: Turn) -> dict[str, Any]:
        live.start(turn, [plural for plural, on in wanted.items() if on], notify=body.notify)
        return {"call": views.call(turn)}

    return await change_call(ask, operation, Wanted(members=body.notify))


async def stop_live(ask: Ask) -> Reply:
    remove = ask.flag("remove_viewers", True)

    def operation(turn: Turn) -> dict[str, Any]:
        live.stop(turn, remove_viewers=remove)
        return {"call": views.call(turn)}

    return await change_call(ask, operation)


async def get_lobby(ask: Ask) -> Reply:
    entries = await ask.service.look(ask.principal, *checked_cid(ask), lobby.waiting)
    return listed(ask, entries, views.lobby)


async def get_lobby_entry(ask: Ask) -> Reply:
    entry_id = ask.path["entry"]
    wanted = Wanted(also={"lobby": entry_id})
    entry = await ask.service.look(ask.principal, *checked_cid(ask), lambda turn: lobby.read(turn, entry_id), wanted)
    return Reply({"lobby": views.lobby(entry)})


def _on_lobby(operation: Callable[[Turn, str], Any], path_name: str, also: bool) -> Callable[[Ask], Any]:
    async def handler(ask: Ask) -> Reply:
        await ask.body(Nothing)
        name = ask.path[path_name]
        wanted = Wanted(also={"lobby": name} if also else {})
        return await change_call(ask, lambda turn: {"lobby": views.lobby(operation(turn, name))}, wanted)

    return handler


async def admit_all(ask: Ask) -> Reply:
    await ask.body(Nothing)
    return await change_call(ask, lambda turn: {"items": [views.lobby(entry) for entry in lobby.admit_all(turn)]})


async def ask_for(ask: Ask) -> Reply:
    body = await ask.body(AskFor)
    return await change_call(ask, lambda turn: {"request": views.request(permissions.ask(turn, body.capabilities))})


async def get_requests(ask: Ask) -> Reply:
    pending = await ask.service.look(ask.principal, *checked_cid(ask), permissions.pending)
    return listed(ask, pending, views.request)


def _decide(state: str) -> Callable[[Ask], Any]:
    async def handler(ask: Ask) -> Reply:
        await ask.body(Nothing)
        request_id = ask.path["request"]
        return await change_call(
            ask,
            lambda turn: {"request": views.request(permissions.decide(turn, request_id, state))},
            Wanted(also={"requests": request_id}),
        )

    return handler


async def cancel_request(ask: Ask) -> Reply:
    request_id = ask.path["request"]

    def operation(turn: Turn) -> dict[str, Any]:
        permissions.cancel(turn, request_id)
        return {}

    await change_call(ask, operation, Wanted(also={"requests": request_id}))
    return Reply(status=204)


async def change_capabilities(ask: Ask) -> Reply:
    body, user_id = await ask.body(ChangeCapabilities), ask.path["user"]

    def operation(turn: Turn) -> dict[str, Any]:
        rights = permissions.change(turn, user_id, body.grant, body.revoke, persist=body.persist)
        return views.capability_set(rights)

    return await change_call(ask, operation, Wanted(users=[user_id]))


_CALL = "/v1/calls/{type}/{id}"
_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
_REQUEST = f"{_CALL}/permission-requests"
ROUTES = [
    Route("PUT", f"{_CALL}/live", go_live, "Go live", body=GoLive, capability="live.start", example={"notify": False}),
    Route("DELETE", f"{_CALL}/live", stop_live, "Stop being live", capability="live.stop",
          query={"remove_viewers": "Whether those who may not be backstage leave."}),
    Route("GET", f"{_CALL}/lobby", get_lobby, "List who waits", query=_PAGE, capability="lobby.admit"),
    Route("GET", f"{_CALL}/lobby/{{entry}}", get_lobby_entry, "Read an entry of the lobby"),
    Route("POST", f"{_CALL}/lobby/admit-all", admit_all, "Admit everybody", body=Nothing, capability="lobby.admit"),
    Route("POST", f"{_CALL}/lobby/{{entry}}/admit",
          _on_lobby(lambda t, i: lobby.resolve(t, i, "admitted"), "entry", True), "Admit somebody", body=Nothing,
          capability="lobby.admit"),
    Route("POST", f"{_CALL}/lobby/{{entry}}/deny",
          _on_lobby(lambda t, i: lobby.resolve(t, i, "denied"), "entry", True), "Deny somebody", body=Nothing,
          capability="lobby.admit"),
    Route("POST", f"{_CALL}/participants/{{participant}}/to-lobby", _on_lobby(lobby.send_back, "participant", False),
          "Send a participant to the lobby", body=Nothing, capability="lobby.admit"),
    Route("POST", _REQUEST, ask_for, "Ask for capabilities", body=AskFor, example={"capabilities": ["media.audio"]},
          status=201),
    Route("GET", _REQUEST, get_requests, "List pending requests", query=_PAGE),
    Route("POST", f"{_REQUEST}/{{request}}/grant", _decide("granted"), "Grant a request", body=Nothing,
          capability="permission.grant"),
    Route("POST", f"{_REQUEST}/{{request}}/deny", _decide("denied"), "Deny a request", body=Nothing,
          capability="permission.grant"),
    Route("DELETE", f"{_REQUEST}/{{request}}", cancel_request, "Withdraw a request", status=204),
    Route("PATCH", f"{_CALL}/participants/{{user}}/capabilities", change_capabilities, "Grant and revoke directly",
          body=ChangeCapabilities, capability="permission.grant", example={"grant": ["media.audio"]}),
]  # fmt: skip
