"""What holds for all tests: no property test compares durations, for a busy machine is no counterexample."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("callyard", deadline=None)
settings.load_profile("callyard")
