"""How many files a process may have open, and how many of them its connections may take.

A connection is a file. If connections took them all, the database could not sync its log, webhooks could not be sent
and a worker that died could not be replaced: some stay reserved.
"""

from __future__ import annotations

import contextlib
import resource


def raise_limit() -> None:
    """Allow as many as the hard limit: what a login shell or systemd sets is 1024, for programs that use `select`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a container's may be beyond what its kernel grants
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def for_connections(wanted: int, reserved: int) -> int:
    """Return how many of the `wanted` connections fit beside `reserved` other files; 1 at least."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - reserved))
