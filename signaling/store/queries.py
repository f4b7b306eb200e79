"""Filters as SQL. Not here: their grammar (`calls/queries.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ColumnElement, String, and_, case, exists, false, func, literal, not_, or_, select, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from signaling.calls.model import CallType
from signaling.calls.queries import All, Any_, Expression, Leaf, Not
from signaling.store import schema
from signaling.store.kinds import milliseconds
from signaling.store.prepared import encode

Columns = Mapping[str, Any]


@dataclass(frozen=True)
class Custom:
    """Where the custom fields are: in a document, at `root`."""

    document: Any
    root: tuple[str, ...]

    def at(self, field: str) -> tuple[Any, Any]:
        """Return a field's place in SQLite's words, and what stands there; `field`: `custom.…`."""
        parts = (*self.root, *field.split(".")[1:])
        return literal("$" + "".join(f'."{part}"' for part in parts)), self.document[parts]


def call_columns(types: Mapping[str, CallType]) -> Columns:
    """Return what calls are searched by; backstage follows from the type where a call does not say."""
    table = schema.calls
    staged = [t.name for t in types.values() if t.settings["backstage"]["enabled"]]
    enabled = case((table.c.backstage_enabled.is_not(None), table.c.backstage_enabled), else_=table.c.type.in_(staged))
    columns: dict[str, Any] = {
        name: table.c[name] for name in (
        "id", "type", "team", "created_by", "created_at", "updated_at", "starts_at", "ended_at", "live",
        "participant_count",
    )}  # fmt: skip
    columns["cid"] = table.c.type + ":" + table.c.id
    columns["backstage"] = and_(enabled, table.c.live.is_(False))
    columns["ongoing"] = table.c.session_id.is_not(None)
    columns["custom"] = Custom(table.c.custom, ())
    columns["members"] = _is_member
    return columns


def _is_member(user_id: str) -> ColumnElement[bool]:
    table = schema.members
    return exists(select(table.c.user_id).where(table.c.call_key == schema.calls.c.key, table.c.user_id == user_id))


def member_columns() -> Columns:
    table = schema.members
    columns: dict[str, Any] = {name: table.c[name] for name in ("user_id", "role", "created_at")}
    columns["custom"] = Custom(table.c.doc, ("custom",))
    return columns


def user_columns() -> Columns:
    table = schema.users
    columns: dict[str, Any] = {name: table.c[name] for name in ("id", "role", "created_at")}
    columns["name"] = table.c.doc["name"].as_string()
    columns["custom"] = Custom(table.c.doc, ("custom",))
    columns["teams"] = _in_team
    return columns


def _in_team(team: str) -> ColumnElement[bool]:
    # Teams are short lists of plain names; the quoted name occurs in their JSON exactly if it is one of them.
    quoted = '"' + team.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return func.coalesce(schema.users.c.doc["teams"].as_string(), "").contains(quoted, autoescape=True)


def condition(expression: Expression, columns: Columns) -> ColumnElement[bool]:
    if isinstance(expression, All):
        return and_(true(), *(condition(part, columns) for part in expression.parts))
    if isinstance(expression, Any_):
        return or_(false(), *(condition(part, columns) for part in expression.parts))
    if isinstance(expression, Not):
        return not_(condition(expression.part, columns))
    return _leaf(expression, columns)


def _leaf(leaf: Leaf, columns: Columns) -> ColumnElement[bool]:
    if leaf.kind == "members":
        return _list_leaf(leaf, columns[leaf.field])
    value = _stored(leaf.value)
    if leaf.operator in ("$in", "$nin"):
        found = or_(false(), *(_equal(leaf, columns, item) for item in value))
        return found if leaf.operator == "$in" else not_(found)
    if leaf.operator == "$eq":
        return _equal(leaf, columns, value)
    if leaf.operator == "$ne":
        return not_(_equal(leaf, columns, value))
    if leaf.operator == "$exists":
        present = _column(leaf, columns, "").is_not(None)
        has: ColumnElement[bool] = present if value else not_(present)
        return has
    if leaf.kind == "custom" and leaf.operator == "$contains":
        return _custom_contains(leaf, columns, value)
    column = _column(leaf, columns, value)
    ordered: dict[str, Callable[[], Any]] = {
        "$gt": lambda: column > value,
        "$gte": lambda: column >= value,
        "$lt": lambda: column < value,
        "$lte": lambda: column <= value,
        "$prefix": lambda: column.startswith(value, autoescape=True),
        "$contains": lambda: column.contains(value, autoescape=True),
    }
    holds: ColumnElement[bool] = func.coalesce(ordered[leaf.operator](), false())
    return holds


def _custom_contains(leaf: Leaf, columns: Columns, value: Any) -> ColumnElement[bool]:
    """Text contains a part of it, a list contains an item."""
    document = columns["custom"].document
    place, path = columns["custom"].at(leaf.field)
    has = _JsonHas(document, place, path, literal(value), literal(encode([value])))
    listed = and_(_JsonKind(document, place, path) == "array", has)
    if not isinstance(value, str):
        return func.coalesce(listed, false())
    within = _column(leaf, columns, value).contains(value, autoescape=True)
    return or_(func.coalesce(within, false()), func.coalesce(listed, false()))


def _list_leaf(leaf: Leaf, holds: Callable[[str], ColumnElement[bool]]) -> ColumnElement[bool]:
    if leaf.operator in ("$in", "$nin"):
        found = or_(false(), *(holds(item) for item in leaf.value if item is not None))
        return found if leaf.operator == "$in" else not_(found)
    return holds(leaf.value) if leaf.value is not None else false()


def _equal(leaf: Leaf, columns: Columns, value: Any) -> ColumnElement[bool]:
    if value is None:
        absent: ColumnElement[bool] = _column(leaf, columns, "").is_(None)
        return absent
    return func.coalesce(_column(leaf, columns, value) == value, false())


def _stored(value: Any) -> Any:
    if isinstance(value, list):
        return [_stored(item) for item in value]
    return milliseconds(value) if isinstance(value, datetime) else value


def _column(leaf: Leaf, columns: Columns, value: Any) -> Any:
    if leaf.kind != "custom":
        return columns[leaf.field]
    # A path of a document is compared as what the filter's value is; values of other types never match.
    place, path = columns["custom"].at(leaf.field)
    kind = _JsonKind(columns["custom"].document, place, path)
    if leaf.operator == "$exists":
        return kind
    if isinstance(value, bool):
        return case((kind.in_(("boolean", "true", "false")), path.as_boolean()), else_=None)
    if isinstance(value, int | float):
        return case((kind.in_(("number", "integer", "real")), path.as_float()), else_=None)
    if value is None or value == "":
        return path.as_string()
    return case((kind.in_(("string", "text")), path.as_string()), else_=None)


class _JsonKind(FunctionElement[str]):
    """What type of JSON value stands at a path; SQL NULL for none. Each database has its own function and names."""

    type = String()
    inherit_cache = True


@compiles(_JsonKind, "sqlite")
def _json_kind_sqlite(element: Any, compiler: Any, **how: Any) -> str:
    document, path, _ = element.clauses
    return f"json_type({compiler.process(document, **how)}, {compiler.process(path, **how)})"


@compiles(_JsonKind, "postgresql")
def _json_kind_postgresql(element: Any, compiler: Any, **how: Any) -> str:
    _, _, value = element.clauses
    return f"jsonb_typeof({compiler.process(value, **how)})"


class _JsonHas(FunctionElement[bool]):
    """Whether the list at a path has an item: its document, the path, what stands there, the item, a list of it."""

    type = Boolean()
    inherit_cache = True


@compiles(_JsonHas, "sqlite")
def _json_has_sqlite(element: Any, compiler: Any, **how: Any) -> str:
    document, path, _, item, _ = element.clauses
    each = f"json_each({compiler.process(document, **how)}, {compiler.process(path, **how)}) AS item"
    # True and false are 1 and 0 there, and are no numbers.
    known = "item.type IN ('text', 'integer', 'real')"
    same = f"item.value = {compiler.process(item, **how)}"
    return f"EXISTS (SELECT 1 FROM {each} WHERE {same} AND {known})"  # noqa: S608 - compiled, its values are bound


@compiles(_JsonHas, "postgresql")
def _json_has_postgresql(element: Any, compiler: Any, **how: Any) -> str:
    _, _, value, _, items = element.clauses
    return f"({compiler.process(value, **how)} @> CAST({compiler.process(items, **how)} AS JSONB))"
