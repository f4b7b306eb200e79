"""Bans by address: whoever comes from where a banned user was seen is refused, and no address is ever written down."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy import func, select

from signaling.api.v1 import upkeep
from signaling.calls.media import Allow, Refuse
from signaling.calls.problems import Problem
from signaling.calls.settings import CallsSettings
from signaling.calls_system import create_calls_system
from signaling.store import schema
from tests.signaling.api.v1.test_event_channel import ON_SQLITE, serving
from tests.signaling.api.world import KEY, SECRET, World, code

HOME, ELSEWHERE = "203.0.113.7", "198.51.100.4"
CALL = "/calls/default/x"
BANNED = (403, "banned")


async def ban_at(world: World, address: str, **more: object) -> None:
    """Have bob seen at an address, and ban him with it; alice has the call."""
    await world.users("alice", "bob")
    await world.call("default/x", by="alice")
    assert (await world.as_("bob").at(address).get(CALL)).status_code == 200
    reply = await world.server.put("/bans/bob", {"ip": True, **more})
    assert reply.status_code == 200
    assert reply.json()["ban"]["ip"] is True
    assert "addresses" not in reply.json()["ban"]


async def kept(world: World, user_id: str) -> int:
    await world.service.addresses.write()
    table = schema.addresses
    async with world.service.database.read() as connection:
        count = await connection.execute(select(func.count()).where(table.c.user_id == user_id))
        return int(count.scalar_one())


async def test_who_comes_from_a_banned_address_is_refused_as_the_banned_user_is(world: World) -> None:
    await ban_at(world, HOME)
    carl = world.as_("carl")
    assert code(await carl.at(HOME).post(f"{CALL}/join")) == BANNED
    assert code(await carl.at(HOME).put("/calls/default/mine")) == BANNED
    assert code(await carl.at(HOME).get(CALL)) == BANNED
    assert code(await world.anonymous("default:x").at(HOME).post(f"{CALL}/join")) == BANNED
    assert code(await world.as_("alice").at(HOME).get(CALL)) == BANNED
    refused = await carl.at(HOME).get(CALL)
    assert "bob" not in refused.text
    own = await world.as_("bob").at(ELSEWHERE).get(CALL)
    assert {**own.json(), "request_id": ""} == {**refused.json(), "request_id": ""}
    assert (await carl.at(ELSEWHERE).post(f"{CALL}/join")).status_code == 200
    assert code(await world.as_("bob").at(ELSEWHERE).post(f"{CALL}/join")) == BANNED


async def test_guests_of_a_banned_address_are_not_made(world: World) -> None:
    await ban_at(world, HOME)
    await world.server.patch("/app", {"guests_enabled": True})
    nobody = world.as_("nobody")
    nobody.headers = {}
    assert code(await nobody.at(HOME).post("/guests", {"name": "Visitor"})) == BANNED
    assert (await nobody.at(ELSEWHERE).post("/guests", {"name": "Visitor"})).status_code == 201


async def test_the_media_side_refuses_a_banned_address(world: World) -> None:
    await ban_at(world, HOME)
    participant = (await world.as_("carl").join("default/x", connect=False))["participant"]
    asked = (participant["session_id"], participant["identity"])
    refused = await world.system.feed.admit(*asked, HOME)
    assert isinstance(refused, Refuse)
    assert refused.code == "banned"
    assert isinstance(await world.system.feed.admit(*asked, ELSEWHERE), Allow)
    assert isinstance(await world.system.feed.admit(*asked), Allow)


async def test_where_one_connects_media_counts_as_seen(world: World) -> None:
    await world.users("alice")
    await world.call("default/x", by="alice")
    participant = (await world.as_("bob").join("default/x", connect=False))["participant"]
    await world.system.feed.admit(participant["session_id"], participant["identity"], HOME)
    await world.server.put("/bans/bob", {"ip": True})
    assert code(await world.as_("alice").at(HOME).get(CALL)) == BANNED


async def test_a_ban_by_address_ends_at_its_time(world: World) -> None:
    await ban_at(world, HOME, expires_at="2026-01-01T09:10:00Z")
    assert code(await world.as_("alice").at(HOME).get(CALL)) == BANNED
    await world.advance(600)
    assert (await world.as_("alice").at(HOME).get(CALL)).status_code == 200
    assert world.service.directory.banned_addresses != {}
    await upkeep.forget_old(world.service)
    assert world.service.directory.banned_addresses == {}


async def test_lifting_a_ban_lifts_it_from_the_address(world: World) -> None:
    await ban_at(world, HOME)
    await world.as_("dave").at(HOME).get(CALL)
    await world.server.put("/bans/dave", {"ip": True})
    assert (await world.server.delete("/bans/bob")).status_code == 204
    assert code(await world.as_("alice").at(HOME).get(CALL)) == BANNED, "another ban covers it too"
    assert (await world.server.put("/bans/dave", {"ip": False})).json()["ban"]["ip"] is False
    assert (await world.as_("alice").at(HOME).get(CALL)).status_code == 200
    assert code(await world.as_("dave").at(HOME).get(CALL)) == BANNED


async def test_servers_and_app_admins_may_come_from_everywhere(world: World) -> None:
    await ban_at(world, HOME)
    await world.users("root", role="admin")
    await world.users("mona", role="moderator")
    assert (await world.server.at(HOME).get(CALL)).status_code == 200
    assert (await world.on_behalf("alice").at(HOME).post(f"{CALL}/join")).status_code == 200
    joined = (await world.as_("root").at(HOME).post(f"{CALL}/join")).json()["participant"]
    assert isinstance(await world.system.feed.admit(joined["session_id"], joined["identity"], HOME), Allow)
    assert code(await world.as_("mona").at(HOME).get(CALL)) == BANNED


async def test_a_server_that_asks_on_behalf_of_users_is_not_taken_for_them(world: World) -> None:
    await world.users("alice", "bob")
    await world.call("default/x", by="alice")
    await world.on_behalf("bob").at(HOME).post(f"{CALL}/join")
    await world.server.put("/bans/bob", {"ip": True})
    assert (await world.as_("alice").at(HOME).get(CALL)).status_code == 200


async def test_a_ban_without_ip_bans_no_address(world: World) -> None:
    await ban_at(world, HOME, ip=True)
    await world.server.delete("/bans/bob")
    await world.server.put("/bans/bob", {"reason": "spam"})
    assert (await world.as_("alice").at(HOME).get(CALL)).status_code == 200


@pytest.mark.parametrize(
    ("seen", "refused", "free"),
    [
        ("2001:db8:1:2::1", ["2001:db8:1:2::1", "2001:db8:1:2:ffff::9"], ["2001:db8:1:3::1"]),
        (HOME, [HOME, f"::ffff:{HOME}"], ["203.0.113.8"]),
        (f"::ffff:{HOME}", [HOME], ["::ffff:203.0.113.8", "::1"]),
        ("127.0.0.1", [], ["127.0.0.1"]),
    ],
)
@ON_SQLITE
async def test_an_address_is_the_whole_ipv4_or_the_network_of_ipv6(
    world: World, seen: str, refused: list[str], free: list[str]
) -> None:
    """S-78"""
    await ban_at(world, seen)
    for address in refused:
        assert code(await world.as_("alice").at(address).get(CALL)) == BANNED, address
    for address in free:
        assert (await world.as_("alice").at(address).get(CALL)).status_code == 200, address


PROXY, INNER = "10.0.0.1", "10.1.0.1"
FORWARDED = "x-forwarded-for"


@pytest.mark.parametrize(
    ("peer", "header", "is_home"),
    [
        (ELSEWHERE, HOME, False),
        (PROXY, HOME, True),
        (PROXY, f"{HOME}, {INNER}", True),
        (PROXY, f"{ELSEWHERE}, {HOME} , {INNER}", True),
        (PROXY, f"{HOME}, {ELSEWHERE}", False),
        (PROXY, f"{HOME}, nonsense", False),
        (PROXY, f"{HOME}, , {INNER}", False),
        (PROXY, f"::ffff:{HOME}", True),
        (f"::ffff:{PROXY}", HOME, True),
        (PROXY, INNER, False),
        (PROXY, None, False),
    ],
)
@ON_SQLITE
async def test_what_a_trusted_proxy_appended_is_believed_and_nothing_else(
    world: World, peer: str, header: str | None, is_home: bool
) -> None:
    await ban_at(world, HOME)
    client = world.as_("alice").at(peer, trusted=["10.0.0.0/8"])
    reply = await client.get(CALL, headers={FORWARDED: header} if header else {})
    assert reply.status_code == (403 if is_home else 200)
    untrusted = await world.as_("alice").at(peer).get(CALL, headers={FORWARDED: header} if header else {})
    assert untrusted.status_code == 200


@ON_SQLITE
async def test_a_proxy_that_names_nobody_is_nobodys_address(world: World) -> None:
    await world.users("alice", "bob")
    await world.call("default/x", by="alice")
    behind = ["10.0.0.0/8"]
    await world.as_("bob").at(PROXY, trusted=behind).get(CALL)
    await world.server.put("/bans/bob", {"ip": True})
    assert (await world.as_("alice").at(PROXY, trusted=behind).get(CALL)).status_code == 200
    assert await kept(world, "bob") == 0


async def test_event_sockets_of_a_banned_address_are_refused(world: World) -> None:
    await ban_at(world, HOME)
    async with serving(world, trusted=["127.0.0.0/8"]) as server:
        for user, address in (("alice", HOME), ("bob", ELSEWHERE)):
            async with server.wire(additional_headers={FORWARDED: address}) as wire:
                await wire.send(type="auth", token=world.as_(user).token)
                told = await wire.receive()
                assert (told["type"], told["problem"]["code"]) == ("error", "banned")
                assert await wire.closed() == 4403
        async with server.wire(additional_headers={FORWARDED: f"{HOME}, {ELSEWHERE}"}) as wire:
            await wire.send(type="auth", token=world.as_("alice").token)
            assert (await wire.receive())["type"] == "hello"
            # Renewing the token is not a way round: the client is where he was.
            await world.as_("dave").at(ELSEWHERE).get(CALL)
            await world.server.put("/bans/dave", {"ip": True})
            await wire.send(type="auth", token=world.as_("alice").token)
            await wire.send(type="subscribe", cids=["default:x"])
            told = (await wire.until("subscribed"))[-1]
            assert told["denied"] == [{"cid": "default:x", "code": "banned"}]
    await world.server.delete("/bans/bob")
    async with (
        serving(world, trusted=["127.0.0.0/8"]) as server,
        server.wire(additional_headers={FORWARDED: HOME}) as wire,
    ):
        await wire.send(type="auth", token=world.as_("erin").token)
        assert (await wire.receive())["type"] == "hello"
    assert await kept(world, "erin") == 1


async def test_who_watches_from_an_address_hears_no_more_once_it_is_banned(world: World) -> None:
    await world.users("alice", "bob")
    await world.call("default/x", by="alice")
    await world.as_("bob").at(HOME).get(CALL)
    erin = await world.listen(world.as_("erin"), "default/x")
    dave = await world.listen(world.as_("dave"), "default/x")
    erin.socket.principal = replace(erin.socket.principal, sources=world.service.addresses.sources(HOME))
    await world.server.put("/bans/bob", {"ip": True})
    await world.as_("alice").patch(CALL, {"custom": {"n": 1}})
    assert erin.types() == ["unsubscribed"]
    assert dave.types() == ["call.updated"]


async def test_no_address_is_written_down_anywhere(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    six = "2001:db8:77:88::99"
    with structlog.testing.capture_logs() as logs:
        await ban_at(world, HOME)
        await world.as_("bob").at(six).get(CALL)
        await world.server.put("/bans/bob", {"ip": True})
        await world.as_("alice").at(HOME).get(CALL)
        participant = (await world.as_("alice").join("default/x", connect=False))["participant"]
        await world.system.feed.admit(participant["session_id"], participant["identity"], six)
        await world.settle()
        await upkeep.forget_old(world.service)
    assert await kept(world, "bob") == 2
    audited = (await world.server.get("/audit")).text
    written = [audited, json.dumps(logs, default=str), *capsys.readouterr()]
    async with world.service.database.read(long=True) as connection:
        for table in schema.metadata.sorted_tables:
            written += [repr(tuple(row)) for row in await connection.execute(select(table))]
    everything = "\n".join(written)
    assert "user.banned" in everything or "'ban'" in everything
    for address in (HOME, six, "2001:db8:77:88", bytes([203, 0, 113, 7]).hex()):
        assert address not in everything
    hashes = [line for line in everything.splitlines() if world.service.addresses.sources(HOME)[0] in line]
    assert hashes
    assert world.service.addresses.sources(HOME)[0] not in audited


async def test_the_latest_addresses_are_kept_for_their_time(database_url: str) -> None:
    settings = CallsSettings(addresses_per_user=2, addresses_kept_days=3)
    world = await World.open(database_url, settings=settings)
    await world.users("alice")
    await world.call("default/x", by="alice")
    for last in (1, 2, 3):
        await world.as_("bob").at(f"203.0.113.{last}").get(CALL)
        await world.service.addresses.write()
        await world.advance(60)
    assert await kept(world, "bob") == 2
    await world.server.put("/bans/bob", {"ip": True})
    assert (await world.as_("alice").at("203.0.113.1").get(CALL)).status_code == 200
    assert code(await world.as_("alice").at("203.0.113.2").get(CALL)) == BANNED
    await world.advance(2 * 86_400)
    await world.as_("bob").at("203.0.113.3").get(CALL)
    await world.service.addresses.write()
    await world.advance(2 * 86_400)
    await upkeep.forget_old(world.service)
    assert await kept(world, "bob") == 1
    assert code(await world.as_("alice").at("203.0.113.2").get(CALL)) == BANNED, "the ban itself goes on"
    await world.close()


@ON_SQLITE
async def test_an_address_is_written_once_a_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.users("alice")
    await world.call("default/x", by="alice")
    bob = world.as_("bob").at(HOME)
    await bob.get(CALL)
    await world.service.addresses.write()
    written = []
    real = world.service.database.write

    def write(**more: Any) -> Any:
        written.append(more.get("alone"))
        return real(**more)

    monkeypatch.setattr(world.service.database, "write", write)
    for _ in range(3):
        await bob.get(CALL)
        await world.service.addresses.write()
    assert written == []
    world.clock.now += timedelta(days=1)
    await bob.get(CALL)
    assert written == [], "it is written later, for everybody at once"
    await world.service.addresses.write()
    assert written == ["addresses"]


async def test_with_a_user_his_addresses_are_deleted(world: World) -> None:
    await ban_at(world, HOME)
    assert await kept(world, "bob") == 1
    await world.as_("bob").at(ELSEWHERE).get(CALL)
    assert (await world.server.delete("/users/bob")).status_code == 204
    assert await kept(world, "bob") == 0
    assert world.service.directory.banned_addresses == {}
    assert (await world.as_("alice").at(HOME).get(CALL)).status_code == 200


@ON_SQLITE
async def test_a_new_secret_forgets_no_ban(world: World, database_url: str) -> None:
    await ban_at(world, HOME)
    rotated = create_calls_system(
        CallsSettings(), database_url, world.media, {"new": "another secret", KEY: SECRET}, dev=True, clock=world.clock
    )
    sources = rotated.service.addresses.sources(HOME)
    assert len(sources) == 2
    assert sources[1] == world.service.addresses.sources(HOME)[0]
    await rotated.service.prepare()
    principal = await rotated.service.authenticate(world.as_("alice").token, None, HOME)
    with pytest.raises(Problem, match="You are banned"):
        rotated.service.check_banned(principal)
    await rotated.service.stop()
