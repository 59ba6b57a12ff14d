"""Whether a reward model means what its scores say, and whether it only likes long answers.

Under the model of its loss (Bradley and Terry), A is better than B with probability
sigmoid(r_A - r_B). Calibration holds that against how often A is.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from instruct.evaluation.length_control import fit_logistic
from instruct.evaluation.statistics import cluster_bootstrap, sigmoid
from instruct.ranking import key_of

BINS = 10
DRAWS = 1000


class Pairs(NamedTuple):
    """Strict pairs of rankings, each once.

    Attributes:
        gaps: [pairs] r_A - r_B.
        wins: [pairs] whether A is the better one, 1 or 0.
        rankings: [pairs] the number of the ranking that each is of.
    """

    gaps: np.ndarray
    wins: np.ndarray
    rankings: np.ndarray


def pairs_of(
    texts: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    ranks: Sequence[Sequence[int]],
) -> Pairs:
    """The strict pairs of rankings; which of two is A follows from their texts alone.

    In files of pairs the better one comes first: by place, A would always win.
    """
    gaps, wins, rankings = [], [], []
    for number, (said, given, order) in enumerate(zip(texts, scores, ranks, strict=True)):
        # a hash: alphabetical order would put short answers first
        places = sorted(range(len(said)), key=lambda i: (key_of(said[i]), i))
        for a, b in combinations(places, 2):
            if order[a] != order[b]:
                gaps.append(given[a] - given[b])
                wins.append(float(order[a] < order[b]))
                rankings.append(number)
    return Pairs(np.asarray(gaps, float), np.asarray(wins), np.asarray(rankings, int))


def calibration(
    gaps: np.ndarray, wins: np.ndarray, clusters: Sequence[Hashable], bins: int = BINS
) -> dict:
    """Predicted and observed share of pairs whose A is better, in bins of equal width.

    Args:
        gaps, wins, clusters: one each per pair, see `Pairs`; at least one.

    Returns
        bins: `low`, `high`, `n`, and where n > 0 the means `predicted` and `observed`, the latter
            with its 95 % interval over clusters; else None.
        ece: expected calibration error, the mean over pairs of their bin's |predicted - observed|.
            Above 0 also for a perfect model, the more the fewer the pairs: `ece_by_chance` is
            that of outcomes drawn as this model predicts them.
        slope: how much better than its scores say it orders: of logit P(A is better) = slope *
            (r_A - r_B). Below 1 it is too sure of itself, above 1 not sure enough.
    """
    predicted = sigmoid(gaps)
    place = np.minimum((predicted * bins).astype(int), bins - 1)
    clusters, found = np.asarray([str(c) for c in clusters]), []
    for i in range(bins):
        inside = place == i
        entry = {"low": i / bins, "high": (i + 1) / bins, "n": int(inside.sum())}
        mean = low = high = share = None
        if inside.any():
            share = float(predicted[inside].mean())
            mean, low, high = cluster_bootstrap(wins[inside], clusters[inside])
        entry |= {"predicted": share, "observed": mean, "observed_low": low, "observed_high": high}
        found.append(entry)
    rng = np.random.default_rng(0)
    drawn = [_ece(place, predicted, rng.random(len(wins)) < predicted) for _ in range(200)]
    # in units of their own spread, as the fit's ridge and steps are made for numbers about 1
    gaps = np.asarray(gaps, float)
    unit = float(np.sqrt(np.mean(gaps**2))) or 1.0
    slope = fit_logistic(gaps[:, None] / unit, wins, np.ones((1, len(wins)))) / unit
    return {
        "bins": found,
        "ece": _ece(place, predicted, wins),
        "ece_by_chance": float(np.mean(drawn)),
        "slope": float(slope[0, 0]),
        "n_pairs": len(wins),
    }


def _ece(place: np.ndarray, predicted: np.ndarray, wins: np.ndarray) -> float:
    # n_bin / n * |mean - mean| = |sum - sum| / n
    return float(np.abs(np.bincount(place, predicted - wins)).sum() / len(wins))


################
# Length
################


def average_ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, the smallest first; equal values share their mean rank."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def correlation_within(
    x: Sequence[Sequence[float]],
    y: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    by_rank: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict | None:
    """Correlation of two values of the answers to a prompt, as {mean, low, high}; None without any.

    Both are taken less their mean over the prompt, so that what differs between prompts does not
    count: Pearson's, or with `by_rank` Spearman's of the ranks within each prompt. The interval is
    95 % over whole clusters.

    Args:
        x, y: a row of values for each prompt.
        clusters: one for each prompt.
    """
    sums = []
    for one, other in zip(x, y, strict=True):
        pair = [average_ranks(v) if by_rank else np.asarray(v, float) for v in (one, other)]
        a, b = (values - values.mean() for values in pair)
        sums.append([(a * b).sum(), (a * a).sum(), (b * b).sum()])
    _, index = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    totals = np.zeros((index.max() + 1, 3))
    np.add.at(totals, index, np.asarray(sums))
    if not totals[:, 1:].sum(0).all():
        return None
    rng = np.random.default_rng(seed)
    drawn = totals[rng.integers(len(totals), size=(draws, len(totals)))].sum(1)
    # a draw of prompts whose answers are all of one length has none
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 2] > 0)]
    low, high = np.percentile(_correlation(drawn), [2.5, 97.5])
    mean = _correlation(totals.sum(0)[None])[0]
    return {"mean": float(mean), "low": float(low), "high": float(high)}


def _correlation(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / np.sqrt(sums[:, 1] * sums[:, 2])
