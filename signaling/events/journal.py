"""The transactional outbox: events, and what is owed for them, written in the transaction of the state change.

So there is no event without state nor state without event, and a killed process owes what it owed. Not here: sending.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.calls.identifiers import rfc3339
from signaling.calls.model import CallType, Delivery, Device, Event, PushJob, Webhook
from signaling.calls.state import Push
from signaling.events.push import way_of
from signaling.events.push_message import fitted
from signaling.store import schema
from signaling.store.database import fetch, save, upsert
from signaling.store.kinds import DEVICES, WEBHOOKS, milliseconds
from signaling.store.prepared import Prepared

RING_CAPABLE = ("apns_voip", "fcm", "webpush")
_INSERT = Prepared(
    schema.events.insert().values({name: bindparam(name) for name in ("id", "cid", "seq", "created_at", "doc")})
)
BY_NAME_ONLY = frozenset({"captions.text"})
"""Events that an endpoint gets only if it names them: too many to come with everything."""
ALERT_CAPABLE = ("apns", "fcm", "webpush")


def envelope(event: Event, prev_seq: int | None, data: Any = None) -> dict[str, Any]:
    """Return the event as receivers see it."""
    return {
        "id": event.id,
        "type": event.type,
        "cid": event.cid,
        "session_id": event.session_id,
        "seq": event.seq,
        "prev_seq": prev_seq,
        "at": rfc3339(event.at),
        "actor": event.actor,
        "data": event.data if data is None else data,
    }


def wants(webhook: Webhook, event: Event) -> bool:
    """Tell whether an endpoint is to hear of an event."""
    if not webhook.enabled or "S" not in event.groups:
        return False
    type_ = (event.cid or "").partition(":")[0]
    if webhook.call_types is not None and type_ not in webhook.call_types:
        return False
    if event.type in BY_NAME_ONLY:
        return event.type in webhook.events
    return any(_matches(pattern, event.type) for pattern in webhook.events)


def _matches(pattern: str, type_: str) -> bool:
    return pattern in ("*", type_) or (pattern.endswith(".*") and type_.startswith(pattern[:-1]))


async def record(
    connection: AsyncConnection,
    events: Sequence[Event],
    pushes: Sequence[Push],
    call_type: CallType | None,
    now: datetime,
    new_id: Callable[[], str],
    *,
    push_waiting_max: int,
) -> bool:
    """Write events and what follows from them; tell whether anything is to be sent.

    push_waiting_max: how many rings, and how many other messages, may wait for the devices of a user.
    """
    owed = False
    if events:
        # What has no number too: other processes find it here, though nobody is replayed it.
        rows = [{"id": e.id, "cid": e.cid, "seq": e.seq, "created_at": milliseconds(e.at), "doc": e} for e in events]
        await _INSERT.run(connection, *rows)
        owed = await _owe_deliveries(connection, events, now, new_id)
    if pushes and call_type is not None:
        owed = await _owe_pushes(connection, pushes, call_type, now, new_id, push_waiting_max) or owed
    return owed


async def _owe_deliveries(
    connection: AsyncConnection, events: Sequence[Event], now: datetime, new_id: Callable[[], str]
) -> bool:
    webhooks = [webhook for webhook in await fetch(connection, WEBHOOKS) if webhook.enabled]
    if not webhooks:
        return False
    positions = await _positions(connection, {event.cid for event in events if event.cid is not None})
    deliveries, moved = [], {}
    for webhook in webhooks:
        for event in events:
            if not wants(webhook, event):
                continue
            prev_seq = None
            if event.cid is not None and event.seq is not None:
                prev_seq = positions.get((webhook.id, event.cid), 0)
                positions[webhook.id, event.cid] = moved[webhook.id, event.cid] = event.seq
            deliveries.append(_delivery(webhook, event, prev_seq, now, new_id()))
    if not deliveries:
        return False
    await save(connection, deliveries)
    rows = [{"webhook_id": webhook_id, "cid": cid, "seq": seq} for (webhook_id, cid), seq in moved.items()]
    if rows:
        await upsert(connection, schema.webhook_positions, rows, ("webhook_id", "cid"))
    return True


async def _positions(connection: AsyncConnection, cids: Iterable[str]) -> dict[tuple[str, str], int]:
    table = schema.webhook_positions
    rows = await connection.execute(select(table).where(table.c.cid.in_(list(cids))))
    return {(row.webhook_id, row.cid): row.seq for row in rows}


def _delivery(webhook: Webhook, event: Event, prev_seq: int | None, now: datetime, id_: str) -> Delivery:
    return Delivery(
        id=id_,
        webhook_id=webhook.id,
        event_id=event.id,
        type=event.type,
        cid=event.cid,
        seq=event.seq,
        body=msgspec.json.encode(envelope(event, prev_seq)).decode(),
        state="pending",
        attempts=0,
        last_status=None,
        last_error=None,
        next_attempt_at=now,
        delivered_at=None,
        created_at=now,
        updated_at=now,
    )


async def _owe_pushes(
    connection: AsyncConnection,
    pushes: Sequence[Push],
    call_type: CallType,
    now: datetime,
    new_id: Callable[[], str],
    waiting_max: int,
) -> bool:
    users = sorted({push.user_id for push in pushes})
    devices: dict[str, list[Device]] = {}
    for start in range(0, len(users), 500):
        condition = schema.devices.c.user_id.in_(users[start : start + 500])
        for device in await fetch(connection, DEVICES, condition):
            devices.setdefault(device.user_id, []).append(device)
    waiting = await _waiting(connection, list(devices))
    rung = {
        push.user_id
        for push in pushes
        if push.kind == "ring" and any(d.provider in RING_CAPABLE for d in devices.get(push.user_id, ()))
    }
    jobs = []
    for push in pushes:
        template = call_type.notifications.get(push.kind)
        if not template or (push.kind == "notification" and push.user_id in rung):
            continue
        suitable = RING_CAPABLE if push.kind == "ring" else ALERT_CAPABLE
        of_user = (push.user_id, push.kind == "ring")
        for device in devices.get(push.user_id, ()):
            if device.provider in suitable and waiting[of_user] < waiting_max:
                waiting[of_user] += 1
                jobs.append(_job(push, device, template, now, new_id()))
    await save(connection, jobs)
    return bool(jobs)


async def _waiting(connection: AsyncConnection, users: Sequence[str]) -> Counter[tuple[str, bool]]:
    """Return how much waits for users' devices already, by user and whether it rings."""
    jobs, waiting = schema.push_jobs.c, Counter[tuple[str, bool]]()
    for start in range(0, len(users), 500):
        of_users = (jobs.user_id.in_(users[start : start + 500]), jobs.state == "pending")
        counted = select(jobs.user_id, jobs.urgent, func.count()).where(*of_users).group_by(jobs.user_id, jobs.urgent)
        for user_id, urgent, count in await connection.execute(counted):
            waiting[user_id, urgent] = count
    return waiting


def _job(push: Push, device: Device, template: dict[str, Any], now: datetime, id_: str) -> PushJob:
    payload = dict(push.payload)
    if push.kind != "ring":
        caller = str(payload.get("caller_name") or payload.get("caller_id") or "")
        for part in ("title", "body"):
            if payload.get(part) is None:
                payload[part] = str(template.get(part, "")).replace("{caller}", caller)
    provider, host = way_of(device)
    return PushJob(
        id=id_,
        device_id=device.id,
        user_id=device.user_id,
        kind=push.kind,
        payload=fitted(payload),
        state="pending",
        attempts=0,
        last_status=None,
        last_error=None,
        next_attempt_at=now,
        expires_at=push.expires_at,
        provider=provider,
        host=host,
        created_at=now,
        updated_at=now,
    )
