"""One room, three WebRTC stacks: the Go SDK (Pion), the JavaScript client (Chromium), the Python SDK (libwebrtc)."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from livekit import rtc

from tests.e2e.harness.browser import Tabs
from tests.e2e.harness.files import heard_in, seen_in, write_picture, write_tone
from tests.e2e.harness.gophers import Gophers
from tests.e2e.harness.media import Picture, Seen, Tone, hear_tone, look
from tests.e2e.harness.people import Party

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

MODES = pytest.mark.parametrize("single", [True, False], ids=["single", "dual"])
CAMERA, MICROPHONE = "camera", "microphone"
# Of the page's colours (`page.js`): Y, U and V after BT.601.
TOLERANCE = 24
RED, GREEN, BLUE, GREY = (85, 103, 203), (110, 103, 78), (76, 192, 109), (126, 128, 128)


@MODES
async def test_go_javascript_and_python_hear_and_see_each_other(
    tabs: Tabs, people: Party, browsing_go: Gophers, tmp_path: Path, single: bool
) -> None:
    write_tone(tmp_path / "tone.ogg", 660, 90)
    write_picture(tmp_path / "picture.ivf", GREEN, BLUE, 60)
    python = await people.join("python", single=single)
    page = await tabs.join("page", single=single)
    gopher = await browsing_go("gopher", single=single)
    await gopher.event("connected")
    tone, picture = Tone(440), Picture(RED, GREEN)
    await people.sends(python, tone, picture)
    options = {"source": CAMERA, "simulcast": True, "videoCodec": "vp8", "backupCodec": False}
    await page.call("publishPicture", "blue", "grey", 640, 360, 15, options)
    await page.call("publishTone", 1000, {"source": MICROPHONE})
    await gopher.do("publish", path=str(tmp_path / "tone.ogg"), name="tone")
    await gopher.do("publish", path=str(tmp_path / "picture.ivf"), name="picture")
    await gopher.event("published", count=2)

    await page.hears("python", 440)
    await page.hears("gopher", 660)
    await page.shows("python", CAMERA, "red", "green")
    await page.shows("gopher", CAMERA, "green", "blue")
    await hear_tone(await python.track("page", "audio"), 1000)
    await hear_tone(await python.track("gopher", "audio"), 660)
    await shows(await python.track("page", "video"), BLUE, GREY)
    await shows(await python.track("gopher", "video"), GREEN, BLUE)
    for identity, hertz, colours in (("python", 440, (RED, GREEN)), ("page", 1000, (BLUE, GREY))):
        for mime in ("audio/opus", "video/VP8"):
            sid = (await gopher.event("subscribed", identity=identity, mime=mime))["sid"]
            path = Path((await gopher.event("received", sid=sid, count=3))["path"])
            if mime == "audio/opus":
                assert abs(heard_in(path) - hertz) < 10
            else:
                assert seen_in(path).shows(*colours, tolerance=TOLERANCE)

    # A word from each reaches both others, and nobody has lost anybody.
    await python.me.publish_data(b"from python", topic="word")
    await gopher.do("data", text="from go", topic="word")
    await page.call("send", "from page", {"topic": "word", "reliable": True})
    assert (await gopher.event("data", text="from python"))["identity"] == "python"
    assert (await gopher.event("data", text="from page"))["identity"] == "page"
    await python.event("data_received", count=2)
    assert {packet.data for (packet,) in python.events("data_received")} == {b"from go", b"from page"}
    assert not python.events("participant_disconnected")


async def shows(track: rtc.Track, left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    last: Seen | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(20), contextlib.aclosing(look(track)) as pictures:
            async for last in pictures:
                if last.shows(left, right, TOLERANCE):
                    return
    raise AssertionError(f"not {left}|{right}; last: {last}")


async def test_transcriptions_pass_as_they_are(tabs: Tabs, people: Party) -> None:
    """As LiveKit's agents publish them: packets of segments, and text streams of the topic `lk.transcription`."""
    alice, page = await people.join("alice"), await tabs.join("page")
    agent = await people.join("agent", token=people.server.token(people.room, "agent", kind="agent"))
    tone = Tone(440)
    people.closes(tone.stop)
    published = await alice.publish(tone.track, source=rtc.TrackSource.SOURCE_MICROPHONE)
    await agent.track("alice", "audio")
    await page.hears("alice", 440)
    heard: asyncio.Queue[tuple[str, str, dict[str, str]]] = asyncio.Queue()
    reading: set[asyncio.Task[None]] = set()

    def handle(reader: rtc.TextStreamReader, identity: str) -> None:
        async def read() -> None:
            await heard.put((identity, await reader.read_all(), dict(reader.info.attributes or {})))

        task = asyncio.create_task(read())
        reading.add(task)
        task.add_done_callback(reading.discard)

    alice.room.register_text_stream_handler("lk.transcription", handle)
    await page.call("collectText", "lk.transcription")

    segments = [segment("1", "Guten", final=False), segment("1", "Guten Tag", final=True)]
    for one in segments:
        await agent.me.publish_transcription(
            rtc.Transcription(participant_identity="alice", track_sid=published.sid, segments=[one])
        )
    await alice.event("transcription_received", count=2)
    told: list[Any] = alice.events("transcription_received")
    assert [[(one.id, one.text, one.final) for one in segments] for segments, *_ in told] == [
        [("1", "Guten", False)],
        [("1", "Guten Tag", True)],
    ]
    assert [participant.identity for _, participant, _ in told] == ["alice", "alice"], "whose words they are"
    await page.event("transcriptionReceived", count=2)
    assert [given[:2] for given in await page.call("given", "transcriptionReceived")] == [
        [["Guten"], "alice"],
        [["Guten Tag"], "alice"],
    ]

    attributes = {
        "lk.segment_id": "SG_2",
        "lk.transcription_final": "true",
        "lk.transcribed_track_id": published.sid,
    }
    writer = await agent.me.stream_text(topic="lk.transcription", attributes=attributes)
    for word in ("Wie ", "geht ", "es?"):
        await writer.write(word)
    await writer.aclose()
    assert await asyncio.wait_for(heard.get(), 10) == ("agent", "Wie geht es?", attributes)
    await page.holds("() => window.texts.length === 1")
    assert await page.call("texts") == [["agent", "Wie geht es?"]]


def segment(number: str, text: str, *, final: bool) -> rtc.TranscriptionSegment:
    return rtc.TranscriptionSegment(id=number, text=text, start_time=0, end_time=0, final=final, language="de")
