"""A WebSocket frame as a server sends it (RFC 6455 §5.2): unmasked, so that one is the same for everybody."""

from __future__ import annotations

_TEXT, _BINARY = 0x81, 0x82


def framed(payload: bytes, *, is_text: bool) -> bytes:
    """Return one whole message with its header."""
    opcode, size = (_TEXT if is_text else _BINARY), len(payload)
    if size < 126:
        return bytes((opcode, size)) + payload
    if size < 65_536:
        return bytes((opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((opcode, 127)) + size.to_bytes(8, "big") + payload
