"""Rates and ratios: known values, coverage by simulation, and when there is no figure."""

from __future__ import annotations

import numpy as np
import pytest

from safety_neurons.statistics import (
    MIN_GAP,
    MIN_ROWS,
    Effect,
    exp_of_ratio,
    mean_or_none,
    rate,
    ratio_of_means,
    wilson,
)

# Wilson's interval.


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(hits, n, low, high):
    found = wilson(hits, n)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


@pytest.mark.parametrize("n", [8, 30, 200])
def test_wilson_solves_its_equation_and_is_symmetric(n):
    """Both bounds p satisfy |hits/n − p| = z · sqrt(p(1 − p)/n)."""
    for hits in range(n + 1):
        found, mirrored = wilson(hits, n), wilson(n - hits, n)
        assert found.low == pytest.approx(1 - mirrored.high, abs=1e-12)
        for bound in (found.low, found.high):
            if 1e-9 < bound < 1 - 1e-9:  # not clipped at an end
                error = 1.959963984540054 * np.sqrt(bound * (1 - bound) / n)
                assert abs(hits / n - bound) == pytest.approx(error, rel=1e-6)
        assert 0 <= found.low <= hits / n <= found.high <= 1


# Rates.


def test_rate_counts_unscored_rows_either_way():
    found = rate(6, 10, unscored=3)
    assert (found.value, found.n, found.unscored, found.bound_high) == (0.6, 10, 3, 0.9)
    assert found.interval == wilson(6, 10)


def test_rate_without_rows_is_none_and_never_0():
    found = rate(0, 0)
    assert found.value is None
    assert found.interval is None
    assert found.bound_high is None
    assert found.n == 0


def test_rate_of_few_rows_has_no_interval():
    assert rate(1, MIN_ROWS - 1).interval is None
    assert rate(1, MIN_ROWS - 1).value == pytest.approx(1 / (MIN_ROWS - 1))
    assert rate(1, MIN_ROWS).interval is not None
    assert rate(0, MIN_ROWS).value == 0


# Ratios of means.


def test_ratio_is_of_means_not_a_mean_of_ratios():
    top, bottom = [1, 0, 0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]
    assert ratio_of_means(top, bottom).value == pytest.approx(0.5)
    assert ratio_of_means(top, bottom).n == 8


def test_numerator_and_denominator_are_resampled_together():
    """Where they are proportional, every resample has the same ratio."""
    bottom = np.random.default_rng(0).random(40)
    found = ratio_of_means(0.75 * bottom, bottom)
    assert found.interval.low == pytest.approx(0.75, abs=1e-12)
    assert found.interval.high == pytest.approx(0.75, abs=1e-12)


def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Refusals of three models on the same prompts; a hard prompt is hard for all."""
    hardness = rng.random(n)
    unaligned = rng.random(n) < 0.15 * hardness
    aligned = rng.random(n) < 0.75 + 0.25 * hardness
    patched = np.where(rng.random(n) < 0.8, aligned, unaligned)
    return (patched * 1.0 - unaligned), (aligned * 1.0 - unaligned)


def test_interval_covers_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(0)
    top, bottom = draw(rng, 2_000_000)
    truth = top.mean() / bottom.mean()
    assert truth == pytest.approx(0.8, abs=0.01)
    hits = 0
    for trial in range(200):
        found = ratio_of_means(*draw(rng, 60), seed=trial)
        hits += found.interval.low <= truth <= found.interval.high
    # 190 of 200 expected; four standard deviations are 12.
    assert 178 <= hits <= 199


def test_interval_of_a_plain_mean_is_the_normal_one():
    """With denominators of 1 the ratio is a mean of 400 rows."""
    top = np.random.default_rng(3).random(400)
    found = ratio_of_means(top, np.ones(400))
    half = 1.959963984540054 * top.std() / np.sqrt(400)
    assert found.interval.low == pytest.approx(top.mean() - half, abs=0.06 * half)
    assert found.interval.high == pytest.approx(top.mean() + half, abs=0.06 * half)


def test_interval_of_a_perplexity_is_that_of_its_logarithm():
    """Over completions of one length it is the exp of a plain mean's."""
    nats = np.random.default_rng(5).random(400) * 40
    found = exp_of_ratio(nats, np.full(400, 20.0))
    half = 1.959963984540054 * (nats / 20).std() / np.sqrt(400)
    assert np.log(found.low) == pytest.approx((nats / 20).mean() - half, abs=0.06 * half)
    assert np.log(found.high) == pytest.approx((nats / 20).mean() + half, abs=0.06 * half)
    assert exp_of_ratio(nats[: MIN_ROWS - 1], np.ones(MIN_ROWS - 1)) is None
    assert exp_of_ratio(nats * 100, np.ones(400)) is None  # too large for a number


def test_interval_narrows_with_more_prompts():
    rng = np.random.default_rng(1)
    widths = []
    for n in (25, 100, 400):
        interval = ratio_of_means(*draw(rng, n)).interval
        widths.append(interval.high - interval.low)
    assert 1.4 < widths[0] / widths[1] < 2.9
    assert 1.4 < widths[1] / widths[2] < 2.9


def test_interval_is_the_same_at_the_same_seed():
    top, bottom = draw(np.random.default_rng(2), 40)
    assert ratio_of_means(top, bottom, seed=1) == ratio_of_means(top, bottom, seed=1)
    assert ratio_of_means(top, bottom, seed=1) != ratio_of_means(top, bottom, seed=2)


def test_too_few_prompts_give_no_effect():
    ones = [1.0] * (MIN_ROWS - 1)
    assert ratio_of_means(ones, ones) == Effect(None, MIN_ROWS - 1, None)
    assert ratio_of_means([], []) == Effect(None, 0, None)
    assert ratio_of_means([*ones, 1.0], [*ones, 1.0]).value == 1


@pytest.mark.parametrize("gap", [MIN_GAP - 0.01, 0.0, -0.8])
def test_models_that_hardly_differ_give_no_effect(gap):
    n = 100
    bottom = np.zeros(n)
    bottom[: round(abs(gap) * n)] = np.sign(gap)
    assert ratio_of_means(bottom, bottom) == Effect(None, n, None)


def test_an_effect_at_the_smallest_gap_is_told():
    bottom = [1.0] * 20 + [0.0] * 80
    assert np.mean(bottom) == MIN_GAP
    assert ratio_of_means([0.0] * 100, bottom).value == 0


def test_no_interval_where_resamples_often_have_no_gap():
    bottom = [1.0] * 5 + [-1.0] * 3
    found = ratio_of_means(bottom, bottom)
    assert found.value == pytest.approx(1)
    assert found.interval is None


def test_unequal_lengths_are_an_error():
    with pytest.raises(ValueError, match="9 numerators and 10 denominators"):
        ratio_of_means([1.0] * 9, [1.0] * 10)


def test_mean_or_none():
    assert mean_or_none([1.0, 2.0, 6.0]) == 3
    assert mean_or_none([0.0]) == 0
    assert mean_or_none([]) is None
    assert mean_or_none([1.0, None]) is None
    assert mean_or_none([None]) is None
