"""Paired comparisons, Holm's correction and sample sizes, against other computations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from safety_neurons.significance import effect_difference, holm, lasting_from, prompts_needed
from safety_neurons.statistics import RESAMPLES, ratio_of_means


def test_holm_by_hand():
    """0.01 × 4, 0.02 × 3, 0.03 × 2, 0.04 × 1; none below the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_is_that_of_the_effects_and_swaps_its_sign():
    rng = np.random.default_rng(3)
    a, u = np.ones(60), np.zeros(60)
    one, other = (rng.random((2, 60)) < [[0.9], [0.5]]).astype(float)
    found = effect_difference(one, other, a - u)
    by_hand = ratio_of_means(one - u, a - u).value - ratio_of_means(other - u, a - u).value
    assert found.effect.value == pytest.approx(by_hand)
    back = effect_difference(other, one, a - u)
    assert back.effect.value == pytest.approx(-found.effect.value)
    assert back.p == pytest.approx(found.p)
    assert found.p < 0.01


def test_p_values_of_equal_settings_are_even():
    """Where nothing differs, about one in twenty is below 0.05, and a pair of twins never is."""
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(300):
        one, other = (rng.random((2, 100)) < 0.5).astype(float)
        below += effect_difference(one, other, np.ones(100)).p < 0.05
    assert 4 <= below <= 30
    same = [1.0, 0.0] * 10
    assert effect_difference(same, same, np.ones(20)).p == 1.0


def test_what_cannot_be_told_has_no_difference():
    found = effect_difference([1.0] * 5, [0.0] * 5, [1.0] * 5)
    assert found.effect.value is None
    assert found.p is None


def test_so_many_prompts_tell_the_effects_apart_four_times_of_five():
    """By simulation: effects of 0.9, tested against 0.8 with the error that is planned for."""
    rng = np.random.default_rng(1)

    def draw(n, effect):
        a = (rng.random(n) < 0.9).astype(float)
        u = (rng.random(n) < 0.2).astype(float) * a
        p = np.where(a > u, rng.random(n) < effect, a).astype(float)
        return p, a, u

    n = prompts_needed(*draw(4000, 0.85))
    told = 0
    for _ in range(2000):
        p, a, u = draw(n, 0.9)
        error = (p - u) - 0.85 * (a - u)
        found = (p - u).mean() / (a - u).mean()
        spread = error.std() / np.sqrt(n) / (a - u).mean()
        told += abs(found - 0.8) > 1.96 * spread
    assert 0.72 < told / 2000 < 0.9
    assert prompts_needed(*draw(4000, 0.85), other=0.5) < n / 8


def test_a_small_gap_or_few_prompts_give_no_number():
    assert prompts_needed([1] * 7, [1] * 7, [0] * 7) is None
    assert prompts_needed([1] * 20, [1] * 20, [1] * 18 + [0] * 2) is None


def test_bounds_of_the_share_from_which_an_effect_lasts_are_those_of_plain_resampling():
    rng = np.random.default_rng(3)
    n, shares = 40, [0.1, 0.2, 0.5, 1.0]
    a, u = np.ones(n), np.zeros(n)
    chances = (0.5, 0.9, 0.88, 1.0)
    patched = [(rng.random(n) < chance).astype(float) for chance in chances]
    found = lasting_from(patched, a, u, shares, 0.9, seed=5)
    places = []
    for rows in np.random.default_rng(5).integers(0, n, size=(RESAMPLES, n)):
        effects = [of_share[rows].mean() for of_share in patched]
        lasting = [i for i in range(4) if all(e >= 0.9 - 1e-9 for e in effects[i:])]
        places.append(min(lasting, default=4))
    places.sort()
    low, high = places[int(0.025 * (RESAMPLES - 1))], places[math.ceil(0.975 * (RESAMPLES - 1))]
    assert found == ([*shares, None][low], [*shares, None][high])
    assert found[0] < found[1]


def test_a_share_that_is_never_reached_is_none_and_without_a_gap_nothing_is_told():
    a, u = [1.0] * 10, [0.0] * 10
    assert lasting_from([u, u], a, u, [0.1, 1.0], 0.9) == (None, None)
    assert lasting_from([u, a], a, u, [0.1, 1.0], 0.9) == (1.0, 1.0)
    assert lasting_from([a, u], a, u, [0.1, 1.0], 0.9) == (None, None)  # it does not last
    assert lasting_from([u, a], a, a, [0.1, 1.0], 0.9) is None
    assert lasting_from([u[:3], a[:3]], a[:3], u[:3], [0.1, 1.0], 0.9) is None
