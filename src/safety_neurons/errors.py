"""The errors of this package: each says what was received and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class SafetyNeuronsError(Exception):
    """Base class of every error that this package raises on purpose."""


class UserError(SafetyNeuronsError):
    """Something that the user can put right: a file, an option, a pair of models.

    The message is one sentence (or a list of faults) with the remedy; the command line
    prints it without a traceback and exits with code 2.
    """


class InterventionError(SafetyNeuronsError):
    """A hook did not act as planned, so no figure may be made from this forward pass."""


def gathered(faults: Sequence[str], *, headline: str, remedy: str) -> UserError:
    """One error that lists every fault found, not only the first."""
    listed = "".join(f"\n  - {fault}" for fault in faults)
    return UserError(f"{headline}:{listed}\n{remedy}")
