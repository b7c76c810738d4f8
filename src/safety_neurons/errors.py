"""The errors of this package: each says what was received and what to do about it.

What libraries raise while they read what a user gave them becomes such an error here, in
`reading`, and nowhere else: a list of some of the exceptions that a library may raise has
always turned out to be too short.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

EXIT_MISTAKE = 2
"""The command line's exit code for what the user can put right."""


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


def require_seed(seed: int) -> None:
    """Raise UserError for what not every source of random numbers takes."""
    if not 0 <= seed < 2**32:
        raise UserError(f"A seed is a whole number from 0 to 4294967295, but {seed} was given.")


@contextlib.contextmanager
def reading(what: str | Path, *, remedy: str, fault: str = "could not be read") -> Iterator[None]:
    """Say in one sentence that `what` could not be read, whatever a library raises inside.

    Hold nothing but the call of a library, or the taking apart of what it gave: a fault of
    this package inside would be told as one of the file.

    Args:
        remedy: what to do, as the end of the sentence.
        fault: what is wrong, where it is something else.

    Raises:
        UserError: for every exception except those that are not about what is read: a full
            disk, missing rights, too little memory, a stop, and the two below.
        SafetyNeuronsError: this package's own, as it was raised.
        MemoryError: Python's own, as it was raised.
    """
    try:
        yield
    except (SafetyNeuronsError, MemoryError):
        raise
    except Exception as error:
        if _is_of_the_system(error):
            raise
        raise UserError(f"'{what}' {fault} ({reason_of(error)}); {remedy}.") from error
    except BaseException as error:
        # Libraries written in Rust end a panic with an exception beside `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"'{what}' {fault} ({reason_of(error)}); {remedy}.") from error


def reason_of(error: BaseException, longest: int = 200) -> str:
    """The first line of an error's message, or its type's name, cut where it is long."""
    if isinstance(error, KeyError):
        return f"'{error.args[0]}' is missing" if error.args else "something is missing"
    if type(error).__name__ == "ValidationError" and (listed := getattr(error, "errors", None)):
        # Pydantic's first line tells how many faults there are, and none of them.
        first = listed()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place or 'the whole'}: {first['msg']}"[:longest]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:longest].rstrip(".")


SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE)
"""What the operating system refuses whatever the file holds."""


def number_of(error: BaseException) -> int | None:
    """The operating system's error number, also where a library tells it in words only."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None


def _is_of_the_system(error: BaseException) -> bool:
    from_memory = "can't allocate memory" in str(error) or "out of memory" in str(error)
    return number_of(error) in SYSTEM or from_memory
