"""The room of a test that needs no other."""

from __future__ import annotations

import pytest

from tests.signaling.rooms.world import World


@pytest.fixture
def world() -> World:
    return World()
