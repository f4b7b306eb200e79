"""`/webhooks`, `/push-providers`, `/app`, `/audit`, `/tasks`: what the application's server looks after."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from msgspec import structs
from pydantic import Field
from sqlalchemy import delete, true

from signaling.api.v1.http import Ask, Body, Route, require_admin
from signaling.api.v1.replies import Reply
from signaling.calls import views
from signaling.calls.identifiers import NAME, check
from signaling.calls.model import Delivery, PushProvider, Task, Webhook
from signaling.calls.problems import Problem, not_found, unprocessable
from signaling.calls.state import Refresh
from signaling.events.addresses import ForbiddenAddress
from signaling.events.signatures import SECRET_BYTES, new_secret
from signaling.store import schema
from signaling.store.database import deletion, fetch_one, save
from signaling.store.kinds import AUDIT, DELIVERIES, PUSH_PROVIDERS, TASKS, WEBHOOKS, Kind
from signaling.store.pages import newest_first, page_of

EventNames = Annotated[
    list[Annotated[str, Field(pattern=r"^(\*|[a-z_]+\.(\*|[a-z_]+))$", max_length=64)]],
    Field(min_length=1, max_length=64),
]
WEBHOOKS_MAX = 100


class NewWebhook(Body):
    url: str = Field(min_length=1, max_length=2_048)
    events: EventNames = Field(["*"])
    call_types: Annotated[list[str], Field(max_length=64)] | None = None
    enabled: bool = True


class ChangeWebhook(Body):
    url: str | None = Field(None, min_length=1, max_length=2_048)
    events: EventNames | None = None
    call_types: Annotated[list[str], Field(max_length=64)] | None = None
    enabled: bool | None = None


class Redeliver(Body):
    delivery_id: str = Field(min_length=1, max_length=64)


class RotateSecret(Body):
    overlap_seconds: int = Field(86_400, ge=0, le=604_800)


class Apns(Body):
    team_id: str = Field(min_length=1, max_length=64)
    key_id: str = Field(min_length=1, max_length=64)
    auth_key: str = Field(min_length=1, max_length=8_192)
    bundle_id: str = Field(min_length=1, max_length=256)


class ServiceAccount(Body):
    project_id: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:-]+$")
    client_email: str = Field(min_length=1, max_length=256)
    private_key: str = Field(min_length=1, max_length=8_192)
    token_uri: str = Field(min_length=1, max_length=2_048)


class Fcm(Body):
    service_account: ServiceAccount


class WebPush(Body):
    subject: str = Field(min_length=1, max_length=256)
    public_key: str = Field(min_length=1, max_length=256)
    private_key: str = Field(min_length=1, max_length=8_192)


class NewPushProvider(Body):
    name: str
    type: Literal["apns", "fcm", "webpush"]
    base_url: str | None = Field(None, max_length=2_048)
    apns: Apns | None = None
    fcm: Fcm | None = None
    webpush: WebPush | None = None


class ChangeApp(Body):
    name: str | None = Field(None, min_length=1, max_length=128)
    multi_tenant_enabled: bool | None = None
    development_type_enabled: bool | None = None
    guests_enabled: bool | None = None


async def _page(ask: Ask, kind: Kind[Any], view: Any, *conditions: Any, key: str = "id") -> Reply:
    async with ask.service.database.read() as connection:
        page = await page_of(
            connection,
            kind,
            conditions or [true()],
            newest_first(kind, key),
            ask.limit(),
            ask.query("next"),
            ask.query("prev"),
        )
    return Reply(page.shown([view(value) for value in page.items]))


def _check_url(ask: Ask, url: str, pointer: str) -> str:
    try:
        ask.service.outbound.policy.check_url(url)
    except ForbiddenAddress as refused:
        raise unprocessable(pointer, str(refused)) from None
    return url


def _secret(ask: Ask) -> str:
    return new_secret(ask.service.randomness(SECRET_BYTES))


async def post_webhook(ask: Ask) -> Reply:
    body, service, now = await ask.body(NewWebhook), ask.service, ask.service.now()
    webhook = Webhook(
        id=service.new_id(),
        url=_check_url(ask, body.url, "/url"),
        events=tuple(body.events),
        call_types=None if body.call_types is None else tuple(body.call_types),
        enabled=body.enabled,
        secrets=((_secret(ask), None),),
        created_at=now,
        updated_at=now,
    )
    async with service.database.write(alone="webhooks") as connection:
        known = len(list(await connection.execute(schema.webhooks.select())))
        if known >= WEBHOOKS_MAX:
            raise Problem("conflict", f"There are {WEBHOOKS_MAX} webhooks already.")
        await save(connection, [webhook])
        await service.note(connection, ask.principal, "webhook.create", webhook.id, None, views.webhook(webhook))
    return Reply({"webhook": views.webhook(webhook, with_secret=True)}, 201)


async def list_webhooks(ask: Ask) -> Reply:
    return await _page(ask, WEBHOOKS, views.webhook)


async def _webhook(connection: Any, ask: Ask) -> Webhook:
    webhook: Webhook | None = await fetch_one(connection, WEBHOOKS, id=ask.path["webhook"])
    if webhook is None:
        raise not_found("webhook")
    return webhook


async def get_webhook(ask: Ask) -> Reply:
    async with ask.service.database.read() as connection:
        return Reply({"webhook": views.webhook(await _webhook(connection, ask))})


async def patch_webhook(ask: Ask) -> Reply:
    body, service = await ask.body(ChangeWebhook), ask.service
    changes: dict[str, Any] = {}
    if body.url is not None:
        changes["url"] = _check_url(ask, body.url, "/url")
    if body.events is not None:
        changes["events"] = tuple(body.events)
    if "call_types" in body.model_fields_set:
        changes["call_types"] = None if body.call_types is None else tuple(body.call_types)
    if body.enabled is not None:
        changes["enabled"] = body.enabled
    async with service.database.write(alone="webhooks") as connection:
        before = await _webhook(connection, ask)
        after = structs.replace(before, **changes, updated_at=service.now())
        await save(connection, [after])
        await service.note(
            connection, ask.principal, "webhook.update", after.id, views.webhook(before), views.webhook(after)
        )
    return Reply({"webhook": views.webhook(after)})


async def delete_webhook(ask: Ask) -> Reply:
    service = ask.service
    async with service.database.write(alone="webhooks") as connection:
        webhook = await _webhook(connection, ask)
        await connection.execute(deletion(WEBHOOKS, id=webhook.id))
        for table in (schema.deliveries, schema.webhook_positions):
            await connection.execute(delete(table).where(table.c.webhook_id == webhook.id))
        await service.note(connection, ask.principal, "webhook.delete", webhook.id, views.webhook(webhook), None)
    return Reply(status=204)


async def list_deliveries(ask: Ask) -> Reply:
    async with ask.service.database.read() as connection:
        webhook = await _webhook(connection, ask)
    return await _page(ask, DELIVERIES, views.delivery, schema.deliveries.c.webhook_id == webhook.id)


async def redeliver(ask: Ask) -> Reply:
    """Owe a delivery once more; its id stays, so the receiver can tell that it is the same event."""
    body, service = await ask.body(Redeliver), ask.service
    async with service.database.write(alone="webhooks") as connection:
        webhook = await _webhook(connection, ask)
        known: Delivery | None = await fetch_one(connection, DELIVERIES, id=body.delivery_id, webhook_id=webhook.id)
        if known is None:
            raise unprocessable("/delivery_id", "There is no such delivery of this webhook.")
        now = service.now()
        again = structs.replace(known, state="pending", attempts=0, next_attempt_at=now, updated_at=now)
        await save(connection, [again])
    service.wake_senders()
    return Reply({"delivery": views.delivery(again)}, 202)


async def rotate_secret(ask: Ask) -> Reply:
    body, service, now = await ask.body(RotateSecret), ask.service, ask.service.now()
    until = now + timedelta(seconds=body.overlap_seconds)
    async with service.database.write(alone="webhooks") as connection:
        before = await _webhook(connection, ask)
        kept = tuple(
            (secret, min(until, ends) if ends is not None else until)
            for secret, ends in before.secrets
            if ends is None or ends > now
        )
        after = structs.replace(before, secrets=((_secret(ask), None), *kept), updated_at=now)
        await save(connection, [after])
        await service.note(connection, ask.principal, "webhook.rotate_secret", after.id, None, None)
    return Reply({"webhook": views.webhook(after, with_secret=True)})


async def post_push_provider(ask: Ask) -> Reply:
    body, service, now = await ask.body(NewPushProvider), ask.service, ask.service.now()
    check(NAME, body.name, "/name")
    given = {name: getattr(body, name) for name in ("apns", "fcm", "webpush")}
    for name, value in given.items():
        if (value is not None) != (name == body.type):
            raise unprocessable(f"/{name}", f"A provider of the type {body.type} has {body.type}, and only that.")
    if body.base_url is not None:
        _check_url(ask, body.base_url, "/base_url")
    provider = PushProvider(
        name=body.name,
        type=body.type,
        base_url=body.base_url.rstrip("/") if body.base_url else None,
        config=given[body.type].model_dump(),
        created_at=now,
        updated_at=now,
    )
    service.check_push_keys(provider)
    async with service.database.write(alone="push_providers") as connection:
        if await fetch_one(connection, PUSH_PROVIDERS, name=body.name) is not None:
            raise Problem("conflict", f"There is a push provider {body.name!r} already.")
        await save(connection, [provider])
        shown = views.push_provider(provider)
        await service.note(connection, ask.principal, "push_provider.create", provider.name, None, shown)
    return Reply({"push_provider": shown}, 201)


async def list_push_providers(ask: Ask) -> Reply:
    return await _page(ask, PUSH_PROVIDERS, views.push_provider, key="name")


async def delete_push_provider(ask: Ask) -> Reply:
    service, name = ask.service, ask.path["name"]
    async with service.database.write() as connection:
        known = await fetch_one(connection, PUSH_PROVIDERS, name=name)
        if known is None:
            raise not_found("push provider")
        await connection.execute(deletion(PUSH_PROVIDERS, name=name))
        await service.note(connection, ask.principal, "push_provider.delete", name, views.push_provider(known), None)
    return Reply(status=204)


async def get_app(ask: Ask) -> Reply:
    return Reply({"app": views.app(ask.service.directory.app)})


async def patch_app(ask: Ask) -> Reply:
    body, service = await ask.body(ChangeApp), ask.service
    changes = {name: value for name in body.model_fields_set if (value := getattr(body, name)) is not None}
    async with service.realm() as (connection, current):
        after = structs.replace(current.app, **changes, updated_at=service.now())
        await save(connection, [after])
        shown = views.app(after)
        await service.note(connection, ask.principal, "app.update", "app", views.app(current.app), shown)
        order = None
        if after.multi_tenant_enabled != current.app.multi_tenant_enabled:
            order = await service.orders.owe(connection, Refresh("settings_changed"))
    if order is not None:
        await service.orders.do(order)
    if "development_type_enabled" in changes:
        service.warn_of_development()
    await service.recheck_watchers()
    return Reply({"app": shown})


async def list_audit(ask: Ask) -> Reply:
    return await _page(ask, AUDIT, views.audit_entry)


async def get_task(ask: Ask) -> Reply:
    async with ask.service.database.read() as connection:
        task: Task | None = await fetch_one(connection, TASKS, id=ask.path["task"])
    if task is None:
        raise not_found("task")
    if task.owner is None or task.owner != ask.principal.user_id:
        require_admin(ask)
    return Reply({"task": views.task(task)})


_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
_HOOK = "/v1/webhooks/{webhook}"
ROUTES = [
    Route("POST", "/v1/webhooks", post_webhook, "Make a webhook", auth="server", body=NewWebhook, status=201,
          example={"url": "https://hooks.example.com/callyard", "events": ["call.*"]}),
    Route("GET", "/v1/webhooks", list_webhooks, "List webhooks", auth="server", query=_PAGE),
    Route("GET", _HOOK, get_webhook, "Read a webhook", auth="server"),
    Route("PATCH", _HOOK, patch_webhook, "Change a webhook", auth="server", body=ChangeWebhook,
          example={"enabled": False}),
    Route("DELETE", _HOOK, delete_webhook, "Delete a webhook", auth="server", status=204),
    Route("GET", f"{_HOOK}/deliveries", list_deliveries, "List deliveries", auth="server", query=_PAGE),
    Route("POST", f"{_HOOK}/redeliver", redeliver, "Send a delivery again", auth="server", body=Redeliver, status=202,
          example={"delivery_id": "0190b5a4-0000-7000-8000-000000000000"}),
    Route("POST", f"{_HOOK}/rotate-secret", rotate_secret, "Change the signing secret", auth="server",
          body=RotateSecret, example={"overlap_seconds": 3600}),
    Route("POST", "/v1/push-providers", post_push_provider, "Make a push provider", auth="server",
          body=NewPushProvider, status=201,
          example={"name": "web", "type": "webpush", "webpush": {"subject": "mailto:ops@example.com",
                   "public_key": "BNcRd…", "private_key": "tBHI…"}}),
    Route("GET", "/v1/push-providers", list_push_providers, "List push providers", auth="server", query=_PAGE),
    Route("DELETE", "/v1/push-providers/{name}", delete_push_provider, "Delete a push provider", auth="server",
          status=204),
    Route("GET", "/v1/app", get_app, "Read the app's settings", auth="server"),
    Route("PATCH", "/v1/app", patch_app, "Change the app's settings", auth="server", body=ChangeApp,
          example={"guests_enabled": True}),
    Route("GET", "/v1/audit", list_audit, "List what was changed by whom", auth="server", query=_PAGE),
    Route("GET", "/v1/tasks/{task}", get_task, "Read a task"),
]  # fmt: skip
