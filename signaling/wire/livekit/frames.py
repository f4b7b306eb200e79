"""Signal messages on a WebSocket: protobuf in binary frames, proto-JSON in text frames.

The server answers in the form that the client last used. Not here: what a message means.
"""

from __future__ import annotations

import json
from functools import cached_property

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from livekit.protocol import rtc

from signaling.errors import InvalidRequest

_JSON_DEPTH_MAX = 32


def read(frame: bytes | str) -> rtc.SignalRequest:
    """Raises `InvalidRequest` where it is not a signal message; unknown fields are passed over."""
    if isinstance(frame, bytes):
        try:
            return rtc.SignalRequest.FromString(frame)
        except DecodeError:
            raise InvalidRequest("The message is not a SignalRequest.") from None
    request = rtc.SignalRequest()
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
    def text(self) -> str:
        return json_format.MessageToJson(self.message, indent=None)
