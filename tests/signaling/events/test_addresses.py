"""Destinations of webhooks and push (S-67): no spelling of an internal address is called, nor a name that means one."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling.events.addresses import ForbiddenAddress, OutboundPolicy, is_public
from signaling.events.outbound import BODY_MAX_BYTES, Outbound
from tests.signaling.events.gateways import Received, certificate, gateway

INTERNAL = (
    "127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "0.0.0.0", "0", "00.00.00.00", "0.0.0.1", "0.255.255.255",
    "10.0.0.1", "10.255.255.255", "10.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255",
    "192.168.1", "169.254.169.254", "169.254.0.1", "169.16689918", "100.64.0.1", "100.127.255.254", "192.0.0.1",
    "192.0.2.1", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250",
    "240.0.0.1", "255.255.255.255", "2130706433", "0x7f000001", "0x7F.0.0.1", "0x7f.1", "0177.0.0.1", "017700000001",
    "00000177.0.0.1", "0xa9fea9fe", "2852039166", "025177524776", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376",
    "127.0.0.1.", "2130706433.", "0x7f.0.0.1.",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]", "[::127.0.0.1]", "[::7f00:1]", "[fe80::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]",
    "[febf::1]", "[fec0::1]", "[fc00::1]", "[fd00::1]", "[fdff:ffff::1]", "[ff02::1]", "[ff0e::1]", "[2001:db8::1]",
    "[2002:7f00:1::]", "[2002:a9fe:a9fe::]", "[2002:0a00:1::1]", "[64:ff9b::7f00:1]", "[64:ff9b::10.0.0.1]",
    "[64:ff9b::169.254.169.254]", "[64:ff9b:1::1]", "[100::1]", "[2001::1]", "[2001:0:7f00:1::]", "[2001:10::1]",
    "[2001:20::1]", "[5f00::1]", "[3fff::1]", "192.88.99.1", "[::ffff:0:127.0.0.1]",
)  # fmt: skip
MALFORMED = (
    "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "//example.com/",
    "https:///path", "https://", "example.com", "https://a@example.com/", "https://a:b@example.com/",
    "https://127.0.0.1@example.com/", "https://example.com@127.0.0.1/", "https://:8443/", "https://example.com:99999/",
    "https://example.com:port/", "https://exa%6dple.com/", "https://127.0.0.1%2f@example.com/", "https://[::1/",
    "https://::1/", "javascript:alert(1)", "data:text/plain,x", "", "https://[v1.x]/", "HTTP://127.0.0.1/",
    "https://\\example.com/", "https://example.com\\@127.0.0.1/", "https://exam\tple.com/", "https://exam\nple.com/",
    " https://127.0.0.1/", "https://exa mple.com/", "https://[fe80::1%25lo]/", "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/",
)  # fmt: skip
PUBLIC = (
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1",
    "169.253.1.1", "[2606:4700::1111]", "[2a00:1450:4001:81b::200e]", "[2620:fe::fe]", "[2003::1]",
)  # fmt: skip
STRICT = OutboundPolicy()


def test_the_table_is_long_enough() -> None:
    assert len(set(INTERNAL)) + len(set(MALFORMED)) >= 110


@pytest.mark.parametrize("host", INTERNAL)
async def test_no_spelling_of_an_internal_address_is_called(host: str) -> None:
    """S-67"""
    for url in (f"https://{host}/hook", f"https://{host}:8443/hook"):
        with pytest.raises(ForbiddenAddress):
            await STRICT.resolve(url)


@pytest.mark.parametrize("url", MALFORMED)
async def test_no_url_of_another_form_is_called(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, {})
    with pytest.raises((ForbiddenAddress, ConnectionError)):
        await STRICT.resolve(url)


@pytest.mark.parametrize("host", PUBLIC)
async def test_public_addresses_are_called(host: str) -> None:
    destination = await STRICT.resolve(f"https://{host}/hook")
    assert ipaddress.ip_address(destination.address) == ipaddress.ip_address(host.strip("[]"))
    assert destination.port == 443


def _answers(monkeypatch: pytest.MonkeyPatch, names: dict[str, list[list[str]]]) -> list[str]:
    """Have names resolve as told, each time the next answer; return the list of names that were asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        turns = names.get(host)
        if not turns:
            raise socket.gaierror(-2, "Name or service not known")
        addresses = turns.pop(0) if len(turns) > 1 else turns[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def test_every_address_of_a_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        "good.example": [["93.184.216.34", "8.8.8.8"]],
        "mixed.example": [["93.184.216.34", "10.0.0.1"]],
        "inside.example": [["169.254.169.254"]],
        "six.example": [["::ffff:127.0.0.1"]],
        "localhost.": [["127.0.0.1"]],
        "localhost": [["127.0.0.1"]],
    }
    _answers(monkeypatch, names)
    assert (await STRICT.resolve("https://good.example/")).address == "93.184.216.34"
    for host in ("mixed.example", "inside.example", "six.example", "localhost.", "localhost"):
        with pytest.raises(ForbiddenAddress):
            await STRICT.resolve(f"https://{host}/")
    with pytest.raises(ConnectionError):
        await STRICT.resolve("https://nowhere.example/")


async def test_a_name_that_changes_its_answer_is_called_where_it_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """S-67: DNS rebinding: checked once, and the connection goes to the checked address, whatever the name says
    next.
    """
    async with gateway(lambda request: (200, None)) as inside:
        port = int(inside.url.rpartition(":")[2])
        asked = _answers(monkeypatch, {"rebind.example": [["192.0.2.55"], ["127.0.0.1"]]})
        # TEST-NET-1 stands for a public address that does not answer.
        outbound = Outbound(OutboundPolicy(("192.0.2.0/24",), plain=True))
        with pytest.raises(ConnectionError):
            await outbound.post(f"http://rebind.example:{port}/", b"{}", {}, timeout_seconds=0.3)
        assert (asked, inside.received) == (["rebind.example"], [])
        with pytest.raises(ForbiddenAddress):
            await outbound.post(f"http://rebind.example:{port}/", b"{}", {}, timeout_seconds=0.3)
        assert inside.received == []
        await outbound.close()


async def test_host_and_path_arrive_as_they_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(lambda request: (200, {"ok": True})) as server:
        port = int(server.url.rpartition(":")[2])
        _answers(monkeypatch, {"hooks.example": [["127.0.0.1"]]})
        outbound = Outbound(OutboundPolicy(plain=True, loopback=True))
        answer = await outbound.post(f"http://hooks.example:{port}/a?b=c", b"body", {"x-one": "1"}, timeout_seconds=5)
        assert answer.status == 200
        (request,) = server.received
        assert (request.path, request.headers["host"], request.body) == ("/a?b=c", f"hooks.example:{port}", b"body")
        await outbound.close()


async def test_names_of_one_address_share_no_connection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """S-67: what is for one of a shared host must not go to whoever another one of its names belongs to."""
    tls, _ = certificate(tmp_path)
    greeted: list[str | None] = []
    tls.sni_callback = lambda _, name, __: greeted.append(name)
    async with gateway(lambda request: (200, None), tls) as server:
        port = int(server.url.rpartition(":")[2])
        _answers(monkeypatch, {"one.example": [["127.0.0.1"]], "two.example": [["127.0.0.1"]]})
        outbound = Outbound(OutboundPolicy(loopback=True), tls=False)
        for name in ("one.example", "two.example", "one.example"):
            assert (await outbound.post(f"https://{name}:{port}/", b"", {}, timeout_seconds=5)).status == 200
        assert greeted == ["one.example", "two.example"]
        await outbound.close()


async def test_who_was_not_asked_for_longest_gives_way_but_not_under_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signaling.events.outbound._HOSTS_MAX", 2)
    names = [f"{name}.example" for name in ("slow", "one", "two", "three")]
    _answers(monkeypatch, {name: [["127.0.0.1"]] for name in names})
    asked, released = asyncio.Event(), asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await released.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    slow = await asyncio.start_server(answer_late, "127.0.0.1", 0)
    slow_port = slow.sockets[0].getsockname()[1]
    outbound = Outbound(OutboundPolicy(plain=True, loopback=True))
    async with gateway(lambda request: (200, None)) as server:
        port = int(server.url.rpartition(":")[2])
        waiting = asyncio.create_task(outbound.post(f"http://{names[0]}:{slow_port}/", b"", {}, timeout_seconds=20))
        async with asyncio.timeout(20):
            await asked.wait()
        for name in names[1:]:
            assert (await outbound.post(f"http://{name}:{port}/", b"", {}, timeout_seconds=5)).status == 200
        assert list(outbound._hosts) == ["slow.example", "three.example"]
        released.set()
        assert (await waiting).status == 200
    await outbound.close()
    slow.close()


async def test_a_redirect_inside_is_not_followed_and_a_long_answer_is_cut() -> None:
    def answer(request: Received) -> tuple[int, Any]:
        return (302, None) if request.path == "/redirect" else (200, "x" * (BODY_MAX_BYTES * 3))

    async with gateway(answer) as server:
        outbound = Outbound(OutboundPolicy(plain=True, loopback=True))
        assert (await outbound.post(f"{server.url}/redirect", b"", {}, timeout_seconds=5)).status == 302
        assert len(server.received) == 1
        assert len((await outbound.post(f"{server.url}/long", b"", {}, timeout_seconds=5)).body) == BODY_MAX_BYTES
        await outbound.close()


async def test_a_slow_receiver_has_the_whole_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own limit of 5 s would end it before: nothing but the deadline may."""
    waits: list[dict[str, float | None]] = []
    async with gateway(lambda request: (200, None)) as server:
        outbound = Outbound(OutboundPolicy(plain=True, loopback=True))
        send = httpx2.AsyncClient.send

        async def noting(client: httpx2.AsyncClient, request: httpx2.Request, **more: Any) -> httpx2.Response:
            waits.append(request.extensions["timeout"])
            return await send(client, request, **more)

        monkeypatch.setattr(httpx2.AsyncClient, "send", noting)
        assert (await outbound.post(server.url, b"", {}, timeout_seconds=5)).status == 200
        await outbound.close()
    assert waits == [{"connect": None, "read": None, "write": None, "pool": None}]


async def test_those_who_do_not_answer_keep_nobody_else_waiting() -> None:
    """F-36"""
    hanging: list[asyncio.StreamWriter] = []
    all_hang = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hanging.append(writer)
        if len(hanging) == 150:
            all_hang.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    silent = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
    outbound = Outbound(OutboundPolicy(plain=True, loopback=True))
    async with gateway(lambda request: (200, None)) as server:
        waiting = [asyncio.create_task(outbound.post(url, b"", {}, timeout_seconds=60)) for _ in range(150)]
        async with asyncio.timeout(20):
            await all_hang.wait()
        assert (await outbound.post(server.url, b"", {}, timeout_seconds=20)).status == 200
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await outbound.close()
    silent.close()


async def test_names_that_are_looked_up_for_ever_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """F-36"""
    over = threading.Event()

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host == "hangs.example":
            over.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    hanging = [asyncio.create_task(STRICT.resolve("https://hangs.example/")) for _ in range(100)]
    try:
        await asyncio.sleep(0)
        found = await asyncio.wait_for(STRICT.resolve("https://good.example/"), 5)
    finally:
        over.set()
    assert found.address == "93.184.216.34"
    await asyncio.gather(*hanging)


def test_what_an_operator_allows_is_allowed_and_no_more() -> None:
    policy = OutboundPolicy(("hooks.internal", "10.1.0.0/16"))
    assert policy.allows("hooks.internal", ipaddress.ip_address("192.168.7.7"))
    assert policy.allows("any", ipaddress.ip_address("10.1.2.3"))
    assert not policy.allows("any", ipaddress.ip_address("10.2.0.1"))
    assert not policy.allows("any", ipaddress.ip_address("127.0.0.1"))
    with pytest.raises(ForbiddenAddress):
        policy.check_url("http://example.com/")
    assert policy.check_url("http://hooks.internal/") == ("hooks.internal", 80)


@given(st.integers(0, 2**32 - 1))
def test_an_address_is_as_public_mapped_as_plain(number: int) -> None:
    plain = ipaddress.IPv4Address(number)
    mapped = ipaddress.IPv6Address(f"::ffff:{plain}")
    assert is_public(mapped) == is_public(plain)
    if plain.is_private or plain.is_loopback or plain.is_link_local or plain.is_multicast or plain.is_reserved:
        assert not is_public(plain)
