"""A set of units as an artifact that outlives its run: tensors, and a card that says what they are.

A folder with two files. `units.safetensors` holds the flat positions, and means of the units'
activations where they were recorded. `card.json` is for people and other tools: which model and
revision, every block with its module's Hugging Face path and its units' coordinates there, for
neurons TransformerLens's name of the same activations, where the set comes from and the command
that made it.

Coordinates hold for any form of the model (an adapter beside its base, merged into it, another
precision). Means do not: merging an (IA)³ adapter divides what a neuron's activation is by its
scale. So means belong to one form, by the digest of its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from safety_neurons.environment import environment
from safety_neurons.errors import UserError, reading
from safety_neurons.storage import write_json, write_whole
from safety_neurons.units.sets import UnitSet
from safety_neurons.units.space import Block, BlockKey, SiteKind, UnitSpace

CARD, TENSORS = "card.json", "units.safetensors"
_OWN = {CARD, TENSORS}
_REMEDY = "save the set again"


class CardBlock(BaseModel):
    """One block of the space, with the set's units in it.

    Args:
        module: the Hugging Face path of the module whose input holds the units.
        transformer_lens: its hook of the same activations, None where none has their shape.
        units: coordinates within the block.
    """

    layer: int
    site: SiteKind
    width: int
    module: str | None = None
    transformer_lens: str | None = None
    units: list[int]


class SetCard(BaseModel):
    """What `card.json` holds. Fields of later versions are kept as they are.

    Args:
        models: by role, as manifests describe them (source, revision, digests of files).
        form: the digest of the models that `means` were recorded on; None without means.
        provenance: ranking, share, and whatever else says where the set comes from.
    """

    model_config = ConfigDict(extra="allow")

    format: Literal["safety-neurons/unit-set/1"] = "safety-neurons/unit-set/1"
    total: int
    size: int
    key: str
    models: dict[str, dict[str, Any]] = {}
    form: str | None = None
    provenance: dict[str, Any] = {}
    command: str | None = None
    environment: dict[str, Any] = {}
    blocks: list[CardBlock]


@dataclass(frozen=True)
class SavedSet:
    """A set read back.

    Args:
        means: by name, one value for each unit of the set; see `means_on`.
    """

    units: UnitSet
    card: SetCard
    means: dict[str, Float[Tensor, "k"]] = field(default_factory=dict)

    def means_on(self, form: str) -> dict[str, Float[Tensor, "k"]]:
        """The recorded means, for the models with the digest `form`.

        Returns:
            Means by name; empty if none were recorded.

        Raises:
            UserError: if they were recorded on another form of the models.
        """
        if self.means and form != self.card.form:
            raise UserError(
                "The set's means were recorded on another form of these models, where an "
                "activation may be another number (a merged adapter's scale is in the weights); "
                "record them again on this one."
            )
        return self.means


def save_set(
    units: UnitSet,
    folder: str | Path,
    *,
    modules: Mapping[BlockKey, str] | None = None,
    models: Mapping[str, Mapping[str, Any]] | None = None,
    means: Mapping[str, Float[Tensor, "k"]] | None = None,
    form: str | None = None,
    command: str | None = None,
) -> Path:
    """Write `units` with its card to a folder that is new or holds an earlier set.

    Args:
        modules: the Hugging Face path of each block's module.
        models: by role, as a manifest describes them.
        means: of the units' activations, with the `form` of the models they hold for.
        command: what was typed.

    Returns:
        The folder.

    Raises:
        UserError: for means without a form, or of another number of units; or if something else
            is in the folder.
    """
    means = dict(means or {})
    if means and form is None:
        raise UserError("Means hold for one form of the models only; say which, with `form`.")
    for name, values in means.items():
        if values.shape != (len(units),):
            raise UserError(f"'{name}' has {len(values)} means for {len(units)} units.")
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and {f.name for f in folder.iterdir()} <= _OWN):
        raise UserError(f"'{folder}' exists and is no saved unit set; choose another place.")
    card = SetCard(
        total=units.space.total,
        size=len(units),
        key=units.key,
        models={role: dict(model) for role, model in (models or {}).items()},
        form=form if means else None,
        provenance=units.provenance,
        command=command,
        environment=environment(),
        blocks=[_card_block(units, block, modules or {}) for block in units.space.blocks],
    )
    tensors = {"flat": units.flat, **{f"means.{name}": v for name, v in means.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(folder / TENSORS, lambda draft: save_file(content, draft, {"key": units.key}))
    write_json(folder / CARD, card.model_dump(mode="json"))
    return folder


def load_set(folder: str | Path) -> SavedSet:
    """Read what `save_set` wrote.

    Returns:
        The set, its card, and means if there are any.

    Raises:
        UserError: if there is no such folder, or its files are damaged or of two different sets.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise UserError(f"'{folder}' is no saved unit set (it has no {CARD}); check the path.")
    with reading(folder / CARD, remedy=_REMEDY):
        card = SetCard.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    with reading(folder / TENSORS, remedy=_REMEDY), safe_open(folder / TENSORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        space = UnitSpace(tuple(Block(BlockKey(b.layer, b.site), b.width) for b in card.blocks))
        units = UnitSet.of(tensors.pop("flat"), space, **card.provenance)
    if units.key != card.key or not _listed_as(units, card):
        raise UserError(f"'{folder}' holds a card and tensors of different sets; {_REMEDY}.")
    return SavedSet(units, card, {n.removeprefix("means."): t for n, t in tensors.items()})


def _card_block(units: UnitSet, block: Block, modules: Mapping[BlockKey, str]) -> CardBlock:
    key = block.key
    return CardBlock(
        layer=key.layer,
        site=key.site,
        width=block.width,
        module=modules.get(key),
        # TransformerLens keeps attention's channels by head, in another shape.
        transformer_lens=f"blocks.{key.layer}.mlp.hook_post" if key.site is SiteKind.MLP else None,
        units=units.in_block(key).tolist(),
    )


def _listed_as(units: UnitSet, card: SetCard) -> bool:
    """Whether the card, which people read and edit, lists the units that the tensors hold."""
    return all(
        torch.equal(torch.tensor(b.units).long(), units.in_block(BlockKey(b.layer, b.site)))
        for b in card.blocks
    )
