"""How a command ends: user mistakes in one sentence, Ctrl-C with what to do next."""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from safety_neurons.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


GOES_ON = "Stopped. Nothing is lost: the same command goes on where it was."
BEGINS_AGAIN = "Stopped. Nothing was written; the same command begins again."


def explained(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a user can put right into a sentence and exit code 2, without a traceback."""
    return explained_when_stopped(GOES_ON)(command)


def explained_when_stopped(stopped: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `explained`, with what to say after Ctrl-C."""
    return lambda command: _explained(command, stopped)


def _explained(command: Callable[P, R], stopped: str) -> Callable[P, R]:
    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            raise _ended(str(error), EXIT_MISTAKE) from None
        except KeyboardInterrupt:
            raise _ended(stopped, EXIT_INTERRUPTED) from None
        except OSError as error:
            sentence = _of_the_system(error)
            if sentence is None:
                raise
            raise _ended(sentence, EXIT_MISTAKE) from None
        except Exception as error:
            sentence = _of_a_library(error)
            if sentence is None:
                raise
            raise _ended(sentence, EXIT_MISTAKE) from None

    return wrapped


def _of_a_library(error: Exception) -> str | None:
    """What torch and safetensors tell of the system in errors of their own."""
    import torch  # loaded already where it can run out of memory
    from safetensors import SafetensorError

    if isinstance(error, SafetensorError):
        number = re.search(r"\(os error (\d+)\)", str(error))
        return _of_the_system(OSError(int(number[1]), "")) if number else None
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if on_cpu or isinstance(error, torch.OutOfMemoryError):
        return "The memory is too small for this batch; give a smaller --batch-size."
    return None


def _of_the_system(error: OSError) -> str | None:
    where = f" ('{error.filename}')" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full{where}; make room, and the same command goes on where it was."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"This place cannot be written or read{where}; choose another or change its rights."
    return None


def _ended(sentence: str, code: int) -> typer.Exit:
    typer.secho(sentence, err=True, fg=typer.colors.RED if code == EXIT_MISTAKE else None)
    return typer.Exit(code)
