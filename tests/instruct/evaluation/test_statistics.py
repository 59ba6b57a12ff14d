"""Intervals and win rates."""

import numpy as np
import pytest

from instruct.errors import UserError
from instruct.evaluation import statistics
from instruct.evaluation.statistics import cluster_bootstrap, win_rate


def test_bootstrap_covers_the_truth_and_is_wider_for_clusters():
    rng = np.random.default_rng(0)
    values = rng.random(400)
    mean, low, high = cluster_bootstrap(values, range(400))
    assert low < mean < high and mean == pytest.approx(values.mean())
    # the normal approximation of independent rows
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.15)
    # rows that repeat their cluster's value add nothing
    _, low4, high4 = cluster_bootstrap(np.repeat(values[:100], 4), np.repeat(np.arange(100), 4))
    _, low1, high1 = cluster_bootstrap(values[:100], range(100))
    assert high4 - low4 == pytest.approx(high1 - low1, rel=0.1)


def test_win_rate_counts_ties_half():
    entry = win_rate([1, 0, 0.5, 0.2], [0, 1, 0.4, 0.9], list("abcd"), tie=0.2)
    assert (
        entry["rate"] == pytest.approx((1 + 0 + 0.5 + 0) / 4)
        and entry["n"] == 4
        and entry["ties"] == 1
    )
    assert win_rate([1] * 9, [0] * 9, range(9)) == {
        "rate": 1.0,
        "low": 1.0,
        "high": 1.0,
        "n": 9,
        "ties": 0,
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_wins_and_loses_nothing(bad):
    """A NaN beats nobody: unchecked, a judge that says NaN is a win rate of 0."""
    good = [1.0, 2.0, 3.0]
    with pytest.raises(UserError, match=f"the score of row 2 is {bad}"):
        win_rate([1.0, bad, 3.0], good, range(3))
    with pytest.raises(UserError, match=f"the other's score of row 3 is {bad}"):
        win_rate(good, [1.0, 2.0, bad], range(3))
    with pytest.raises(UserError, match=f"the value of row 1 is {bad}"):
        cluster_bootstrap([bad, 1.0], range(2))


def simulated(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
    """An interval for 100 users with one to five prompts each, who differ in what they prefer."""
    prompts = rng.integers(1, 6, 100)
    users = np.repeat(np.arange(100), prompts)
    taste = np.repeat(rng.beta(3, 2, 100), prompts)  # of each user; 0.6 on average
    won = rng.random(len(users)) < taste
    if kind == "wins":
        found = win_rate(won, np.zeros(len(users)), users, tie=-1)
        return found["rate"], found["low"], found["high"]
    # scores: as far from 0.6 as tastes are, and noise of each answer's own
    return cluster_bootstrap(taste + rng.normal(0, 0.5, len(users)), users)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wins", "scores"])
def test_intervals_of_a_hundred_users_cover_the_truth(kind):
    rng = np.random.default_rng(0)
    # four times 500: the coverage of 500 runs is itself off by a percent
    intervals = [simulated(rng, kind) for _ in range(2000)]
    covered = np.mean([low <= 0.6 <= high for _, low, high in intervals])
    assert 0.93 <= covered <= 0.97, covered


def test_resamples_drawn_part_by_part_are_those_drawn_at_once(monkeypatch):
    draw = np.random.default_rng(0)
    values, users = draw.random(300), draw.integers(70, size=300)
    whole = cluster_bootstrap(values, users)
    for most in (70, 71, 700, 10**9):
        monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", most)
        assert cluster_bootstrap(values, users) == whole
