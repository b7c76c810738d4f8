"""`safety-neurons generate`: answers of the unaligned model with aligned values patched in."""

from __future__ import annotations

from typing import Annotated

import typer

from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained


@explained
def command(
    run: o.Run,
    share: Annotated[float, typer.Option(help="The fraction of all neurons to patch.")],
    prompts: Annotated[str, typer.Option(help="A .jsonl, .csv or .parquet file of prompts.")],
    out: o.Out,
    ranking: Annotated[
        str | None, typer.Option(help="By default the run's primary ranking.")
    ] = None,
    prompt_column: o.PromptColumn = "prompt",
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = 40,
    seed: o.Seed = 0,
    dtype: o.DType = "auto",
    device: o.Device = None,
    batch_size: o.BatchSize = 32,
) -> None:
    """Answer prompts with the top neurons patched from the aligned model into the unaligned."""
    from safety_neurons.artifacts import RunFolder, require_place, write_jsonl
    from safety_neurons.errors import UserError
    from safety_neurons.finding.run import TABLE
    from safety_neurons.generation import (
        Decoding,
        Setting,
        answer,
        encode_prompts,
        kept_key,
        texts_of,
    )
    from safety_neurons.models import Side
    from safety_neurons.neurons import RankingName, read_table
    from safety_neurons.prompts import ChatFormat, load_prompts

    require_place(out)
    folder = RunFolder.open(run)
    folder.require("find")
    asked = load_prompts(prompts, column=prompt_column).limited(limit, seed=seed)
    rankings = read_table(folder.result("find", TABLE))
    name = (
        o.parse_choice(ranking, RankingName, "ranking")
        if ranking is not None
        else next(iter(rankings))
    )
    if name not in rankings:
        raise UserError(
            f"'{run}' has no ranking '{name}', only {', '.join(rankings)}; choose one of them."
        )
    neurons = rankings[name].top(share)
    if not len(neurons):
        raise UserError(f"A share of {share:g} is no neuron at all; give a larger one.")
    pair = o.load_pair_of(folder, dtype=dtype, device=device)
    decoding = Decoding(max_new_tokens, batch_size)
    chat = ChatFormat.of_config(folder.config("find"))
    encoded = encode_prompts(pair, asked, decoding, chat)
    setting = Setting(Side.UNALIGNED, neurons)
    with folder.writing():
        (completions,) = answer(
            pair,
            encoded,
            [setting],
            decoding,
            logs=[folder.state(f"answers/{kept_key(pair, encoded, setting, decoding)}.jsonl")],
            progress=o.bars(),
            label="Patched answers",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(
        out,
        (
            {"id": p.id, "prompt": p.text, "response": response}
            for p, response in zip(asked, texts_of(pair, completions, chat), strict=True)
        ),
    )
    typer.echo(f"Wrote {len(asked)} answers with {len(neurons):,} patched neurons: {out}")
