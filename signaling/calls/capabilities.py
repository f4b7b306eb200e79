"""The capabilities, their groups and the three spellings that are accepted on input.

Output is always the dotted id. Not here: which role holds what (`call_types.py`), who holds what now (`rights.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from signaling.calls.problems import Fault, Problem

GROUPS: dict[str, tuple[str, ...]] = {
    "call": (
        "call.create",
        "call.read",
        "call.join",
        "call.join_backstage",
        "call.join_ended",
        "call.update",
        "call.update_settings",
        "call.end",
        "call.delete",
        "call.extend",
        "call.ring",
        "call.notify",
    ),
    "members": ("member.read", "member.add", "member.update", "member.remove"),
    "media": ("media.audio", "media.video", "media.screen"),
    "in_call": ("reaction.send", "event.send"),
    "moderation": (
        "participant.mute",
        "participant.kick",
        "participant.block",
        "participant.pin_for_all",
        "permission.grant",
        "lobby.admit",
    ),
    "live": ("live.start", "live.stop"),
    "capture": (
        "recording.start",
        "recording.stop",
        "recording.read",
        "recording.delete",
        "transcription.start",
        "transcription.stop",
        "transcription.read",
        "captions.start",
        "captions.stop",
        "captions.send",
        "broadcast.start",
        "broadcast.stop",
        "ingest.manage",
        "frames.start",
        "frames.stop",
    ),
    "insight": ("stats.read", "session.read"),
}
ALL = frozenset(capability for group in GROUPS.values() for capability in group)
REQUESTABLE = frozenset(GROUPS["media"])

ALIASES: dict[str, tuple[str, ...]] = {
    "join-call": ("call.join",),
    "read-call": ("call.read",),
    "create-call": ("call.create",),
    "update-call": ("call.update",),
    "end-call": ("call.end",),
    "join-ended-call": ("call.join_ended",),
    "join-backstage": ("call.join_backstage",),
    "update-call-settings": ("call.update_settings",),
    "change-max-duration": ("call.extend",),
    "send-audio": ("media.audio",),
    "send-video": ("media.video",),
    "screenshare": ("media.screen",),
    "start-record-call": ("recording.start",),
    "stop-record-call": ("recording.stop",),
    "start-broadcast-call": ("broadcast.start",),
    "stop-broadcast-call": ("broadcast.stop",),
    "start-transcription-call": ("transcription.start",),
    "stop-transcription-call": ("transcription.stop",),
    "mute-users": ("participant.mute",),
    "block-users": ("participant.block",),
    "kick-user": ("participant.kick",),
    "pin-for-everyone": ("participant.pin_for_all",),
    "update-call-permissions": ("permission.grant",),
    "create-reaction": ("reaction.send",),
    "update-call-member": ("member.add", "member.update"),
    "remove-call-member": ("member.remove",),
}


def _pascal(alias: str) -> str:
    return "".join(part.capitalize() for part in alias.split("-"))


_SPELLINGS: dict[str, tuple[str, ...]] = {
    **{capability: (capability,) for capability in ALL},
    **ALIASES,
    **{_pascal(alias): capabilities for alias, capabilities in ALIASES.items()},
}


def normalise(names: Iterable[str], pointer: str) -> frozenset[str]:
    """Return the dotted ids of `names` in any spelling; 422 names every unknown one at `pointer`/index."""
    found: set[str] = set()
    faults = []
    for index, name in enumerate(names):
        capabilities = _SPELLINGS.get(name)
        if capabilities is None:
            faults.append(Fault(f"{pointer}/{index}", "unknown_capability", f"There is no capability {name!r}."))
        else:
            found.update(capabilities)
    if faults:
        raise Problem("unknown_capability", "Unknown capability.", errors=faults)
    return frozenset(found)


def ordered(names: Sequence[str], pointer: str) -> list[str]:
    """Return the dotted ids in the order given, doubles removed."""
    result: dict[str, None] = {}
    for index, name in enumerate(names):
        capabilities = _SPELLINGS.get(name)
        if capabilities is None:
            detail = f"There is no capability {name!r}."
            raise Problem(
                "unknown_capability", detail, errors=[Fault(f"{pointer}/{index}", "unknown_capability", detail)]
            )
        result.update(dict.fromkeys(capabilities))
    return list(result)


def catalogue() -> list[dict[str, object]]:
    """Return every capability as the API lists it."""
    aliases: dict[str, list[str]] = {}
    for alias, capabilities in ALIASES.items():
        for capability in capabilities:
            aliases.setdefault(capability, []).append(alias)
    return [
        {
            "id": capability,
            "group": group,
            "aliases": aliases.get(capability, []),
            "requestable": capability in REQUESTABLE,
        }
        for group, members in GROUPS.items()
        for capability in members
    ]
