"""`/storages`: where captures are to be put, by name. Not here: writing to one; that is the engine's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from signaling.api.v1.http import Ask, Body, Route
from signaling.api.v1.replies import Reply
from signaling.calls import views
from signaling.calls.identifiers import NAME, check
from signaling.calls.model import Storage
from signaling.calls.problems import Problem, not_found, unprocessable
from signaling.events.addresses import ForbiddenAddress
from signaling.store.database import deletion, fetch_one, save
from signaling.store.kinds import STORAGES
from signaling.store.pages import newest_first, page_of


class S3(Body):
    """A bucket of S3, or of anything that speaks its protocol at `endpoint`."""

    bucket: str = Field(min_length=3, max_length=63, pattern=r"^[a-z0-9.-]+$")
    region: str | None = Field(None, min_length=1, max_length=64)
    endpoint: str | None = Field(None, min_length=1, max_length=2_048)
    prefix: str = Field("", max_length=512)
    access_key_id: str = Field(min_length=1, max_length=256)
    secret_access_key: str = Field(min_length=1, max_length=512)


class NewStorage(Body):
    """Where an engine is to put captures. There is none yet: nothing is written there, and the keys are not tried."""

    name: str
    type: Literal["s3"]
    s3: S3


async def post_storage(ask: Ask) -> Reply:
    body, service, now = await ask.body(NewStorage), ask.service, ask.service.now()
    check(NAME, body.name, "/name")
    if body.s3.endpoint is not None:
        try:
            service.outbound.policy.check_url(body.s3.endpoint)
        except ForbiddenAddress as refused:
            raise unprocessable("/s3/endpoint", str(refused)) from None
    storage = Storage(name=body.name, type=body.type, config=body.s3.model_dump(), created_at=now, updated_at=now)
    async with service.database.write(alone="storages") as connection:
        if await fetch_one(connection, STORAGES, name=body.name) is not None:
            raise Problem("conflict", f"There is a storage {body.name!r} already.")
        await save(connection, [storage])
        shown = views.storage(storage)
        await service.note(connection, ask.principal, "storage.create", storage.name, None, shown)
    return Reply({"storage": shown}, 201)


async def list_storages(ask: Ask) -> Reply:
    async with ask.service.database.read() as connection:
        order = newest_first(STORAGES, "name")
        page = await page_of(connection, STORAGES, [], order, ask.limit(), ask.query("next"), ask.query("prev"))
    return Reply(page.shown([views.storage(value) for value in page.items]))


async def delete_storage(ask: Ask) -> Reply:
    service, name = ask.service, ask.path["name"]
    async with service.database.write() as connection:
        known = await fetch_one(connection, STORAGES, name=name)
        if known is None:
            raise not_found("storage")
        await connection.execute(deletion(STORAGES, name=name))
        await service.note(connection, ask.principal, "storage.delete", name, views.storage(known), None)
    return Reply(status=204)


_PAGE = {
    "limit": "Items of a page, 1 to 100.",
    "next": "Cursor of the next page.",
    "prev": "Cursor of the page before.",
}
ROUTES = [
    Route("POST", "/v1/storages", post_storage, "Make a storage", auth="server", body=NewStorage, status=201,
          example={"name": "archive", "type": "s3", "s3": {"bucket": "recordings", "region": "eu-central-1",
                   "access_key_id": "AKIA…", "secret_access_key": "wJalr…"}}),
    Route("GET", "/v1/storages", list_storages, "List storages", auth="server", query=_PAGE),
    Route("DELETE", "/v1/storages/{name}", delete_storage, "Delete a storage", auth="server", status=204),
]  # fmt: skip
