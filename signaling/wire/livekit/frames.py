"""Signal messages on a WebSocket: protobuf in binary frames, proto-JSON in text frames.

The server answers in the form that the client last used. Not here: what a message means.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from signaling.errors import InvalidRequest
from signaling.wire import websocket

_JSON_DEPTH_MAX = 32


def read(frame: bytes | str) -> rtc.SignalRequest:
    """Raises `InvalidRequest` where it is not a signal message. Unknown fields go: parts of it are told to others."""
    request = rtc.SignalRequest()
    if isinstance(frame, bytes):
        try:
            request.ParseFromString(frame)
        except DecodeError:
            raise InvalidRequest("The message is not a SignalRequest.") from None
        request.DiscardUnknownFields()
        return request
    try:
        fields = json.loads(frame)
        if not isinstance(fields, dict):
            raise ValueError("not an object")
        json_format.ParseDict(fields, request, ignore_unknown_fields=True, max_recursion_depth=_JSON_DEPTH_MAX)
    except (json_format.ParseError, ValueError, RecursionError):
        raise InvalidRequest("The message is not a SignalRequest in JSON.") from None
    return request


class Frame:
    """A message on its way to clients, written once however many there are."""

    def __init__(self, message: rtc.SignalResponse) -> None:
        self.message = message

    @cached_property
    def binary(self) -> bytes:
        return self.message.SerializeToString()

    @cached_property
    def framed(self) -> bytes:
        """`binary` as it is on a WebSocket."""
        return websocket.framed(self.binary, is_text=False)

    @cached_property
    def deflated(self) -> bytes:
        """The same for connections that have agreed to compression."""
        return websocket.deflated(self.binary, is_text=False)

    @cached_property
    def text(self) -> str:
        return json_format.MessageToJson(self.message, indent=None)


class JoinFrame(Frame):
    """The answer to a join. `others`: entries of `other_participants` as they are on the wire."""

    def __init__(self, response: rtc.JoinResponse, others: Sequence[bytes]) -> None:
        super().__init__(rtc.SignalResponse(join=response))
        self._response, self._others = response, others

    @cached_property
    def binary(self) -> bytes:
        body = b"".join((self._response.SerializeToString(), *self._others))
        return _JOIN_TAG + _varint(len(body)) + body

    @cached_property
    def text(self) -> str:
        return Frame(rtc.SignalResponse.FromString(self.binary)).text


_JOIN_TAG = bytes([rtc.SignalResponse.JOIN_FIELD_NUMBER << 3 | 2])
"""Its one byte in front of a field that has a length (protobuf's encoding, wire type 2)."""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
