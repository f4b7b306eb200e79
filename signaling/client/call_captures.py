"""Recordings, transcriptions and captions of a call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from signaling.client.call_base import CallBase
from signaling.client.models import Recording
from signaling.client.transport import segment


class Captures(CallBase):
    """What is kept of a session. The settings say what is allowed.

    Servers have no engine for it yet: a capture comes back `failed`, `failure_reason` `no_engine`. Captions are shown.
    """

    async def start_recording(self, *, kind: str | None = None, layout: str | None = None) -> Recording:
        """Start a recording. kind: composite, individual, raw, audio; the call's setting if absent."""
        return await self._start_capture("recordings", "recording", {"kind": kind, "layout": layout})

    async def stop_recording(self, recording: Recording | str) -> Recording:
        return await self._stop_capture("recordings", "recording", recording)

    def recordings(self, *, limit: int = 100) -> AsyncIterator[Recording]:
        return self._pages("GET", "/recordings", Recording, limit)

    async def start_transcription(self) -> Recording:
        return await self._start_capture("transcriptions", "transcription", {})

    async def stop_transcription(self, transcription: Recording | str) -> Recording:
        return await self._stop_capture("transcriptions", "transcription", transcription)

    def transcriptions(self, *, limit: int = 100) -> AsyncIterator[Recording]:
        return self._pages("GET", "/transcriptions", Recording, limit)

    async def send_caption(
        self, text: str, *, language: str | None = None, final: bool = True, user_id: str | None = None
    ) -> None:
        """Show a line of captions. user_id: who says it, oneself if None. final: it does not change any more."""
        body = {"text": text, "language": language, "final": final, "user_id": user_id}
        await self._post("/captions/text", {name: value for name, value in body.items() if value is not None})

    async def _start_capture(self, plural: str, name: str, body: Mapping[str, Any]) -> Recording:
        data = await self._post(f"/{plural}", {key: value for key, value in body.items() if value is not None})
        return self._client.transport.value(data[name], Recording)

    async def _stop_capture(self, plural: str, name: str, capture: Recording | str) -> Recording:
        capture_id = capture if isinstance(capture, str) else capture.id
        data = await self._send("DELETE", f"/{plural}/{segment(capture_id)}/active")
        return self._client.transport.value(data[name], Recording)
