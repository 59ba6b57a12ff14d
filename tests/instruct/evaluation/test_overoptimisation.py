"""Best-of-n against all ways to draw n; KL; PPO's log."""

import math
from itertools import combinations

import numpy as np
import pytest

from instruct.evaluation.best_of_n import (
    best_of_n,
    best_of_n_curve,
    best_of_n_kl,
    best_of_n_weights,
    ppo_curve,
)


def plain_best_of_n(learned, other, n: int) -> float:
    """The mean over all subsets; of equal scores each is kept as often."""
    found = []
    for subset in combinations(range(len(learned)), n):
        top = max(learned[i] for i in subset)
        best = [other[i] for i in subset if learned[i] == top]
        found.append(sum(best) / len(best))
    return sum(found) / len(found)


@pytest.mark.parametrize("seed", range(6))
def test_best_of_n_equals_all_subsets(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 9))
    learned, gold = rng.normal(size=size), rng.normal(size=size)
    for n in range(1, size + 1):
        assert best_of_n(learned, gold, n) == pytest.approx(plain_best_of_n(learned, gold, n))
        assert best_of_n_weights(size, n).sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_scores_any_may_be_kept(seed):
    """Subsets that hold only some of the equal ones, too: on average each is kept as often."""
    rng = np.random.default_rng(seed)
    learned, gold = rng.integers(0, 3, 7).astype(float), rng.normal(size=7)
    for n in range(1, 8):
        assert best_of_n(learned, gold, n) == pytest.approx(plain_best_of_n(learned, gold, n))


def test_many_samples_keep_their_digits():
    weights = best_of_n_weights(1024, 64)
    assert weights.sum() == pytest.approx(1, abs=1e-12) and (weights >= 0).all()
    assert best_of_n_kl(1) == 0 and best_of_n_kl(64) == pytest.approx(math.log(64) - 63 / 64)


def test_the_kl_is_that_of_drawn_distributions():
    """Of a fine distribution, where hardly any two draws are equal."""
    size, n = 20_000, 5
    best = best_of_n_weights(size, n)  # without replacement, of so many: as good as with
    some = best > 0
    kl = (best[some] * np.log(best[some] * size)).sum()
    assert kl == pytest.approx(best_of_n_kl(n), abs=2e-3)


def test_the_curve_is_the_mean_over_prompts():
    rng = np.random.default_rng(0)
    learned, gold = rng.normal(size=(30, 20)), rng.normal(size=(30, 20))
    gold += 0.5 * learned
    users = [f"u{i // 2}" for i in range(30)]
    curve = best_of_n_curve(learned, gold, users)
    assert [point["n"] for point in curve] == [*range(1, 17), 20]
    for point in (curve[0], curve[2], curve[-1]):
        n = point["n"]
        if n < 4:
            expected = np.mean([plain_best_of_n(s, g, n) for s, g in zip(learned, gold)])  # noqa: B905
        else:
            expected = gold[np.arange(30), learned.argmax(1)].mean()
        assert point["gold"] == pytest.approx(expected)
        assert point["gold_low"] < point["gold"] < point["gold_high"]
        assert point["sqrt_kl"] == pytest.approx(math.sqrt(math.log(n) - (n - 1) / n))
    assert curve[0]["reward"] == pytest.approx(learned.mean())
    assert curve[-1]["reward"] == pytest.approx(learned.max(1).mean())
    assert [point["n"] for point in best_of_n_curve(learned, gold, users, 2)] == [1, 2]


def test_ppo_is_read_from_its_log():
    log = [
        {"step": 0, "eval_loss": 1.0},
        {"step": 2, "objective/kl": -0.01, "objective/scores": 0.2, "rewards/taste": 0.4},
        {"step": 4, "objective/kl": 4.0, "objective/scores": 0.5, "rewards/reward_model": 0.7},
    ]
    assert ppo_curve(log, "taste") == [
        {"step": 2, "kl": -0.01, "sqrt_kl": 0.0, "reward": 0.2, "gold": 0.4},
        {"step": 4, "kl": 4.0, "sqrt_kl": 2.0, "reward": 0.7, "gold": None},
    ]
    assert ppo_curve(log, None)[0]["gold"] is None
    # reward:PATH of --reward_funcs: what the policy was paid may be the sum of several
    paid = {"step": 2, "objective/kl": 1.0, "objective/scores": 5.0}
    assert ppo_curve([{**paid, "rewards/reward": 0.5}], None)[0]["reward"] == 0.5
    assert ppo_curve([paid], None)[0]["reward"] == 5.0
