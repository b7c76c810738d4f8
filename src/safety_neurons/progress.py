"""Progress bars for long work, on the error stream, silent where nobody looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

T = TypeVar("T")


class Progress(Protocol):
    """Whatever can show how far a loop is."""

    def track(self, items: Sequence[T], label: str, *, done: int = 0) -> Iterator[T]:
        """Yield `items`, showing `label`; `done` of them were finished in an earlier run."""
        ...

    def note(self, message: str) -> None:
        """Say what was found on the way."""
        ...


class Silent:
    """Shows nothing (the library's default)."""

    def track(self, items: Sequence[T], label: str, *, done: int = 0) -> Iterator[T]:
        yield from items

    def note(self, message: str) -> None:
        pass


class Bars:
    """A bar for the loop that runs, on standard error, and notes that stay."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)

    def track(self, items: Sequence[T], label: str, *, done: int = 0) -> Iterator[T]:
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(label, total=len(items) + done, completed=done)
            for item in items:
                yield item
                bars.advance(task)

    def note(self, message: str) -> None:
        self._console.print(message, highlight=False)
