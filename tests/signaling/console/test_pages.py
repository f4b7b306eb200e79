"""The console's pages without a browser: what they show, what their forms do, what they refuse."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from signaling.calls.call_settings import DEFAULTS, check_patch
from signaling.calls.capabilities import ALL
from signaling.calls.problems import Problem
from signaling.console.backend import ParticipantFigures
from signaling.console.pages.audit import Difference, differences
from signaling.console.pages.calls import attendance_curve
from signaling.console.pages.roles import TEXTS
from signaling.console.pages.types import OPTIONS, fields_of
from tests.signaling.api.world import World
from tests.signaling.console.conftest import Desk, Meter

NASTY = """<script>alert(1)</script>'"><img src=x onerror=alert(2)>{{7*7}}"""


async def granted(world: World, type_: str, role: str) -> list[str]:
    found: list[str] = (await world.server.get(f"/call-types/{type_}")).json()["call_type"]["grants"].get(role, [])
    return found


async def save_grants(desk: Desk, type_: str, role: str, shown: list[str], granted: list[str]) -> Any:
    return await desk.post("/console/roles", type=type_, role=role, shown=shown, granted=granted)


async def test_saving_sends_only_what_was_changed(world: World, desk: Desk) -> None:
    before = await granted(world, "default", "user")
    # Somebody else takes a right away between showing the page and saving it.
    await world.server.patch("/call-types/default/grants", {"user": {"remove": ["call.ring"]}})
    after = [name for name in before if name != "call.join"] + ["call.end"]
    reply = await save_grants(desk, "default", "user", before, after)
    assert "Saved." in reply.text
    expected = sorted((set(before) - {"call.join", "call.ring"}) | {"call.end"})
    assert await granted(world, "default", "user") == expected
    entry = (await world.server.get("/audit")).json()["items"][0]
    assert (entry["action"], entry["target"]) == ("call_type.update", "default")
    page = (await desk.get("/console/audit")).text
    assert re.search(r"−\s*<code>grants.user</code> call.join", page)
    assert re.search(r"\+\s*<code>grants.user</code> call.end", page)
    unchanged = await save_grants(desk, "default", "user", expected, expected)
    assert "Nothing was changed." in unchanged.text
    assert len((await world.server.get("/audit")).json()["items"]) == 2


async def test_what_changes_is_told_before_saving(world: World, desk: Desk) -> None:
    await world.call("default/x", by="alice")
    await world.as_("alice").join("default/x")
    fields = {
        "type": "default",
        "role": "user",
        "shown": ["call.join", "call.read"],
        "granted": ["call.read", "call.end"],
    }
    told = (await desk.post("/console/roles/preview", **fields)).text
    assert "+ call.end" in told
    assert "− call.join" in told
    assert "1 running call with 1 participant" in told
    assert "call.join" in await granted(world, "default", "user")


async def test_what_may_be_asked_for(world: World, desk: Desk) -> None:
    await desk.post(
        "/console/roles", type="default", role="listener", askable=["media.audio"], askable_shown=["media.video"]
    )
    shown = (await world.server.get("/call-types/default")).json()["call_type"]
    assert shown["requestable"]["listener"] == ["media.audio"]


async def test_roles_are_made_and_deleted_while_unused(world: World, desk: Desk) -> None:
    made = await desk.post("/console/roles/new", type="default", name="usher")
    assert "Created." in made.text
    assert re.search(r'<option value="usher" selected>', made.text)
    await save_grants(desk, "default", "usher", [], ["call.read"])
    refused = await desk.post("/console/roles/delete", type="default", role="usher")
    assert refused.status_code == 409
    assert "Role in use" in refused.text
    await save_grants(desk, "default", "usher", ["call.read"], [])
    assert "Deleted." in (await desk.post("/console/roles/delete", type="default", role="usher")).text
    twice = await desk.post("/console/roles/new", type="default", name="user")
    assert (twice.status_code, "There is a role" in twice.text) == (409, True)
    assert (await desk.post("/console/roles/new", type="default", name="No Such")).status_code == 422


def form_of(page: str) -> dict[str, str]:
    """Return the fields of a type's settings form as a browser would send them."""
    form = re.search(r'<form method="post" action="/console/types/[^"]+">(.*?)</form>', page, re.DOTALL)
    assert form
    fields = {}
    for tag in re.findall(r"<input[^>]*>", form[1]):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        assert name
        if 'type="checkbox"' in tag:
            if " checked" in tag:
                fields[name[1]] = "on"
        else:
            fields[name[1]] = value[1] if value else ""
    for name, options in re.findall(r'<select name="([^"]*)">(.*?)</select>', form[1], re.DOTALL):
        chosen = re.search(r"<option selected>([^<]*)", options)
        fields[name] = chosen[1] if chosen else re.findall(r"<option>([^<]*)", options)[0]
    return fields


async def test_settings_of_which_nothing_comes_yet_say_so(desk: Desk) -> None:
    page = (await desk.get("/console/types/default")).text
    groups = dict(re.findall(r"<legend>([^<]*)</legend>(.*?)</fieldset>", page, re.DOTALL))
    silent = {name for name, shown in groups.items() if "no_engine" not in shown and "Nothing makes" not in shown}
    said = {"recording", "transcription", "broadcasting", "ingress", "thumbnails", "frame recording"}
    assert groups.keys() - silent == said


async def test_settings_of_a_type(world: World, desk: Desk) -> None:
    fields = form_of((await desk.get("/console/types/livestream")).text)
    assert "Nothing was changed." in (await desk.post("/console/types/livestream", **fields)).text
    fields |= {"limits.max_participants": "50", "geofencing.names": "eu, us", "video.target_resolution.width": "640"}
    fields |= {"recording.mode": "disabled", "default_member_role": "speaker"}
    del fields["video.camera_default_on"]
    assert "Saved." in (await desk.post("/console/types/livestream", **fields)).text
    shown = (await world.server.get("/call-types/livestream")).json()["call_type"]
    assert shown["settings"]["limits"] == {"max_participants": 50, "max_duration_seconds": None}
    assert shown["settings"]["geofencing"]["names"] == ["eu", "us"]
    assert shown["settings"]["video"]["target_resolution"] == {"width": 640, "height": 720, "bitrate_bps": 1_500_000}
    assert shown["settings"]["video"]["camera_default_on"] is False
    assert shown["settings"]["recording"]["mode"] == "disabled"
    assert shown["default_member_role"] == "speaker"
    stale = await desk.post("/console/types/livestream", **fields)
    assert (stale.status_code, "meanwhile" in stale.text) == (412, True)
    fields = form_of((await desk.get("/console/types/livestream")).text)
    for name, value in (("limits.max_participants", "many"), ("ring.auto_cancel_timeout_ms", "1")):
        wrong = await desk.post("/console/types/livestream", **{**fields, name: value})
        assert wrong.status_code == 422
        assert f"/settings/{name.replace('.', '/')}" in wrong.text


async def test_push_templates_of_a_type(world: World, desk: Desk) -> None:
    fields = form_of((await desk.get("/console/types/default")).text)
    del fields["push.missed"]
    fields |= {
        "push.live_started": "on",
        "push.live_started.title": "{caller} is live",
        "push.live_started.body": "<b>",
    }
    assert "Saved." in (await desk.post("/console/types/default", **fields)).text
    told = (await world.server.get("/call-types/default")).json()["call_type"]["notifications"]
    assert told.keys() == {"ring", "notification", "live_started"}
    assert told["live_started"] == {"title": "{caller} is live", "body": "<b>"}
    page = (await desk.get("/console/types/default")).text
    assert 'value="&lt;b&gt;"' in page
    assert "Nothing was changed." in (await desk.post("/console/types/default", **unescaped(form_of(page)))).text


def unescaped(fields: dict[str, str]) -> dict[str, str]:
    return {name: html.unescape(value) for name, value in fields.items()}


async def test_types_are_copied_and_deleted(world: World, desk: Desk) -> None:
    assert "Created." in (await desk.post("/console/types", name="my-call-type", base="livestream")).text
    assert await granted(world, "my-call-type", "user") == await granted(world, "livestream", "user")
    await world.call("my-call-type/x", by="alice")
    assert (await desk.post("/console/types/my-call-type/delete")).status_code == 409
    assert (await desk.get("/console/types/nowhere")).status_code == 404


def test_every_setting_has_the_right_input() -> None:
    for group, values in DEFAULTS.items():
        for one in fields_of(values, DEFAULTS[group], group):
            path = one["name"].split(".")
            for value, good in [(option, True) for option in one["options"]] + [("no such", one["kind"] == "text")]:
                if one["kind"] in ("choice", "text") and one["name"] != "transcription.language":
                    patch: Any = value
                    for key in reversed(path):
                        patch = {key: patch}
                    if good:
                        check_patch(patch, "")
                    else:
                        with pytest.raises(Problem):
                            check_patch(patch, "")
    assert OPTIONS.keys() <= {one["name"] for g, v in DEFAULTS.items() for one in fields_of(v, DEFAULTS[g], g)}


async def test_calls_are_listed_and_found(world: World, desk: Desk) -> None:
    for number in range(60):
        await world.call(f"default/call{number:02}", by="alice" if number % 2 else "bob")
    await world.as_("alice").join("default/call07")
    running = (await desk.get("/console/calls")).text
    assert "default:call07" in running
    assert "default:call08" not in running
    first = (await desk.get("/console/calls", params={"state": "all", "created_by": "alice", "id": "call"})).text
    assert len(re.findall(r"default:call\d\d</a>", first)) == 30
    page = (await desk.get("/console/calls", params={"state": "all"})).text
    older = re.search(r'href="(/console/calls\?[^"]*next=[^"]*)"', page)
    assert older
    rest = (await desk.get(older[1].replace("&amp;", "&"))).text
    assert len(re.findall(r"default:call\d\d</a>", page)) == 50
    assert len(re.findall(r"default:call\d\d</a>", rest)) == 10
    nothing = await desk.get("/console/calls", params={"state": "all", "type": "nowhere"})
    assert "No call matches." in nothing.text


async def test_a_call_its_people_and_why(world: World, desk: Desk) -> None:
    await world.users("bob")
    await world.call("livestream/show", by="host", members=[{"user_id": "bob", "role": "speaker"}])
    await world.as_("host").join("livestream/show")
    await world.as_("bob").join("livestream/show", device="laptop")
    page = (await desk.get("/console/calls/livestream/show")).text
    assert "bob:laptop" in page
    assert "backstage" in page
    fragment = await desk.get("/console/calls/livestream/show/people", headers={"hx-request": "true"})
    assert "bob:laptop" in fragment.text
    assert "<html" not in fragment.text
    why = (await desk.get("/console/calls/livestream/show/explain", params={"user": "bob"})).text
    assert "grants of the role speaker in livestream" in why
    assert "media.video" in why
    assert "grants of the role speaker" in (await desk.get("/console/calls/livestream/show?user=bob")).text
    part = await desk.get("/console/calls/livestream/show/explain?user=nobody", headers={"hx-request": "true"})
    assert part.status_code == 404
    assert "There is no such user." in part.text
    assert "<html" not in part.text
    assert (await desk.get("/console/calls/livestream/nowhere")).status_code == 404


async def test_viewers_without_an_account_are_shown(world: World, desk: Desk) -> None:
    await world.call("livestream/show", by="host")
    await world.server.put("/calls/livestream/show/live")
    viewer = world.anonymous("livestream:show")
    joined = (await viewer.post("/calls/livestream/show/join", {"device_id": "tv"})).json()["participant"]
    await world.connect(joined)
    page = (await desk.get("/console/calls/livestream/show")).text
    assert joined["user_id"] in page
    assert f"Why {joined['name']}" not in page
    await desk.post("/console/calls/livestream/show", do="kick", user=joined["user_id"])
    assert (joined["session_id"], joined["identity"], "kicked") in world.media.removed


async def test_what_an_operator_does_in_a_call(world: World, desk: Desk) -> None:
    await world.call("default/x", by="host")
    joined = {user: (await world.as_(user).join("default/x"))["participant"] for user in ("host", "dave", "eve")}
    call = "/console/calls/default/x"
    await desk.post(call, do="mute_audio", user="dave")
    await desk.post(call, do="mute_video")
    assert (joined["dave"]["session_id"], "dave:phone", ("microphone",)) in world.media.muted
    assert {identity for _, identity, sources in world.media.muted if sources == ("camera",)} == {
        "host:phone", "dave:phone", "eve:phone",
    }  # fmt: skip
    await desk.post(call, do="kick", user="dave")
    await desk.post(call, do="block_and_kick", user="eve")
    assert [identity for _, identity, _ in world.media.removed] == ["dave:phone", "eve:phone"]
    assert (await world.as_("eve").post("/calls/default/x/join", {})).json()["code"] == "blocked"
    await desk.post(call, do="unblock", user="eve")
    assert (await world.as_("eve").post("/calls/default/x/join", {})).status_code == 200
    await desk.post(call, do="end")
    assert (await world.server.get("/calls/default/x")).json()["call"]["ended_at"] is not None
    await desk.post(call, do="reopen")
    assert (await world.server.get("/calls/default/x")).json()["call"]["ended_at"] is None
    await world.call("livestream/show", by="host")
    await desk.post("/console/calls/livestream/show", do="go_live")
    assert (await world.server.get("/calls/livestream/show")).json()["call"]["live"] is True
    await desk.post("/console/calls/livestream/show", do="stop_live")
    assert (await world.server.get("/calls/livestream/show")).json()["call"]["live"] is False
    assert (await desk.post(call, do="anything")).status_code == 422


async def test_figures_for_the_charts(world: World, desk: Desk, meter: Meter) -> None:
    await world.call("default/x", by="host")
    empty = (await desk.get("/console/calls/default/x/figures")).json()
    assert (empty["joins"], empty["media"]) == ({"times": [], "counts": []}, None)
    host = (await world.as_("host").join("default/x"))["participant"]
    await world.advance(10)
    dave = (await world.as_("dave").join("default/x"))["participant"]
    await world.advance(5)
    await world.vanish(dave, clean=True)
    meter.rooms[host["session_id"]] = [ParticipantFigures("host:phone", 1_000, 500, 20.04, 0.01, 0.02, "good")]
    told = (await desk.get("/console/calls/default/x/figures")).json()
    start = told["joins"]["times"][0]
    assert [at - start for at in told["joins"]["times"]] == [0, 10, 15]
    assert told["joins"]["counts"] == [1, 2, 1]
    assert told["media"] == {
        "up_bps": 1_000,
        "down_bps": 500,
        "participants": [
            {
                "identity": "host:phone",
                "quality": "good",
                "up_bps": 1_000,
                "down_bps": 500,
                "rtt_ms": 20.0,
                "loss": 0.02,
            }
        ],
    }


def test_the_attendance_curve_counts_moments_once() -> None:
    at = "2026-01-01T09:00:0{}.000Z".format
    attended: list[dict[str, Any]] = [
        {"joined_at": at(0), "left_at": at(5)},
        {"joined_at": at(0), "left_at": None},
        {"joined_at": None},
    ]
    curve = attendance_curve(attended)
    assert curve["counts"] == [2, 1]
    assert curve["times"][1] - curve["times"][0] == 5


async def test_webhooks_show_their_secret_once(world: World, desk: Desk) -> None:
    made = await desk.post(
        "/console/webhooks", url="https://hooks.example.com/x", events="call.* member.added", call_types=""
    )
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", made.text)
    assert secret
    hook = (await world.server.get("/webhooks")).json()["items"][0]
    assert (hook["events"], hook["call_types"]) == (["call.*", "member.added"], None)
    page = f"/console/webhooks/{hook['id']}"
    assert secret[0] not in (await desk.get(page)).text
    rotated = re.search(r"whsec_[A-Za-z0-9+/=]+", (await desk.post(page, do="rotate")).text)
    assert rotated
    assert rotated[0] != secret[0]
    await desk.post(page, do="save", url="https://hooks.example.com/y", events="*", call_types="default")
    hook = (await world.server.get(f"/webhooks/{hook['id']}")).json()["webhook"]
    assert (hook["url"], hook["enabled"], hook["call_types"]) == ("https://hooks.example.com/y", False, ["default"])
    wrong = await desk.post("/console/webhooks", url="ftp://hooks.example.com", events="*", call_types="")
    assert wrong.status_code == 422
    await desk.post(page, do="delete")
    assert (await world.server.get("/webhooks")).json()["items"] == []


async def test_deliveries_are_sent_again(world: World, desk: Desk) -> None:
    made = await world.server.post("/webhooks", {"url": "http://127.0.0.1:9/hook", "events": ["call.created"]})
    hook = made.json()["webhook"]["id"]
    await world.call("default/x", by="alice")
    await world.settle()
    listed = (await world.server.get(f"/webhooks/{hook}/deliveries")).json()["items"]
    assert [(one["type"], one["state"], one["attempts"]) for one in listed] == [("call.created", "pending", 1)]
    page = (await desk.get(f"/console/webhooks/{hook}")).text
    assert "call.created" in page
    assert "default:x" in page
    again = await desk.post(f"/console/webhooks/{hook}", do="redeliver", delivery_id=listed[0]["id"])
    assert "It will be sent again." in again.text
    assert (await world.server.get(f"/webhooks/{hook}/deliveries")).json()["items"][0]["attempts"] == 0
    unknown = await desk.post(f"/console/webhooks/{hook}", do="redeliver", delivery_id="nothing")
    assert unknown.status_code == 422


async def test_users_devices_bans_and_tokens(world: World, desk: Desk) -> None:
    assert (
        "Created."
        in (await desk.post("/console/users", id="alice", name="Alice", role="moderator", teams="red, blue")).text
    )
    shown = (await world.server.get("/users/alice")).json()["user"]
    assert (shown["name"], shown["role"], shown["teams"]) == ("Alice", "moderator", ["red", "blue"])
    device = await world.as_("alice").post("/users/alice/devices", {"provider": "fcm", "token": "registration"})
    assert "registration" in (await desk.get("/console/users/alice")).text
    await desk.post("/console/users/alice", do="forget", device=device.json()["device"]["id"])
    assert "No device is registered" in (await desk.get("/console/users/alice")).text
    await desk.post("/console/users/alice", do="save", name="Alicia", role="user", teams="")
    assert (await world.server.get("/users/alice")).json()["user"]["name"] == "Alicia"
    banned = (await desk.post("/console/users/alice", do="ban", reason="spam", ip="on")).text
    assert "Banned" in banned
    assert "with the addresses he was seen at" in banned
    await world.call("default/x", by="host")
    assert (await world.as_("alice").get("/calls/default/x")).json()["code"] == "banned"
    await desk.post("/console/users/alice", do="unban")
    assert (await world.as_("alice").get("/calls/default/x")).status_code == 200
    token = re.search(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", (await desk.post("/console/users/alice", do="token")).text)
    assert token
    mine = world.as_("alice")
    mine.headers["authorization"] = f"Bearer {token[0]}"
    assert (await mine.get("/users/alice")).status_code == 200
    found = (await desk.get("/console/users", params={"id": "ali", "role": "user"})).text
    assert "Alicia" in found
    assert "Alicia" not in (await desk.get("/console/users", params={"id": "bob"})).text
    assert "Deleted." in (await desk.post("/console/users/alice", do="delete")).text
    assert (await desk.get("/console/users/alice")).status_code == 404


async def test_settings_of_the_app(world: World, desk: Desk) -> None:
    page = (await desk.get("/console/app")).text
    assert re.search(r'name="development_type_enabled" checked', page)
    fields = {"name": "Acme", "guests_enabled": "on", "development_type_enabled": "on"}
    assert "Saved." in (await desk.post("/console/app", **fields)).text
    shown = (await world.server.get("/app")).json()["app"]
    assert (shown["name"], shown["guests_enabled"], shown["multi_tenant_enabled"]) == ("Acme", True, False)
    assert shown["development_type_enabled"] is True
    assert "Nothing was changed." in (await desk.post("/console/app", **fields)).text
    assert (await desk.post("/console/app", **{**fields, "name": "x" * 200})).status_code == 422


async def test_what_was_sent_to_a_device(world: World, desk: Desk) -> None:
    await world.users("bob")
    await world.as_("bob").post("/users/bob/devices", {"provider": "fcm", "token": "registration"})
    await world.call("default/x", by="alice", member_ids=["bob"], ring=True)
    await world.settle()
    page = (await desk.get("/console/users/bob")).text
    assert re.search(r"call\.ring: <span class=\"badge bad\">failed</span>", page)


async def test_s73_whatever_is_shown_is_escaped(world: World, desk: Desk) -> None:
    """S-73"""
    await world.users("alice", name=NASTY, teams=[NASTY], custom={"x": NASTY})
    await world.call("default/x", by="alice", custom={"name": NASTY}, team=NASTY)
    await world.as_("alice").join("default/x")
    await world.server.put("/calls/default/x/blocks/alice", {"reason": NASTY})
    await world.call("default/y", by="bob")
    await world.as_("bob").join("default/y")
    await world.server.put("/bans/alice", {"reason": NASTY})
    await world.server.post("/webhooks", {"url": "https://hooks.example.com/" + "%3Cscript%3E'\"><img>"})
    hooks = (await world.server.get("/webhooks")).json()["items"]
    pages = ["/console/calls?state=all", "/console/calls/default/x", "/console/users", "/console/users/alice",
             "/console/audit", "/console/webhooks", *(f"/console/webhooks/{one['id']}" for one in hooks)]  # fmt: skip
    for page in pages:
        reply = await desk.get(page)
        assert reply.status_code == 200, page
        assert "<script>alert" not in reply.text
        assert "<img src=x" not in reply.text
        assert "49" not in re.findall(r"{{.*?}}", reply.text)
    reflected = [
        f"/console/calls?state={NASTY}&type={NASTY}&id={NASTY}&created_by={NASTY}",
        f"/console/users?id={NASTY}&role={NASTY}",
        f"/console/roles?type={NASTY}&role={NASTY}",
        f"/console/login?next={NASTY}",
        f"/console/calls/default/x?user={NASTY}",
        f"/console/{NASTY}",
        f"/console/audit?done={NASTY}",
    ]
    for page in reflected:
        reply = await desk.get(page)
        assert "<script>alert" not in reply.text
        assert "<img src=x" not in reply.text
    for page, fields in (
        ("/console/roles", {"type": NASTY, "role": NASTY, "granted": NASTY}),
        ("/console/roles/preview", {"type": NASTY, "role": NASTY, "granted": NASTY}),
        ("/console/roles/new", {"name": NASTY}),
        ("/console/types", {"name": NASTY, "base": NASTY}),
        ("/console/webhooks", {"url": NASTY, "events": NASTY}),
        ("/console/users", {"id": NASTY, "name": NASTY, "role": NASTY}),
    ):
        reply = await desk.post(page, **fields)
        assert reply.status_code in (200, 404, 422), page
        assert "<script>alert" not in reply.text
        assert "<img src=x" not in reply.text


def test_differences_are_told_leaf_by_leaf() -> None:
    before = {"version": 1, "grants": {"user": ["a", "b"]}, "settings": {"x": 1}, "name": None, "gone": "y"}
    after = {"version": 2, "grants": {"user": ["b", "c"], "host": ["a"]}, "settings": {"x": 2}, "name": "n"}
    assert differences(before, after) == [
        Difference("-", "gone", "y"),
        Difference("+", "grants.host", '["a"]'),
        Difference("-", "grants.user", "a"),
        Difference("+", "grants.user", "c"),
        Difference("+", "name", "n"),
        Difference("~", "settings.x", "1 → 2"),
    ]
    made = {"name": "usher", "built_in": False, "image": None, "settings": {"a": 1, "b": 2}, "created_at": "…"}
    assert differences(None, made) == [Difference("+", "name", "usher"), Difference("+", "settings", "2 entries")]
    assert differences({"user_id": "bob"}, None) == [Difference("-", "user_id", "bob")]
    assert differences(None, None) == []
    assert len(differences("x" * 500, "y")[0].text) < 300


def test_every_capability_is_explained() -> None:
    assert TEXTS.keys() == ALL
