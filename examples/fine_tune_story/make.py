"""Make the fine-tunes of one task.

    python -m examples.fine_tune_story.make --base DIR --task sure --out runs/story/fine-tunes

`DIR` is a plain checkpoint, such as `safety-neurons apply` writes. The commands of the package then
take each candidate as `DIR+OUT/sure/step-020`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.fine_tune_story.tasks import TASKS
from examples.fine_tune_story.training import fine_tune

from safety_neurons.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, and say where it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of a plain checkpoint")
    parser.add_argument("--task", choices=list(TASKS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for OUT/TASK/step-NNN")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    task = TASKS[asked.task]
    try:
        for folder in fine_tune(asked.base, task, asked.out / task.name, seed=asked.seed):
            print(folder)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
