"""Jobs with their pictures, methods, artifacts and events; batches, workers and webhooks."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    op.create_index("ix_batches_owner", "batches", ["owner"])

    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )

    op.create_table(
        "events",
        sa.Column("subject_id", sa.String(48), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject_id", "seq", name=op.f("pk_events")),
    )

    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(48), nullable=False),
        sa.Column("owner", sa.String(48)),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(128), nullable=False),
        sa.Column("previous_secret", sa.String(128)),
        sa.Column("previous_secret_until", sa.DateTime(timezone=True)),
        sa.Column("events", sa.JSON()),
        sa.Column("failing_since", sa.DateTime(timezone=True)),
        sa.Column("disabled_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index("ix_webhook_endpoints_owner", "webhook_endpoints", ["owner"])

    op.create_table(
        "workers",
        sa.Column("id", sa.String(255), nullable=False),
        sa.Column("queue", sa.String(16), nullable=False),
        sa.Column("hostname", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index("ix_workers_seen_at", "workers", ["seen_at"])

    op.create_table(
        "images",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_images")),
        sa.ForeignKeyConstraint(["sha256"], ["blobs.sha256"], name=op.f("fk_images_sha256")),
    )

    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(48), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("endpoint_id", sa.String(48)),
        sa.Column("owner", sa.String(48)),
        sa.Column("subject_id", sa.String(48), nullable=False),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_deliveries_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint(
            "target",
            "subject_id",
            "event_seq",
            name=op.f("uq_webhook_deliveries_target_subject_id_event_seq"),
        ),
    )
    _create_partial_index(
        "ix_webhook_deliveries_due", "webhook_deliveries", ["next_attempt_at"], where="state = 'pending'"
    )
    op.create_index("ix_webhook_deliveries_endpoint_id", "webhook_deliveries", ["endpoint_id"])
    op.create_index("ix_webhook_deliveries_subject_id", "webhook_deliveries", ["subject_id"])

    op.create_table(
        "jobs",
        sa.Column("id", sa.String(48), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("queue", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(48)),
        sa.Column("correlation_id", sa.String(128)),
        sa.Column("name", sa.String(255)),
        sa.Column("custom_id", sa.String(255)),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("source_url", sa.Text()),
        sa.Column("image_sha256", sa.String(64)),
        sa.Column("batch_id", sa.String(48)),
        sa.Column("batch_index", sa.Integer()),
        sa.Column("webhook_url", sa.Text()),
        sa.Column("webhook_events", sa.JSON()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("deadline_at", sa.DateTime(timezone=True)),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("model", sa.JSON()),
        sa.Column("prediction", sa.JSON()),
        sa.Column("timings", sa.JSON()),
        sa.Column("error", sa.JSON()),
        sa.Column("event_seq", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.CheckConstraint(
            "(state IN ('canceled', 'expired', 'failed', 'partial', 'succeeded'))"
            " = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished_at_iff_final"),
        ),
        sa.CheckConstraint(
            "image_sha256 IS NOT NULL OR source_url IS NOT NULL", name=op.f("ck_jobs_has_source")
        ),
        sa.CheckConstraint(
            "state IN ('fetching', 'running', 'canceling') OR lease_until IS NULL",
            name=op.f("ck_jobs_lease_in_use"),
        ),
        sa.CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name=op.f("ck_jobs_lease_whole")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_jobs_priority_range")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_jobs_batch_id")),
        sa.ForeignKeyConstraint(["image_sha256"], ["images.sha256"], name=op.f("fk_jobs_image_sha256")),
    )
    op.create_index("ix_jobs_batch_id_state", "jobs", ["batch_id", "state"])
    op.create_index("ix_jobs_custom_id", "jobs", ["custom_id"])
    _create_partial_index(
        "ix_jobs_deadlines",
        "jobs",
        ["state", "deadline_at"],
        where="deadline_at IS NOT NULL AND finished_at IS NULL",
    )
    _create_partial_index(
        "ix_jobs_fetching",
        "jobs",
        ["state", sa.text("priority DESC"), "created_at", "id"],
        where="state = 'fetching' AND lease_until IS NULL",
    )
    op.create_index("ix_jobs_finished_at", "jobs", ["finished_at"])
    op.create_index("ix_jobs_image_sha256", "jobs", ["image_sha256"])
    _create_partial_index(
        "ix_jobs_lease_owner", "jobs", ["lease_owner", "state"], where="lease_owner IS NOT NULL"
    )
    _create_partial_index("ix_jobs_leases", "jobs", ["state", "lease_until"], where="lease_until IS NOT NULL")
    op.create_index("ix_jobs_owner_id", "jobs", ["owner", "id"])
    _create_partial_index(
        "ix_jobs_ready",
        "jobs",
        ["queue", sa.text("priority DESC"), "created_at", "id"],
        where="state = 'queued' AND attempt = 0",
    )
    _create_partial_index(
        "ix_jobs_retries", "jobs", ["queue", "run_after"], where="state = 'queued' AND attempt > 0"
    )
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])

    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", sa.String(48), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "attempt", name=op.f("pk_webhook_attempts")),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name=op.f("fk_webhook_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
    )

    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String(48), nullable=False),
        sa.Column("method", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("blob_sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "method", "name", name=op.f("pk_artifacts")),
        sa.ForeignKeyConstraint(["blob_sha256"], ["blobs.sha256"], name=op.f("fk_artifacts_blob_sha256")),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_artifacts_job_id"), ondelete="CASCADE"
        ),
    )
    op.create_index("ix_artifacts_blob_sha256", "artifacts", ["blob_sha256"])

    op.create_table(
        "methods",
        sa.Column("job_id", sa.String(48), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("seconds", sa.Double()),
        sa.Column("cached", sa.Boolean(), nullable=False),
        sa.Column("quality", sa.JSON()),
        sa.Column("provenance", sa.JSON()),
        sa.Column("error", sa.JSON()),
        sa.Column("cache_key", sa.String(64)),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_methods")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_methods_job_id"), ondelete="CASCADE"),
    )
    op.create_index("ix_methods_cache_key", "methods", ["cache_key"])


def downgrade() -> None:
    for table in (
        "methods",
        "artifacts",
        "webhook_attempts",
        "jobs",
        "webhook_deliveries",
        "images",
        "workers",
        "webhook_endpoints",
        "events",
        "blobs",
        "batches",
    ):
        op.drop_table(table)


def _create_partial_index(
    name: str, table: str, columns: Sequence[str | sa.TextClause], *, where: str
) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
