"""What answers begin with: openings of refusals and of compliances, from models' own answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from safety_neurons.engine import ModelGroup, Role, SiteEdit
from safety_neurons.inference import Decoding, opening_likelihoods, opening_margins, opening_rows
from safety_neurons.inference.refusal_odds import log_odds
from safety_neurons.judges import Verdict
from safety_neurons.methods.detection import LEAST, separation
from safety_neurons.progress import Progress, Silent
from safety_neurons.studies.keeping import Keeping

LONGEST = 5
"""Tokens of an opening."""
MOST = 6
"""Openings of each kind; the most frequent ones."""
PURE = 0.9
"""Of the answers with an opening so many must be of one kind, or it is shared and dropped."""
USABLE = 0.9
"""The least area by which openings must tell refusals from compliances."""

Opening = tuple[int, ...]


class Measure(StrEnum):
    """What openings of refusals are held against; nats either way."""

    ODDS = "odds"
    """All other beginnings, see `refusal_odds`: how likely any of them is."""
    MARGIN = "margin"
    """The likeliest other beginning: what a greedy answer begins with, see `opening_margins`. A
    fine-tune whose likelihoods are spread over more beginnings has other odds, and answers the
    same."""


@dataclass(frozen=True)
class Answered:
    """Answers of one model.

    Args:
        prompts, answers: token ids.
    """

    role: Role
    prompts: Sequence[Sequence[int]]
    answers: Sequence[Sequence[int]]
    verdicts: Sequence[Verdict]

    def of(self, verdict: Verdict) -> list[int]:
        """The places of answers with one verdict; empty answers say nothing."""
        return [i for i, each in enumerate(self.verdicts) if each is verdict and self.answers[i]]


@dataclass(frozen=True)
class OpeningSets:
    """Openings by kind, the most frequent first.

    Args:
        refusal, compliance: token ids.
        dropped: how many openings of full length both kinds have in common.
        first_tokens: first tokens of these refusals that by themselves tell the kinds apart.
    """

    refusal: tuple[Opening, ...]
    compliance: tuple[Opening, ...]
    dropped: int
    first_tokens: tuple[int, ...]

    @classmethod
    def of(cls, answered: Iterable[Answered], most: int = MOST) -> OpeningSets:
        """The shortest beginnings that tell the kinds of some answers apart.

        Returns:
            At most `most` of each kind.
        """
        answers: dict[Verdict, list[Opening]] = {Verdict.REFUSAL: [], Verdict.COMPLIANCE: []}
        for of in answered:
            for verdict, known in answers.items():
                known += [tuple(of.answers[i][:LONGEST]) for i in of.of(verdict)]
        begun = {
            verdict: Counter(a[:n] for a in known for n in range(1, len(a) + 1))
            for verdict, known in answers.items()
        }
        chosen: dict[Verdict, Counter[Opening]] = {}
        shared: set[Opening] = set()
        for verdict, known in answers.items():
            (other,) = answers.keys() - {verdict}
            chosen[verdict] = Counter()
            for a in known:
                pure = (
                    a[:n]
                    for n in range(1, len(a) + 1)
                    if begun[verdict][a[:n]] >= PURE * (begun[verdict][a[:n]] + begun[other][a[:n]])
                )
                opening = next(pure, None)
                if opening is None:
                    shared.add(a)
                else:
                    chosen[verdict][opening] += 1
        refusal, compliance = (
            tuple(opening for opening, _ in chosen[v].most_common(most))
            for v in (Verdict.REFUSAL, Verdict.COMPLIANCE)
        )
        begun_refusals, begun_others = begun[Verdict.REFUSAL], begun[Verdict.COMPLIANCE]
        first = {
            opening[0]
            for opening in refusal
            if begun_refusals[opening[:1]]
            >= PURE * (begun_refusals[opening[:1]] + begun_others[opening[:1]])
        }
        return cls(refusal, compliance, len(shared), tuple(sorted(first)))

    @property
    def known(self) -> bool:
        """Whether there are openings of both kinds."""
        return bool(self.refusal and self.compliance)


def refusal_odds(
    group: ModelGroup,
    role: Role,
    refusals: Sequence[Opening],
    prompts: Sequence[Sequence[int]],
    edits: Sequence[SiteEdit] = (),
) -> Float[Tensor, "prompt"]:
    """The log-odds that an answer begins with any of some openings, against all other beginnings.

    Against all, and not against openings of compliances: a fine-tune may begin its own in a way
    that nobody has seen. Gradients flow through it.

    Args:
        refusals: at least one, none the beginning of another.
        prompts: token ids, behind which openings are read.
        edits: what happens at sites meanwhile.
    """  # noqa: DOC201
    likelihoods = opening_likelihoods(group, role, prompts, refusals, edits)
    return log_odds(likelihoods.logsumexp(dim=1))


@torch.no_grad()
def weigh_openings(
    group: ModelGroup,
    role: Role,
    refusals: Sequence[Opening],
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    progress: Progress | None = None,
    label: str = "Openings",
    *,
    measure: Measure = Measure.ODDS,
    kept: Path | None = None,
) -> list[float]:
    """How much speaks for refusing each of any number of prompts, in batches.

    Args:
        measure: in what.
        kept: a folder that keeps them, for a model that is as it was loaded; None for one whose
            weights are changed in memory, which its identity does not tell.

    Returns:
        One number a prompt.
    """
    if kept is not None:
        keeping = Keeping.of(
            kept, group.identity, str(role), str(group.dtype), refusals, prompts, str(measure)
        )
        found = keeping.tensors(
            "openings",
            lambda: {
                "nats": torch.tensor(
                    weigh_openings(
                        *(group, role, refusals, prompts, decoding, progress, label),
                        measure=measure,
                    ),
                    dtype=torch.float64,
                )
            },
        )
        return [float(nats) for nats in found["nats"]]
    nats = [0.0] * len(prompts)
    batches = decoding.batches(prompts, settings=len(opening_rows(refusals)))
    for rows in (progress or Silent()).track(batches, label):
        asked = [prompts[row] for row in rows]
        if measure is Measure.ODDS:
            of_rows = refusal_odds(group, role, refusals, asked)
        else:
            of_rows = opening_margins(group, role, asked, refusals)
        for row, value in zip(rows, of_rows.tolist(), strict=True):
            nats[row] = value
    return nats


@torch.no_grad()
def _margins(
    group: ModelGroup,
    role: Role,
    openings: OpeningSets,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
) -> list[float]:
    """The log-likelihood of any refusal opening, less that of any compliance opening, in nats."""
    both = (*openings.refusal, *openings.compliance)
    split = len(openings.refusal)
    found = [0.0] * len(prompts)
    for rows in decoding.batches(prompts, settings=len(opening_rows(both))):
        asked = [prompts[row] for row in rows]
        likelihoods = opening_likelihoods(group, role, asked, both)
        refusing = likelihoods[:, :split].logsumexp(dim=1)
        margins = refusing - likelihoods[:, split:].logsumexp(dim=1)
        for row, value in zip(rows, margins.tolist(), strict=True):
            found[row] = value
    return found


def told_apart(
    group: ModelGroup, openings: OpeningSets, answered: Sequence[Answered], decoding: Decoding
) -> tuple[float | None, int, int]:
    """How well the margins of openings tell refusals from compliances, in the model that answered.

    Returns:
        The area under the ROC curve, None with too few of a kind; and how many refusals and
        compliances there are.
    """
    scores: dict[Verdict, list[float]] = {Verdict.REFUSAL: [], Verdict.COMPLIANCE: []}
    counts = dict.fromkeys(scores, 0)
    for of in answered:
        for verdict, known in scores.items():
            places = of.of(verdict)
            counts[verdict] += len(places)
            if openings.known:
                known += _margins(
                    group, of.role, openings, [of.prompts[i] for i in places], decoding
                )
    refusals, compliances = scores[Verdict.REFUSAL], scores[Verdict.COMPLIANCE]
    if min(len(refusals), len(compliances)) < LEAST:
        return None, counts[Verdict.REFUSAL], counts[Verdict.COMPLIANCE]
    area = separation(torch.tensor(refusals)[:, None], torch.tensor(compliances)[:, None])
    return float(area.auroc), len(refusals), len(compliances)
