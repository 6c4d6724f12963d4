"""``python -m migrations NUMBER MESSAGE`` writes the migration from the newest revision to the models.

Read it before committing it: Alembic sees no CHECK constraints, no conditions of partial indexes, and no
indexes with a direction. ``tests/migrations`` sees them all.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from alembic import command

from core.database import Database
from migrations import configuration, upgrade


def main(number: str, message: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'scratch.db'}"
        upgrade(url)
        database = Database(url)
        with database.read() as session:
            command.revision(
                configuration(session.connection()), message=message, rev_id=number, autogenerate=True
            )
        database.dispose()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
