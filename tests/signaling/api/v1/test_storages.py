"""`/storages`: named places for captures, with keys that never come back."""

from __future__ import annotations

from typing import Any

from tests.signaling.api.world import World, code

BUCKET = {"bucket": "recordings", "region": "eu-central-1", "access_key_id": "AKIA", "secret_access_key": "s3cret"}


def storage(name: str = "archive", **changes: Any) -> dict[str, Any]:
    return {"name": name, "type": "s3", "s3": {**BUCKET, **changes}}


async def test_storages_are_made_listed_and_deleted(world: World) -> None:
    made = await world.server.post("/storages", storage())
    shown = made.json()["storage"]
    assert (made.status_code, shown["name"], shown["type"]) == (201, "archive", "s3")
    assert shown["s3"] == {
        "bucket": "recordings",
        "region": "eu-central-1",
        "endpoint": None,
        "prefix": "",
        "access_key_id": "AKIA",
    }
    assert code(await world.server.post("/storages", storage())) == (409, "conflict")
    assert (await world.server.get("/storages")).json()["items"] == [shown]
    assert (await world.server.delete("/storages/archive")).status_code == 204
    assert code(await world.server.delete("/storages/archive")) == (404, "not_found")
    assert (await world.server.get("/storages")).json() == {"items": [], "next": None, "prev": None}


async def test_keys_are_never_shown(world: World) -> None:
    await world.server.post("/storages", storage())
    for path in ("/storages", "/audit"):
        assert "s3cret" not in (await world.server.get(path)).text


async def test_what_cannot_be_a_storage_is_refused_where_it_stands(world: World) -> None:
    for body, pointer in (
        (storage("Not a name"), "/name"),
        (storage(bucket="NO"), "/s3/bucket"),
        (storage(endpoint="http://10.0.0.1"), "/s3/endpoint"),
        ({"name": "archive", "type": "tape"}, "/type"),
    ):
        reply = await world.server.post("/storages", body)
        assert code(reply)[0] == 422
        assert pointer in [fault["pointer"] for fault in reply.json()["errors"]]


async def test_a_capture_names_a_storage_that_exists(world: World) -> None:
    await world.call("default/x", by="alice")
    await world.as_("alice").join("default/x")
    reply = await world.as_("alice").post("/calls/default/x/recordings", {"storage": "archive"})
    assert (code(reply), reply.json()["errors"][0]["pointer"]) == ((422, "unprocessable"), "/storage")
    await world.server.post("/storages", storage())
    started = await world.as_("alice").post("/calls/default/x/recordings", {"storage": "archive"})
    assert (started.status_code, started.json()["recording"]["failure_reason"]) == (201, "no_engine")
    # What comes first in the order of checks is told, not whether the storage exists.
    reply = await world.as_("bob").post("/calls/default/x/recordings", {"storage": "nowhere"})
    assert code(reply) == (403, "missing_capability")
