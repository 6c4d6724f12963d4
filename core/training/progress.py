"""What a person sees of a run: a bar that moves on a terminal, a line for each epoch anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display:
    """Bars on standard error. Without a terminal there are no bars, and lines stay."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)  # a line stays one in a log file

    def watch(self, iterator: Iterator[Any], doing: str, total: int) -> Iterator[Any]:
        """A bar while ``iterator`` runs; a :data:`core.training.data.Watch`."""
        task = self.begin(doing, total)
        for item in iterator:
            yield item
            self.advance(task)
        self.end(task)

    def begin(self, doing: str, total: int, done: int = 0) -> TaskID:
        return self._progress.add_task(doing, total=total, completed=done, note="")

    def advance(self, task: TaskID, note: str = "") -> None:
        self._progress.update(task, advance=1, note=note)

    def end(self, task: TaskID) -> None:
        self._progress.remove_task(task)
