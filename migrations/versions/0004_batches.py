"""Batches: what was asked of them, how they end, and refused items as jobs without a source."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SOURCE = "image_sha256 IS NOT NULL OR source_url IS NOT NULL"
_SOURCE_OR_FAILED = f"{_SOURCE} OR state = 'failed'"


def upgrade() -> None:
    _replace_batches(_new_batches)  # nothing has written any before this revision
    op.create_index("ix_batches_owner_id", "batches", ["owner", "id"])
    op.create_index("ix_batches_finished_at", "batches", ["finished_at"])
    _replace_check(_SOURCE, _SOURCE_OR_FAILED)
    in_batch = sa.text("batch_id IS NOT NULL")
    op.create_index(
        "ix_jobs_batch_id_index",
        "jobs",
        ["batch_id", "batch_index"],
        unique=True,
        sqlite_where=in_batch,
        postgresql_where=in_batch,
    )
    unfinished = sa.text("batch_id IS NOT NULL AND finished_at IS NULL")
    op.create_index(
        "ix_jobs_batch_unfinished",
        "jobs",
        ["batch_id", "batch_index"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    refused = sa.text("image_sha256 IS NULL AND source_url IS NULL")
    op.create_index(
        "ix_jobs_rejected",
        "jobs",
        ["batch_id", "batch_index"],
        sqlite_where=refused,
        postgresql_where=refused,
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_rejected", "jobs")
    op.drop_index("ix_jobs_batch_unfinished", "jobs")
    op.drop_index("ix_jobs_batch_id_index", "jobs")
    # What the schema before cannot hold goes: refused items, and the batches themselves. Their jobs stay.
    refused = "SELECT id FROM jobs WHERE image_sha256 IS NULL AND source_url IS NULL"
    op.execute(f"DELETE FROM events WHERE subject_id IN ({refused})")  # noqa: S608
    op.execute("DELETE FROM events WHERE subject_id IN (SELECT id FROM batches)")
    op.execute(f"DELETE FROM methods WHERE job_id IN ({refused})")  # noqa: S608
    op.execute("DELETE FROM jobs WHERE image_sha256 IS NULL AND source_url IS NULL")
    op.execute("UPDATE jobs SET batch_id = NULL, batch_index = NULL WHERE batch_id IS NOT NULL")
    _replace_check(_SOURCE_OR_FAILED, _SOURCE)
    op.drop_index("ix_batches_finished_at", "batches")
    op.drop_index("ix_batches_owner_id", "batches")
    _replace_batches(_old_batches)
    op.create_index("ix_batches_owner", "batches", ["owner"])


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _replace_batches(create: Callable[[], None]) -> None:
    if not _is_sqlite():
        op.drop_constraint("fk_jobs_batch_id", "jobs", type_="foreignkey")
    op.drop_table("batches")
    create()
    if not _is_sqlite():
        op.create_foreign_key("fk_jobs_batch_id", "jobs", "batches", ["batch_id"], ["id"])


def _replace_check(old: str, new: str) -> None:
    """Another condition for ``ck_jobs_has_source``.

    SQLite cannot alter a CHECK, and Alembic's copy of the table would lose the indexes that have a direction.
    A change that leaves the rows as they are may be made in the schema's text, in these very steps:
    https://sqlite.org/lang_altertable.html#otheralter
    """
    if not _is_sqlite():
        op.drop_constraint(op.f("ck_jobs_has_source"), "jobs", type_="check")
        op.create_check_constraint(op.f("ck_jobs_has_source"), "jobs", new)
        return
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql(
        "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'jobs'",
        (f"CHECK ({old})", f"CHECK ({new})"),
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    written = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = 'jobs'").scalar_one()
    assert f"CHECK ({new})" in written
    connection.exec_driver_sql("SELECT 1 FROM jobs LIMIT 1")  # fails if the text does not parse


def _new_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(48), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(48)),
        sa.Column("methods", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("deadline_seconds", sa.Double()),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("webhook_url", sa.Text()),
        sa.Column("webhook_events", sa.JSON()),
        sa.Column("retry_of", sa.String(48)),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.Column("progress_at", sa.DateTime(timezone=True)),
        sa.Column("cancel_asked_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.CheckConstraint(
            "(state = 'running') = (finished_at IS NULL)", name=op.f("ck_batches_finished_at_iff_final")
        ),
        sa.CheckConstraint(
            "state <> 'canceled' OR cancel_asked_at IS NOT NULL", name=op.f("ck_batches_canceled_was_asked")
        ),
    )


def _old_batches() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(48), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(48)),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.Column("webhook_url", sa.Text()),
        sa.Column("webhook_events", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.CheckConstraint(
            "(state = 'running') = (finished_at IS NULL)", name=op.f("ck_batches_finished_at_iff_final")
        ),
    )
