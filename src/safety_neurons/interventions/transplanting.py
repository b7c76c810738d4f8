"""Units given another model's weights: what makes each, and what each writes.

A neuron of a transplant is computed by the donor's rows of the projections into it (gate and up,
with biases) and read by the donor's column of the projection out of it; all else stays the
recipient's. The donor's weights are the effective ones: an adapter is folded into them (W + sBA for
a LoRA; rows and columns times an (IA)³'s scale).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from safety_neurons.engine import HookedModel, Site, input_axis
from safety_neurons.engine.around import Around, Places
from safety_neurons.engine.effective import Norms, effective, norms_around, ratio
from safety_neurons.engine.hooks import HookPoint
from safety_neurons.engine.sites import base_layer, holding
from safety_neurons.errors import InterventionError, UserError
from safety_neurons.interventions.base import AtSite, Intervention
from safety_neurons.interventions.slices import ReplacedSlices, Slices
from safety_neurons.storage import digest
from safety_neurons.units import BlockKey, UnitSet

_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")


@dataclass(frozen=True, eq=False)
class UnitWeights:
    """The weights of some units of one block.

    Args:
        into: of each projection that makes the units, their rows, `unit d_model`.
        biases: of each, `unit`; None where the projection has none.
        out: the units' columns of the projection that reads them, `d_model unit`.
    """

    into: tuple[Float[Tensor, "unit d_model"], ...]
    biases: tuple[Float[Tensor, "unit"] | None, ...]
    out: Float[Tensor, "d_model unit"]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, for files and digests."""
        held = {f"into.{i}": tensor for i, tensor in enumerate(self.into)}
        held |= {f"bias.{i}": bias for i, bias in enumerate(self.biases) if bias is not None}
        return {**held, "out": self.out}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> UnitWeights:
        """What `tensors` gave."""
        count = sum(name.startswith("into.") for name in tensors)
        return cls(
            tuple(tensors[f"into.{i}"] for i in range(count)),
            tuple(tensors.get(f"bias.{i}") for i in range(count)),
            tensors["out"],
        )


@dataclass(frozen=True, eq=False)
class Transplanted:
    """Weights of all units of a transplant, by block; a value with a key."""

    blocks: Mapping[BlockKey, UnitWeights]

    @cached_property
    def key(self) -> str:
        """The same for the same numbers."""
        content = hashlib.sha256()
        for name, tensor in self.tensors.items():
            content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            content.update(raw.numpy().tobytes())
        return content.hexdigest()[:20]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name, for files."""
        return {
            f"{block.layer}.{name}": tensor
            for block, of in self.blocks.items()
            for name, tensor in of.tensors.items()
        }

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], units: UnitSet) -> Transplanted:
        """What `tensors` gave."""
        by_layer: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            layer, _, rest = name.partition(".")
            by_layer.setdefault(int(layer), {})[rest] = tensor
        return cls(
            {
                block: UnitWeights.of_tensors(by_layer[block.layer])
                for block in units.space.keys
                if block.layer in by_layer
            }
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Transplanted) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Transplant(Intervention):
    """Units computed and read by another model's weights; make one with `between`.

    Args:
        weights: as they fit the recipient: a difference of the norms before the MLP is in them.
    """

    units: UnitSet
    weights: Transplanted

    @classmethod
    @torch.no_grad()
    def between(
        cls, donor: HookedModel, recipient: HookedModel, units: UnitSet, *, or_same: bool = False
    ) -> Transplant:
        """Units of `recipient` with the effective weights that they have in `donor`.

        Args:
            or_same: also where nothing would change, as in a search over sets.

        Returns:
            A transplant for this recipient, or another with the same norms.

        Raises:
            UserError: if the models have other shapes or activation functions, the architecture
                does not say what makes its units, a norm differs in what weights cannot make up
                for, or the donor's weights are the recipient's.
        """
        _require_alike(donor, recipient)
        theirs = {site.key: site for site in donor.sites}
        found: dict[BlockKey, UnitWeights] = {}
        before: dict[BlockKey, UnitWeights] = {}
        blocks = [b for b in units.space.keys if len(units.in_block(b))]
        sites = {site.key: site for site in recipient.sites}
        if lacking := [b for b in blocks if b not in sites or b not in theirs]:
            raise UserError(f"The models have no {lacking[0]}; give units of these models.")
        norms = {
            who: norms_around(model.model, [of[b] for b in blocks])
            for who, model, of in (("donor", donor, theirs), ("recipient", recipient, sites))
        }
        for block in blocks:
            columns = units.in_block(block)
            own = _weights(recipient, sites[block], columns)
            given = _weights(donor, theirs[block], columns)
            pair = norms["donor"][block], norms["recipient"][block]
            found[block] = _fitted(given, own, *pair, block)
            before[block] = own
        if not or_same and all(_same(found[block], before[block]) for block in blocks):
            raise UserError(
                "The donor's weights of these units are the recipient's own, so a transplant would "
                "change nothing; give another recipient."
            )
        return cls(units, Transplanted(found))

    def __post_init__(self) -> None:
        expected = {b: len(self.units.in_block(b)) for b in self.units.space.keys}
        held = {b: of.out.shape[1] for b, of in self.weights.blocks.items()}
        if held != {b: n for b, n in expected.items() if n}:
            raise UserError(
                "The weights are not of these units; make them with Transplant.between."
            )

    @property
    def key(self) -> str:
        return digest("transplant", self.units.key, self.weights.key)

    @property
    def family(self) -> Hashable:
        return self.key

    def act(
        self,
        block: BlockKey,
        columns: Int[Tensor, "k"],
        own: Float[Tensor, "row pos k"],
        donated: Float[Tensor, "row pos k"] | None,
    ) -> Float[Tensor, "row pos k"]:
        raise InterventionError(
            f"A transplant in {block} is done around the module, not at its input."
        )

    def live(self, block: BlockKey, places: Places) -> tuple[Around, AtSite]:
        return _Live(self, block, places).hooks()

    def slices(self, model: HookedModel) -> dict[str, Slices]:
        """What becomes of which parameters, by their names without any adapter's wrapper.

        Returns:
            Rows of the projections into the units with their biases, and columns out of them.
        """
        found: dict[str, Slices] = {}
        for site, index in holding(model.sites, self.units):
            held = self.weights.blocks[site.key]
            out_axis = input_axis(site.module)
            out = held.out if out_axis == 1 else held.out.T
            found[f"{site.name}.weight"] = ReplacedSlices(index, out_axis, out)
            for name, rows, bias in zip(site.writers, held.into, held.biases, strict=True):
                axis = 1 - input_axis(base_layer(model.model.get_submodule(name)))
                values = rows if axis == 0 else rows.T
                found[f"{name}.weight"] = ReplacedSlices(index, axis, values)
                if bias is not None:
                    found[f"{name}.bias"] = ReplacedSlices(index, 0, bias)
        return found

    @torch.no_grad()
    def export(self, model: HookedModel) -> Mapping[str, Tensor]:
        """Whole tensors by the names of the model's own parameters.

        Returns:
            Those of the blocks that have units of the set.

        Raises:
            UserError: if an adapter changes one of them, and would change what is transplanted.
        """
        parameters = dict(model.model.named_parameters())
        slices = self.slices(model)
        if wrapped := [name for name in slices if name not in parameters]:
            raise UserError(
                f"An adapter changes '{wrapped[0]}' and would change what is transplanted; fold it "
                "in first (`safety-neurons apply` does)."
            )
        return {name: of(parameters[name].detach()) for name, of in slices.items()}

    def describe(self) -> dict[str, Any]:
        return {"intervention": "transplant", "units": len(self.units)}


class _Live:
    """A transplant in one block while it runs.

    The rows of the projections into the units are computed beside the recipient's own, from what
    they read before any adapter's scale; so are the units, which other interventions see as they
    are. Behind these the units are taken out of what the projection out of them reads, adapters'
    branches too, and what the donor's columns make of them is added to what it gives.
    """

    def __init__(self, transplant: Transplant, block: BlockKey, places: Places) -> None:
        self._weights = transplant.weights.blocks[block]
        self._columns = transplant.units.in_block(block)
        self._places = places
        self._read: dict[int, Tensor] = {}
        self._raw = self._taken = torch.empty(0)

    def hooks(self) -> tuple[Around, AtSite]:
        places = self._places
        at_writers = [
            (f"{name} (transplant)", module, i) for i, (name, module) in enumerate(places.writers)
        ]
        label = f"{places.name} (transplant)"
        return (
            Around(
                before=[
                    *(HookPoint(n, m, "input", self._keeping(i)) for n, m, i in at_writers),
                    HookPoint(label, places.outer, "input", self._keep_raw),
                ],
                made=[HookPoint(n, m, "output", self._making(i)) for n, m, i in at_writers],
                taken=[HookPoint(label, places.site, "input", self._take)],
                after=[HookPoint(label, places.outer, "output", self._add)],
            ),
            self._as_they_are,
        )

    def _keeping(self, place: int) -> Callable[[Tensor], None]:
        def keep(x: Tensor) -> None:
            self._read[place] = self._places.part(x)

        return keep

    def _keep_raw(self, x: Tensor) -> None:
        self._raw = self._of_units(self._places.part(x))

    def _making(self, place: int) -> Callable[[Tensor, Tensor], Tensor]:
        rows, bias = self._weights.into[place], self._weights.biases[place]

        def make(_: Tensor, y: Tensor) -> Tensor:
            made = _linear(self._read.pop(place), rows, bias)
            return self._places.put(y, self._put(self._places.part(y), made))

        return make

    def _as_they_are(self, x: Tensor) -> Tensor:
        """The units before an adapter scaled them: the donor's columns have their own scale."""
        return self._put(x, self._raw.reshape(*x.shape[:-1], -1))

    def _take(self, x: Tensor) -> Tensor:
        part = self._places.part(x)
        self._taken = self._of_units(part)
        return self._places.put(x, self._put(part, torch.zeros_like(self._taken)))

    def _add(self, _: Tensor, y: Tensor) -> Tensor:
        added = _linear(self._taken, self._weights.out, None).to(y.dtype)
        part = self._places.part(y)
        return self._places.put(y, part + added.where(self._under(part), torch.zeros_like(added)))

    def _of_units(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self._columns.to(x.device))

    def _put(self, x: Tensor, new: Tensor) -> Tensor:
        new = new.to(x.dtype).where(self._under(x), self._of_units(x))
        return x.index_copy(-1, self._columns.to(x.device), new)

    def _under(self, x: Tensor) -> Bool[Tensor, "row *ones"]:
        """Which rows are under the transplant, against any of their positions."""
        chosen = self._places.chosen()
        if chosen is None:
            return torch.ones((), dtype=torch.bool, device=x.device)
        return chosen.view(-1, *[1] * (x.dim() - 1))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wide = torch.promote_types(x.dtype, weight.dtype)
    moved = None if bias is None else bias.to(x.device, wide)
    return functional.linear(x.to(wide), weight.to(x.device, wide), moved)


def _weights(model: HookedModel, site: Site, columns: Int[Tensor, "unit"]) -> UnitWeights:
    if not site.writers:
        raise UserError(
            f"The architecture '{model.model.config.model_type}' does not say which projections "
            f"make the units of {site.key}; add them to it (safety_neurons.registry.ARCHITECTURES)."
        )
    into, biases = [], []
    for name in site.writers:
        weight, bias = effective(model, name)
        along = 1 - input_axis(base_layer(model.model.get_submodule(name)))
        rows = weight.index_select(along, columns.to(weight.device))
        into.append((rows if along == 0 else rows.T).contiguous().cpu())
        biases.append(None if bias is None else bias[columns.to(bias.device)].cpu())
    weight, _ = effective(model, site.name)
    along = input_axis(site.module)
    out = weight.index_select(along, columns.to(weight.device))
    return UnitWeights(
        tuple(into), tuple(biases), (out if along == 1 else out.T).contiguous().cpu()
    )


def _fitted(
    given: UnitWeights, own: UnitWeights, donor: Norms, recipient: Norms, block: BlockKey
) -> UnitWeights:
    """The donor's weights behind the recipient's norm."""
    scale, shifts = ratio(donor, recipient, block)
    into = given.into if scale is None else tuple(rows * scale.to(rows) for rows in given.into)
    biases: list[Tensor | None] = []
    for theirs, rows, fitted, bias, mine in zip(
        range(len(into)), given.into, into, given.biases, own.biases, strict=True
    ):
        moved = torch.zeros(len(rows), dtype=rows.dtype)
        if shifts is not None:
            moved = rows @ shifts[0].to(rows) - fitted @ shifts[1].to(rows)
        moved = moved + (0 if bias is None else bias)
        if mine is None and bool(moved.abs().max() > 0):
            raise UserError(
                f"The donor's units of {block} have biases (projection {theirs + 1} into them) and "
                "the recipient's have no place for any, so they cannot be transplanted."
            )
        biases.append(None if mine is None else moved)
    return UnitWeights(into, tuple(biases), given.out)


def _same(one: UnitWeights, other: UnitWeights) -> bool:
    theirs, mine = one.tensors, other.tensors
    return theirs.keys() == mine.keys() and all(
        torch.equal(theirs[name], mine[name]) for name in theirs
    )


def _require_alike(donor: HookedModel, recipient: HookedModel) -> None:
    def shapes(model: HookedModel) -> list[tuple[Any, ...]]:
        return [(site.key, site.width, len(site.writers)) for site in model.sites]

    configs = [model.model.config.get_text_config() for model in (donor, recipient)]
    sizes = {config.hidden_size for config in configs}
    acts: Sequence[tuple[Any, ...]] = [
        tuple(getattr(config, name, None) for name in _ACTIVATIONS) for config in configs
    ]
    if shapes(donor) != shapes(recipient) or len(sizes) != 1 or acts[0] != acts[1]:
        raise UserError(
            "The donor and the recipient have other shapes or activation functions, so one's "
            "weights mean nothing in the other; give models of one family and size."
        )
