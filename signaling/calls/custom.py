"""Custom data: merge-patch (RFC 7396) and its size."""

from __future__ import annotations

import json
from typing import Any

from signaling.calls.problems import Fault, Problem

CUSTOM_MAX_BYTES = 16_384


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` after `patch`: null removes a name, anything but an object replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def checked(custom: dict[str, Any], pointer: str) -> dict[str, Any]:
    """Return `custom` if it fits, measured as compact UTF-8 JSON; 413 otherwise."""
    try:
        size = len(json.dumps(custom, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, RecursionError):
        raise Problem("unprocessable", "Not JSON.", errors=[Fault(pointer, "unprocessable", "Not JSON.")]) from None
    if size > CUSTOM_MAX_BYTES:
        raise Problem("custom_too_large", f"Custom data has {size} bytes; at most {CUSTOM_MAX_BYTES} are kept.")
    return custom
