"""Compression of WebSocket messages (RFC 7692): a session description shrinks to a seventh, a join to a half.

Each message is compressed on its own, so that one is the same for everybody (`signaling.wire.websocket`) and idle
connections hold no state. What a client sends compressed may become a thousand times as long: how much of that is
unpacked is bounded by time. Not here: frames.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.typing import ExtensionParameter

from signaling.wire.websocket import DEFLATED_FROM_BYTES, WINDOW_BITS, deflate

_SENT_BY_CHROMIUM = "client_max_window_bits"


class Deflate(PerMessageDeflate):
    """What was agreed with one client. `burst` bytes may be unpacked at once, and then `per_second`.

    More fails the connection with 1009, as a message does that is too long.
    """

    def __init__(self, agreed: PerMessageDeflate, burst: int, per_second: int, clock: Callable[[], float]) -> None:
        super().__init__(
            agreed.remote_no_context_takeover,
            agreed.local_no_context_takeover,
            agreed.remote_max_window_bits,
            agreed.local_max_window_bits,
        )
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._left, self._at = float(burst), clock()

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        # 0 would mean to zlib that there is no limit.
        allowed = max(1, int(self._left))
        inflated = super().decode(frame, max_size=allowed if max_size is None else min(max_size, allowed))
        if inflated is not frame:
            self._left -= len(inflated.data)
        return inflated

    def encode(self, frame: Frame) -> Frame:
        is_whole = frame.fin and frame.opcode in (Opcode.TEXT, Opcode.BINARY)
        if not is_whole or len(frame.data) < DEFLATED_FROM_BYTES:
            return frame
        return Frame(frame.opcode, deflate(bytes(frame.data)), rsv1=True)


class DeflateFactory(ServerPerMessageDeflateFactory):
    """Agrees to compression with who can unpack what is compressed for all.

    Safari is not among them: versions of it break off compressed connections, and others those on which some messages
    are compressed and some are not. It is told from Chromium by an offer without parameters; so is Firefox.
    """

    def __init__(self, burst: int, per_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(
            server_no_context_takeover=True, client_no_context_takeover=True, server_max_window_bits=WINDOW_BITS
        )
        self._burst, self._per_second, self._clock = burst, per_second, clock

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Deflate]:
        if all(name != _SENT_BY_CHROMIUM for name, _ in params):
            raise NegotiationError("not known to work")
        answer, agreed = super().process_request_params(params, accepted_extensions)
        if agreed.local_max_window_bits < WINDOW_BITS:
            raise NegotiationError("the window is too small")
        return answer, Deflate(agreed, self._burst, self._per_second, self._clock)
