"""What all tables share: the types of their columns, and how constraints are named."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Index, MetaData, String, TextClause, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from core.database import UtcTime, db_now
from core.jobs.states import BatchState, DeliveryState, JobState, MethodState, Queue

Json = dict[str, Any]


class StateName(TypeDecorator[Any]):
    """A state stored as its plain name, so that a new state needs no new database type."""

    impl = String(16)
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, _dialect: Any) -> str | None:
        return None if value is None else str(self.kind(value))

    def process_result_value(self, value: str | None, _dialect: Any) -> Any:
        return None if value is None else self.kind(value)


class Table(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it from the class
        datetime: UtcTime,
        Json: JSON(none_as_null=True),  # absent is NULL, not the JSON text "null"
        list[str]: JSON(none_as_null=True),
        JobState: StateName(JobState),
        MethodState: StateName(MethodState),
        BatchState: StateName(BatchState),
        DeliveryState: StateName(DeliveryState),
        Queue: StateName(Queue),
    }


def creation_time() -> Mapped[datetime]:
    return mapped_column(insert_default=db_now())


def partial_index(name: str, columns: tuple[str | TextClause, ...], *, where: str) -> Index:
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))
