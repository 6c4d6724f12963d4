"""One item of a batch as it was sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.problems import from_validation
from api.values import cleaned
from core.errors import PawlensError
from core.network.urls import check_url
from core.settings import Settings

MAX_DETAIL = 300


@dataclass(frozen=True)
class Given:
    """An item as it was sent: bytes to be read, a URL that was checked, or the reason why it is refused."""

    index: int
    name: str | None = None
    custom_id: str | None = None
    read: Callable[[], bytes] | None = None
    size: int = 0
    """How many bytes ``read`` will return."""
    url: str | None = None
    error: PawlensError | None = None
    row: int | None = None
    """Of the manifest."""

    def shown(self, error: PawlensError) -> dict[str, Any]:
        """The error in the form in which the job carries it.

        It may quote what was sent; what no database stores, or no answer can be encoded with, is left out.
        """
        place = "" if self.row is None else f"Row {self.row}: "
        detail = f"{place}{error.detail}"[:MAX_DETAIL]
        return error.as_job_error() | {"detail": cleaned(detail, instead="?")}


def checked_url(url: str, settings: Settings) -> str:
    """Raises UrlBlocked when it is never fetched: see :func:`core.network.urls.check_url`."""
    check_url(url, allow_private=settings.allow_private_network)
    return url


def shown_name(name: Any) -> str | None:
    """A name to be shown, or None for what is none."""
    return cleaned(name[:255]) or None if isinstance(name, str) else None


def refused(
    index: int, sent: Any, error: ValidationError | PawlensError, *, row_number: int | None = None
) -> Given:
    """An item that is not as it should be, under its names as far as it has any."""
    names = sent if isinstance(sent, dict) else {}
    return Given(
        index,
        shown_name(names.get("name")),
        shown_name(names.get("custom_id")),
        error=from_validation(error) if isinstance(error, ValidationError) else error,
        row=row_number,
    )
