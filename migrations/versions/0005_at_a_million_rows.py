"""Indexes for what is looked for among a million rows, and when an endpoint failed last."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    single = sa.text("batch_id IS NULL AND finished_at IS NOT NULL")
    op.create_index(
        "ix_jobs_single_finished_at",
        "jobs",
        ["batch_id", "finished_at"],
        sqlite_where=single,
        postgresql_where=single,
    )
    explain = sa.text("queue = 'explain'")
    op.create_index(
        "ix_jobs_explain", "jobs", ["queue", "id"], sqlite_where=explain, postgresql_where=explain
    )
    op.create_index("ix_webhook_deliveries_endpoint_id_id", "webhook_deliveries", ["endpoint_id", "id"])
    op.drop_index("ix_webhook_deliveries_endpoint_id", "webhook_deliveries")
    op.add_column("webhook_endpoints", sa.Column("failed_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("webhook_endpoints", "failed_at")
    op.create_index("ix_webhook_deliveries_endpoint_id", "webhook_deliveries", ["endpoint_id"])
    op.drop_index("ix_webhook_deliveries_endpoint_id_id", "webhook_deliveries")
    op.drop_index("ix_jobs_explain", "jobs")
    op.drop_index("ix_jobs_single_finished_at", "jobs")
