"""What Alembic runs for every command: where the models are, and on which connection to work."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import TextClause

from core.database import UtcTime
from core.jobs.tables import StateName, Table


def plain_type(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write the project's own types into new migrations as the plain ones that they are in the database."""
    if kind == "type" and isinstance(item, UtcTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, StateName):
        return f"sa.String({item.impl_instance.length})"  # type: ignore[attr-defined]
    return False


_DIRECTED = {
    index.name
    for table in Table.metadata.tables.values()
    for index in table.indexes
    if any(isinstance(column, TextClause) for column in index.expressions)
}


def comparable(_item: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    """Leave out indexes such as ``priority DESC``: SQLite does not tell the direction, so they never
    match.
    """
    return kind != "index" or name not in _DIRECTED


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    include_object=comparable,
    render_item=plain_type,
    render_as_batch=True,  # SQLite cannot alter a column; Alembic copies the table there
)
context.run_migrations()
