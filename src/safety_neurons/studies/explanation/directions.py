"""The refusal direction of a model: of which layer and place it is taken, chosen on `select`.

Every candidate is taken out of the stream in turn. The direction is the one without which the
model's own refusals are least likely, among those without which its harmless answers lose little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import Role
from safety_neurons.errors import UserError
from safety_neurons.inference import Setting, surprisals
from safety_neurons.inference.reading import Place
from safety_neurons.inference.refusal_odds import REFUSAL_TOKENS, log_odds
from safety_neurons.interventions import AblateDirection
from safety_neurons.judges import Verdict
from safety_neurons.methods.direction import Directions
from safety_neurons.prompts import Places, PromptSet, places_of
from safety_neurons.studies.evaluator import Evaluator
from safety_neurons.units import SiteKind

ANSWERS = 8
"""Refusals, and harmless answers, that candidates are tried on."""
LAYERS, FIRST, LAST = 6, 0.2, 0.8
"""At most so many layers are tried, between these shares of the depth."""
POSITIONS = 5
"""At most so many positions, from the last one backwards to the end of the user's text."""
DEAR = 0.2
"""Nats per token by which harmless answers may become less likely."""


@dataclass(frozen=True)
class Chosen:
    """The refusal direction.

    Args:
        position: of the prompt's token, from its end (-1 is the last).
        directions: of every layer, at that position.
        tried: candidates.
        log_odds: of the model's own refusals without it and with it.
        cost: what harmless answers lose without it, in nats per token.
    """

    layer: int
    position: int
    directions: Directions
    tried: int
    log_odds: tuple[float, float]
    cost: float

    def tensors(self) -> dict[str, Tensor]:
        """As tensors by name."""
        numbers = (self.layer, self.position, self.tried, *self.log_odds, self.cost)
        return {
            "difference": self.directions.difference,
            "origin": self.directions.origin,
            "numbers": torch.tensor(numbers, dtype=torch.float64),
        }

    @classmethod
    def of_tensors(cls, kept: Mapping[str, Tensor]) -> Chosen:
        """What `tensors` gave."""
        layer, position, tried, without, intact, cost = kept["numbers"].tolist()
        directions = Directions(kept["difference"], kept["origin"])
        odds = (without, intact)
        return cls(int(layer), int(position), directions, int(tried), odds, cost)

    @property
    def difference(self) -> Float[Tensor, "d_model"]:
        """Mean over harmful prompts less mean over harmless ones."""
        return self.directions.difference[self.layer]


def directions_at(
    evaluator: Evaluator,
    role: Role,
    harmful: PromptSet,
    harmless: PromptSet,
    positions: Sequence[int],
) -> list[Directions]:
    """The directions of every layer, at each of some positions (from the end of the prompt)."""
    return _between(
        evaluator,
        role,
        [(prompts, [[[p] for p in positions]] * len(prompts)) for prompts in (harmful, harmless)],
    )


def directions_at_end(
    evaluator: Evaluator, role: Role, harmful: PromptSet, harmless: PromptSet
) -> Directions:
    """The directions of every layer at the last token of the user's text."""
    of = [
        (prompts, [[[places.end]] for places in places_in(evaluator, prompts)])
        for prompts in (harmful, harmless)
    ]
    return _between(evaluator, role, of)[0]


def places_in(evaluator: Evaluator, prompts: PromptSet) -> list[Places]:
    """Where the user's text stands in each prompt."""
    tokenizer, chat = evaluator.group.tokenizer, evaluator.chat
    return [
        places_of(tokenizer, chat, text, ids)
        for text, ids in zip(prompts.texts, evaluator.encoded(prompts), strict=True)
    ]


def _between(
    evaluator: Evaluator, role: Role, of: Sequence[tuple[PromptSet, Sequence[Sequence[Place]]]]
) -> list[Directions]:
    """One for each place, of harmful and harmless prompts with their places."""
    space, kinds = evaluator.group.space(SiteKind.RESIDUAL), []
    for prompts, places in of:
        read = evaluator.read(prompts, places, space, Setting(role), label="Residual stream")
        kinds.append(read.units.view(len(prompts), len(places[0]), len(space.blocks), -1))
    harmful, harmless = kinds
    return [Directions.between(harmful[:, i], harmless[:, i]) for i in range(harmful.shape[1])]


def choose_direction(
    evaluator: Evaluator,
    role: Role,
    found: tuple[PromptSet, PromptSet],
    select: tuple[PromptSet, PromptSet],
    behind: int,
) -> Chosen:
    """The refusal direction of one model.

    Args:
        found: harmful and harmless prompts whose means differ by it.
        select: harmful and harmless prompts, on which it is chosen.
        behind: how many tokens the template writes behind the user's text.

    Returns:
        The direction, of the layer and position chosen.

    Raises:
        UserError: if the model refuses none of the prompts to choose on.
    """
    positions = list(range(-1, -1 - min(behind + 1, POSITIONS), -1))
    of_each = directions_at(evaluator, role, *found, positions)
    layers = len(of_each[0].gap)
    first, last = max(math.ceil(FIRST * layers), 1), max(math.floor(LAST * layers), 1)
    tried = torch.linspace(first, min(last, layers - 1), LAYERS).round().long().unique().tolist()
    candidates = [
        (layer, place)
        for layer in tried
        for place in range(len(positions))
        if float(of_each[place].gap[layer]) > 0
    ]
    space = evaluator.group.space(SiteKind.RESIDUAL)
    settings = {
        f"{layer} {place}": Setting(
            role, (AblateDirection.everywhere(of_each[place].difference[layer], space),)
        )
        for layer, place in candidates
    }
    refused = _answers(evaluator, role, select[0], refusals=True)
    harmless = _answers(evaluator, role, select[1], refusals=False)
    odds = _log_odds(evaluator, refused, settings, role)
    # A model that answers no harmless prompt has nothing to lose there.
    costs = _nats(evaluator, harmless, settings, role) if harmless[0] else dict.fromkeys(odds, 0.0)
    plain_odds, plain_cost = odds.pop(""), costs.pop("")
    cheap = [name for name in settings if costs[name] - plain_cost <= DEAR]
    # Where each candidate costs much, the cheapest is the least bad.
    best = (
        min(cheap, key=lambda name: odds[name])
        if cheap
        else min(settings, key=lambda name: costs[name])
    )
    layer, place = candidates[list(settings).index(best)]
    return Chosen(
        layer,
        positions[place],
        of_each[place],
        len(candidates),
        (odds[best], plain_odds),
        costs[best] - plain_cost,
    )


def _answers(
    evaluator: Evaluator, role: Role, prompts: PromptSet, *, refusals: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of prompts and of the beginnings of the model's own answers to them."""
    setting = Setting(role)
    judged = evaluator.judged(prompts, setting, "Answers")
    answers = evaluator.completions(prompts, setting, "Answers")
    kept = [
        i
        for i, verdict in enumerate(judged.verdicts)
        if answers[i] and (verdict is Verdict.REFUSAL) == refusals
    ][:ANSWERS]
    if refusals and not kept:
        raise UserError(
            f"The {role} model refuses none of {len(prompts)} prompts of '{prompts.name}', so "
            "there is nothing to choose a refusal direction by; give other prompts."
        )
    encoded = evaluator.encoded(prompts)
    return [encoded[i] for i in kept], [answers[i][:REFUSAL_TOKENS] for i in kept]


def _log_odds(
    evaluator: Evaluator,
    answers: tuple[list[list[int]], list[list[int]]],
    settings: dict[str, Setting],
    role: Role,
) -> dict[str, float]:
    """Of the answers' mean probability per token, mean over answers; `` is the plain model's."""
    found = {}
    for name, nats in _costs(evaluator, answers, settings, role).items():
        found[name] = float(log_odds(-torch.tensor(nats, dtype=torch.float64)).mean())
    return found


def _nats(
    evaluator: Evaluator,
    answers: tuple[list[list[int]], list[list[int]]],
    settings: dict[str, Setting],
    role: Role,
) -> dict[str, float]:
    costs = _costs(evaluator, answers, settings, role)
    return {name: sum(nats) / len(nats) for name, nats in costs.items()}


def _costs(
    evaluator: Evaluator,
    answers: tuple[list[list[int]], list[list[int]]],
    settings: dict[str, Setting],
    role: Role,
) -> dict[str, list[float]]:
    """Nats per token of each answer, by setting; `` is the plain model's."""
    every = {"": Setting(role), **settings}
    found: dict[str, list[float]] = {}
    # One by one: in a common batch each direction would be computed for all rows.
    for name in evaluator.progress.track(list(every), "Without each direction"):
        costs = surprisals(evaluator.group, *answers, {name: every[name]}, evaluator.decoding)
        found[name] = [
            nats / tokens for nats, tokens in zip(costs.nats[name], costs.tokens, strict=True)
        ]
    return found
