"""A room's records as bytes, and back: what workers keep for a signaling process that dies.

One key a room, one a participant, so that a change costs what it changes. Protobuf messages and negotiations pack
themselves; everything else is msgpack. Long ones are compressed: a subscriber's record says the same of every track,
and all records of a large room may change at once. A record that this version cannot read is lost, never half-read.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from sfu.border import IceCredentials
from signaling.rooms.negotiation import ClientOffered, ClientOfferedState, ServerOffered, ServerOfferedState
from signaling.rooms.state import Participant, RoomRecord

T = TypeVar("T")


_COMPRESSED_FROM_BYTES = 16 * 1024
_COMPRESSED = b"\x78"
"""With this zlib begins (RFC 1950 §2.2), and msgpack no map."""


def pack(record: Participant | RoomRecord) -> bytes:
    packed = _encoder.encode(record)
    # The fastest level takes as long as the packing did, and leaves a twentieth.
    return packed if len(packed) < _COMPRESSED_FROM_BYTES else zlib.compress(packed, 1)


def _unpacked(packed: bytes) -> bytes:
    if not packed.startswith(_COMPRESSED):
        return packed
    try:
        return zlib.decompress(packed)
    except zlib.error as error:
        raise msgspec.DecodeError(str(error)) from error


class Unpacker:
    """Reads records; `new_credentials` goes into the negotiations it makes again."""

    def __init__(self, new_credentials: Callable[[], IceCredentials]) -> None:
        def revive(wanted: type[Any], packed: Any) -> Any:
            if issubclass(wanted, Message):
                return wanted.FromString(packed)
            if wanted is ClientOffered:
                return ClientOffered.revive(
                    msgspec.convert(packed, ClientOfferedState), new_credentials=new_credentials
                )
            if wanted is ServerOffered:
                return ServerOffered.revive(
                    msgspec.convert(packed, ServerOfferedState), new_credentials=new_credentials
                )
            raise NotImplementedError(wanted)

        self._participant = msgspec.msgpack.Decoder(Participant, dec_hook=revive)
        self._room = msgspec.msgpack.Decoder(RoomRecord)

    def room(self, packed: bytes) -> RoomRecord:
        """`msgspec.ValidationError` or `msgspec.DecodeError` where it cannot be read."""
        return self._room.decode(_unpacked(packed))

    def participant(self, packed: bytes) -> Participant:
        """As `room`."""
        return self._participant.decode(_unpacked(packed))


def _pack_custom(value: Any) -> Any:
    if isinstance(value, Message):
        return value.SerializeToString()
    if isinstance(value, ClientOffered | ServerOffered):
        return value.state
    raise NotImplementedError(type(value))


_encoder = msgspec.msgpack.Encoder(enc_hook=_pack_custom)
