"""Find: rank every unit of a pair by what it has to do with refusing.

1. The models answer the prompts: whichever the rankings need.
2. Both models' activations on prompt + completion are contrasted, for the means.
3. Every ranking sums what it needs, batch by batch, and scores all units.
4. The rankings, with the mean activations of both sides, go to the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safety_neurons import defaults
from safety_neurons.engine import Side
from safety_neurons.errors import UserError, reading
from safety_neurons.inference import Decoding, encode_prompts
from safety_neurons.methods import CHANGE_SCORE, AnyRanking, RankingInRounds
from safety_neurons.models import ModelPair
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, Kind, PromptSet, Split, builtin
from safety_neurons.registry import RANKINGS
from safety_neurons.runs import (
    COMPLETIONS,
    DAMAGED,
    HARMLESS_COMPLETIONS,
    TABLE,
    RunFolder,
    Stage,
    require_same_models,
)
from safety_neurons.runs.manifest import (
    BlockRecord,
    ChatRecord,
    LoadingRecord,
    ModelRecord,
    UnitsRecord,
)
from safety_neurons.storage import digest, write_whole
from safety_neurons.studies.finding.completions import Completions, complete
from safety_neurons.studies.finding.ranking import Given
from safety_neurons.studies.finding.sides import doubts, require_two_models
from safety_neurons.units import Ranking, SiteKind, UnitSpace, write_table


@dataclass(frozen=True)
class FindOptions:
    """What decides a ranking, beside the models and the prompts."""

    rankings: tuple[str, ...] = defaults.RANKINGS
    """Names of `registry.RANKINGS`; the first is the primary one."""
    sites: tuple[SiteKind, ...] = (SiteKind.MLP,)
    """Whose units are ranked."""
    contrast_on: Side = Side.UNALIGNED
    """Whose completions the activations are contrasted on."""
    decoding: Decoding = field(default_factory=Decoding)
    system: str | None = None
    """A system prompt; None leaves it to the chat template."""
    template_args: dict[str, Any] = field(default_factory=dict, hash=False)
    """Further arguments of the chat template, such as `enable_thinking`."""

    def __post_init__(self) -> None:
        _ = self.chat  # which refuses what no template takes
        if not self.rankings or len(set(self.rankings)) != len(self.rankings):
            raise UserError("Give each ranking once, and at least one.")
        if not self.sites or len(set(self.sites)) != len(self.sites):
            raise UserError("Give each kind of site once, and at least one.")
        _ = self.methods  # which refuses names of no ranking

    @property
    def chat(self) -> ChatFormat:
        """How the prompts are rendered."""
        return ChatFormat(self.system, self.template_args)

    @property
    def methods(self) -> dict[str, AnyRanking]:
        """The rankings by name."""
        return {name: RANKINGS.get(name) for name in self.rankings}

    @property
    def answering(self) -> list[Side]:
        """Which models must answer."""
        needed = {method.completions_of(self.contrast_on) for method in self.methods.values()}
        return [side for side in Side if side in needed | {self.contrast_on}]

    @property
    def reads_harmless(self) -> bool:
        """Whether a ranking reads harmless prompts beside the harmful ones."""
        return any(
            isinstance(method, RankingInRounds) and method.reads_harmless
            for method in self.methods.values()
        )


def find(
    pair: ModelPair,
    out: str | Path,
    prompts: PromptSet | None = None,
    options: FindOptions | None = None,
    *,
    harmless: PromptSet | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Rank the units of `pair` and write them to the run folder `out`.

    Args:
        prompts: harmful requests; by default the built-in split `find`.
        harmless: what should not be refused, for rankings that read such prompts; by default the
            built-in split `find`.

    Returns:
        The run, its stage `find` complete.

    Raises:
        UserError: if `out` holds a run with other models, prompts or options, or a prompt cannot
            be given to the models, or both sides are the same model.
    """
    prompts = prompts or builtin(Kind.HARMFUL, Split.FIND)
    options = options or FindOptions()
    progress = progress or Silent()
    chat = options.chat
    require_two_models(pair)
    asked = [prompts]
    if options.reads_harmless:
        asked.append(harmless or builtin(Kind.HARMLESS, Split.FIND))
    config = _config(pair, asked, options)
    # What the models cannot be given, or do not have, must not leave a run behind.
    for each in asked:
        encode_prompts(pair, each, options.decoding, chat)
    space = pair.space(*options.sites)
    run = RunFolder.begin(out)
    with run.writing():
        if run.is_complete("find"):
            require_same_models(run, pair)
        _refuse_other_run(run, config)
        # The same models may lie in another place now.
        run.record(
            models={s: ModelRecord.model_validate(m) for s, m in pair.provenance.items()},
            loading=LoadingRecord.model_validate(pair.loading),
        )
        whole = run.is_whole("find")
        as_now = run.config("find").get("methods") == config["methods"]
        if whole and not as_now:
            progress.note("A ranking is made otherwise since; all units are ranked again.")
        if not (whole and as_now):
            _find(pair, run, asked, space, options, config, chat, progress)
    return run


def _find(
    pair: ModelPair,
    run: RunFolder,
    asked: Sequence[PromptSet],
    space: UnitSpace,
    options: FindOptions,
    config: dict[str, Any],
    chat: ChatFormat,
    progress: Progress,
) -> None:
    notes = [*pair.notes, *doubts(pair, asked[0], options.decoding, chat)]
    for note in notes:
        progress.note(note)
    names = [COMPLETIONS, HARMLESS_COMPLETIONS][: len(asked)]
    results = [TABLE, *names]
    read_by = ["validate", "stability", "fragility", "explain", "report"]
    with run.stage("find", config, results, read_by=read_by) as stage:
        run.record(
            shared_weights=pair.shared,
            notes=notes,
            chat=ChatRecord.model_validate(chat.describe(pair.tokenizer)),
            units=_described(pair, space),
        )
        sides = [options.answering, [Side.ALIGNED]]
        completions = [
            complete(pair, prompts, of, options.decoding, chat, run, stage, progress, name=name)
            for prompts, of, name in zip(asked, sides, names, strict=False)
        ]
        _rank(pair, completions, space, options, run, stage, progress)


def _described(pair: ModelPair, space: UnitSpace) -> UnitsRecord:
    modules = pair.modules(space)
    return UnitsRecord(
        total=space.total,
        widths=list(space.widths),
        site="; ".join(kind.described for kind in space.kinds),
        contrasted="last prompt token to the token before the last completion token",
        patched="every position of the prompt and each new one",
        blocks=[
            BlockRecord(
                layer=block.key.layer,
                site=block.key.site,
                width=block.width,
                module=modules[block.key],
            )
            for block in space.blocks
        ],
    )


def _config(pair: ModelPair, asked: Sequence[PromptSet], options: FindOptions) -> dict[str, Any]:
    return {
        **asdict(options),
        "rankings": list(options.rankings),
        "methods": {name: method.version for name, method in options.methods.items()},
        "sites": [str(kind) for kind in options.sites],
        "contrast_on": str(options.contrast_on),
        "dtype": str(pair.dtype).removeprefix("torch."),
        "device": pair.device.type,
        **{
            name: prompts.describe()
            for name, prompts in zip(("prompts", "harmless"), asked, strict=False)
        },
        "models": {side: digest(entry["files"]) for side, entry in pair.provenance.items()},
        "template_from": pair.loading["template_from"],
    }


def _refuse_other_run(run: RunFolder, config: dict[str, Any]) -> None:
    earlier = run.config("find")
    with reading(run.manifest_file, remedy=DAMAGED):
        wanted, held = _deciding(config), _deciding(earlier)
    # By their digests: Python takes 0 and False for the same.
    differing = [k for k in wanted if earlier and digest(held.get(k)) != digest(wanted[k])]
    if not differing:
        return
    raise UserError(
        f"'{run.path}' holds a run with other {', '.join(differing)} (such as "
        f"{held.get(differing[0])} where {wanted[differing[0]]} is wanted now); choose "
        "another --out, or remove the folder."
    )


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """`config` without what makes it no other run.

    Returns:
        All but where prompts lie, how many run together, and how this version ranks.
    """
    if not config:
        return config
    return {
        "sites": [str(SiteKind.MLP)],  # before format 3 there were no others
        **config,
        **{
            name: {**config[name], "name": None}
            for name in ("prompts", "harmless")
            if name in config
        },
        "decoding": {**config["decoding"], "batch_size": None},
        "methods": None,
    }


def _rank(
    pair: ModelPair,
    completions: Sequence[Completions],
    space: UnitSpace,
    options: FindOptions,
    run: RunFolder,
    stage: Stage,
    progress: Progress,
) -> None:
    harmful, *harmless = completions
    given = Given(
        pair,
        harmful,
        space,
        options.contrast_on,
        options.decoding,
        run,
        progress,
        harmless=harmless[0] if harmless else None,
    )
    # The means are of the contrasted completions, whatever else ranks.
    contrasted = given.summed("change-score", CHANGE_SCORE)
    rankings = {
        name: Ranking(name, CHANGE_SCORE.scores(contrasted), space)
        if method is CHANGE_SCORE
        else given.ranking(name, method)
        for name, method in options.methods.items()
    }
    means = {
        "mean_aligned": contrasted.mean_aligned,
        "mean_unaligned": contrasted.mean_unaligned,
    }
    write_whole(stage.file(TABLE), lambda draft: write_table(draft, rankings, means))
