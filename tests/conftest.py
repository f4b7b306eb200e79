"""What holds for all tests: no property test compares durations, for a busy machine is no counterexample."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("callyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("callyard")


@pytest.fixture
def run_directory() -> Iterator[Path]:
    """For the sockets of a node's workers."""
    # pytest's own temporary paths may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="cy-") as directory:
        yield Path(directory)
