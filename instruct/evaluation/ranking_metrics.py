"""How well scores order held-out rankings. Pairs with equal ranks say nothing and are left out."""

from itertools import combinations

import numpy as np

from instruct.checks.finite import CAUSE
from instruct.errors import UserError
from instruct.evaluation.statistics import cluster_bootstrap

# One array for rankings of different K.
PAD = -100  # rank of a place that is no completion, in padded [rankings, K] arrays


def strict_pairs(ranks):
    """Which pairs of a ranking have a winner.

    Ranks [n, K] (array or tensor, padded with PAD) -> bool [n, K, K]: [:, i, j] is whether i is
    ranked strictly better than j.
    """
    # PAD is below every rank: unmasked, it would win every pair
    real = ranks != PAD
    return (ranks[:, :, None] < ranks[:, None, :]) & real[:, :, None] & real[:, None, :]


def ranking_metrics(
    scores: np.ndarray,
    ranks: np.ndarray,
    prompts: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict:
    """Metrics of `scores` [n, K] against `ranks` [n, K] (1 = best, equal = tie, PAD = nothing).

    Args:
        prompts: [n] names of the prompts; default every ranking has its own.
        resamples, seed: of the bootstrap.

    Returns an empty dict when there is no strict pair, else
        accuracy: share of strict pairs whose better completion scores higher (equal scores count
            half).
        accuracy_low, accuracy_high: its 95 % bootstrap interval; whole prompts are resampled.
        by_rank_distance: {distance in dense ranks: {accuracy, n_pairs}}.
        kendall_tau: mean over rankings of Kendall's tau-b.
        top1: share of rankings whose best-scored completion is a best-ranked one.
        n_pairs, n_rankings: what this rests on.

    Raises:
        UserError: a score is NaN or infinite; names ranking and completion.
    """
    scores, ranks = np.asarray(scores, dtype=np.float64), np.asarray(ranks)
    _check_finite(scores, ranks)
    strict = strict_pairs(ranks)
    n_pairs = strict.sum((1, 2))
    # a ranking of ties only would be 0 / 0 below
    keep = n_pairs > 0
    if not keep.any():
        return {}
    scores, ranks, strict, n_pairs = scores[keep], ranks[keep], strict[keep], n_pairs[keep]
    prompts = np.arange(len(ranks)) if prompts is None else np.asarray(prompts)[keep]

    difference = scores[:, :, None] - scores[:, None, :]
    right = np.where(strict, (difference > 0) + 0.5 * (difference == 0), 0.0)
    # pairs of one ranking, and rankings of one prompt, are not independent
    accuracy, low, high = cluster_bootstrap(
        right.sum((1, 2)) / n_pairs, prompts, weights=n_pairs, draws=resamples, seed=seed
    )
    return {
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "n_pairs": int(n_pairs.sum()),
        "n_rankings": len(ranks),
        "by_rank_distance": _by_rank_distance(ranks, strict, right),
        "kendall_tau": float(_kendall_tau(ranks, strict, difference).mean()),
        "top1": float(_best_is_best(scores, ranks).mean()),
    }


def _check_finite(scores: np.ndarray, ranks: np.ndarray) -> None:
    # a NaN is never the larger: unchecked, it would read as an accuracy of 0
    bad = np.argwhere((ranks != PAD) & ~np.isfinite(scores))
    if len(bad):
        ranking, completion = bad[0]
        raise UserError(
            f"held-out ranking {ranking + 1}, completion {completion + 1}: the reward model's "
            f"score is {scores[ranking, completion]}, so its order means nothing; {CAUSE}"
        )


def _by_rank_distance(ranks: np.ndarray, strict: np.ndarray, right: np.ndarray) -> dict[str, dict]:
    """Accuracy of neighbours in a ranking, of completions two levels apart, and so on."""
    # dense ranks: 1, 4, 4, 9 become 0, 1, 1, 2, so that a distance counts the levels between
    dense = np.stack([np.unique(row, return_inverse=True)[1].reshape(row.shape) for row in ranks])
    distance = np.where(strict, dense[:, None, :] - dense[:, :, None], 0)
    found = {}
    # near ranks are the hard pairs; one average would hide them
    for d in np.unique(distance[strict]):
        pairs = right[distance == d]
        found[str(d)] = {"accuracy": float(pairs.mean()), "n_pairs": len(pairs)}
    return found


def _kendall_tau(ranks: np.ndarray, strict: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """tau-b of each ranking (Kendall 1945, The treatment of ties in ranking problems).

    (concordant - discordant) / sqrt(pairs not tied in rank * pairs not tied in score)
    """
    real = ranks != PAD
    # each unordered pair once; `strict` holds it once already, by winner
    pairs = np.triu(real[:, :, None] & real[:, None, :], 1)
    untied_ranks = strict.sum((1, 2))
    untied_scores = (pairs & (difference != 0)).sum((1, 2))
    concordant_minus_discordant = (np.sign(difference) * strict).sum((1, 2))
    # where all scores are equal, 0 / 1 instead of 0 / 0
    return concordant_minus_discordant / np.sqrt(np.maximum(untied_ranks * untied_scores, 1))


def _best_is_best(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Whether the best-scored completion of each ranking has the best rank."""
    real = ranks != PAD
    # padding can be neither the best score nor the best rank
    best_scored = np.where(real, scores, -np.inf).argmax(1)
    best_rank = np.where(real, ranks, np.iinfo(np.int64).max).min(1)
    return ranks[np.arange(len(ranks)), best_scored] == best_rank


def labeler_agreement(rankings: list[dict]) -> dict | None:
    """How often two rankings of one prompt order the same two completions alike.

    No reward model can be expected to agree with labelers more than they do with each other.
    Only pairs strict in both rankings count. A text that is there more than once has the mean of
    its ranks: nobody can prefer it to itself. Returns {rate, n_pairs}, or None where no prompt was
    ranked twice (or the pairs never met).
    """
    by_prompt: dict[str, list[dict[str, float]]] = {}
    for row in rankings:
        # dicts cannot be keys; role and content are all of a prompt
        key = str([(m["role"], m["content"]) for m in row["prompt"]])
        by_prompt.setdefault(key, []).append(rank_of_texts(row["completions"], row["ranks"]))
    agree = total = 0
    for group in by_prompt.values():
        for one, other in combinations(group, 2):
            # by text: two labelers may have seen the completions in another order
            for a, b in combinations(sorted(one.keys() & other.keys()), 2):
                first, second = np.sign(one[a] - one[b]), np.sign(other[a] - other[b])
                if first and second:
                    agree, total = agree + (first == second), total + 1
    return {"rate": agree / total, "n_pairs": total} if total else None


def rank_of_texts(texts: list[str], ranks: list[int]) -> dict[str, float]:
    """{text: its rank}, the mean of them where it is there more than once."""
    found: dict[str, list[int]] = {}
    for text, rank in zip(texts, ranks, strict=True):
        found.setdefault(text, []).append(rank)
    return {text: sum(given) / len(given) for text, given in found.items()}
