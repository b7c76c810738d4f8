"""How long work tells how far it is."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from safety_neurons.progress import Lines


class Clock:
    """A clock that the work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told(seconds: list[float], *, done: int = 0) -> list[str]:
    clock, lines = Clock(), list[str]()
    for each in Lines(lines.append, clock).track(seconds, "Answers", done=done):
        clock.now += each
    return lines


def test_the_first_item_tells_how_long_the_rest_takes():
    assert told([20.0] * 4) == [
        "Answers: 1 of 4, 0:20, about 1:00 left",
        "Answers: 3 of 4, 1:00, about 0:20 left",
        "Answers: 4 of 4, 1:20, done",
    ]


def test_what_was_done_before_counts_as_done_and_not_as_fast():
    assert told([40.0, 40.0], done=6)[0] == "Answers: 7 of 8, 0:40, about 0:40 left"


@pytest.mark.parametrize("seconds", [[], [100.0], [1.0] * 20])
def test_short_loops_say_nothing(seconds):
    assert told(seconds) == []


def test_a_loop_that_turns_out_long_speaks_up():
    lines = told([1.0, 50.0, 50.0])
    assert lines == ["Answers: 2 of 3, 0:51, about 0:25 left", "Answers: 3 of 3, 1:41, done"]


def test_the_command_line_draws_bars_on_a_terminal_alone():
    code = "from safety_neurons.cli.options import bars; print(type(bars()).__name__)"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert plain.stdout.strip() == "Lines"
    ours, theirs = pty.openpty()
    try:
        drawn = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, text=True
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert drawn.stdout.strip() == "Bars"
