"""Rankings and sets of neurons."""

from __future__ import annotations

import random

import pyarrow.parquet as parquet
import pytest
import torch

from safety_neurons.errors import UserError
from safety_neurons.units import (
    Block,
    BlockKey,
    Ranking,
    SiteKind,
    UnitSet,
    UnitSpace,
    read_table,
    units_in,
    write_table,
)

LAYOUT = UnitSpace.neurons((6, 10, 4))
N = 20


def some(*flat: int) -> UnitSet:
    return UnitSet.of(torch.tensor(flat, dtype=torch.long), LAYOUT)


def ranked(scores, layout: UnitSpace = LAYOUT) -> Ranking:
    return Ranking("change-score", torch.as_tensor(scores, dtype=torch.float64), layout)


# Sets.


def test_algebra_is_that_of_python_sets():
    draw = random.Random(0)
    for _ in range(50):
        a, b = (set(draw.sample(range(N), draw.randrange(N + 1))) for _ in range(2))
        one, other = some(*a), some(*b)
        assert one | other == some(*(a | b))
        assert one & other == some(*(a & b))
        assert one - other == some(*(a - b))
        assert len(one) == len(a)
        assert (one == other) is (a == b)


def test_order_and_repetition_do_not_matter():
    assert some(5, 1, 5, 3) == some(1, 3, 5)
    assert some(5, 1, 5, 3).flat.tolist() == [1, 3, 5]


def test_names_and_layers():
    neurons = some(0, 5, 6, 15, 16, 19)
    assert neurons.names == ["L0.N0", "L0.N5", "L1.N0", "L1.N9", "L2.N0", "L2.N3"]
    assert [neurons.in_block(BlockKey(i)).tolist() for i in range(3)] == [[0, 5], [0, 9], [0, 3]]
    assert neurons.per_layer() == [2, 2, 2]
    assert some().per_layer() == [0, 0, 0]
    assert len(UnitSet.all(LAYOUT)) == N


@pytest.mark.parametrize("flat", [-1, N])
def test_neurons_that_the_model_lacks_are_refused(flat):
    with pytest.raises(UserError, match=f"{N} units"):
        some(0, flat)


@pytest.mark.parametrize("operation", ["__and__", "__or__", "__sub__"])
def test_sets_of_different_models_do_not_mix(operation):
    other = UnitSet.of(torch.tensor([0]), UnitSpace.neurons((10, 10)))
    assert some(0) != other
    with pytest.raises(UserError, match="differently shaped"):
        getattr(some(0), operation)(other)


# Matched random sets.


def test_matched_random_sets_have_as_many_in_each_layer_and_none_of_the_set():
    neurons = some(0, 1, 2, 6, 18)
    for seed in range(30):
        control = neurons.matched_random(seed)
        assert control.per_layer() == neurons.per_layer() == [3, 1, 1]
        assert len(control & neurons) == 0


def test_matched_random_sets_depend_on_the_seed_alone():
    neurons = some(0, 1, 6, 7, 18)
    assert neurons.matched_random(3) == neurons.matched_random(3)
    drawn = {tuple(neurons.matched_random(seed).flat.tolist()) for seed in range(30)}
    assert len(drawn) > 20


def test_matched_random_sets_draw_every_free_neuron_equally_often():
    neurons, seen = some(0, 1), torch.zeros(N)
    for seed in range(600):
        seen[neurons.matched_random(seed).flat] += 1
    assert seen[[0, 1]].sum() == 0
    assert seen[6:].sum() == 0
    # Two of four, 600 times: 300 expected each, four standard deviations are 49.
    assert ((seen[2:6] - 300).abs() < 49).all()


def test_no_matched_random_set_where_a_layer_has_too_few_left():
    assert some(0, 1, 2).matched_random(0) is not None  # three of six are left
    assert some(0, 1, 2, 3).matched_random(0) is None
    assert UnitSet.all(LAYOUT).matched_random(0) is None
    assert some().matched_random(0) == some()


def test_global_random_state_is_neither_used_nor_changed():
    neurons = some(0, 7, 8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = neurons.matched_random(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert neurons.matched_random(5) == first


# Rankings.


def test_ranks_and_order_agree_with_sorting():
    scores = torch.randperm(N, generator=torch.Generator().manual_seed(0)).double()
    ranking = ranked(scores)
    assert scores[ranking.order].tolist() == sorted(scores.tolist(), reverse=True)
    for place, neuron in enumerate(ranking.order.tolist()):
        assert ranking.ranks[neuron] == place


def test_ties_keep_the_order_of_the_layout():
    assert ranked([1.0] * N).order.tolist() == list(range(N))
    big = UnitSpace.neurons((5000,))
    scores = torch.arange(5000) % 3
    order = ranked(scores, big).order.tolist()
    assert order == sorted(range(5000), key=lambda i: (-(i % 3), i))


def test_top_sets_are_nested_and_signed():
    scores = torch.linspace(-1, 1, N, dtype=torch.float64)[torch.randperm(N)]
    ranking, previous = ranked(scores), some()
    for k in range(N + 1):
        top = ranking.top(k / N)
        assert len(top) == k
        assert len(previous - top) == 0
        outside = UnitSet.all(LAYOUT) - top
        if 0 < k < N:
            assert scores[top.flat].min() > scores[outside.flat].max()
        previous = top
    assert ranking.top(0.1).provenance == {"ranking": "change-score", "share": 0.1}


@pytest.mark.parametrize(
    ("share", "k"), [(0, 0), (0.02, 0), (0.03, 1), (0.05, 1), (0.5, 10), (0.99, 20), (1, 20)]
)
def test_a_share_is_rounded_to_neurons(share, k):
    assert units_in(share, LAYOUT) == k
    assert len(ranked(torch.rand(N)).top(share)) == k


@pytest.mark.parametrize("share", [-0.01, 1.01, 5, float("nan")])
def test_shares_outside_0_to_1_are_refused(share):
    with pytest.raises(UserError, match="no fraction of all units"):
        ranked([0.0] * N).top(share)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad):
    with pytest.raises(UserError, match="1 scores that are not finite"):
        ranked([0.0] * (N - 1) + [bad])


def test_a_table_comes_back_as_it_was(tmp_path):
    generator = torch.Generator().manual_seed(0)
    rankings = {
        name: Ranking(name, torch.randn(N, generator=generator, dtype=torch.float64), LAYOUT)
        for name in ("attribution", "change-score")
    }
    mean = torch.randn(N, generator=generator, dtype=torch.float64)
    path = tmp_path / "neurons.parquet"
    write_table(path, rankings, {"mean_aligned": mean})
    found = read_table(path)
    assert list(found) == list(rankings)  # the primary one first
    for name, ranking in rankings.items():
        assert found[name].name == name
        assert found[name].space == LAYOUT
        assert torch.equal(found[name].scores, ranking.scores)
        assert torch.equal(found[name].order, ranking.order)

    rows = parquet.read_table(path).to_pylist()
    assert len(rows) == N
    for flat, row in enumerate(rows):
        assert some(flat).names == [f"L{row['layer']}.N{row['neuron']}"]
        assert row["score"] == row["score_attribution"]
        assert row["rank"] == row["rank_attribution"]
        assert row["mean_aligned"] == mean[flat].item()
    best = min(rows, key=lambda row: row["rank_change_score"])
    assert best["score_change_score"] == max(row["score_change_score"] for row in rows)


def test_rankings_whose_columns_would_be_one_are_refused(tmp_path):
    rankings = {name: Ranking(name, torch.rand(N), LAYOUT) for name in ("a-b", "a_b")}
    with pytest.raises(UserError, match="a-b, a_b would share a column"):
        write_table(tmp_path / "neurons.parquet", rankings, {})
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_both_kinds_of_sites_comes_back(tmp_path):
    keys = [BlockKey(i, kind) for i in range(3) for kind in (SiteKind.ATTENTION, SiteKind.MLP)]
    space = UnitSpace(tuple(Block(key, 2 + i) for i, key in enumerate(keys)))
    ranking = Ranking("own", torch.rand(space.total, dtype=torch.float64), space)
    write_table(tmp_path / "units.parquet", {"own": ranking}, {})
    found = read_table(tmp_path / "units.parquet")["own"]
    assert found.space == space
    assert torch.equal(found.scores, ranking.scores)
    rows = parquet.read_table(tmp_path / "units.parquet").to_pylist()
    assert rows[2] == {**rows[2], "site": "mlp", "layer": 0, "neuron": 0}
    assert space.names_of(torch.tensor([0, 2])) == ["L0.A0", "L0.N0"]


def test_units_of_a_layer_are_added_over_its_sites():
    keys = [BlockKey(i, kind) for i in range(2) for kind in (SiteKind.ATTENTION, SiteKind.MLP)]
    space = UnitSpace(tuple(Block(key, 4) for key in keys))
    units = UnitSet.of(torch.tensor([0, 1, 5, 12]), space)
    assert units.per_block() == [2, 1, 0, 1]
    assert units.per_layer() == [3, 1]
    assert space.layers == 2
    control = units.matched_random(0)
    assert control.per_block() == units.per_block()
    assert len(control & units) == 0
