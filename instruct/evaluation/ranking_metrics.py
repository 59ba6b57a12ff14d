"""How well scores order held-out rankings. Pairs with equal ranks say nothing and are left out."""

from itertools import combinations

import numpy as np

from instruct.evaluation.statistics import cluster_bootstrap

PAD = -100  # rank of a place that is no completion, in padded [rankings, K] arrays


def strict_pairs(ranks):
    """Ranks [n, K] (array or tensor, padded with PAD) -> bool [n, K, K]: i is ranked strictly better than j."""
    real = ranks != PAD
    return (ranks[:, :, None] < ranks[:, None, :]) & real[:, :, None] & real[:, None, :]


def ranking_metrics(
    scores: np.ndarray,
    ranks: np.ndarray,
    prompts: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Metrics of `scores` [n, K] against `ranks` [n, K] (1 = best, equal = tie, PAD = no completion).

    Returns:
        accuracy: share of strict pairs whose better completion scores higher (equal scores count half), with a 95 %
            bootstrap interval accuracy_low, accuracy_high that resamples whole prompts (`prompts` [n] names them).
        by_rank_distance: {distance in dense ranks: {accuracy, n_pairs}}.
        kendall_tau: mean over rankings of Kendall's tau-b.  top1: share of rankings whose best-scored is a best-ranked.
        n_pairs, n_rankings: what this rests on. Empty dict when there is no strict pair.
    """
    scores, ranks = np.asarray(scores, dtype=np.float64), np.asarray(ranks)
    strict = strict_pairs(ranks)
    n_pairs = strict.sum((1, 2))
    keep = n_pairs > 0
    if not keep.any():
        return {}
    scores, ranks, strict, n_pairs = scores[keep], ranks[keep], strict[keep], n_pairs[keep]
    prompts = np.arange(len(ranks)) if prompts is None else np.asarray(prompts)[keep]

    difference = scores[:, :, None] - scores[:, None, :]
    right = np.where(strict, (difference > 0) + 0.5 * (difference == 0), 0.0)
    n_right = right.sum((1, 2))

    accuracy, low, high = cluster_bootstrap(
        n_right / n_pairs, prompts, weights=n_pairs, draws=resamples, seed=seed
    )

    dense = np.stack([np.unique(row, return_inverse=True)[1].reshape(row.shape) for row in ranks])
    distance = np.where(strict, dense[:, None, :] - dense[:, :, None], 0)
    by_distance = {
        str(d): {
            "accuracy": float(right[distance == d].mean()),
            "n_pairs": int((distance == d).sum()),
        }
        for d in np.unique(distance[strict])
    }

    # tau-b = (concordant - discordant) / sqrt(pairs not tied in rank * pairs not tied in score)
    real = ranks != PAD
    pairs = np.triu(real[:, :, None] & real[:, None, :], 1)
    untied_scores = (pairs & (difference != 0)).sum((1, 2))
    concordant_minus_discordant = (np.sign(difference) * strict).sum((1, 2))
    tau = concordant_minus_discordant / np.sqrt(np.maximum(n_pairs * untied_scores, 1))

    best = np.where(real, scores, -np.inf).argmax(1)
    rows = np.arange(len(ranks))
    top1 = ranks[rows, best] == np.where(real, ranks, np.iinfo(np.int64).max).min(1)
    return {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "n_pairs": int(n_pairs.sum()),
        "n_rankings": len(ranks),
        "by_rank_distance": by_distance,
        "kendall_tau": float(tau.mean()),
        "top1": float(top1.mean()),
    }


def labeler_agreement(rankings: list[dict]) -> dict | None:
    """How often two rankings of one prompt order the same two completions alike: the ceiling for any reward model.

    Only pairs strict in both rankings count. None where no prompt was ranked twice (or the pairs never met).
    """
    by_prompt: dict[str, list[dict[str, int]]] = {}
    for row in rankings:
        key = str([(m["role"], m["content"]) for m in row["prompt"]])
        by_prompt.setdefault(key, []).append(
            dict(zip(row["completions"], row["ranks"], strict=True))
        )
    agree = total = 0
    for group in by_prompt.values():
        for one, other in combinations(group, 2):
            for a, b in combinations(sorted(one.keys() & other.keys()), 2):
                first, second = np.sign(one[a] - one[b]), np.sign(other[a] - other[b])
                if first and second:
                    agree, total = agree + (first == second), total + 1
    return {"rate": agree / total, "n_pairs": total} if total else None
