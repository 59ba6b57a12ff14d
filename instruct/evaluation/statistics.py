"""Intervals for what the evaluation reports, by a bootstrap over clusters.

Answers to one user, or rankings of one prompt, are not independent: whole users or prompts
are drawn.
"""

from collections.abc import Sequence

import numpy as np

from instruct.errors import UserError


def _finite(values: Sequence[float], what: str) -> np.ndarray:
    """`values` as an array. Raises `UserError` where one is NaN or infinite: no mean, no winner."""
    values = np.asarray(values, float)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise UserError(f"{what} of row {bad[0] + 1} is {values[bad[0]]}: it must be finite")
    return values


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence,
    weights: Sequence[float] | None = None,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Weighted mean of `values` with its 95 % percentile interval, resampling whole clusters.

    Returns (mean, low, high). As the rows of a cluster are drawn together, an interval is not
    narrowed by repetition.

    Args:
        values, clusters: one each per row; rows with equal clusters belong together.
        weights: one per row; default 1.
        draws: how many resamples.

    Raises:
        UserError: a value is not finite.
    """
    values = _finite(values, "the value")
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)
    # as text: ids of several types cannot be sorted together
    _, index = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    # per cluster; a resample's mean is then a ratio of two sums over the clusters drawn
    totals, counts = np.bincount(index, values * weights), np.bincount(index, weights)
    drawn = np.random.default_rng(seed).integers(len(totals), size=(draws, len(totals)))
    # a resample of clusters without weight would be 0 / 0
    means = totals[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1e-12)
    low, high = np.percentile(means, [2.5, 97.5])
    # the point is that of the data, not the mean of the resamples
    return float(totals.sum() / counts.sum()), float(low), float(high)


def win_rate(
    ours: Sequence[float], theirs: Sequence[float], clusters: Sequence, tie: float = 0.0
) -> dict:
    """How often `ours` beats `theirs` on the same prompts, with its interval.

    Scores no further apart than `tie` are a tie, which counts half. Raises `UserError` where one is
    not finite: a NaN beats nobody, which would read as a lost comparison.
    """
    a, b = _finite(ours, "the score"), _finite(theirs, "the other's score")
    # a tie counted as a loss would favour whoever is named second
    won = np.where(np.abs(a - b) <= tie, 0.5, (a > b).astype(float))
    rate, low, high = cluster_bootstrap(won, clusters)
    return {"rate": rate, "low": low, "high": high, "n": len(won), "ties": int((won == 0.5).sum())}
