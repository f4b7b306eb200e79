"""Frames as they go on the wire, read back by the WebSocket library."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from signaling.wire.websocket import DEFLATED_FROM_BYTES, WINDOW_BITS, deflated, framed

SECTION = b"a=fingerprint:sha-256 01:8C:35:C6\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\n"
LENGTHS = st.sampled_from([0, 1, 125, 126, DEFLATED_FROM_BYTES - 1, DEFLATED_FROM_BYTES, 4_097, 65_535, 65_536, 70_000])


def read(wire: bytes, *, takes_deflated: bool) -> Frame:
    """The one frame in `wire`, for a client that has room for the window and forgets each message."""
    reader = StreamReader()
    reader.feed_data(wire)
    extensions = [PerMessageDeflate(True, True, WINDOW_BITS, WINDOW_BITS)] if takes_deflated else []
    parsing: Generator[None, None, Frame] = Frame.parse(reader.read_exact, mask=False, extensions=extensions)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    assert not reader.buffer
    frame: Any = parsed.value.value
    assert isinstance(frame, Frame)
    return frame


@given(LENGTHS, st.randoms(use_true_random=False), st.booleans())
def test_a_message_comes_as_it_was_written(length: int, chance: Any, is_text: bool) -> None:
    opcode = Opcode.TEXT if is_text else Opcode.BINARY
    for payload in (chance.randbytes(length), (SECTION * (length // len(SECTION) + 1))[:length]):
        for wire, takes_deflated in ((framed, False), (framed, True), (deflated, True)):
            frame = read(wire(payload, is_text=is_text), takes_deflated=takes_deflated)
            assert (frame.opcode, frame.fin, bytes(frame.data)) == (opcode, True, payload)


def test_what_is_long_and_repeats_shrinks_and_what_is_short_stays() -> None:
    long = SECTION * 100
    assert len(deflated(long, is_text=False)) < len(long) / 20
    short = SECTION * 3
    assert len(short) < DEFLATED_FROM_BYTES
    assert deflated(short, is_text=False) == framed(short, is_text=False)
