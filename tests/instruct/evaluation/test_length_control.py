"""Length-controlled win rates against gradient descent and a plain bootstrap; groups of prompts."""

import math
import random

import numpy as np
import pytest

from instruct.errors import UserError
from instruct.evaluation.length_control import (
    RIDGE,
    by_group,
    cluster_weights,
    fit_logistic,
    length_controlled,
    length_controlled_rates,
    merged_groups,
)
from instruct.evaluation.statistics import outcomes


def plain_fit(columns, outcome, weights) -> list[float]:
    """By gradient ascent, a row and a coefficient at a time."""
    found = [0.0] * len(columns[0])
    for _ in range(4000):
        slope = [-RIDGE * b for b in found]
        for row, y, w in zip(columns, outcome, weights, strict=True):
            p = 1 / (1 + math.exp(-sum(b * x for b, x in zip(found, row, strict=True))))
            slope = [s + w * (y - p) * x for s, x in zip(slope, row, strict=True)]
        found = [b + 4 / sum(weights) * s for b, s in zip(found, slope, strict=True)]
    return found


def drawn(n: int, theta: float, phi: float, seed: int = 0):
    rng = np.random.default_rng(seed)
    ours, theirs = rng.integers(2, 25, n), rng.integers(2, 25, n)
    scaled = np.tanh((ours - theirs) / (ours - theirs).std())
    chance = 1 / (1 + np.exp(-theta - phi * scaled))
    won = (rng.random(n) < chance).astype(float)
    won[rng.random(n) < 0.2] = 0.5
    return won, ours, theirs, scaled


def test_the_fit_equals_gradient_ascent_with_ties_and_weights():
    won, _, _, scaled = drawn(60, 0.7, 1.2)
    columns = np.stack([np.ones(60), scaled], 1)
    weights = np.random.default_rng(1).integers(0, 4, (3, 60)).astype(float)
    found = fit_logistic(columns, won, weights)
    for i in range(3):
        expected = plain_fit(columns.tolist(), won.tolist(), weights[i].tolist())
        assert found[i] == pytest.approx(expected, abs=1e-5)


def test_the_rate_is_of_theta_alone_and_its_interval_of_whole_users():
    won, ours, theirs, scaled = drawn(120, 0.2, 1.5, seed=3)
    users = [f"user {i // 3}" for i in range(120)]
    found = length_controlled(won, ours, theirs, users, draws=200)
    columns = np.stack([np.ones(120), scaled], 1)
    theta, phi = plain_fit(columns.tolist(), won.tolist(), [1.0] * 120)
    assert found["rate"] == pytest.approx(1 / (1 + math.exp(-theta)), abs=1e-5)
    assert found["length_effect"] == pytest.approx(phi, abs=1e-4) and found["n"] == 120
    # a plain bootstrap: users drawn one by one
    rng, rates = random.Random(0), []
    for _ in range(200):
        weights = np.zeros(120)
        for user in rng.choices(range(40), k=40):
            weights[3 * user : 3 * user + 3] += 1
        ((b, _),) = fit_logistic(columns, won, weights[None])
        rates.append(1 / (1 + math.exp(-b)))
    low, high = np.percentile(rates, [2.5, 97.5])
    assert found["low"] == pytest.approx(low, abs=0.03)
    assert found["high"] == pytest.approx(high, abs=0.03)
    # rows of a user together, so many times in all as there are users
    weights = cluster_weights(users, 5, 0)
    assert (weights.sum(1) == 120).all() and (weights[:, ::3] == weights[:, 1::3]).all()


def test_a_model_that_wins_by_length_alone_wins_half_and_the_other_way_round_the_rest():
    won, ours, theirs, _ = drawn(4000, 0.0, 2.0, seed=6)
    more = ours > theirs - 4  # mostly the longer ones
    found = length_controlled(won[more], ours[more], theirs[more], range(more.sum()), draws=50)
    assert won[more].mean() > 0.62 and found["rate"] == pytest.approx(0.5, abs=0.06)
    back = length_controlled(1 - won[more], theirs[more], ours[more], range(more.sum()), draws=50)
    assert back["rate"] == pytest.approx(1 - found["rate"], abs=1e-9)
    assert back["low"] == pytest.approx(1 - found["high"], abs=1e-9)


def test_always_won_and_lengths_that_say_nothing_have_finite_rates():
    found = length_controlled([1.0] * 30, [5] * 30, [3] * 30, range(30), draws=20)
    assert 0.99 < found["low"] <= found["rate"] <= found["high"] < 1
    assert found["length_effect"] == 0.0
    # separated by length: the ridge keeps phi finite
    found = length_controlled([1.0] * 9 + [0.0] * 9, [9] * 9 + [1] * 9, [5] * 18, range(18))
    assert math.isfinite(found["length_effect"]) and found["rate"] == pytest.approx(0.5)
    with pytest.raises(UserError, match="an outcome and two lengths per prompt"):
        length_controlled([1.0], [1, 2], [1], ["u"])


def test_by_group_equals_a_loop_and_merges_what_is_few():
    rng = np.random.default_rng(2)
    labels = ["direct"] * 40 + ["few_shot"] * 21 + ["continuation"] * 19 + [None] * 4
    rng.shuffle(labels)
    n = len(labels)
    answers = {
        name: [{"gold": float(rng.integers(0, 4)), "tokens": int(rng.integers(1, 20))}
               for _ in range(n)]
        for name in ("base", "sft", "ppo")
    }  # fmt: skip
    users = [f"u{i % 30}" for i in range(n)]

    def won(ours, theirs):
        scores = ([row["gold"] for row in answers[name]] for name in (ours, theirs))
        return outcomes(*scores, tie=1.0)

    found = by_group(answers, users, won, labels)
    assert list(found) == ["direct", "other", "few_shot"]
    assert [group["n"] for group in found.values()] == [40, 23, 21]
    assert list(found["direct"]["win_rate"]) == ["sft_vs_base", "ppo_vs_base", "ppo_vs_sft"]
    for name, group in found.items():
        total, count = 0.0, 0
        for i, label in enumerate(labels):
            if (label if label in ("direct", "few_shot") else "other") != name:
                continue
            gap = answers["ppo"][i]["gold"] - answers["sft"][i]["gold"]
            total, count = total + (0.5 if abs(gap) <= 1 else float(gap > 0)), count + 1
        entry = group["win_rate"]["ppo_vs_sft"]
        assert entry["rate"] == pytest.approx(total / count) and entry["n"] == count
        assert entry["low"] <= entry["rate"] <= entry["high"]
    assert merged_groups([None] * 20) == ["not known"] * 20
    rates = length_controlled_rates(answers, users, won)
    tokens = ([row["tokens"] for row in answers[name]] for name in ("ppo", "sft"))
    assert rates["ppo_vs_sft"] == length_controlled(won("ppo", "sft"), *tokens, users)
