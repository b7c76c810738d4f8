"""`safety-neurons generate`: answers of the unaligned model with aligned values patched in."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    run: o.Run,
    share: Annotated[
        float,
        o.share_option("The fraction of all neurons to patch."),
    ],
    prompts: Annotated[str, typer.Option(help="A .jsonl, .csv or .parquet file of prompts.")],
    out: o.Out,
    ranking: Annotated[
        str | None, typer.Option(help="By default the run's primary ranking.")
    ] = None,
    prompt_column: o.PromptColumn = "prompt",
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    dtype: o.DType = o.AUTO,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
) -> None:
    """Answer prompts with the top neurons patched from the aligned model into the unaligned."""
    from safety_neurons.engine import Side
    from safety_neurons.inference import Decoding, Setting
    from safety_neurons.interventions import Patch
    from safety_neurons.prompts import load_prompts
    from safety_neurons.runs import RunFolder
    from safety_neurons.storage import require_place, write_jsonl
    from safety_neurons.studies.generation import generate
    from safety_neurons.studies.sets import top_units

    require_place(out)
    folder = RunFolder.open(run)
    prompt_set = load_prompts(prompts, column=prompt_column).limited(limit, seed=seed)
    units = top_units(folder, share, ranking)
    pair = o.reload_pair(folder, dtype=dtype, device=device)
    with folder.writing():
        responses = generate(
            pair,
            prompt_set,
            Setting(Side.UNALIGNED, (Patch(units),)),
            Decoding(max_new_tokens, batch_size),
            run=folder,
            progress=o.bars(),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, (asdict(response) for response in responses))
    typer.echo(f"Wrote {len(responses)} answers with {len(units):,} patched neurons: {out}")
