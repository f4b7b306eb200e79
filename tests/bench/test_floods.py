"""What the floods are made of is what it says it is: else their figures would be of something easier."""

from __future__ import annotations

from aioice import stun

from bench.floods import FLOODS, client_hello, unknown_check


def test_a_check_is_whole_and_each_is_of_another_user() -> None:
    """S-04"""
    users = set()
    for _ in range(100):
        message = stun.parse_message(unknown_check())  # verifies the fingerprint
        assert (message.message_class, message.message_method) == (stun.Class.REQUEST, stun.Method.BINDING)
        assert {"USERNAME", "PRIORITY", "ICE-CONTROLLING", "MESSAGE-INTEGRITY"} <= set(message.attributes)
        users.add(message.attributes["USERNAME"])
    assert len(users) == 100


def test_a_hello_has_the_lengths_that_it_claims() -> None:
    datagram = client_hello()
    assert datagram[:3] == b"\x16\xfe\xfd"
    assert len(datagram) == 13 + int.from_bytes(datagram[11:13], "big")
    assert len(datagram) == 25 + int.from_bytes(datagram[14:17], "big")
    assert datagram[-6:-2] == b"\0\x02\0\0", "TLS_NULL_WITH_NULL_NULL and nothing else"


def test_the_datagrams_of_a_flood_have_one_length() -> None:
    for flood in FLOODS:
        assert len({len(flood.make()) for _ in range(50)}) == 1
