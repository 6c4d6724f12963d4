"""The results of a batch as JSON Lines, CSV or zip, written page by page while they are sent.

Memory does not grow with the batch: a page is read in a transaction of its own, in the order of the items.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections.abc import Iterator, Sequence

import zipstream

from api.batch_schemas import ResultOut
from core.database import Database
from core.jobs import batch_queries, queries
from core.jobs.batch_queries import Result

PAGE = 500
PANELS_PAGE = 20
"""Jobs whose panels are looked up at a time."""

COLUMNS = ("index", "name", "custom_id", "job_id", "status", "label", "score", "margin")
ERROR_COLUMNS = ("error_code", "error")


def as_jsonl(database: Database, batch_id: str) -> Iterator[bytes]:
    """A JSON object for each item, in lines."""
    for page in _pages(database, batch_id):
        yield "".join(f"{ResultOut.of(row).model_dump_json()}\n" for row in page).encode()


def as_csv(database: Database, batch_id: str, labels: Sequence[str]) -> Iterator[bytes]:
    """A row for each item, under a header (RFC 4180); ``labels`` are those of the network."""
    yield _csv([[*COLUMNS, *(f"score_{label}" for label in labels), *ERROR_COLUMNS]])
    for page in _pages(database, batch_id):
        yield _csv([_cells(row, labels) for row in page])


def as_zip(database: Database, batch_id: str, labels: Sequence[str]) -> Iterator[bytes]:
    """Both of these, and the panel of each explanation as ``panels/INDEX_METHOD.png``.

    Each is what there is when it is written: while the batch runs, the last may have more than the first.
    """
    archive = zipstream.ZipStream(compress_type=zipfile.ZIP_DEFLATED)
    archive.add(as_jsonl(database, batch_id), "results.jsonl")
    archive.add(as_csv(database, batch_id, labels), "results.csv")
    yield from archive.all_files()
    for page in _pages(database, batch_id, PANELS_PAGE):
        indexes = {row.job_id: row.index for row in page}
        with database.read() as session:
            panels = list(batch_queries.panels(session, indexes))
        for job_id, method, digest in panels:
            with database.read() as session:
                data = queries.picture_bytes(session, [digest]).get(digest)
            if data is not None:  # None: the batch was deleted meanwhile
                path = f"panels/{indexes[job_id]}_{method}.png"
                archive.add(data, path, compress_type=zipfile.ZIP_STORED)  # PNG is compressed already
                yield from archive.file()
    yield from archive.finalize()


def _pages(database: Database, batch_id: str, size: int = PAGE) -> Iterator[list[Result]]:
    last = -1
    while True:
        with database.read() as session:
            page = batch_queries.results(session, batch_id, after=last, limit=size)
        if page:
            yield page
        if len(page) < size:
            return
        last = page[-1].index


def _cells(row: Result, labels: Sequence[str]) -> list[object]:
    prediction, error = row.prediction or {}, row.error or {}
    scores = prediction.get("scores", {})
    label = prediction.get("label")
    return [
        row.index,
        row.name,
        row.custom_id,
        row.job_id,
        row.status,
        label,
        scores.get(label),
        prediction.get("margin"),
        *(scores.get(known) for known in labels),
        error.get("code"),
        error.get("detail"),
    ]


def _csv(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


# A formula begins a cell. That is so after a semicolon and a tab as well: spreadsheets of many languages
# separate cells by these, and then take no notice of our quotes. Some read the wide forms, too.
_FORMULA = re.compile("(^|[;\t\r\n])(\\s*)(?=[=+@＝＋－＠\t\r-])")  # noqa: RUF001


def _harmless(cell: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it, which none shows.

    https://owasp.org/www-community/attacks/CSV_Injection
    """
    return _FORMULA.sub(r"\1\2'", cell) if isinstance(cell, str) else cell
