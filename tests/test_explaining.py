"""Parts of an explanation by themselves: places, openings, nulls, parts, and the rules."""

from __future__ import annotations

import pytest
import torch

from safety_neurons.engine import Side
from safety_neurons.errors import UserError
from safety_neurons.inference import Decoding
from safety_neurons.judges import Verdict
from safety_neurons.methods.detection import separation
from safety_neurons.prompts import ChatFormat, Prompt, PromptSet, places_of
from safety_neurons.runs.explanation import (
    CausalRow,
    Downstream,
    Figure,
    Flow,
    PipelineVerdict,
    Position,
    StageFigures,
    StageName,
)
from safety_neurons.runs.fragility import RefusalRate
from safety_neurons.significance import benjamini_hochberg, mcnemar
from safety_neurons.studies.explanation import ExplainOptions, ExplanationPrompts
from safety_neurons.studies.explanation.effects import detectors_in
from safety_neurons.studies.explanation.relays import parts_of
from safety_neurons.studies.explanation.stages import nulls_of, p_outside, stages_of
from safety_neurons.studies.explanation.verdict import judged
from safety_neurons.studies.openings import Answered, OpeningSets, told_apart
from safety_neurons.units import UnitSet, UnitSpace
from tests.tiny import tokenizer

D, M, S = StageName
R, C = Verdict.REFUSAL, Verdict.COMPLIANCE


def test_places_of_a_prompt():
    chat, made = ChatFormat(), tokenizer()
    text = "w20 w21 user w22"
    ids = chat.encode(made, text)
    places = places_of(made, chat, text, ids)
    said = [made.convert_ids_to_tokens(i) for i in ids]
    assert said == ["<s>", "user", "w20", "w21", "user", "w22", "assistant"]
    # The only word of the text with more than three letters; the template's own is none of it.
    assert places.content == (4,)
    assert (places.end, places.tail, places.behind) == (5, 6, 1)
    short = places_of(made, chat, "w20 w21", chat.encode(made, "w20 w21"))
    assert short.content == (2, 3)


def test_a_text_that_the_template_holds_too_is_the_users():
    chat, made = ChatFormat(), tokenizer()
    places = places_of(made, chat, "assistant", chat.encode(made, "assistant"))
    assert (places.content, places.end, places.tail) == ((2,), 2, 3)


def test_places_without_letters_of_tokens(monkeypatch):
    chat, made = ChatFormat(), tokenizer()
    monkeypatch.setattr(type(made), "is_fast", property(lambda _: False))
    ids = chat.encode(made, "w20 w21 user")
    places = places_of(made, chat, "w20 w21 user", ids)
    assert (places.content, places.end, places.tail) == ((2, 3, 4), 4, 5)


def test_benjamini_and_hochberg_by_hand():
    # p m / rank, then the least from behind: their own table of 1995, in small.
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx(
        [0.04, 0.16 / 3, 0.16 / 3, 0.5]
    )
    assert benjamini_hochberg([]) == []
    assert benjamini_hochberg([0.9, 0.9]) == pytest.approx([0.9, 0.9])


def test_mcnemar_is_the_binomial_test_of_prompts_that_differ():
    one = [1] * 8 + [0] * 2 + [1] * 10
    other = [0] * 8 + [1] * 2 + [1] * 10
    # Of 10 that differ 8 one way: 2 (1 + 10 + 45) / 1024.
    assert mcnemar(one, other) == pytest.approx(112 / 1024)
    assert mcnemar(other, one) == mcnemar(one, other)
    assert mcnemar(one, one) == 1.0
    assert mcnemar([1, 0], [0, 1]) == 1.0


def test_p_counts_units_of_the_layer_outside_the_set():
    space = UnitSpace.neurons([6, 6])
    effects = torch.tensor([5.0, 1, 2, 3, 4, 9, 0, 0, 0, 0, 0, 0])
    units = UnitSet.of(torch.tensor([3, 5, 6]), space)
    p = p_outside(effects, units)
    # Outside in layer 0: 5, 1, 2, 4; as much as 3 do two of them.
    assert p[0].item() == pytest.approx(3 / 5)
    assert p[1].item() == pytest.approx(1 / 5)  # too few for a tail
    assert p[2].item() == pytest.approx(1.0)
    unknown = effects.clone()
    unknown[6:] = torch.nan
    assert p_outside(unknown, units)[2].isnan()
    rows = nulls_of({M: unknown}, units)
    assert (rows[0].effects[M].most, rows[0].n) == (5, 4)
    assert not rows[1].effects


def test_a_tail_is_continued_where_no_unit_does_as_much():
    space = UnitSpace.neurons([101])
    effects = torch.linspace(0, 1, 101)
    effects[100] = 1.0
    units = UnitSet.of(torch.tensor([100]), space)
    little, much = effects.clone(), effects.clone()
    little[100], much[100] = 0.9901, 5.0
    known = p_outside(little, units).item()
    assert known == pytest.approx(1 / 101, rel=0.05)
    assert p_outside(much, units).item() < 1e-9


def test_noise_has_about_as_many_stages_as_the_level_says():
    generator = torch.Generator().manual_seed(0)
    space = UnitSpace.neurons([200] * 4)
    found = 0
    for draw in range(40):
        effects = {stage: torch.randn(800, generator=generator) for stage in StageName}
        units = UnitSet.of(torch.randperm(800, generator=generator)[:40], space)
        _, stages = stages_of(effects, units)
        found += any(stages)
        assert draw >= 0
    # Each draw has three families at 5 %: at most about 14 % of them find anything.
    assert found <= 12


@pytest.mark.parametrize("tail", ["t3", "cubed"])
def test_heavy_tails_are_not_taken_for_signs(tail):
    """Of sets drawn at random few have any stage, also where a few units do very much."""
    generator = torch.Generator().manual_seed(1)
    space, found = UnitSpace.neurons([400] * 3), 0
    for _ in range(60):
        drawn = torch.randn(4, 1200, generator=generator)
        effect = drawn[0] / drawn[1:].square().mean(0).sqrt() if tail == "t3" else drawn[0] ** 3
        units = UnitSet.of(torch.randperm(1200, generator=generator)[:60], space)
        found += any(stages_of({M: effect}, units)[1])
    assert found <= 9  # of 60: 5 % would be 3


def test_layers_that_the_set_covers_cannot_be_compared():
    space = UnitSpace.neurons([4, 30])
    units = UnitSet.of(torch.arange(6), space)
    p = p_outside(torch.randn(34), units)
    assert p[:4].isnan().all()
    assert not p[4:].isnan().any()
    assert stages_of({M: torch.randn(34)}, UnitSet.all(space))[0] == [{}] * 34
    assert [set(of) for of in stages_of({M: torch.randn(34)}, units)[0]] == [set()] * 4 + [{M}] * 2


@pytest.mark.parametrize("n", [4, 8, 24])
def test_noise_on_few_prompts_is_no_detector(n):
    space = UnitSpace.neurons([5000])
    noise = torch.randn(2 * n, 5000, generator=torch.Generator().manual_seed(n))
    areas = {Position.TAIL: separation(noise[:n], noise[n:])}
    (found,) = detectors_in("aligned", areas, UnitSet.of(torch.arange(9), space), n, n)
    assert found.all <= 1
    told = noise.clone()
    told[:n, 3] += 40.0
    areas = {Position.TAIL: separation(told[:n], told[n:])}
    (found,) = detectors_in("aligned", areas, UnitSet.of(torch.arange(9), space), n, n)
    assert (found.best, found.best_auroc) == ("L0.N3", 1.0) or n < 24


def test_a_planted_effect_among_noise_has_its_stage_and_no_other():
    space = UnitSpace.neurons([60, 60])
    effects = {
        s: torch.randn(120, generator=torch.Generator().manual_seed(i))
        for i, s in enumerate(StageName)
    }
    effects[M][70] = 12.0
    effects[S][71] = -12.0
    _, stages = stages_of(effects, UnitSet.of(torch.tensor([3, 9, 70, 71, 88]), space))
    assert stages == [[], [], [M], [], []]


def test_openings_are_the_shortest_that_tell_kinds_apart():
    answered = Answered(
        Side.ALIGNED,
        [[1]] * 6,
        [[9, 5, 6], [9, 5, 7], [4, 4], [9, 3, 3], [], [8, 8, 8, 8, 8, 1]],
        [R, R, R, C, C, C],
    )
    same = Answered(Side.UNALIGNED, [[1]] * 2, [[8, 8, 8, 8, 8, 2], [7]], [R, Verdict.UNSCORED])
    found = OpeningSets.of([answered, same])
    assert found.refusal == ((9, 5), (4,))
    assert found.compliance == ((9, 3),)
    assert found.dropped == 1  # five times 8, of both
    assert found.first_tokens == (4,)
    assert not OpeningSets.of([same]).known


@pytest.mark.parametrize(
    ("stages", "own", "part"),
    [
        ([D, M], 1.0, D),
        ([D, M], 0.4, M),
        ([D, M, S], 1.0, S),
        ([M], 1.0, M),
        ([D], 0.0, D),
        ([], 1.0, None),
        ([D, M], float("nan"), M),
    ],
)
def test_where_a_unit_stands(stages, own, part):
    assert parts_of([stages], torch.tensor([own])) == [part]


# The rules.


def rate(value: float) -> RefusalRate:
    return RefusalRate(refusal_rate=value, n=40, ci_low=value - 0.1, ci_high=value + 0.1)


def held(stage: StageName, value: float, random: float) -> CausalRow:
    return CausalRow(
        intervention="ablate",
        stage=stage,
        recipient="aligned",
        k=4,
        n=40,
        detection=None,
        direction=Figure(value=1, ci_low=None, ci_high=None),
        first_token=None,
        refusal_rate=rate(value),
        random=Downstream(detection=None, direction=1, first_token=None, refusal_rate=random),
        random_sets=1,
        p=0.001 if abs(random - value) > 0.2 else 0.4,
    )


def link(source: StageName, target: StageName, lost: float, random: float = 0.1) -> Flow:
    return Flow(
        source=source,
        target=target,
        k_source=4,
        k_target=4,
        lost=lost,
        ci_low=lost - 0.1,
        ci_high=lost + 0.1,
        random=random,
    )


def figures(*medians: float | None) -> dict[StageName, StageFigures]:
    return {
        stage: StageFigures(k=0)
        if median is None
        else StageFigures(k=4, quartiles=[median, median, median])
        for stage, median in zip(StageName, medians, strict=True)
    }


@pytest.mark.parametrize(
    ("medians", "lost", "rates", "verdict"),
    [
        ((1, 3, 5), (0.8, 0.8), (0.1, 0.2, 0.3), PipelineVerdict.PRESENT),
        ((5, 3, 1), (0.8, 0.8), (0.1, 0.2, 0.3), PipelineVerdict.PARTIAL),
        ((1, 3, 5), (0.8, 0.15), (0.1, 0.2, 0.3), PipelineVerdict.PARTIAL),
        ((1, 3, 5), (0.8, 0.8), (0.1, 0.9, 0.3), PipelineVerdict.PARTIAL),
        ((1, 3, 5), (0.15, 0.15), (0.1, 0.2, 0.3), PipelineVerdict.ABSENT),
        ((None, 3, 5), (0.8, 0.8), (0.1, 0.2, 0.3), PipelineVerdict.ABSENT),
        ((1, 3, None), (0.8, 0.8), (0.1, 0.2, 0.3), PipelineVerdict.ABSENT),
        ((1, 3, 5), (0.8, 0.8), (0.1, 0.2, 0.8), PipelineVerdict.PARTIAL),
    ],
)
def test_the_rules_of_the_verdict(medians, lost, rates, verdict):
    flows = [link(D, M, lost[0]), link(M, S, lost[1])]
    rows = [held(stage, value, 0.95) for stage, value in zip(StageName, rates, strict=True)]
    found, reasons = judged(figures(*medians), flows, rows, "neurons", measured=set(StageName))
    assert found is verdict
    assert f"{100 * lost[0]:.0f} %" in " ".join(reasons)


def test_what_was_not_measured_is_said():
    rows = [held(stage, 0.1, 0.95) for stage in StageName]
    flows = [link(D, M, 0.8), link(M, S, 0.8)]
    found, reasons = judged(figures(1, 2, None), flows, rows, "neurons", measured={D, M})
    assert found is PipelineVerdict.UNKNOWN
    assert "Not measured: steering. What answers begin with" in reasons[0]
    found, _ = judged(figures(None, 2, None), flows, rows, "neurons", measured={D, M})
    assert found is PipelineVerdict.ABSENT
    nothing = judged(figures(None, None, None), [], [], "neurons", measured=set())
    assert nothing[0] is PipelineVerdict.UNKNOWN
    # Too few prompts for a flow, or no random sets.
    every = figures(1, 2, 3), set(StageName)
    found, reasons = judged(every[0], flows[:1], rows, "neurons", measured=every[1])
    assert found is PipelineVerdict.UNKNOWN
    assert "Whether steering rests on mediation could not be told." in reasons
    alone = [row.model_copy(update={"random": None, "p": None}) for row in rows]
    found, reasons = judged(every[0], flows, alone, "neurons", measured=every[1])
    assert found is PipelineVerdict.UNKNOWN
    assert "Whether refusals rest on detection could not be told." in reasons
    bare = [each.model_copy(update={"random": None}) for each in flows]
    assert judged(every[0], bare, rows, "neurons", measured=every[1])[0] is PipelineVerdict.UNKNOWN


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(UserError, match="fraction"):
        ExplainOptions(share=share)


def test_prompts_stand_apart():
    def named(*texts: str) -> PromptSet:
        return PromptSet("p", tuple(Prompt(str(i), text) for i, text in enumerate(texts)))

    one, two = named("open the gate", "wash a horse"), named("paint a boat", "fix that clock")
    three, four = named("sell my shoes", "hide the rum"), named("count to nine", "jump up high")
    ExplanationPrompts(one, two, three, four, named("bake some bread", "sing us songs"))
    with pytest.raises(UserError, match="the same"):
        ExplanationPrompts(one, two, three, three, named("bake some bread", "sing us songs"))
    with pytest.raises(UserError, match="has 1 prompt for 'harmless'"):
        ExplanationPrompts(one, two, three, four, named("bake some bread"))
    built = ExplanationPrompts.builtin(6)
    assert [p.id.split("/", 1)[1] for p in built.test] == [
        p.id.split("/", 1)[1] for p in built.harmless
    ]


def test_a_model_whose_answers_begin_alike_has_no_openings():
    same = Answered(Side.ALIGNED, [[1]] * 4, [[8, 8, 8, 8, 8, i] for i in range(4)], [R, C, R, C])
    found = OpeningSets.of([same])
    assert not found.known
    assert found.dropped == 1
    assert not found.first_tokens
    assert told_apart(None, found, [same], Decoding()) == (None, 2, 2)
