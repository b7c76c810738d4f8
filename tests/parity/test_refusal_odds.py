"""Log-odds of refusals under scaled units, by plain hooks and whole passes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from safety_neurons.engine import ALONE
from safety_neurons.inference.refusal_odds import changed_log_odds
from safety_neurons.interventions import Ablate, Scale
from safety_neurons.progress import Silent
from safety_neurons.units import SiteKind, UnitSet
from tests.parity.test_ablation import alone, likelihoods, means_of, plain
from tests.parity.test_contrast import COMPLETIONS
from tests.tiny import ARCHITECTURES, down_projections, pre_hooks, prompts

FACTORS = (0.0, 2.0, -1.0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["ia3", "lora"])
def test_scaled_units_are_those_of_whole_passes(zoo, architecture, kind):
    model, reference = alone(zoo, architecture, kind), plain(zoo, architecture, kind)
    space = model.space()
    width = space.widths[0]
    asked = [(unit, factor) for unit in (width + 1, 2) for factor in FACTORS]
    scaled = [Scale(UnitSet.of(torch.tensor([unit]), space), factor) for unit, factor in asked]
    found = changed_log_odds(model, ALONE, prompts(), COMPLETIONS, scaled, Silent())

    def log_odds(prompt, completion) -> torch.Tensor:
        mean = likelihoods(reference, prompt, completion).mean()
        return mean - torch.log1p(-mean.exp())

    for row, (unit, factor) in zip(found, asked, strict=True):
        at, column = divmod(unit, width)

        def scale(layer, x, at=at, column=column, factor=factor):
            if layer != at:
                return None
            x = x.clone()
            x[..., column] *= factor
            return x

        for value, prompt, completion in zip(row, prompts(), COMPLETIONS, strict=True):
            before = log_odds(prompt, completion)
            with pre_hooks(down_projections(reference, architecture), scale), torch.no_grad():
                after = log_odds(prompt, completion)
            assert value.item() == pytest.approx((after - before).item(), rel=1e-7, abs=1e-9)


def test_sets_may_reach_over_layers(zoo):
    model = alone(zoo, "llama", "ia3")
    means = means_of(model)
    every = (model, ALONE, prompts(), COMPLETIONS)
    first = Ablate(UnitSet.of(torch.tensor([2]), means.space), means)
    both = Ablate(UnitSet.of(torch.tensor([25, 2]), means.space), means)
    whole, alone_first = changed_log_odds(*every, [both, first], Silent())
    # An architecture that names no layers is read whole.
    kept = [site for site in model.hooked.sites if site.key.site is SiteKind.MLP]
    bare = dataclasses.replace(model, hooked=dataclasses.replace(model.hooked, sites=kept))
    (again,) = changed_log_odds(bare, *every[1:], [both], Silent())
    torch.testing.assert_close(whole, again, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(whole, alone_first)
