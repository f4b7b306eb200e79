"""The application's own word on a join (`before_join_url`): asked before every join, fails closed unless told else."""

from __future__ import annotations

import msgspec

from signaling.api.v1.service import CallsService
from signaling.calls.principal import Principal
from signaling.calls.problems import Problem
from signaling.events.addresses import ForbiddenAddress


async def ask(service: CallsService, principal: Principal, type_: str, call_id: str) -> None:
    """Return if the application lets the caller in; 403 if it does not, 503 if it does not answer."""
    settings = service.settings
    body = msgspec.json.encode({"type": "before_join", "cid": f"{type_}:{call_id}", "user_id": principal.user_id})
    try:
        answer = await service.join_hook_outbound.post(
            settings.before_join_url,
            body,
            {"content-type": "application/json"},
            timeout_seconds=settings.before_join_timeout_seconds,
        )
    except (ForbiddenAddress, ConnectionError):
        if settings.before_join_fail_open:
            return
        raise Problem("unavailable", "The application did not answer in time.", retry_after_ms=1_000) from None
    if answer.status >= 500 and settings.before_join_fail_open:
        return
    if not 200 <= answer.status < 300:
        raise Problem("missing_capability", "The application does not let you in.", capability="call.join")
