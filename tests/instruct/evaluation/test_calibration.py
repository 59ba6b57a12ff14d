"""Calibration and length bias against plain loops on random rankings."""

import math
import random
import statistics

import numpy as np
import pytest

from instruct.evaluation.calibration import average_ranks, calibration, correlation_within, pairs_of


def rankings(n: int = 80, seed: int = 0, sharp: float = 1.0, ties: bool = True):
    """Texts, scores and ranks; the chance of a rank is as `sharp` times the scores say."""
    rng = np.random.default_rng(seed)
    texts, scores, ranks = [], [], []
    for i in range(n):
        k = int(rng.integers(2, 6))
        given = rng.normal(size=k)
        # Plackett and Luce: pairs of it are Bradley and Terry's
        noisy = sharp * given + rng.gumbel(size=k)
        texts.append([f"{i} {j} {'x' * int(rng.integers(9))}" for j in range(k)])
        scores.append(given.tolist())
        ranks.append((len(given) - noisy.argsort().argsort()).tolist())
        if ties and k > 2:
            ranks[-1][0] = ranks[-1][1]
    return texts, scores, ranks


def test_each_strict_pair_once_and_who_is_first_does_not_tell_who_wins():
    texts, scores, ranks = rankings()
    pairs = pairs_of(texts, scores, ranks)
    expected = [
        (n, abs(scores[n][i] - scores[n][j]))
        for n in range(len(texts)) for i in range(len(texts[n])) for j in range(i)
        if ranks[n][i] != ranks[n][j]
    ]  # fmt: skip
    found = zip(pairs.rankings.tolist(), np.abs(pairs.gaps).tolist(), strict=True)
    assert sorted(found) == sorted(expected)
    better = dict(zip(zip(pairs.rankings, pairs.gaps, strict=True), pairs.wins, strict=True))
    for (n, gap), win in better.items():
        (i, j), = [
            (i, j) for i in range(len(texts[n])) for j in range(len(texts[n]))
            if scores[n][i] - scores[n][j] == gap and i != j
        ]  # fmt: skip
        assert win == (ranks[n][i] < ranks[n][j])
    # chosen first, as in files of pairs
    many = [[f"good {i}", f"bad {i}"] for i in range(400)]
    wins = pairs_of(many, [[1.0, 0.0]] * 400, [[1, 2]] * 400).wins
    assert wins.mean() == pytest.approx(0.5, abs=0.08)
    # rows in another order are the same pairs
    back = pairs_of(*([row[::-1] for row in rows] for rows in (texts, scores, ranks)))
    assert sorted(back.gaps) == sorted(pairs.gaps)


def test_bins_and_error_equal_a_plain_loop():
    texts, scores, ranks = rankings()
    pairs = pairs_of(texts, scores, ranks)
    found = calibration(pairs.gaps, pairs.wins, pairs.rankings, bins=5)
    error, n = 0.0, len(pairs.gaps)
    for i, entry in enumerate(found["bins"]):
        inside = []
        for gap, win in zip(pairs.gaps, pairs.wins, strict=True):
            p = 1 / (1 + math.exp(-gap))
            if i / 5 <= p < (i + 1) / 5:
                inside.append((p, win))
        mean_p, mean_win = (statistics.mean(v) for v in zip(*inside, strict=True))
        assert entry["predicted"] == pytest.approx(mean_p) and entry["n"] == len(inside)
        assert entry["observed"] == pytest.approx(mean_win)
        assert entry["observed_low"] <= entry["observed"] <= entry["observed_high"]
        error += len(inside) / n * abs(mean_p - mean_win)
    assert found["ece"] == pytest.approx(error) and found["n_pairs"] == n


def test_a_model_that_is_too_sure_is_told_from_one_that_is_right():
    right, sure = (pairs_of(*rankings(1500, 1, sharp, ties=False)) for sharp in (1.0, 0.3))
    right = calibration(right.gaps, right.wins, right.rankings)
    sure = calibration(sure.gaps, sure.wins, sure.rankings)
    assert right["slope"] == pytest.approx(1, abs=0.1) and right["ece"] < 0.03
    assert right["ece"] == pytest.approx(right["ece_by_chance"], abs=0.015)
    assert sure["slope"] == pytest.approx(0.3, abs=0.1) and sure["ece"] > 0.1
    # of scores in smaller units it says the same in those units
    pairs = pairs_of(*rankings(300, 1, ties=False))
    slope = calibration(pairs.gaps, pairs.wins, pairs.rankings)["slope"]
    for unit in (10, 0.1, 1e-3, 1e-5):
        scaled = calibration(np.asarray(pairs.gaps) * unit, pairs.wins, pairs.rankings)
        assert scaled["slope"] * unit == pytest.approx(slope, rel=1e-6)
    # a bin without pairs says nothing
    one = calibration(np.array([0.0]), np.array([1.0]), ["a"])
    assert one["bins"][0]["observed"] is None and one["bins"][5]["observed"] == 1.0
    assert one["ece"] == pytest.approx(0.5)


@pytest.mark.parametrize("by_rank", [False, True])
def test_correlation_within_prompts_equals_a_plain_loop(by_rank):
    rng = random.Random(0)
    x, y = [], []
    for i in range(60):
        k = rng.randint(2, 7)
        # between prompts the other way round: that is not to count
        x.append([rng.randint(0, 5) + 3 * i for _ in range(k)])
        y.append([0.3 * v - 4 * i + rng.gauss(0, 1) for v in x[-1]])
    clusters = [f"user {i // 2}" for i in range(60)]
    found = correlation_within(x, y, clusters, by_rank)
    a, b = [], []
    for one, other in zip(x, y, strict=True):
        for values, out in ((one, a), (other, b)):
            if by_rank:
                values = [
                    1 + sum(v < u for v in values) + (sum(v == u for v in values) - 1) / 2
                    for u in values
                ]
            mean = sum(values) / len(values)
            out += [v - mean for v in values]
    assert found["mean"] == pytest.approx(statistics.correlation(a, b))
    assert found["low"] < found["mean"] < found["high"] and found["mean"] > 0.1


def test_no_correlation_where_all_are_alike():
    assert correlation_within([[1, 1], [2, 2]], [[1, 2], [3, 4]], ["a", "b"]) is None
    assert average_ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]
    # a draw of the prompt without spread alone is left out
    found = correlation_within([[1, 1], [2, 5]], [[1, 2], [3, 4]], ["a", "b"])
    assert found == {"mean": pytest.approx(3 / math.sqrt(9 * 2)), "low": pytest.approx(
        found["low"]), "high": pytest.approx(1)}  # fmt: skip
