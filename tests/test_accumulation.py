"""Sums that survive a stop are the sums of a run without one."""

from __future__ import annotations

import random

import pytest
import torch

from safety_neurons.methods import ContrastSums, contrast
from safety_neurons.methods import accumulation as module
from safety_neurons.methods.accumulation import accumulate
from safety_neurons.methods.attribution import AttributionSums
from safety_neurons.progress import Silent
from safety_neurons.units import UnitSpace
from tests.tiny import prompts

LAYOUT = UnitSpace.neurons((4, 3))


def batches(seed: int = 0, count: int = 6):
    draw = random.Random(seed)
    return [
        ([[draw.randrange(9) for _ in range(3)] for _ in range(2)], [[draw.randrange(9)]] * 2)
        for _ in range(count)
    ]


def sums_of(asked, answers) -> ContrastSums:
    values = torch.tensor([sum(ids) + len(answers) for ids in asked], dtype=torch.float64)
    each = values.sum() * torch.arange(1, 8) / 7
    return ContrastSums(len(answers), each**2, each, -each)


def assert_same(found: ContrastSums, expected: ContrastSums) -> None:
    assert found.positions == expected.positions
    assert torch.equal(found.squared_difference, expected.squared_difference)
    assert torch.equal(found.aligned, expected.aligned)
    assert torch.equal(found.unaligned, expected.unaligned)


class Stopping:
    """Counts its calls, and is interrupted in one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.calls, self.at = 0, at

    def __call__(self, asked, answers) -> ContrastSums:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return sums_of(asked, answers)


def run(todo, state, function=sums_of) -> ContrastSums:
    return accumulate(ContrastSums.zero(LAYOUT), todo, function, state, Silent(), "Sums")


@pytest.fixture
def saving_always(monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY", -1.0)


@pytest.mark.usefixtures("saving_always")
@pytest.mark.parametrize("stop", [1, 2, 4, 6])
def test_a_stopped_run_goes_on_with_the_same_sums(tmp_path, stop):
    state = tmp_path / "sums.safetensors"
    whole = run(batches(), tmp_path / "other.safetensors")
    with pytest.raises(KeyboardInterrupt):
        run(batches(), state, Stopping(at=stop))
    resumed = Stopping()
    assert_same(run(batches(), state, resumed), whole)
    assert resumed.calls == 6 - (stop - 1)  # what was saved is not done again


@pytest.mark.usefixtures("saving_always")
def test_stopping_again_and_again_gives_the_same_sums(tmp_path):
    state = tmp_path / "sums.safetensors"
    whole = run(batches(), tmp_path / "other.safetensors")
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            run(batches(), state, Stopping(at=2))
        assert [file.name for file in tmp_path.glob("sums*")] == ["sums.safetensors"]
    assert_same(run(batches(), state, Stopping(at=2)), whole)


def test_a_finished_run_is_not_done_again(tmp_path):
    state = tmp_path / "sums.safetensors"
    whole, again = run(batches(), state), Stopping(at=1)
    assert_same(run(batches(), state, again), whole)
    assert again.calls == 0


@pytest.mark.usefixtures("saving_always")
@pytest.mark.parametrize(
    "other", [batches(seed=1), batches()[::-1], batches()[:-1], [*batches(), *batches(seed=2)]]
)
def test_other_batches_do_not_use_the_old_sums(tmp_path, other):
    state = tmp_path / "sums.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(batches(), state, Stopping(at=4))
    counted = Stopping()
    assert_same(run(other, state, counted), run(other, tmp_path / "fresh.safetensors"))
    assert counted.calls == len(other)


@pytest.mark.usefixtures("saving_always")
def test_attribution_sums_are_kept_as_well(tmp_path):
    state, calls = tmp_path / "sums.safetensors", []

    def one(asked, answers):
        calls.append(asked)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return AttributionSums(len(asked), torch.full((7,), float(len(calls)), dtype=torch.float64))

    zero = AttributionSums.zero(LAYOUT)
    with pytest.raises(KeyboardInterrupt):
        accumulate(zero, batches(), one, state, Silent(), "Sums")
    found = accumulate(zero, batches(), one, state, Silent(), "Sums")
    assert found.prompts == 12
    assert found.attribution.tolist() == [1.0 + 2 + 4 + 5 + 6 + 7] * 7


@pytest.mark.usefixtures("saving_always")
def test_contrasting_a_real_pair_in_two_goes(zoo, tmp_path):
    pair = zoo.pair(zoo.source("llama", "ia3"), zoo.source("llama", "lora"))
    todo = [([prompt], [[20, 21, 22][: i + 1]]) for i, prompt in enumerate(prompts())]
    zero, seen = ContrastSums.zero(pair.space()), []

    def interrupted(asked, answers):
        if len(seen) == 1:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(asked)
        return contrast(pair, asked, answers)

    state = tmp_path / "sums.safetensors"
    with pytest.raises(KeyboardInterrupt):
        accumulate(zero, todo, interrupted, state, Silent(), "Sums")
    found = accumulate(zero, todo, interrupted, state, Silent(), "Sums")
    assert seen == [todo[0][0], None, todo[1][0], todo[2][0]]
    whole = contrast(pair, prompts(), [answers[0] for _, answers in todo])
    assert found.positions == whole.positions == 6
    torch.testing.assert_close(found.change_score, whole.change_score, rtol=1e-9, atol=1e-9)
