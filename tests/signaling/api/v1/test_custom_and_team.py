"""Acceptance: custom data and teams (A-33 … A-41)."""

from __future__ import annotations

from tests.signaling.api.world import World, code, pointers


async def test_a_33_custom_data_comes_back_as_it_was(world: World) -> None:
    custom = {"name": "Grüße 🎉", "n": 1.5, "deep": {"list": [1, "zwei", None, {"x": True}]}, "big": 2**53}
    body = await world.call("default/x", by="alice", custom=custom)
    assert body["call"]["custom"] == custom
    assert (await world.as_("alice").get("/calls/default/x")).json()["call"]["custom"] == custom


async def test_a_34_custom_data_is_merge_patched(world: World) -> None:
    await world.call("default/x", by="alice", custom={"a": 1, "b": {"c": 2, "d": 3}})
    listener = await world.listen(world.as_("alice"))
    reply = await world.as_("alice").patch("/calls/default/x", {"custom": {"a": None, "b": {"c": 4}, "e": "new"}})
    assert reply.json()["call"]["custom"] == {"b": {"c": 4, "d": 3}, "e": "new"}
    updated = listener.only("call.updated")[0]
    assert updated["data"]["paths"] == ["custom.a", "custom.b.c", "custom.e"]


async def test_a_35_custom_data_has_a_limit(world: World) -> None:
    fits = {"x": "y" * (16_384 - len('{"x":""}'))}
    await world.call("default/x", by="alice", custom=fits)
    reply = await world.as_("alice").patch("/calls/default/x", {"custom": {"x": fits["x"] + "y"}})
    assert code(reply) == (413, "custom_too_large")


async def test_a_36_calls_are_found_by_custom_data(world: World) -> None:
    await world.call("default/x", by="alice", custom={"name": "My first Call", "n": 3, "ok": True})
    await world.call("default/y", by="alice", custom={"name": "Another", "n": "3"})

    async def found(wanted: dict[str, object]) -> list[str]:
        reply = await world.as_("alice").post("/calls/query", {"filter": wanted})
        assert reply.status_code == 200, reply.text
        return sorted(item["call"]["id"] for item in reply.json()["items"])

    assert await found({"custom.name": "My first Call"}) == ["x"]
    assert await found({"custom.n": 3}) == ["x"]
    assert await found({"custom.n": {"$gte": 3}}) == ["x"]
    assert await found({"custom.ok": True}) == ["x"]
    assert await found({"custom.name": {"$prefix": "An"}}) == ["y"]
    assert await found({"custom.ok": {"$exists": False}}) == ["y"]
    assert await found({"$not": {"custom.name": "Another"}}) == ["x"]
    assert await found({"members": {"$in": ["alice", "nobody"]}}) == ["x", "y"]
    assert await found({"$or": [{"id": "x"}, {"cid": "default:y"}]}) == ["x", "y"]
    assert await found({"backstage": True}) == []


async def multi_tenant(world: World, **users: list[str]) -> None:
    """Switch the mode on and make users of teams."""
    assert (await world.server.patch("/app", {"multi_tenant_enabled": True})).status_code == 200
    for user, teams in users.items():
        await world.users(user, teams=teams)


async def test_a_37_t_9_another_teams_call_does_not_exist(world: World) -> None:
    await multi_tenant(world, rosa=["red"], rudi=["red"], blue=["blue"], none=[])
    made = await world.call("default/x", by="rosa", members=["rudi"])
    assert made["call"]["team"] == "red"
    ring = (await world.as_("rosa").post("/calls/default/x/rings")).json()["ring"]
    joined = await world.as_("rosa").join("default/x")
    participant = joined["participant"]["id"]
    for name in ("blue", "none"):
        stranger = world.as_(name)
        listener = await world.listen(stranger)
        for method, path, body in (
            ("GET", "", None),
            ("PUT", "", {}),
            ("PUT", "", {"ring": True}),
            ("POST", "/join", {}),
            ("POST", "/join", {"create": True}),
            ("PATCH", "/members", {"upsert": [name]}),
            ("GET", "/members", None),
            ("POST", "/rings", {}),
            ("GET", f"/rings/{ring['id']}", None),
            ("GET", "/participants", None),
            ("POST", "/media-token", {"participant_id": participant}),
            ("GET", "/recordings", None),
            ("DELETE", "", None),
            ("PATCH", "", {"nonsense": 1}),
        ):
            reply = await stranger.request(method, f"/calls/default/x{path}", body)
            assert code(reply) == (404, "not_found"), (method, path)
        assert (await stranger.post("/calls/query", {})).json()["items"] == []
        denied = await world.denied(stranger, "default:x")
        assert denied == [{"cid": "default:x", "code": "not_found"}]
        await world.as_("rosa").patch("/calls/default/x", {"custom": {"told": name}})
        assert listener.frames() == []
    assert [item["call"]["id"] for item in (await world.as_("rudi").post("/calls/query", {})).json()["items"]] == ["x"]


async def test_a_37_who_leaves_the_team_hears_and_sees_no_more(world: World) -> None:
    await multi_tenant(world, rosa=["red"], rudi=["red"])
    await world.call("default/x", by="rosa", members=["rudi"])
    rudi = await world.listen(world.as_("rudi"), "default/x")
    joined = await world.as_("rudi").join("default/x")
    await world.server.patch("/users/rudi", {"teams": ["blue"]})
    rudi.frames()
    await world.as_("rosa").patch("/calls/default/x", {"custom": {"secret": 1}})
    assert rudi.frames() == []
    assert code(await world.as_("rudi").get("/calls/default/x")) == (404, "not_found")
    assert (joined["session"]["id"], "rudi:phone") in [removed[:2] for removed in world.media.removed]


async def test_who_is_of_another_team_leaves_when_teams_begin_to_count(world: World) -> None:
    await world.users("rosa", teams=["red"])
    await world.users("blue", teams=["blue"])
    await world.call("default/x", by="rosa", team="red")
    joined = [await world.as_(name).join("default/x") for name in ("rosa", "blue")]
    await world.server.patch("/app", {"multi_tenant_enabled": True})
    assert world.media.removed == [(joined[0]["session"]["id"], "blue:phone", "lost_capability")]


async def test_who_merely_watches_goes_on_watching(world: World) -> None:
    await multi_tenant(world, rosa=["red"], rudi=["red"])
    await world.users("chief", role="admin", teams=["red"])
    await world.call("default/x", by="rosa")
    rudi, chief = [await world.listen(world.as_(name), "default/x") for name in ("rudi", "chief")]
    await world.as_("rosa").patch("/calls/default/x", {"custom": {"n": 1}})
    for listener in (rudi, chief):
        assert listener.types() == ["call.updated"]
    # What his role takes from rudi, the app admin's gives him still.
    await world.server.patch("/call-types/default/grants", {"user": {"remove": ["call.read"]}})
    assert [frame["type"] for frame in rudi.frames()] == ["unsubscribed"]
    await world.as_("rosa").patch("/calls/default/x", {"custom": {"n": 2}})
    assert (rudi.types(), chief.types()) == ([], ["call.updated"])


async def test_a_37_a_token_narrows_the_teams(world: World) -> None:
    await multi_tenant(world, rosa=["red", "blue"])
    await world.call("default/x", by="rosa", team="red")
    assert code(await world.as_("rosa", teams=["blue"]).get("/calls/default/x")) == (404, "not_found")
    assert code(await world.as_("rosa", teams=["green"]).get("/calls/default/x")) == (404, "not_found")
    assert (await world.as_("rosa", teams=["red"]).get("/calls/default/x")).status_code == 200


async def test_a_38_one_creates_in_ones_own_team_only(world: World) -> None:
    await multi_tenant(world, rosa=["red"], many=["red", "blue"], none=[])
    assert code(await world.as_("rosa").put("/calls/default/x", {"team": "blue"})) == (403, "team_forbidden")
    assert code(await world.as_("none").put("/calls/default/x", {"team": "blue"})) == (403, "team_forbidden")
    assert code(await world.server.get("/calls/default/x")) == (404, "not_found")
    several = await world.as_("many").put("/calls/default/x")
    assert (code(several), pointers(several)) == ((422, "unprocessable"), ["/team"])
    assert (await world.call("default/many", by="many", team="blue"))["call"]["team"] == "blue"
    assert (await world.call("default/none", by="none"))["call"]["team"] is None
    assert (await world.call("default/server", team="green"))["call"]["team"] == "green"


async def test_a_39_members_are_of_the_calls_team(world: World) -> None:
    await multi_tenant(world, rosa=["red"], blue=["blue"])
    reply = await world.as_("blue").put("/calls/default/x", {"members": ["rosa"]})
    assert (code(reply), pointers(reply)) == ((422, "team_mismatch"), ["/members/0"])
    await world.call("default/x", by="blue")
    reply = await world.as_("blue").patch("/calls/default/x/members", {"upsert": [{"user_id": "rosa"}]})
    assert (code(reply), pointers(reply)) == ((422, "team_mismatch"), ["/upsert/0/user_id"])
    assert [m["user_id"] for m in (await world.as_("blue").get("/calls/default/x/members")).json()["items"]] == ["blue"]


async def test_a_40_the_team_stays(world: World) -> None:
    await world.call("default/x", by="alice", team="red")
    reply = await world.as_("alice").patch("/calls/default/x", {"team": "blue"})
    assert (code(reply), pointers(reply)) == ((422, "unprocessable"), ["/team"])
    assert (await world.call("default/x", by="alice", team="blue"))["call"]["team"] == "red"


async def test_a_41_with_the_mode_off_a_team_is_only_noted(world: World) -> None:
    await world.users("rosa", teams=["red"])
    await world.call("default/x", by="rosa", team="violet")
    seen = await world.as_("anybody").get("/calls/default/x")
    assert seen.json()["call"]["team"] == "violet"
    await world.as_("anybody").join("default/x")
    found = await world.as_("anybody").post("/calls/query", {"filter": {"team": "violet"}})
    assert [item["call"]["id"] for item in found.json()["items"]] == ["x"]
