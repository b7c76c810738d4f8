"""What libraries warn of while a model is loaded, kept for the user instead of printed or lost.

A warning may be the only sign that a setting was not understood. The command line silences
the libraries' advice, and nobody reads a log: what they say about these models becomes notes
of the pair, which a run's manifest and report hold.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from safety_neurons.errors import reason_of

_READ_ELSEWHERE = "LOAD REPORT"
"""Of missing and unexpected tensors, which `completeness` tells by name."""


class _Collector(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        if _READ_ELSEWHERE not in record.getMessage():
            self._said.append(record.getMessage())


@contextlib.contextmanager
def collected() -> Iterator[list[str]]:
    """Collect warnings of transformers' log and of Python's, each as one sentence at the end."""
    logger = logging.getLogger("transformers")
    level, handlers, propagate = logger.level, logger.handlers, logger.propagate
    said: list[str] = []
    notes: list[str] = []
    logger.handlers, logger.propagate = [_Collector(said)], False
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", UserWarning)
            yield notes
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    said += [str(warning.message) for warning in warned]
    notes += [f"While loading: {reason_of(Warning(text), 400)}." for text in dict.fromkeys(said)]
