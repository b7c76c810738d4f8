"""The two models of an audit, before any weight is loaded: whether they can be compared at all."""

from __future__ import annotations

from dataclasses import dataclass

from safety_neurons.errors import gathered
from safety_neurons.models import Source
from safety_neurons.models.checkpoints import load_config, load_tokenizer
from safety_neurons.models.comparison import (
    shape_differences,
    template_differences,
    vocabulary_conflicts,
)
from safety_neurons.models.sources import resolve

REFERENCE, CANDIDATE = "reference", "candidate"


@dataclass(frozen=True)
class Sides:
    """Both models as they are named.

    Args:
        notes: what differs and does not keep them from being compared.
    """

    reference: Source
    candidate: Source
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, reference: str | Source, candidate: str | Source, *, trust_remote_code: bool
    ) -> Sides:
        """Find both, and compare architectures and tokens.

        Raises:
            UserError: listing what makes them two models of different kinds, or if one cannot be
                found.
        """  # noqa: DOC201, DOC501
        named = [
            Source.parse(source) if isinstance(source, str) else source
            for source in (reference, candidate)
        ]
        found = [resolve(source, trust_remote_code=trust_remote_code) for source in named]
        configs = [load_config(r.base, trust_remote_code=trust_remote_code) for r in found]
        first, second = (load_tokenizer(r, trust_remote_code=trust_remote_code) for r in found)
        called = (REFERENCE, CANDIDATE)
        conflicts = shape_differences(configs[0], configs[1], called) + vocabulary_conflicts(
            first, second
        )
        if conflicts:
            raise gathered(
                conflicts,
                headline="The candidate is no fine-tune of the reference",
                remedy="Give two models of one architecture and size that share a tokenizer.",
            )
        notes = [
            f"{difference}; each model was asked with its own."
            for difference in template_differences(first, second, called)
        ]
        return cls(named[0], named[1], tuple(notes))
