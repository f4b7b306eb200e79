"""Tests in network namespaces of their own: skipped where the machine gives none, above all to others than root."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from bench.links.lab import LabError


@contextlib.contextmanager
def skipped_without_namespaces() -> Iterator[None]:
    """Around what builds a lab: a machine that does not let us skips the test with the sentence that says why."""
    try:
        yield
    except LabError as error:
        pytest.skip(str(error))
