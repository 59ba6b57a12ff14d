"""Gold and learned reward against how far a policy has moved (Gao et al. 2022, arXiv 2210.10760).

A policy is optimised for a learned reward; a gold one says what that is worth. Both are told
against the square root of KL from the reference, in nats per answer: of PPO as it was logged, and
of best-of-n, which draws n answers of the reference and keeps the one that the learned reward likes
best.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from instruct.evaluation.statistics import cluster_bootstrap


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n from what it draws from, in nats: log n - (n - 1) / n.

    Exact where no two answers score alike, else more than it is (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n


def best_of_n_weights(samples: int, n: int) -> np.ndarray:
    """[samples]: how likely each, from the lowest to the highest, is the best of n drawn of them.

    Without replacement: C(i - 1, n - 1) / C(samples, n) for the i-th (Nakano et al. 2021, WebGPT).
    """
    # whole numbers, exactly: they are large
    total = math.comb(samples, n)
    return np.asarray([math.comb(i, n - 1) / total for i in range(samples)])


def best_of_n(learned: Sequence[float], other: Sequence[float], n: int) -> float:
    """The expected `other` of the answer that scores highest by `learned`, among n of those drawn.

    Unbiased for n fresh answers, from `len(learned)` >= n of them. Of equal scores any may be kept.
    """
    learned, other = np.asarray(learned, float), np.asarray(other, float)
    # equal scores share their mean: each is kept as likely
    _, place, counts = np.unique(learned, return_inverse=True, return_counts=True)
    shared = (np.bincount(place, other) / counts)[place]
    order = np.argsort(learned, kind="stable")
    return float(best_of_n_weights(len(learned), n) @ shared[order])


def best_of_n_curve(
    learned: Sequence[Sequence[float]],
    gold: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    most: int | None = None,
) -> list[dict]:
    """Learned and gold reward of best-of-n, means over prompts with 95 % intervals over clusters.

    Args:
        learned, gold: [prompts, samples], of the same answers.
        clusters: one for each prompt.
        most: the largest n; default all samples.

    Returns {n, kl, sqrt_kl, reward, reward_low, reward_high, gold, gold_low, gold_high} for n = 1,
    2, 3 …, above 16 by powers of two and the last.
    """
    most = most or len(learned[0])
    counts = [n for n in range(1, most + 1) if n <= 16 or n & (n - 1) == 0 or n == most]
    found = []
    for n in counts:
        kl = best_of_n_kl(n)
        entry = {"n": n, "kl": kl, "sqrt_kl": math.sqrt(kl)}
        for name, values in (("reward", learned), ("gold", gold)):
            means = [best_of_n(s, v, n) for s, v in zip(learned, values, strict=True)]
            mean, low, high = cluster_bootstrap(means, clusters)
            entry |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        found.append(entry)
    return found


# a reward model in PPO's log: as --reward_model_path, or as reward:PATH of --reward_funcs
LEARNED = ("reward_model", "reward")


def ppo_curve(log: Sequence[dict], gold: str | None) -> list[dict]:
    """Every rollout of a `log_history`: step, kl, sqrt_kl, reward, and gold where it was logged.

    The learned reward is the reward model's own, where it was logged: `objective/scores` is what
    the policy was paid, less the penalty of answers without an end.

    Args:
        gold: the name of its function in the log, as `rewards/NAME`.
    """
    found = []
    for entry in log:
        if (kl := entry.get("objective/kl")) is None:
            continue
        logged = (entry.get(f"rewards/{name}") for name in LEARNED)
        learned = next((s for s in logged if s is not None), entry.get("objective/scores"))
        found.append({
            "step": entry["step"],
            "kl": kl,
            # an estimate: it may fall below 0 where the policy has hardly moved
            "sqrt_kl": math.sqrt(max(kl, 0.0)),
            "reward": learned,
            "gold": entry.get(f"rewards/{gold}"),
        })  # fmt: skip
    return found
