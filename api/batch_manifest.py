"""A manifest: URLs with a client's own ids, as CSV with a header or as JSON Lines.

A row that cannot be accepted is an item that is refused, with its row in the detail; so all faults of a
manifest are seen at once. Rows are counted from 1, the header and empty ones too, as editors and spreadsheets
do.
"""

from __future__ import annotations

import csv
import io
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import ValidationError

from api.batch_given import Given, checked_url, refused
from api.batch_schemas import ManifestRow
from api.bodies import parsed_json
from core.errors import BadRequest, InvalidRequest, PawlensError
from core.settings import Settings

COLUMNS = tuple(ManifestRow.model_fields)
PIECES_PER_ROW = 3000
"""A URL and two names of nothing but commas have fewer."""
Form = Literal["csv", "jsonl"]
_BY_SUFFIX: dict[str, Form] = {"csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl"}
_BY_MEDIA_TYPE: dict[str, Form] = {
    "text/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
}


def from_manifest(data: bytes, name: str, media_type: str, settings: Settings) -> list[Given]:
    """The manifest's rows.

    Raises:
        InvalidRequest: it cannot be read at all: it is no text, or its header is missing or has other
            columns; or it has more rows than a batch may have items.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"manifest: it is not UTF-8 text: {error}") from error
    rows = _from_csv(text) if _form(text, name, media_type) == "csv" else _from_jsonl(data)
    found: list[Given] = []
    for number, row in rows:
        if len(found) == settings.max_batch_items:
            raise InvalidRequest(
                f"manifest: it has more than {settings.max_batch_items:,} rows. "
                "Split it into several batches."
            )
        found.append(_given(len(found), number, row, settings))
    return found


def _form(text: str, name: str, media_type: str) -> Form:
    by_name = _BY_SUFFIX.get(name.rpartition(".")[2].lower()) or _BY_MEDIA_TYPE.get(media_type)
    return by_name or ("jsonl" if text.lstrip()[:1] == "{" else "csv")


def _from_csv(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.reader(_of_few_cells(io.StringIO(text, newline="")), strict=True)
    columns: list[str] | None = None
    try:
        for number, cells in enumerate(reader, start=1):
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _header(cells)
            elif len(cells) > len(columns):
                yield number, InvalidRequest(f"it has {len(cells)} cells, and the header has {len(columns)}")
            else:
                row = zip(columns, (cell.strip() for cell in cells), strict=False)
                yield number, {column: cell for column, cell in row if cell}
    except csv.Error as error:
        raise InvalidRequest(f"manifest: row {reader.line_num} does not parse as CSV: {error}") from error
    if columns is None:
        raise InvalidRequest("manifest: it is empty. Its first row names the columns; one is 'url'.")


def _of_few_cells(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if line.count(",") > PIECES_PER_ROW:
            raise InvalidRequest(f"manifest: row {number} has more than {PIECES_PER_ROW:,} cells.")
        yield line


def _header(cells: list[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    unknown = [repr(column[:40]) for column in columns if column not in COLUMNS]
    if unknown:
        raise InvalidRequest(
            f"manifest: there is no column {', '.join(unknown[:10])}. The first row names the "
            f"columns, separated by commas: {', '.join(COLUMNS)}."
        )
    if "url" not in columns or len(set(columns)) < len(columns):
        raise InvalidRequest("manifest: its first row names each column once, and one of them is 'url'.")
    return columns


def _from_jsonl(data: bytes) -> Iterator[tuple[int, Any]]:
    # Not the text's splitlines(): JSON may have other separators, such as U+2028, within its text.
    for number, line in enumerate(io.BytesIO(data.removeprefix(BOM_UTF8)), start=1):
        if not line.strip():
            continue
        try:
            yield number, parsed_json(line, what="it", most_pieces=PIECES_PER_ROW)
        except BadRequest as error:
            yield number, InvalidRequest(error.detail[:120])
        except InvalidRequest as error:
            yield number, error


def _given(index: int, number: int, row: Any, settings: Settings) -> Given:
    try:
        if isinstance(row, PawlensError):
            raise row
        valid = ManifestRow.model_validate(row)
        url = checked_url(valid.url, settings)
        return Given(index, valid.name, valid.custom_id, url=url, row=number)
    except (ValidationError, PawlensError) as error:
        return refused(index, row, error, row_number=number)
