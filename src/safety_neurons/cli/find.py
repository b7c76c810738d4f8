"""`safety-neurons find`: rank the neurons of a pair."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from safety_neurons import defaults
from safety_neurons.cli import options as o
from safety_neurons.cli.errors import explained

if TYPE_CHECKING:
    from safety_neurons.prompts import PromptSet
    from safety_neurons.studies.finding import FindOptions


@explained
def command(
    aligned: o.Aligned,
    unaligned: o.Unaligned,
    out: o.Out,
    prompts: o.Prompts = None,
    harmless: o.HarmlessPrompts = None,
    ranking: o.Rankings = None,
    site: o.Sites = None,
    prompt_column: o.PromptColumn = "prompt",
    limit: o.Limit = None,
    max_new_tokens: o.MaxNewTokens = defaults.MAX_NEW_TOKENS,
    seed: o.Seed = defaults.SEED,
    dtype: o.DType = o.FLOAT32,
    device: o.Device = None,
    batch_size: o.BatchSize = defaults.BATCH_SIZE,
    system: o.System = None,
    template_arg: o.TemplateArgs = None,
    template_from: o.TemplateFrom = None,
    trust_remote_code: o.TrustRemoteCode = False,
) -> None:
    """Rank every neuron by what it has to do with refusing."""
    from safety_neurons.storage import require_place
    from safety_neurons.studies.finding import find

    require_place(out, folder=True)
    prompt_set = harmful_prompts(prompts, prompt_column, limit, seed)
    harmless_set = harmless_prompts(harmless, prompt_column, limit, seed)
    options = find_options(ranking, site, max_new_tokens, batch_size, system, template_arg)
    pair = o.load_pair(
        aligned,
        unaligned,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        template_from=template_from,
    )
    find(
        pair,
        out,
        prompt_set,
        options,
        harmless=harmless_set,
        progress=o.bars(),
    )
    space = pair.space(*options.sites)
    what = " and ".join(kind.units for kind in space.kinds)
    typer.echo(f"Ranked {space.total:,} {what} on {len(prompt_set)} prompts: {out}")
    typer.echo(f"Next: safety-neurons validate {out}")


def harmful_prompts(source: str | None, column: str, limit: int | None, seed: int) -> PromptSet:
    """The prompts to find neurons on: a file's, or the built-in split `find`."""
    from safety_neurons.prompts import Kind, Split, builtin, load_prompts

    found = (
        builtin(Kind.HARMFUL, Split.FIND) if source is None else load_prompts(source, column=column)
    )
    return found.limited(limit, seed=seed)


def harmless_prompts(source: str | None, column: str, limit: int | None, seed: int) -> PromptSet:
    """What should not be refused: a file's prompts, or the built-in split `find`."""
    from safety_neurons.prompts import Kind, Split, builtin, load_prompts

    found = (
        builtin(Kind.HARMLESS, Split.FIND)
        if source is None
        else load_prompts(source, column=column)
    )
    return found.limited(limit, seed=seed)


def find_options(
    rankings: list[o.RankingName] | None,
    sites: list[o.SiteName] | None,
    max_new_tokens: int,
    batch_size: int,
    system: str | None,
    template_args: list[str] | None,
) -> FindOptions:
    """The library's options for those of the command line."""
    from safety_neurons.inference import Decoding
    from safety_neurons.studies.finding import FindOptions
    from safety_neurons.units import SiteKind

    return FindOptions(
        tuple(map(str, rankings or ())) or FindOptions.rankings,
        tuple(map(SiteKind, sites or ())) or FindOptions.sites,
        decoding=Decoding(max_new_tokens, batch_size),
        system=system,
        template_args=o.parse_template_args(template_args),
    )
