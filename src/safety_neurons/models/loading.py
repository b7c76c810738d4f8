"""Loading a pair: found, compared, loaded, proved.

1. Each source is found on this machine, and every file that decides it is hashed.
2. Configurations and tokenizers are compared; every difference is in one error.
3. The weights are loaded, once where both sides share them, and adapters with them.
4. Sites are shown to act on the logits, and adapters to act as PEFT's own layers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

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
from safety_neurons.models.pair import ModelPair, Side, SideModel
from safety_neurons.models.proofs import Reference
from safety_neurons.models.sites import find_sites, prove_sites
from safety_neurons.models.sources import Resolved, Source


def load_pair(
    named: Mapping[Side, str | Source],
    *,
    dtype: torch.dtype,
    device: str | None,
    trust_remote_code: bool,
    template_from: Literal["aligned", "unaligned"] | None,
) -> ModelPair:
    """As `ModelPair.load` says."""
    device = devices.default_device() if device is None else device
    devices.require_device(device)
    with notices.collected() as notes:
        pair = _load(named, dtype, device, trust_remote_code, template_from)
    return replace(pair, notes=(*pair.notes, *notes))


def _load(
    named: Mapping[Side, str | Source],
    dtype: torch.dtype,
    device: str,
    trust_remote_code: bool,
    template_from: Literal["aligned", "unaligned"] | None,
) -> ModelPair:
    found = {
        side: sources.resolve(
            Source.parse(name) if isinstance(name, str) else name,
            trust_remote_code=trust_remote_code,
        )
        for side, name in named.items()
    }
    contents = {
        side: Contents.of(r.base, r.adapter.folder if r.adapter else None, code=trust_remote_code)
        for side, r in found.items()
    }
    configs = {
        side: checkpoints.load_config(r.base, trust_remote_code=trust_remote_code)
        for side, r in found.items()
    }
    tokenizer = _common_tokenizer(found, configs, template_from, trust_remote_code)
    loader = _Loader(dtype, device, trust_remote_code, _probe(found, configs))
    sides = loader.load(found)
    _require_same_neurons(sides)
    for side in contents.values():
        side.require_unchanged()
    for r in found.values():
        loader.notes += checkpoints.unread_beside(r)
    if not tokenizer.chat_template:
        loader.notes.append("The tokenizer has no chat template, so prompts are sent as they are.")
    pair = ModelPair(
        sides,
        tokenizer,
        {str(side): _provenance(r, contents[side]) for side, r in found.items()},
        {"trust_remote_code": trust_remote_code, "template_from": template_from},
    )
    proved = proofs.prove_adapters(pair, loader.tokens, loader.references)
    return replace(pair, notes=(*dict.fromkeys(loader.notes), *proved))


def _provenance(resolved: Resolved, contents: Contents) -> dict[str, Any]:
    weights = contents.files.get(f"adapter/{adapters.WEIGHTS}")
    return {
        "source": str(resolved.source),
        "location": {"base": resolved.location.base, "adapter": resolved.location.adapter},
        "revision": resolved.commit or f"local:{contents.digest[:12]}",
        "adapter_sha256": weights and weights[:12],
        "files": contents.files,
    }


def _probe(
    found: Mapping[Side, Resolved], configs: Mapping[Side, PreTrainedConfig]
) -> Int[Tensor, "batch pos"]:
    vocabulary = min(config.get_text_config().vocab_size for config in configs.values())
    wanted = [t for r in found.values() if r.adapter for t in adapters.probed(r.adapter.config)]
    return proofs.probe_tokens(vocabulary, wanted)


def _common_tokenizer(
    found: Mapping[Side, Resolved],
    configs: Mapping[Side, PreTrainedConfig],
    template_from: Literal["aligned", "unaligned"] | None,
    trust_remote_code: bool,
) -> PreTrainedTokenizerBase:
    tokenizers = {
        side: checkpoints.load_tokenizer(r, trust_remote_code=trust_remote_code)
        for side, r in found.items()
    }
    comparison.require_comparable(
        (configs[Side.ALIGNED], configs[Side.UNALIGNED]),
        (tokenizers[Side.ALIGNED], tokenizers[Side.UNALIGNED]),
        template_chosen=template_from is not None,
    )
    return tokenizers[Side(template_from or Side.ALIGNED)]


def _require_same_neurons(sides: Mapping[Side, SideModel]) -> None:
    """An adapter can add layers, which no configuration tells."""
    widths = {side: [site.width for site in model.sites] for side, model in sides.items()}
    aligned, unaligned = widths[Side.ALIGNED], widths[Side.UNALIGNED]
    if aligned != unaligned:
        raise UserError(
            f"The two models cannot be paired: the aligned one has {len(aligned)} layers with "
            f"{sum(aligned)} neurons, the unaligned one {len(unaligned)} with {sum(unaligned)}."
        )


@dataclass
class _Loader:
    """Loads the weights of both sides.

    Args:
        tokens: the probe on which adapters are compared.
        references, notes: what was found on the way.
    """

    dtype: torch.dtype
    device: str
    trust_remote_code: bool
    tokens: Int[Tensor, "batch pos"]
    references: dict[Side, Reference] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def load(self, found: Mapping[Side, Resolved]) -> dict[Side, SideModel]:
        models = self._models(found)
        sides = {side: self._side(models[side], side, r) for side, r in found.items()}
        for distinct in {id(side.model): side for side in sides.values()}.values():
            prove_sites(distinct.model, distinct.sites)
        return sides

    def _models(self, found: Mapping[Side, Resolved]) -> dict[Side, PreTrainedModel]:
        """Each side's base model, the same one where the weights are shared."""
        aligned, unaligned = found[Side.ALIGNED], found[Side.UNALIGNED]
        gated = [r.adapter for r in found.values() if r.adapter]
        if aligned.base.resolve() != unaligned.base.resolve() or not all(
            adapters.can_gate(adapter.config) for adapter in gated
        ):
            return {side: self._own_model(side, r) for side, r in found.items()}
        model = self._base(aligned)
        if all(adapters.leaves_alone(adapter.folder, model) for adapter in gated):
            return dict.fromkeys(found, model)
        return {Side.ALIGNED: model, Side.UNALIGNED: self._base(unaligned)}

    def _base(self, resolved: Resolved, dtype: torch.dtype | None = None) -> PreTrainedModel:
        loaded = checkpoints.load_model(
            resolved.base,
            dtype=dtype or self.dtype,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )
        self.notes += loaded.notes
        return loaded.model

    def _own_model(self, side: Side, resolved: Resolved) -> PreTrainedModel:
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
        self.references[side] = merged.reference
        merged.model.to(self.dtype)  # type: ignore[arg-type]
        return merged.model.eval().requires_grad_(False)

    def _side(self, model: PreTrainedModel, side: Side, resolved: Resolved) -> SideModel:
        adapter = resolved.adapter
        if side not in self.references:  # else merged already
            if adapter is None:
                self.references[side] = Reference(None, proofs.logits_of(model, self.tokens))
            else:
                label = resolved.source.adapter or ""
                self.references[side] = adapters.attach(
                    model, adapter.folder, str(side), label, self.tokens
                )
                return SideModel(model, find_sites(model), str(side))
        return SideModel(model, find_sites(model), None)
