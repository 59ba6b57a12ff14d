"""Metrics of held-out rankings against plain loops; agreement of labelers."""

from itertools import combinations

import numpy as np
import pytest

from instruct.errors import UserError
from instruct.evaluation.ranking_metrics import PAD, labeler_agreement, ranking_metrics


def test_metrics_equal_plain_loops():
    draw = np.random.default_rng(0)
    ranks = draw.integers(1, 5, (30, 5))
    ranks[np.arange(30) % 3 == 0, 4] = PAD
    scores = draw.normal(size=(30, 5)).round(1) - 0.4 * ranks  # rounded: some scores tie
    right, pairs, distances, taus, tops, kept = 0.0, 0, {}, [], [], 0
    for s, r in zip(scores, ranks, strict=True):
        s, r = s[r != PAD], r[r != PAD]
        levels = sorted(set(r.tolist()))
        concordant = discordant = untied_r = untied_s = 0
        for i, j in combinations(range(len(r)), 2):
            untied_s += s[i] != s[j]
            if r[i] == r[j]:
                continue
            untied_r += 1
            better, worse = (i, j) if r[i] < r[j] else (j, i)
            value = 1.0 if s[better] > s[worse] else 0.5 if s[better] == s[worse] else 0.0
            concordant, discordant = concordant + (value == 1), discordant + (value == 0)
            right, pairs = right + value, pairs + 1
            distances.setdefault(levels.index(r[worse]) - levels.index(r[better]), []).append(value)
        if untied_r:
            kept += 1
            taus.append((concordant - discordant) / np.sqrt(untied_r * untied_s))
            tops.append(r[s.argmax()] == r.min())
    got = ranking_metrics(scores, ranks)
    assert got["n_pairs"] == pairs and got["n_rankings"] == kept
    assert got["accuracy"] == pytest.approx(right / pairs)
    assert got["accuracy_low"] < got["accuracy"] < got["accuracy_high"]
    assert got["kendall_tau"] == pytest.approx(np.mean(taus)) and got["top1"] == pytest.approx(
        np.mean(tops)
    )
    assert got["by_rank_distance"] == {
        str(d): {"accuracy": pytest.approx(np.mean(v)), "n_pairs": len(v)}
        for d, v in sorted(distances.items())
    }


def test_repeating_a_prompt_does_not_narrow_the_interval():
    draw = np.random.default_rng(1)
    ranks, scores, prompts = np.tile([1, 2], (40, 1)), draw.normal(size=(40, 2)), np.arange(40)
    once = ranking_metrics(scores, ranks, prompts)
    many = ranking_metrics(np.tile(scores, (9, 1)), np.tile(ranks, (9, 1)), np.tile(prompts, 9))

    def width(metrics: dict) -> float:
        return metrics["accuracy_high"] - metrics["accuracy_low"]

    assert width(many) == pytest.approx(width(once), rel=0.05)
    assert ranking_metrics(scores, np.ones((40, 2), int)) == {}


def test_agreement_counts_pairs_that_two_labelers_ranked_strictly():
    prompt = [{"role": "user", "content": "Hi"}]
    rows = [
        {"prompt": prompt, "completions": ["a", "b", "c"], "ranks": [1, 2, 3]},
        {
            "prompt": prompt,
            "completions": ["c", "a", "b"],
            "ranks": [1, 2, 2],
        },  # a=b tied; c>a and c>b disagree
        {"prompt": [{"role": "user", "content": "Ho"}], "completions": ["a", "b"], "ranks": [1, 2]},
    ]
    assert labeler_agreement(rows) == {"rate": 0.0, "n_pairs": 2}
    rows[1]["ranks"] = [3, 1, 1]
    assert labeler_agreement(rows) == {"rate": 1.0, "n_pairs": 2}
    assert labeler_agreement(rows[2:]) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_has_no_order(bad):
    """A NaN is never the larger: unchecked, it reads as an accuracy of 0."""
    ranks = np.array([[1, 2, PAD], [1, 2, 3]])
    scores = np.zeros((2, 3))
    scores[0, 2] = bad  # where no completion is
    assert ranking_metrics(scores, ranks)["accuracy"] == 0.5
    scores[1, 2] = bad
    with pytest.raises(UserError, match=f"ranking 2, completion 3: .* score is {bad}"):
        ranking_metrics(scores, ranks)
