"""Acceptance: call objects and ids (A-2 … A-5, A-15 … A-17). A-1 and A-6 are the Python client's."""

from __future__ import annotations

import asyncio

from tests.signaling.api.world import World, code, pointers


async def test_a_2_get_or_create_makes_a_call(world: World) -> None:
    reply = await world.as_("alice").put("/calls/default/standup", {"custom": {"name": "Standup"}})
    assert reply.status_code == 201
    body = reply.json()
    assert body["created"] is True
    assert body["call"]["cid"] == "default:standup"
    assert body["call"]["created_by"] == "alice"
    assert body["call"]["ongoing"] is False
    assert [m["user_id"] for m in body["members"]["items"]] == ["alice"]
    assert "call.delete" in body["own_capabilities"]
    assert body["session"] is None
    assert body["ring"] is None
    assert body["call"]["version"] == 1
    assert body["call"]["created_at"] == "2026-01-01T09:00:00.000Z"
    assert reply.headers["etag"] == '"1"'
    created = await world.recorded("default:standup")
    assert [(e.type, e.seq, e.actor) for e in created] == [("call.created", 1, "alice")]
    assert created[0].data["call"] == body["call"]
    assert created[0].data["members"] == body["members"]


async def test_a_3_get_or_create_again_returns_the_same_call(world: World) -> None:
    first = await world.call("default/standup", by="alice")
    await world.advance(10)
    for user in ("alice", "bob"):
        reply = await world.as_(user).put("/calls/default/standup", {})
        assert reply.status_code == 200
        assert reply.json()["created"] is False
        assert reply.json()["call"] == first["call"]


async def test_a_4_fifty_at_once_make_one_call(world: World) -> None:
    clients = [world.as_(f"user{index}") for index in range(50)]
    replies = await asyncio.gather(*(client.put("/calls/default/rush", {}) for client in clients))
    assert sorted(reply.status_code for reply in replies) == [200] * 49 + [201]
    call = (await world.server.get("/calls/default/rush")).json()["call"]
    assert call["version"] == 1
    created = [event for event in await world.recorded("default:rush") if event.type == "call.created"]
    assert [event.seq for event in created] == [1]


async def test_a_5_no_room_exists_before_a_join(world: World) -> None:
    await world.call("default/standup", by="alice")
    assert world.media.rooms == {}


async def test_a_16_an_empty_id_is_generated(world: World) -> None:
    ids = set()
    for body in ({}, {"id": ""}):
        reply = await world.as_("alice").post("/calls/default", body)
        assert reply.status_code == 201
        call_id = reply.json()["call"]["id"]
        assert call_id[14] == "7"
        assert reply.headers["location"] == f"/v1/calls/default/{call_id}"
        ids.add(call_id)
    assert len(ids) == 2
    mine = await world.as_("alice").post("/calls/default", {"id": "mine"})
    assert (mine.status_code, mine.json()["call"]["id"]) == (201, "mine")
    assert (await world.as_("bob").post("/calls/default", {"id": "mine"})).status_code == 200


async def test_a_17_ids_have_an_alphabet(world: World) -> None:
    await world.call("default/appointment-4711", by="alice")
    found = await world.as_("bob").get("/calls/default/appointment-4711")
    assert found.json()["call"]["cid"] == "default:appointment-4711"
    assert found.json()["created"] is False
    for right in ("A", "x" * 64, "-_9"):
        assert (await world.as_("alice").put(f"/calls/default/{right}")).status_code == 201
    for wrong in ("a:b", "a.b", "ü", "x" * 65):
        reply = await world.as_("alice").put(f"/calls/default/{wrong}", {})
        assert code(reply) == (422, "unprocessable")
        assert pointers(reply) == ["/id"]


async def test_a_15_an_id_used_again_is_the_same_call_with_a_new_session(world: World) -> None:
    made = await world.call("default/standup", by="alice")
    alice, bob = world.as_("alice"), world.as_("bob")
    first = [await client.join("default/standup") for client in (alice, bob)]
    for joined in first:
        await world.vanish(joined["participant"], clean=True)
    await world.advance(30)
    shown = (await alice.get("/calls/default/standup")).json()
    assert shown["session"] is None
    assert shown["call"]["ongoing"] is False
    await world.advance(86_400)
    again = await alice.join("default/standup")
    assert again["call"]["created_at"] == made["call"]["created_at"]
    assert again["session"]["id"] != first[0]["session"]["id"]
    sessions = (await alice.get("/calls/default/standup/sessions")).json()["items"]
    assert [(s["id"], s["end_reason"]) for s in sessions] == [
        (again["session"]["id"], None),
        (first[0]["session"]["id"], "empty"),
    ]
    attended = await alice.get(f"/calls/default/standup/sessions/{sessions[1]['id']}/attendance")
    assert [(p["user_id"], p["left_reason"]) for p in attended.json()["items"]] == [("alice", "left"), ("bob", "left")]
