"""What statements share that are made once, or that are given many values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import BindParameter, ColumnElement, bindparam, not_
from sqlalchemy.orm import InstrumentedAttribute

T = TypeVar("T")


def parameter(column: InstrumentedAttribute[Any], name: str | None = None) -> BindParameter[Any]:
    """What is given for a column when the statement is run, under the column's name or another."""
    return bindparam(name or column.key, type_=column.type)


def begins_with_none(
    text: ColumnElement[Any] | InstrumentedAttribute[Any], beginnings: Iterable[str]
) -> list[ColumnElement[bool]]:
    """Conditions under which a text begins with none of these, whatever LIKE makes of their characters."""
    return [not_(text.startswith(beginning, autoescape=True)) for beginning in beginnings]


def pages(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """A thousand at a time: a statement holds tens of thousands of values at most."""
    for start in range(0, len(values), 1000):
        yield values[start : start + 1000]
