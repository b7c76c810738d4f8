"""What a stopped training goes on from: answers, likelihoods, and a checkpoint of the optimiser.

It stands beside the adapter's place (`OUT.training`), may be deleted at any time, and goes when the
adapter is written. Each part is used again only by a training that it belongs to: it saves work
and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from safety_neurons.errors import UserError
from safety_neurons.storage import remove


class TrainingState:
    """The folder, held by one command at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextlib.contextmanager
    def beside(cls, out: Path) -> Iterator[TrainingState]:
        """The state of the training whose adapter goes to `out`.

        Yields:
            The state, which is removed when the block has ended without an error.

        Raises:
            UserError: if another command trains that adapter now.
        """
        path = out.with_name(f"{out.name}.training")
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / ".lock", timeout=0, is_singleton=False)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"Another command is training '{out}' now; wait until it has ended, or choose "
                "another --out."
            ) from None
        try:
            yield cls(path)
            remove(path)
        finally:
            lock.release()

    def file(self, name: str) -> Path:
        return self.path / name
