"""A worked example or two of each command, for its `--help` and its page in the docs.

Names in capitals and files are the user's own; the other examples build on the embedded pair and on
what the ones before have written.
"""

from __future__ import annotations

import re

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "run": (
        ("The whole job on the embedded pair, in minutes", "run --out runs/demo --limit 32"),
        (
            "On your own models",
            "run --aligned ORG/CHAT --unaligned ORG/BASE --out runs/mine",
        ),
    ),
    "find": (
        (
            "Rank the neurons of a pair",
            "find --aligned embedded:aligned --unaligned embedded:unaligned --out runs/mine "
            "--limit 32",
        ),
        (
            "With your own prompts, by two rankings",
            "find --aligned ALIGNED --unaligned UNALIGNED --prompts harmful.jsonl --harmless "
            "harmless.jsonl --ranking path-attribution --ranking change-score --out runs/own",
        ),
    ),
    "validate": (
        (
            "Patch 0.5, 2 and 5 % of the neurons, with random sets",
            "validate runs/mine --shares 0.5%,2%,5% --limit 32",
        ),
        ("How many prompts are needed", "validate runs/mine --power"),
    ),
    "stability": (("Would other prompts have chosen them?", "stability runs/mine"),),
    "fragility": (("How few neurons can be missed", "fragility runs/mine --limit 16 --singles 0"),),
    "explain": (
        ("What the chosen neurons compute", "explain runs/mine --limit 16 --exact 8 --pages 4"),
    ),
    "neuron": (("Look at two neurons", "neuron runs/mine L12.N345 L20.N7 --limit 16"),),
    "report": (
        ("Write the page and open it", "report runs/mine --open"),
        ("Compare runs", "report runs/mine runs/demo --out comparison.html"),
    ),
    "audit": (
        (
            "Is a fine-tune as safe as what it was made of?",
            "audit --reference embedded:aligned --candidate embedded:unaligned --run runs/mine "
            "--out audits/first",
        ),
        (
            "In a pipeline, also failing below nine tenths of the refusals",
            "audit --reference ALIGNED --candidate TUNED --fail-under 0.9 --out audits/nightly",
        ),
    ),
    "repair": (
        (
            "Bring refusals back and keep the task",
            "repair --aligned ALIGNED --candidate TUNED --run runs/mine --task held-out.jsonl "
            "--out repaired",
        ),
    ),
    "save-set": (
        ("Keep the first 0.5 % as safetensors", "save-set runs/mine --share 0.5% --out sets/mine"),
    ),
    "generate": (
        (
            "Answers of the unaligned model with aligned neurons in it",
            "generate runs/mine --share 0.5% --prompts prompts.jsonl --out answers.jsonl",
        ),
    ),
    "judge": (("Add a verdict to each answer", "judge answers.jsonl --out judged.jsonl"),),
    "calibrate-judge": (
        (
            "Measure the judge on answers you labelled",
            "calibrate-judge labelled.jsonl --out calibration.json",
        ),
    ),
    "train-judge": (("Train it anew", "train-judge --out judges/mine"),),
    "align": (("Make a model refuse: a sibling for one that does not", "align --out aligned"),),
    "apply": (
        (
            "A checkpoint whose first 0.5 % act half as strongly again",
            "apply runs/mine --scale 1.5 --share 0.5% --out hardened",
        ),
    ),
    "undo": (("The model as it was", "undo hardened --out as-it-was"),),
}
"""By command: what one wants, and what is typed behind `safety-neurons`."""


def epilog(command: str) -> str:
    """The examples of one command as a help page shows them."""
    examples = ["\n  ".join([titled(what), *pasted(typed)]) for what, typed in EXAMPLES[command]]
    return "\n\n".join(["Examples", *examples])


def titled(what: str) -> str:
    """What one wants, before the example."""
    return what if what.endswith("?") else f"{what}:"


WIDTH = 70
"""Of a line that can be copied; a terminal of 80 has margins on either side."""


def pasted(typed: str) -> list[str]:
    """A command in lines that can be copied as they are, broken before options."""
    parts = re.split(r" (?=--)", f"safety-neurons {typed}")
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) < WIDTH:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {part}")
    return lines
