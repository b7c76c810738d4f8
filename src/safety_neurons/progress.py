"""How far long work is, on the error stream: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
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


EVERY = 30.0
"""Seconds between two lines about one loop."""


class Lines:
    """Plain lines for logs: one after the first item of a loop that takes longer than `EVERY`
    seconds, which says how long the rest takes, one every `EVERY` seconds, and one at its end.

    Args:
        write: what takes a line; by default standard error.
        clock: seconds.
    """

    def __init__(
        self,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        console = Console(stderr=True, soft_wrap=True)
        self._write = write or functools.partial(console.print, highlight=False, markup=False)
        self._clock = clock

    def track(self, items: Sequence[T], label: str, *, done: int = 0) -> Iterator[T]:
        total, began, said = len(items) + done, self._clock(), None
        for finished, item in enumerate(items, start=1):
            yield item
            now, last = self._clock(), finished == len(items)
            left = (now - began) / finished * (len(items) - finished)
            long = not last and max(left, now - began) > EVERY
            if long if said is None else last or now - said >= EVERY:
                said = now
                rest = "done" if last else f"about {_minutes(left)} left"
                self._write(
                    f"{label}: {finished + done} of {total}, {_minutes(now - began)}, {rest}"
                )

    def note(self, message: str) -> None:
        self._write(message)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
