"""Find: rank every neuron of a pair by what it has to do with refusing.

1. Both models answer the prompts (activation contrasting needs one of them).
2. change-score: contrast both models' activations on prompt + completion.
3. attribution: gradients of the aligned model's own completion.
4. Write the rankings, with the mean activations of both sides, to the run folder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safety_neurons.activations import AttributionSums, ContrastSums, attribute, contrast
from safety_neurons.artifacts import RunFolder, Stage, digest, versions, write_whole
from safety_neurons.artifacts.folder import DAMAGED
from safety_neurons.errors import UserError, gathered, reading
from safety_neurons.finding.accumulate import accumulate
from safety_neurons.finding.completions import FILE as COMPLETIONS
from safety_neurons.finding.completions import Completions, complete
from safety_neurons.generation import Decoding, encode_prompts
from safety_neurons.models import ModelPair, Side
from safety_neurons.models.identity import differences
from safety_neurons.neurons import Ranking, RankingName, write_table
from safety_neurons.progress import Progress, Silent
from safety_neurons.prompts import ChatFormat, Kind, PromptSet, Split, builtin

TABLE = "neurons.parquet"


@dataclass(frozen=True)
class FindOptions:
    """What decides a ranking, beside the models and the prompts."""

    rankings: tuple[RankingName, ...] = (RankingName.ATTRIBUTION, RankingName.CHANGE_SCORE)
    """The first is the primary one."""
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

    @property
    def chat(self) -> ChatFormat:
        """How the prompts are rendered."""
        return ChatFormat(self.system, self.template_args)

    @property
    def sides(self) -> list[Side]:
        """Which models must answer."""
        needed = {self.contrast_on}
        if RankingName.ATTRIBUTION in self.rankings:
            needed.add(Side.ALIGNED)
        return [side for side in Side if side in needed]


def find(
    pair: ModelPair,
    out: str | Path,
    prompts: PromptSet | None = None,
    options: FindOptions | None = None,
    *,
    progress: Progress | None = None,
) -> RunFolder:
    """Rank the neurons of `pair` and write them to the run folder `out`.

    Args:
        prompts: harmful requests; by default the built-in split `find`.

    Raises:
        UserError: if `out` holds a run with other models, prompts or options, or a prompt cannot
            be asked.
    """
    prompts = prompts or builtin(Kind.HARMFUL, Split.FIND)
    options = options or FindOptions()
    progress = progress or Silent()
    chat = options.chat
    config = _config(pair, prompts, options)
    # What cannot be asked must not leave a run behind that was begun with it.
    encode_prompts(pair, prompts, options.decoding, chat)
    run = RunFolder.begin(out)
    with run.writing():
        if run.is_complete("find"):
            require_same_models(run, pair)
        _refuse_other_run(run, config)
        # The same models may lie in another place now.
        run.record(models=pair.provenance, loading=pair.loading)
        if not run.is_whole("find"):
            _find(pair, run, prompts, options, config, chat, progress)
    return run


def _find(
    pair: ModelPair,
    run: RunFolder,
    prompts: PromptSet,
    options: FindOptions,
    config: dict[str, Any],
    chat: ChatFormat,
    progress: Progress,
) -> None:
    for note in pair.notes:
        progress.note(note)
    results, read_by = [TABLE, COMPLETIONS], ["validate", "report"]
    with run.stage("find", config, results, read_by=read_by) as stage:
        run.record(
            shared_weights=pair.shared,
            notes=list(pair.notes),
            chat=chat.describe(pair.tokenizer),
            neurons={
                "total": pair.layout.total,
                "widths": list(pair.layout.widths),
                "site": "input of the down projection, after adapter scaling",
                "contrasted": "last prompt token to the token before the last completion token",
                "patched": "every position of the prompt and each new one",
            },
        )
        completions = complete(
            pair, prompts, options.sides, options.decoding, chat, run, stage, progress
        )
        _rank(pair, completions, options, run, stage, progress)


def _config(pair: ModelPair, prompts: PromptSet, options: FindOptions) -> dict[str, Any]:
    return {
        **asdict(options),
        "rankings": [str(name) for name in options.rankings],
        "contrast_on": str(options.contrast_on),
        "dtype": str(pair.dtype).removeprefix("torch."),
        "device": pair.device.type,
        "prompts": {"name": prompts.name, "n": len(prompts), "sha256": prompts.digest},
        "models": {side: digest(entry["files"]) for side, entry in pair.provenance.items()},
        "template_from": pair.loading["template_from"],
    }


def require_same_models(run: RunFolder, pair: ModelPair) -> None:
    """Demand that `pair` is what the run was found on, to the last byte.

    Raises:
        UserError: naming files of either side that differ.
    """
    faults = []
    for side, now in pair.provenance.items():
        earlier = run.fact("models").get(side, {})
        if "files" not in earlier:
            raise UserError(
                f"'{run.path}' was made by an earlier version, which did not record what its "
                "models hold; run `safety-neurons find` again in a new folder."
            )
        faults += [
            f"{side}: {name} of '{now['source']}'"
            for name in differences(earlier["files"], now["files"])
        ]
    if run.fact("loading").get("template_from") != pair.loading["template_from"]:
        faults.append("the choice of --template-from")
    if faults:
        raise gathered(
            faults,
            headline=f"'{run.path}' was found on other models than these; what differs",
            remedy="Run `safety-neurons find` again in a new folder for these models.",
        )


def _refuse_other_run(run: RunFolder, config: dict[str, Any]) -> None:
    earlier = run.config("find")
    with reading(run.manifest_file, remedy=DAMAGED):
        asked, held = _deciding(config), _deciding(earlier)
    # By their digests: Python takes 0 and False for the same.
    differing = [k for k in asked if earlier and digest(held.get(k)) != digest(asked[k])]
    if not differing:
        return
    raise UserError(
        f"'{run.path}' holds a run with other {', '.join(differing)} (such as "
        f"{held.get(differing[0])} where {asked[differing[0]]} is asked for now); choose "
        "another --out, or remove the folder."
    )


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """`config` without what decides nothing: where prompts lie, how many run together."""
    if not config:
        return config
    return {
        **config,
        "prompts": {**config["prompts"], "name": None},
        "decoding": {**config["decoding"], "batch_size": None},
    }


def _rank(
    pair: ModelPair,
    completions: Completions,
    options: FindOptions,
    run: RunFolder,
    stage: Stage,
    progress: Progress,
) -> None:
    decided_by = (pair.identity, str(pair.dtype), pair.device.type, versions())
    contrasted = accumulate(
        ContrastSums.zero(pair.layout),
        completions.batches(options.contrast_on, options.decoding),
        lambda prompts, texts: contrast(pair, prompts, texts),
        run.state("contrast.safetensors"),
        progress,
        "Contrasting activations",
        decided_by=("contrast", *decided_by),
    )
    scores = {RankingName.CHANGE_SCORE: contrasted.change_score}
    if RankingName.ATTRIBUTION in options.rankings:
        # Gradients hold every layer's activations, so a quarter of the rows at a time.
        smaller = replace(options.decoding, batch_size=max(options.decoding.batch_size // 4, 1))
        scores[RankingName.ATTRIBUTION] = accumulate(
            AttributionSums.zero(pair.layout),
            completions.batches(Side.ALIGNED, smaller),
            lambda prompts, texts: attribute(pair, prompts, texts),
            run.state("attribution.safetensors"),
            progress,
            "Attributing answers to neurons",
            decided_by=("attribution", *decided_by),
        ).score
    rankings = {name: Ranking(name, scores[name], pair.layout) for name in options.rankings}
    means = {
        "mean_aligned": contrasted.mean_aligned,
        "mean_unaligned": contrasted.mean_unaligned,
    }
    write_whole(stage.file(TABLE), lambda draft: write_table(draft, rankings, means))
