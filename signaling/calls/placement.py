"""Which media node takes a session's room. Pure; which nodes there are and live, the caller knows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from signaling.calls.model import NodeFacts


def choose(
    nodes: Mapping[str, NodeFacts], room: str, regions: Sequence[str], hint: str | None, own: str
) -> NodeFacts | None:
    """Return a node that takes new rooms in one of `regions` (none named: anywhere); None if there is none.

    hint: the region preferred among them. own: the node of the process that asks; it is preferred, for whoever spreads
    the requests over the processes has spread the rooms too.
    """
    able = [node for node in nodes.values() if node.is_open and (not regions or set(regions) & set(node.regions))]
    best = [node for node in able if hint in node.regions] or able
    return next((node for node in best if node.id == own), None) or max(
        best, key=lambda node: hashlib.sha256(f"{room} {node.id}".encode()).digest(), default=None
    )
