"""The settings of calls: groups, keys, defaults, ranges; merging and what is in force.

A call stores only what it overrides; its type stores every value. Not here: the operator's settings (`settings.py`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from signaling.calls.problems import Fault, Problem

Check = Callable[[Any], str | None]
"""Returns what is wrong with a value, or None."""

LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*\Z")
MODES = ("disabled", "available", "auto_on")
REGIONS_MAX = 16


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _integer(low: int, high: int, *, or_zero: bool = False, nullable: bool = False) -> Check:
    def check(value: Any) -> str | None:
        if nullable and value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            return "must be a whole number"
        if low <= value <= high or (or_zero and value == 0):
            return None
        return f"must be between {low} and {high}"

    return check


def _choice(*names: str) -> Check:
    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and value in names else f"must be one of {', '.join(names)}"

    return check


def _language(value: Any) -> str | None:
    return None if isinstance(value, str) and LANGUAGE.match(value) else "must be auto or a BCP 47 language tag"


def _layout(value: Any) -> str | None:
    return None if isinstance(value, str) and 1 <= len(value) <= 64 else "must be text of 1 to 64 characters"


def _regions(value: Any) -> str | None:
    if not isinstance(value, list) or len(value) > REGIONS_MAX:
        return f"must be a list of at most {REGIONS_MAX} region names"
    if all(isinstance(name, str) and 1 <= len(name) <= 64 for name in value):
        return None
    return "must hold region names of 1 to 64 characters"


SCHEMA: dict[str, dict[str, tuple[Any, Check | dict[str, tuple[Any, Check]]]]] = {
    "ring": {
        "auto_cancel_timeout_ms": (30_000, _integer(5_000, 180_000)),
        "incoming_call_timeout_ms": (30_000, _integer(5_000, 180_000)),
        "missed_call_timeout_ms": (30_000, _integer(5_000, 180_000)),
        "alone_timeout_seconds": (30, _integer(0, 600)),
        "auto_reject_when_busy": (False, _boolean),
    },
    "audio": {
        "access_request_enabled": (True, _boolean),
        "opus_dtx_enabled": (True, _boolean),
        "redundant_coding_enabled": (True, _boolean),
        "mic_default_on": (True, _boolean),
        "speaker_default_on": (True, _boolean),
        "default_device": ("speaker", _choice("speaker", "earpiece")),
    },
    "video": {
        "enabled": (True, _boolean),
        "access_request_enabled": (True, _boolean),
        "camera_default_on": (True, _boolean),
        "camera_facing": ("front", _choice("front", "back", "external")),
        "target_resolution": (
            {},
            {
                "width": (1280, _integer(160, 7680)),
                "height": (720, _integer(90, 4320)),
                "bitrate_bps": (1_500_000, _integer(50_000, 20_000_000)),
            },
        ),
    },
    "screenshare": {"enabled": (True, _boolean), "access_request_enabled": (True, _boolean)},
    "recording": {
        "mode": ("available", _choice(*MODES)),
        "kind": ("composite", _choice("composite", "individual", "raw", "audio")),
        "layout": ("grid", _layout),
    },
    "transcription": {
        "mode": ("available", _choice(*MODES)),
        "captions_mode": ("available", _choice(*MODES)),
        "language": ("auto", _language),
    },
    "backstage": {"enabled": (False, _boolean), "join_ahead_time_seconds": (0, _integer(0, 86_400))},
    "geofencing": {"names": ([], _regions)},
    "broadcasting": {
        "mode": ("disabled", _choice("disabled", "available")),
        "hls_enabled": (True, _boolean),
        "rtmp_enabled": (True, _boolean),
    },
    "ingress": {"mode": ("disabled", _choice("disabled", "available"))},
    "limits": {
        "max_participants": (None, _integer(1, 100_000, nullable=True)),
        "max_duration_seconds": (None, _integer(60, 604_800, nullable=True)),
    },
    "session": {
        "inactivity_seconds": (30, _integer(5, 3_600)),
        "reconnect_grace_seconds": (15, _integer(5, 60)),
    },
    "thumbnails": {"enabled": (False, _boolean)},
    "frame_recording": {
        "mode": ("disabled", _choice(*MODES)),
        "interval_seconds": (5, _integer(1, 3_600)),
    },
    "lobby": {"enabled": (False, _boolean), "timeout_seconds": (600, _integer(10, 3_600))},
}

_FAILS = "There is no engine for it yet: whatever is started fails at once, with no_engine."
WITHOUT_ENGINE: dict[str, str] = {
    "recording": _FAILS,
    "transcription": f"{_FAILS} Lines of captions that clients send are shown.",
    "broadcasting": _FAILS,
    "ingress": _FAILS,
    "thumbnails": "Nothing makes thumbnails yet.",
    "frame_recording": _FAILS,
}
"""Groups that are kept and told to clients, and why nothing comes of them."""
ABOUT = (
    f"Settings by group. Of {', '.join(WITHOUT_ENGINE)} nothing comes yet: they say what may be started, and whatever "
    "is started fails at once, with `no_engine`."
)

Settings = dict[str, Any]


def _defaults(schema: Mapping[str, Any]) -> Settings:
    result: Settings = {}
    for key, (default, check) in schema.items():
        result[key] = _defaults(check) if isinstance(check, dict) else copy.deepcopy(default)
    return result


DEFAULTS: Settings = {group: _defaults(keys) for group, keys in SCHEMA.items()}


def check_patch(patch: Any, pointer: str) -> Settings:
    """Return `patch` if every group, key and value in it is known and in range; 422 with every fault otherwise.

    null restores the type's value of a key, of a whole group, or of all.
    """
    faults: list[Fault] = []
    if not isinstance(patch, dict):
        raise Problem("unprocessable", "Settings are an object.", errors=[Fault(pointer, "unprocessable", "an object")])
    for group, keys in patch.items():
        if group not in SCHEMA:
            faults.append(Fault(f"{pointer}/{group}", "unprocessable", f"There is no settings group {group!r}."))
        elif keys is not None:
            _check(keys, SCHEMA[group], f"{pointer}/{group}", faults)
    if faults:
        raise Problem("unprocessable", "Settings that are unknown or out of range.", errors=faults)
    return patch


def _check(values: Any, schema: Mapping[str, Any], pointer: str, faults: list[Fault]) -> None:
    if not isinstance(values, dict):
        faults.append(Fault(pointer, "unprocessable", "This is an object of settings."))
        return
    for key, value in values.items():
        if key not in schema:
            faults.append(Fault(f"{pointer}/{key}", "unprocessable", f"There is no setting {key!r}."))
            continue
        if value is None:
            continue
        check = schema[key][1]
        if isinstance(check, dict):
            _check(value, check, f"{pointer}/{key}", faults)
        elif wrong := check(value):
            faults.append(Fault(f"{pointer}/{key}", "unprocessable", f"{key} {wrong}."))


def merge_overrides(overrides: Settings, patch: Settings) -> Settings:
    """Return the overrides after `patch`: objects merge, lists replace, null takes the override away."""
    merged = dict(overrides)
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            below = merge_overrides(merged.get(key, {}), value)
            if below:
                merged[key] = below
            else:
                merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def effective(base: Settings, overrides: Settings) -> Settings:
    """Return every setting in force: `base` has all of them, `overrides` some."""
    result = {}
    for key, value in base.items():
        if key not in overrides:
            result[key] = value
        elif isinstance(value, dict):
            result[key] = effective(value, overrides[key])
        else:
            result[key] = overrides[key]
    return result


def merge_type_settings(settings: Settings, patch: Settings) -> Settings:
    """Return a type's settings after `patch`; null restores the product's default."""
    return _merge_type(settings, patch, DEFAULTS)


def _merge_type(settings: Settings, patch: Settings, defaults: Settings) -> Settings:
    merged = dict(settings)
    for key, value in patch.items():
        if value is None:
            merged[key] = copy.deepcopy(defaults[key])
        elif isinstance(value, dict):
            merged[key] = _merge_type(settings[key], value, defaults[key])
        else:
            merged[key] = value
    return merged


def changed_paths(before: Any, after: Any, path: str) -> list[str]:
    """Return the leaves that differ, dotted below `path`, sorted."""
    if before == after:
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        paths = []
        for key in sorted(before.keys() | after.keys()):
            paths += changed_paths(before.get(key), after.get(key), f"{path}.{key}")
        return paths
    if isinstance(after, dict) and after:
        return [leaf for key in sorted(after) for leaf in changed_paths(None, after[key], f"{path}.{key}")]
    return [path]
