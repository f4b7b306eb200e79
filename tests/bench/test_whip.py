"""What servers are asked for over WHIP and WHEP."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.peers.base import UnsupportedError
from bench.peers.whip import Pion, RunningWhipWhep, Session
from bench.scenarios import CAMERA, SIMULCAST, Scenario
from sfu.border import Fingerprint
from signaling.load.plan import MICROPHONE

FINGERPRINT = Fingerprint(algorithm="sha-256", value=":".join(["AB"] * 32))
LIVESTREAM = Scenario("t", "t", (CAMERA, MICROPHONE), speakers=2, viewers=3)
MEETING = Scenario("t", "t", (SIMULCAST, MICROPHONE), members=4)


def running(pid: int) -> RunningWhipWhep:
    urls = ("http://127.0.0.1:1/{stream}/whip", "http://127.0.0.1:1/{stream}/whep")
    return RunningWhipWhep(FINGERPRINT, "a server", pid, *urls)


def test_any_server_gets_a_stream_of_each_publisher_and_a_session_for_each_that_is_watched() -> None:
    peer = running(os.getpid())
    published = [peer.publish_url(LIVESTREAM, 7, publisher) for publisher in range(2)]
    assert len({*published, peer.publish_url(LIVESTREAM, 8, 0)}) == 3
    assert all(url.startswith("http://127.0.0.1:1/") and url.endswith("/whip") for url in published)
    watched = [Session(url.removesuffix("whip") + "whep", (CAMERA, MICROPHONE)) for url in published]
    assert list(peer.sessions(LIVESTREAM, 7, 0)) == watched
    audio = Scenario("t", "t", (MICROPHONE,), members=2)
    assert [session.url for session in peer.sessions(audio, 7, 1)] == [watched[0].url]
    assert os.getpid() in peer.pids


def test_a_stream_is_another_one_in_each_run() -> None:
    assert running(1).publish_url(LIVESTREAM, 0, 0) != running(1).publish_url(LIVESTREAM, 0, 0)


def test_layers_cannot_be_asked_for_over_whep() -> None:
    with pytest.raises(UnsupportedError, match="layer"):
        running(os.getpid()).publish_url(MEETING, 0, 0)


def test_our_own_sfu_is_asked_for_a_room_in_one_session_with_the_layers_of_the_scenario() -> None:
    peer = Pion(FINGERPRINT, Path("/nowhere"))
    (member,) = peer.sessions(MEETING, 5, 2)
    assert member.url.partition("/whep/")[2] == "5?except=2&layers=2%2C1%2C1"
    assert member.tracks == (SIMULCAST, MICROPHONE) * 3
    (viewer,) = peer.sessions(LIVESTREAM, 0, 2)
    assert viewer.url.partition("/whep/")[2] == "0"
    assert viewer.tracks == (CAMERA, MICROPHONE) * 2
