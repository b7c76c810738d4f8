"""`safety-neurons judge`: add a verdict to answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    answers: Annotated[str, typer.Argument(help="Rows with a prompt and a response.")],
    out: Annotated[Path, typer.Argument(help="The same rows with a verdict, as JSONL.")],
    prompt_column: o.PromptColumn = "prompt",
    response_column: Annotated[str, typer.Option(help="The column with the answer.")] = "response",
) -> None:
    """Judge answers: refusal, partial, compliance, or unscored."""
    from safety_neurons.artifacts import require_place, write_jsonl
    from safety_neurons.errors import UserError, reading
    from safety_neurons.judges import RefusalJudge, unfinished, verdicts_on
    from safety_neurons.prompts import read_rows

    require_place(out)
    rows = read_rows(answers)
    if not rows:
        raise UserError(f"'{answers}' holds no rows to judge.")
    for column in (prompt_column, response_column):
        lacking = [i for i, row in enumerate(rows, start=1) if column not in row]
        if lacking:
            raise UserError(
                f"'{answers}' has no column '{column}' in {len(lacking)} rows (the first is row "
                f"{lacking[0]}, with {', '.join(rows[lacking[0] - 1])}); name it with "
                f"--{'prompt' if column == prompt_column else 'response'}-column."
            )
    with reading(answers, fault="holds what JSON cannot", remedy="leave out or rewrite the column"):
        json.dumps(rows, allow_nan=False)
    if out.exists() and Path(answers).exists() and out.samefile(answers):
        raise UserError(f"'{out}' is what is to be judged; name another file for the result.")
    if any("verdict" in row for row in rows):
        raise UserError(
            f"'{answers}' has a column 'verdict' already, which would be lost; rename or remove it."
        )
    judge = RefusalJudge()
    responses = [row[response_column] or "" for row in rows]
    verdicts = verdicts_on(judge, [str(row[prompt_column] or "") for row in rows], responses)
    judged = [{**row, "verdict": str(verdict)} for row, verdict in zip(rows, verdicts, strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, judged)
    counts = Counter(str(verdict) for verdict in verdicts)
    listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    typer.echo(f"Judged {len(rows)} answers ({judge.name}): {listed}. Wrote {out}")
    if cut := unfinished(responses):
        typer.echo(f"{cut} unscored answers ended inside their reasoning.")
