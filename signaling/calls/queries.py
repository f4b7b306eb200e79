"""Filters and sorts of the query routes: parsed and checked, not yet run.

`{"field": value}` means equal; operators `$eq $ne $in $nin $gt $gte $lt $lte $exists $contains $prefix`, combinators
`$and $or $not`. At most 5 deep and 30 leaves. Not here: SQL (`store/queries.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from signaling.calls.problems import unprocessable

DEPTH_MAX, LEAVES_MAX, SORTS_MAX, LIST_MAX = 5, 30, 3, 100
CUSTOM_PATH = re.compile(r"custom(\.[A-Za-z0-9_-]{1,64}){1,5}\Z")

CALL_FIELDS: dict[str, str] = {
    "id": "text", "cid": "text", "type": "text", "team": "text", "created_by": "text", "created_at": "time",
    "updated_at": "time", "starts_at": "time", "ended_at": "time", "backstage": "flag", "ongoing": "flag",
    "live": "flag", "members": "members", "participant_count": "number",
}  # fmt: skip
CALL_SORTS = ("created_at", "updated_at", "starts_at", "ended_at", "type", "id", "participant_count")
MEMBER_FIELDS: dict[str, str] = {"user_id": "text", "role": "text", "created_at": "time"}
USER_FIELDS: dict[str, str] = {"id": "text", "role": "text", "name": "text", "created_at": "time", "teams": "members"}

ORDERED = ("$gt", "$gte", "$lt", "$lte")
OPERATORS = ("$eq", "$ne", "$in", "$nin", *ORDERED, "$exists", "$contains", "$prefix")


@dataclass(frozen=True)
class Leaf:
    field: str
    kind: str
    operator: str
    value: Any


@dataclass(frozen=True)
class All:
    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Any_:  # noqa: N801 - `Any` is typing's
    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Not:
    part: Expression


Expression = Leaf | All | Any_ | Not


class _Parser:
    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = fields
        self._leaves = 0

    def expression(self, value: Any, pointer: str, depth: int) -> Expression:
        if depth > DEPTH_MAX:
            raise unprocessable(pointer, f"A filter nests at most {DEPTH_MAX} deep.")
        if not isinstance(value, dict):
            raise unprocessable(pointer, "A filter is an object.")
        return All(tuple(self._part(name, item, f"{pointer}/{name}", depth) for name, item in value.items()))

    def _part(self, name: str, value: Any, pointer: str, depth: int) -> Expression:
        if name in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise unprocessable(pointer, f"{name} takes a list of filters.")
            parts = tuple(self.expression(item, f"{pointer}/{i}", depth + 1) for i, item in enumerate(value))
            return All(parts) if name == "$and" else Any_(parts)
        if name == "$not":
            return Not(self.expression(value, pointer, depth + 1))
        kind = self._fields.get(name) or ("custom" if CUSTOM_PATH.match(name) else None)
        if kind is None:
            raise unprocessable(pointer, f"There is no field {name!r} to filter by.")
        if not isinstance(value, dict):
            return self._leaf(name, kind, "$eq", value, pointer)
        if not value:
            raise unprocessable(pointer, "An operator is missing.")
        return All(tuple(self._leaf(name, kind, op, item, f"{pointer}/{op}") for op, item in value.items()))

    def _leaf(self, name: str, kind: str, operator: str, value: Any, pointer: str) -> Leaf:
        self._leaves += 1
        if self._leaves > LEAVES_MAX:
            raise unprocessable(pointer, f"A filter has at most {LEAVES_MAX} conditions.")
        if operator not in OPERATORS:
            raise unprocessable(pointer, f"There is no operator {operator!r}.")
        if operator == "$exists":
            if not isinstance(value, bool):
                raise unprocessable(pointer, "$exists takes true or false.")
            return Leaf(name, kind, operator, value)
        if operator in ("$in", "$nin"):
            if not isinstance(value, list) or len(value) > LIST_MAX:
                raise unprocessable(pointer, f"{operator} takes a list of at most {LIST_MAX} values.")
            return Leaf(name, kind, operator, [_value(kind, item, f"{pointer}/{i}") for i, item in enumerate(value)])
        self._check_fits(kind, operator, value, pointer)
        return Leaf(name, kind, operator, _value(kind, value, pointer))

    def _check_fits(self, kind: str, operator: str, value: Any, pointer: str) -> None:
        if kind == "members" and operator not in ("$eq", "$contains"):
            raise unprocessable(pointer, f"This field takes $in and $contains, not {operator}.")
        if operator == "$contains" and kind == "custom":
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise unprocessable(pointer, "$contains takes text, or an item of a list: text or a number.")
        elif operator in ("$prefix", "$contains") and not (isinstance(value, str) and kind != "time"):
            raise unprocessable(pointer, f"{operator} takes text.")
        if operator in ORDERED and (value is None or isinstance(value, bool) or kind == "flag"):
            raise unprocessable(pointer, f"{operator} compares numbers, times and text.")


def _value(kind: str, value: Any, pointer: str) -> Any:
    if value is None:
        return None
    if kind in ("text", "members") and not isinstance(value, str):
        raise unprocessable(pointer, "This is text.")
    if kind == "flag" and not isinstance(value, bool):
        raise unprocessable(pointer, "This is true or false.")
    if kind == "number" and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise unprocessable(pointer, "This is a number.")
    if kind == "custom" and not isinstance(value, str | int | float | bool):
        raise unprocessable(pointer, "This is text, a number, true or false.")
    return _time(value, pointer) if kind == "time" else value


def _time(value: Any, pointer: str) -> datetime:
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise unprocessable(pointer, "A time has an offset, or Z.")
        return at.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise unprocessable(pointer, "This is a time, as RFC 3339 writes it.") from None


def compile_filter(value: Any, fields: Mapping[str, str]) -> Expression:
    return _Parser(fields).expression(value, "/filter", 1)


def compile_sort(value: Any, allowed: Collection[str]) -> list[tuple[str, bool]]:
    """Return (field, descending) of a sort."""
    if not isinstance(value, list) or len(value) > SORTS_MAX:
        raise unprocessable("/sort", f"A sort is a list of at most {SORTS_MAX} fields.")
    result: dict[str, bool] = {}
    for index, item in enumerate(value):
        pointer = f"/sort/{index}"
        if not isinstance(item, dict) or not isinstance(item.get("field"), str):
            raise unprocessable(pointer, "A sort names a field and a direction.")
        unknown = item.keys() - {"field", "direction"}
        if unknown:
            raise unprocessable(f"{pointer}/{min(unknown)}", "A sort has a field and a direction.")
        if item["field"] not in allowed:
            raise unprocessable(f"{pointer}/field", f"Sort by {', '.join(allowed)}.")
        direction = item.get("direction", "asc")
        if direction not in ("asc", "desc"):
            raise unprocessable(f"{pointer}/direction", "The direction is asc or desc.")
        if item["field"] in result:
            raise unprocessable(f"{pointer}/field", "This field is sorted by already.")
        result[item["field"]] = direction == "desc"
    return list(result.items())
