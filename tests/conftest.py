"""What holds for all tests: no property test compares durations, for a busy machine is no counterexample."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("callyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("callyard")
