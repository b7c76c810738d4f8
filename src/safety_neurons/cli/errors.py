"""How a command ends: user mistakes in one sentence, a stop with what to do next."""

from __future__ import annotations

import errno
import functools
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from safety_neurons import stops
from safety_neurons.errors import EXIT_MISTAKE, UserError, number_of

P = ParamSpec("P")
R = TypeVar("R")

GOES_ON = "Stopped. Nothing is lost: the same command goes on where it was."


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a user can put right into a sentence and exit code 2, without a traceback."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            raise _ended(str(error), EXIT_MISTAKE) from None
        except KeyboardInterrupt:
            raise _stopped() from None
        except BrokenPipeError:
            raise  # nobody reads what is printed any more; typer ends in silence
        except Exception as error:
            if stops.was_asked():  # a library made something else of the interruption
                raise _stopped() from None
            sentence = _of_the_system(error) or _of_too_little_memory(error)
            if sentence is None:
                raise
            raise _ended(sentence, EXIT_MISTAKE) from None

    return wrapped


EXIT_BROKEN = 70
"""What a command whose exit code 1 is a verdict ends with when it fails itself."""


def concluding(command: Callable[P, R]) -> Callable[P, R]:
    """Of a command that concludes by its exit code: a fault of ours is no verdict."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception:
            traceback.print_exc()
            raise typer.Exit(EXIT_BROKEN) from None

    return wrapped


def _of_too_little_memory(error: Exception) -> str | None:
    import torch  # loaded already where it can run out of memory

    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if on_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "The memory is too small for this batch; give a smaller --batch-size."
    return None


def _of_the_system(error: Exception) -> str | None:
    """What the operating system refused, also where a library tells it in words."""
    number, name = number_of(error), getattr(error, "filename", None)
    where = f" ('{name}')" if name else ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full{where}; make room, and the same command goes on where it was."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"This place cannot be written or read{where}; choose another or change its rights."
    if isinstance(error, OSError) and name and error.strerror:
        return f"'{name}' cannot be used ({error.strerror}); check the path."
    return None


def _stopped() -> typer.Exit:
    stops.tell(GOES_ON)
    return typer.Exit(stops.EXIT_STOPPED)


def _ended(sentence: str, code: int) -> typer.Exit:
    typer.secho(sentence, err=True, fg=typer.colors.RED)
    return typer.Exit(code)
