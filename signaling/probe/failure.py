"""What a probe may fail at, and how it says so."""

from __future__ import annotations

from enum import StrEnum


class Step(StrEnum):
    """The steps of a run, in order. The values label metrics and JSON; they never change once released."""

    SIGNAL = "signal"
    ICE = "ice"
    DTLS = "dtls"
    PUBLISH = "publish"
    FIRST_PACKET = "first_packet"
    FIRST_FRAME = "first_frame"
    AUDIO = "audio"
    VIDEO = "video"
    DATA = "data"


class ProbeFailure(Exception):
    """The server did not do what a client needs. `sentence` is for people."""

    def __init__(self, step: Step, sentence: str) -> None:
        super().__init__(sentence)
        self.step = step
        self.sentence = sentence
