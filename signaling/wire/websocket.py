"""A WebSocket frame as a server sends it (RFC 6455 §5.2): unmasked, so that one is the same for everybody.

Deflated, too (RFC 7692 §7.2.1): each message on its own, for any window of `WINDOW_BITS` and more.
"""

from __future__ import annotations

import zlib

WINDOW_BITS = 12
"""4 KiB: as far back as the section before in a session description, and quick to fill anew for every message."""
DEFLATED_FROM_BYTES = 512
"""What is shorter travels in a packet of its own either way."""

_TEXT, _BINARY = 0x81, 0x82
_RSV1 = 0x40
_LEVEL, _MEMORY_LEVEL = 1, 5
"""A level of 6 takes a fourth off what is left, for twice the time."""
_EMPTY_BLOCK_BYTES = 4
"""Ends what zlib flushes, and is not sent (RFC 7692 §7.2.1)."""


def framed(payload: bytes, *, is_text: bool) -> bytes:
    """Return one whole message with its header."""
    return _framed(payload, _TEXT if is_text else _BINARY)


def deflated(payload: bytes, *, is_text: bool) -> bytes:
    """The same for who has agreed to it, compressed if it is long."""
    opcode = _TEXT if is_text else _BINARY
    if len(payload) < DEFLATED_FROM_BYTES:
        return _framed(payload, opcode)
    return _framed(deflate(payload), opcode | _RSV1)


def deflate(payload: bytes) -> bytes:
    """Return the payload of a compressed message."""
    compressor = zlib.compressobj(_LEVEL, wbits=-WINDOW_BITS, memLevel=_MEMORY_LEVEL)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-_EMPTY_BLOCK_BYTES]


def _framed(payload: bytes, opcode: int) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((opcode, size)) + payload
    if size < 65_536:
        return bytes((opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((opcode, 127)) + size.to_bytes(8, "big") + payload
