"""Loading a model, or a pair: found, compared, loaded, proved.

1. Each source is found on this machine, and every file that decides it is hashed.
2. Of a pair, configurations and tokenizers are compared; every difference is in one error.
3. The weights are loaded, once where both sides share them, and adapters with them.
4. Sites are shown to act on the logits, and adapters to act as PEFT's own layers do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from safety_neurons.engine import ALONE, HookedModel, Role, Side
from safety_neurons.engine.sites import find_sites, prove_sites
from safety_neurons.errors import UserError
from safety_neurons.models import (
    adapters,
    checkpoints,
    comparison,
    devices,
    notices,
    proofs,
    sources,
)
from safety_neurons.models.identity import Contents
from safety_neurons.models.model import LoadedModel
from safety_neurons.models.pair import ModelPair
from safety_neurons.models.proofs import Reference
from safety_neurons.models.sources import Resolved, Source


def load_model(
    named: str | Source, *, dtype: torch.dtype, device: str | None, trust_remote_code: bool
) -> LoadedModel:
    """As `LoadedModel.load` says."""
    with _noting(device) as (device, notes):
        found = _Found.of({ALONE: named}, trust_remote_code)
        tokenizer = found.tokenizers()[ALONE]
        loader = _Loader(dtype, device, trust_remote_code, found.probe())
        hooked = loader.load(found.resolved)[ALONE]
        found.require_unchanged()
        model = LoadedModel(
            hooked, tokenizer, found.provenance()[ALONE], loader.all_notes(found, tokenizer)
        )
        proved = proofs.prove_adapters(model, loader.tokens, loader.references)
    return replace(model, notes=(*model.notes, *proved, *notes))


def load_pair(
    named: Mapping[Side, str | Source],
    *,
    dtype: torch.dtype,
    device: str | None,
    trust_remote_code: bool,
    template_from: Literal["aligned", "unaligned"] | None,
) -> ModelPair:
    """As `ModelPair.load` says."""
    with _noting(device) as (device, notes):
        found = _Found.of(named, trust_remote_code)
        tokenizer = _common_tokenizer(found, template_from)
        loader = _Loader(dtype, device, trust_remote_code, found.probe())
        hooked = loader.load(found.resolved)
        sides = {side: hooked[side] for side in Side}
        _require_same_units(sides)
        found.require_unchanged()
        pair = ModelPair(
            sides,
            tokenizer,
            {str(side): entry for side, entry in found.provenance().items()},
            {"trust_remote_code": trust_remote_code, "template_from": template_from},
            loader.all_notes(found, tokenizer),
        )
        proved = proofs.prove_adapters(pair, loader.tokens, loader.references)
    return replace(pair, notes=(*pair.notes, *proved, *notes))


@contextlib.contextmanager
def _noting(device: str | None) -> Iterator[tuple[str, list[str]]]:
    """The device to load to, and what the libraries warn of meanwhile.

    Yields:
        The device's name, and a list that fills.
    """
    device = devices.default_device() if device is None else device
    devices.require_device(device)
    with notices.collected() as notes:
        yield device, notes


@dataclass(frozen=True)
class _Found:
    """The sources of all roles, found on this machine, with what decides them."""

    resolved: dict[Role, Resolved]
    contents: dict[Role, Contents]
    configs: dict[Role, PreTrainedConfig]
    trust_remote_code: bool

    @classmethod
    def of(cls, named: Mapping[Any, str | Source], trust_remote_code: bool) -> _Found:
        resolved: dict[Role, Resolved] = {
            role: sources.resolve(
                Source.parse(name) if isinstance(name, str) else name,
                trust_remote_code=trust_remote_code,
            )
            for role, name in named.items()
        }
        contents = {
            role: Contents.of(
                r.base, r.adapter.folder if r.adapter else None, code=trust_remote_code
            )
            for role, r in resolved.items()
        }
        configs = {
            role: checkpoints.load_config(r.base, trust_remote_code=trust_remote_code)
            for role, r in resolved.items()
        }
        return cls(resolved, contents, configs, trust_remote_code)

    def tokenizers(self) -> dict[Role, PreTrainedTokenizerBase]:
        return {
            role: checkpoints.load_tokenizer(r, trust_remote_code=self.trust_remote_code)
            for role, r in self.resolved.items()
        }

    def probe(self) -> Int[Tensor, "batch pos"]:
        vocabulary = min(config.get_text_config().vocab_size for config in self.configs.values())
        adapted = [r.adapter for r in self.resolved.values() if r.adapter]
        wanted = [token for adapter in adapted for token in adapters.probed(adapter.config)]
        return proofs.probe_tokens(vocabulary, wanted)

    def require_unchanged(self) -> None:
        for contents in self.contents.values():
            contents.require_unchanged()

    def provenance(self) -> dict[Role, dict[str, Any]]:
        return {role: _provenance(r, self.contents[role]) for role, r in self.resolved.items()}


def _provenance(resolved: Resolved, contents: Contents) -> dict[str, Any]:
    weights = contents.files.get(f"adapter/{adapters.WEIGHTS}")
    return {
        "source": str(resolved.source),
        "location": {"base": resolved.location.base, "adapter": resolved.location.adapter},
        "revision": resolved.commit or f"local:{contents.digest[:12]}",
        "adapter_sha256": weights and weights[:12],
        "files": contents.files,
    }


def _common_tokenizer(
    found: _Found, template_from: Literal["aligned", "unaligned"] | None
) -> PreTrainedTokenizerBase:
    configs, tokenizers = found.configs, found.tokenizers()
    comparison.require_comparable(
        (configs[Side.ALIGNED], configs[Side.UNALIGNED]),
        (tokenizers[Side.ALIGNED], tokenizers[Side.UNALIGNED]),
        template_chosen=template_from is not None,
    )
    return tokenizers[Side(template_from or Side.ALIGNED)]


def _require_same_units(sides: Mapping[Side, HookedModel]) -> None:
    """An adapter can add layers, which no configuration tells."""
    widths = {side: [(site.key, site.width) for site in m.sites] for side, m in sides.items()}
    if widths[Side.ALIGNED] != widths[Side.UNALIGNED]:
        layers, units = (
            {side: count(of_side) for side, of_side in widths.items()}
            for count in (
                lambda sites: len({key.layer for key, _ in sites}),
                lambda sites: sum(width for _, width in sites),
            )
        )
        raise UserError(
            f"The two models cannot be paired: the aligned one has {layers[Side.ALIGNED]} layers "
            f"with {units[Side.ALIGNED]} units, the unaligned one {layers[Side.UNALIGNED]} with "
            f"{units[Side.UNALIGNED]}."
        )


@dataclass
class _Loader:
    """Loads the weights of all roles.

    Args:
        tokens: the probe on which adapters are compared.
        references, notes: what was found on the way.
    """

    dtype: torch.dtype
    device: str
    trust_remote_code: bool
    tokens: Int[Tensor, "batch pos"]
    references: dict[Role, Reference] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def load(self, found: Mapping[Role, Resolved]) -> dict[Role, HookedModel]:
        models = self._models(found)
        hooked = {role: self._hooked(models[role], role, r) for role, r in found.items()}
        for distinct in {id(member.model): member for member in hooked.values()}.values():
            prove_sites(distinct.model, distinct.sites)
        return hooked

    def all_notes(self, found: _Found, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
        unread = [n for r in found.resolved.values() for n in checkpoints.unread_beside(r)]
        bare = "The tokenizer has no chat template, so prompts are sent as they are."
        without = [] if tokenizer.chat_template else [bare]
        return tuple(dict.fromkeys([*self.notes, *unread, *without]))

    def _models(self, found: Mapping[Role, Resolved]) -> dict[Role, PreTrainedModel]:
        """Each role's base model, the same one where the weights are shared."""
        gated = [r.adapter for r in found.values() if r.adapter]
        bases = {r.base.resolve() for r in found.values()}
        if len(bases) > 1 or not all(adapters.can_gate(adapter.config) for adapter in gated):
            return {role: self._own_model(role, r) for role, r in found.items()}
        first, *others = found
        model = self._base(found[first])
        if all(adapters.leaves_alone(adapter.folder, model) for adapter in gated):
            return dict.fromkeys(found, model)
        return {first: model, **{role: self._base(found[role]) for role in others}}

    def _base(self, resolved: Resolved, dtype: torch.dtype | None = None) -> PreTrainedModel:
        loaded = checkpoints.load_model(
            resolved.base,
            dtype=dtype or self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )
        self.notes += loaded.notes
        return loaded.model

    def _own_model(self, role: Role, resolved: Resolved) -> PreTrainedModel:
        adapter, label = resolved.adapter, resolved.source.adapter or ""
        if adapter is None or adapters.can_gate(adapter.config):
            return self._base(resolved)
        if adapter.config["peft_type"] == "IA3":
            raise UserError(
                f"The (IA)³ adapter '{label}' also trains whole modules, and "
                "merging (IA)³ would change what a neuron means; train it without modules_to_save."
            )
        exact = torch.promote_types(self.dtype, torch.float32)
        merged = adapters.merge(
            lambda: self._base(resolved, exact), adapter.folder, adapter.config, label, self.tokens
        )
        self.references[role] = merged.reference
        merged.model.to(self.dtype)  # type: ignore[arg-type]
        return merged.model.eval().requires_grad_(False)

    def _hooked(self, model: PreTrainedModel, role: Role, resolved: Resolved) -> HookedModel:
        adapter = resolved.adapter
        if role not in self.references:  # else merged already
            if adapter is None:
                self.references[role] = Reference.of(None, model, self.tokens)
            else:
                label = resolved.source.adapter or ""
                self.references[role] = adapters.attach(
                    model, adapter.folder, str(role), label, self.tokens
                )
                return HookedModel(model, find_sites(model), str(role))
        return HookedModel(model, find_sites(model), None)
