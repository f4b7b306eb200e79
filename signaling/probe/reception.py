"""Loss and jitter of one received RTP stream, as a receiver would report them (RFC 3550 §6.4.1, A.3, A.8). No clock."""

from __future__ import annotations

from dataclasses import dataclass, field

_HALF = 1 << 15
_MAX_GAP = 3_000
"""A jump beyond this is a restarted sender, not loss (RFC 3550 A.1, MAX_DROPOUT)."""


@dataclass
class Reception:
    """One ssrc. Packets recovered by RTX are added with `recovered=True` and do not enter the jitter."""

    clock_rate: int
    packets: int = 0
    recovered: int = 0
    jitter_seconds: float = 0.0
    first_at: float | None = None
    _first: int = 0
    _highest: int = 0
    _seen: set[int] = field(default_factory=set, repr=False)
    _transit: float | None = None
    _timestamp: int = 0
    _timestamp_cycles: int = 0

    def add(self, sequence_number: int, timestamp: int, arrival: float, *, recovered: bool = False) -> None:
        """Count one packet. `arrival`: seconds of any steady clock."""
        if self.first_at is None:
            self.first_at = arrival
            self._first = self._highest = sequence_number
        extended = self._extend(sequence_number)
        if abs(extended - self._highest) > _MAX_GAP:
            self._first = self._highest = extended = sequence_number
            self._seen.clear()
            self._transit = None
        if extended in self._seen:
            return
        self._seen.add(extended)
        self._first = min(self._first, extended)
        self.packets += 1
        if recovered:
            self.recovered += 1
        newest = extended >= self._highest
        self._highest = max(self._highest, extended)
        if newest and not recovered:
            self._measure(timestamp, arrival)

    @property
    def expected(self) -> int:
        """Packets between the lowest and the highest number seen, both included."""
        return self._highest - self._first + 1 if self._seen else 0

    @property
    def lost(self) -> int:
        """Numbers that never arrived, not even by retransmission."""
        return self.expected - len(self._seen)

    def _extend(self, sequence_number: int) -> int:
        offset = (sequence_number - self._highest) & 0xFFFF
        return self._highest + (offset - (1 << 16) if offset >= _HALF else offset)

    def _measure(self, timestamp: int, arrival: float) -> None:
        if timestamp == self._timestamp and self._transit is not None:
            return  # another packet of the same frame says more about the sender's pacing than about the network
        if self._transit is not None:
            self._timestamp_cycles += ((timestamp - self._timestamp + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
        self._timestamp = timestamp
        transit = arrival - self._timestamp_cycles / self.clock_rate
        if self._transit is not None:
            self.jitter_seconds += (abs(transit - self._transit) - self.jitter_seconds) / 16
        self._transit = transit
