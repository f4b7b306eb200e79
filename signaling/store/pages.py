"""Keyset pages: stable while rows are inserted, the same in both directions, on any order of columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column as TableColumn
from sqlalchemy import ColumnElement, and_, false, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from signaling.calls.cursors import decode, encode
from signaling.calls.problems import unprocessable
from signaling.store.kinds import Kind


@dataclass(frozen=True)
class Column:
    """A column to sort by. NULL sorts last when ascending, first when descending, in every database."""

    expression: Any
    descending: bool = False


@dataclass(frozen=True)
class Page:
    items: list[Any]
    next: str | None
    prev: str | None

    def shown(self, items: Sequence[Any]) -> dict[str, Any]:
        return {"items": list(items), "next": self.next, "prev": self.prev}


async def page_of(
    connection: AsyncConnection,
    kind: Kind[Any],
    conditions: Sequence[ColumnElement[bool]],
    order: Sequence[Column],
    limit: int,
    next_: str | None = None,
    prev: str | None = None,
) -> Page:
    """Return one page. The last column of `order` is unique among the rows."""
    if next_ is not None and prev is not None:
        raise unprocessable("/prev", "Send next or prev, not both.")
    backwards = prev is not None
    query = select(kind.table.c.doc, *(column.expression.label(f"k{i}") for i, column in enumerate(order)))
    query = query.where(*conditions)
    cursor = prev if backwards else next_
    if cursor is not None:
        key = decode(cursor, "prev" if backwards else "next", len(order))
        query = query.where(_beyond(order, key, backwards=backwards))
    query = query.order_by(*(part for column in order for part in _sorting(column, backwards))).limit(limit + 1)
    rows = list(await connection.execute(query))
    more = len(rows) > limit
    rows = rows[:limit]
    if backwards:
        rows.reverse()
    items = [kind.read(row.doc) for row in rows]
    if not rows:
        return Page([], None, None)
    first, last = (list(row)[1:] for row in (rows[0], rows[-1]))
    has_next = more if not backwards else True
    has_prev = more if backwards else next_ is not None
    return Page(items, encode("next", last) if has_next else None, encode("prev", first) if has_prev else None)


def _never_null(expression: Any) -> bool:
    return isinstance(expression, TableColumn) and not expression.nullable


def _sorting(column: Column, backwards: bool) -> list[Any]:
    falling = column.descending != backwards
    if _never_null(column.expression):
        # Alone, so that an index gives the order and the scan stops with the page.
        return [column.expression.desc() if falling else column.expression.asc()]
    # "Is it NULL" first: databases disagree on where NULL belongs.
    absent = column.expression.is_(None)
    if falling:
        return [absent.desc(), column.expression.desc()]
    return [absent.asc(), column.expression.asc()]


def _beyond(order: Sequence[Column], key: Sequence[Any], *, backwards: bool) -> ColumnElement[bool]:
    """Return the condition for rows after `key` in the order, or before it."""
    ways = []
    for index, column in enumerate(order):
        same = [_same(order[i].expression, key[i]) for i in range(index)]
        ways.append(and_(*same, _after(column, key[index], column.descending != backwards)))
    return or_(false(), *ways)


def _same(expression: Any, value: Any) -> ColumnElement[bool]:
    result: ColumnElement[bool] = expression.is_(None) if value is None else expression == value
    return result


def _after(column: Column, value: Any, falling: bool) -> ColumnElement[bool]:
    expression = column.expression
    if falling:
        # NULL came first: everything else follows it.
        result: ColumnElement[bool] = expression.is_not(None) if value is None else expression < value
        return result
    if value is None:
        return false()
    later: ColumnElement[bool] = expression > value
    return later if _never_null(expression) else or_(later, expression.is_(None))


def newest_first(kind: Kind[Any], id_: str = "id") -> list[Column]:
    return [Column(kind.table.c.created_at, descending=True), Column(kind.table.c[id_], descending=True)]


def oldest_first(kind: Kind[Any], id_: str = "id") -> list[Column]:
    return [Column(kind.table.c.created_at), Column(kind.table.c[id_])]
