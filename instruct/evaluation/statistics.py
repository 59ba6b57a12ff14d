"""Intervals for what the evaluation reports, by a bootstrap over clusters.

Answers to one user, or rankings of one prompt, are not independent: whole users or prompts
are drawn. What several labelers say of several users' prompts is clustered both ways.
"""

from collections.abc import Sequence

import numpy as np

from instruct.errors import UserError

DRAWN_AT_ONCE = 2**20  # clusters: 8 MiB; all 2,000 resamples of 20,000 would take a GiB


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
    random = np.random.default_rng(seed)
    at_once = max(1, DRAWN_AT_ONCE // len(totals))
    means = np.concatenate([
        _means(totals, counts, random.integers(len(totals), size=(some, len(totals))))
        for some in _parts(draws, at_once)
    ])  # fmt: skip
    low, high = np.percentile(means, [2.5, 97.5])
    # the point is that of the data, not the mean of the resamples
    return float(totals.sum() / counts.sum()), float(low), float(high)


def _parts(whole: int, most: int) -> list[int]:
    return [min(most, whole - start) for start in range(0, whole, most)]


def _means(totals: np.ndarray, counts: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    # a resample of clusters without weight would be 0 / 0
    return totals[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1e-12)


def mean_interval(
    values: Sequence[float], clusters: Sequence, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """`cluster_bootstrap` as it stands in a report: {"mean", "low", "high"}."""
    mean, low, high = cluster_bootstrap(values, clusters, weights)
    return {"mean": mean, "low": low, "high": high}


def pigeonhole_bootstrap(
    values: Sequence[float],
    rows: Sequence,
    columns: Sequence,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of `values` with its 95 % percentile interval, clustered by rows and by columns.

    The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2), 386-411): whole rows and
    whole columns are drawn, each with replacement and apart from the other; a value counts as often
    as its row was drawn times as often as its column was. Its variance is not below that of crossed
    random effects, a little above it where they interact. No bootstrap is exact there (McCullagh
    2000).

    Returns (mean, low, high). One column alone is always drawn: then it is `cluster_bootstrap` by
    rows. A draw without any value is left out.

    Args:
        values, rows, columns: one each per value: users and labelers, say.
        draws: how many resamples.

    Raises:
        UserError: a value is not finite.
    """
    values = _finite(values, "the value")
    _, row = np.unique(np.asarray([str(r) for r in rows]), return_inverse=True)
    _, column = np.unique(np.asarray([str(c) for c in columns]), return_inverse=True)
    shape = (row.max() + 1, column.max() + 1)
    totals, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(totals, (row, column), values)
    np.add.at(counts, (row, column), 1.0)
    random = np.random.default_rng(seed)
    # how often each is drawn, [draws, rows] and [draws, columns]
    often_r, often_c = (random.multinomial(n, [1 / n] * n, size=draws) for n in shape)
    sums = np.einsum("dr,rc,dc->d", often_r, totals, often_c, optimize=True)
    weights = np.einsum("dr,rc,dc->d", often_r, counts, often_c, optimize=True)
    means = sums[weights > 0] / weights[weights > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def outcomes(ours: Sequence[float], theirs: Sequence[float], tie: float = 0.0) -> np.ndarray:
    """1 where `ours` beats `theirs`, 0 where it loses, 0.5 where they are no further apart than
    `tie`.

    Raises:
        UserError: a score is not finite: a NaN beats nobody, which would read as a lost comparison.
    """
    a, b = _finite(ours, "the score"), _finite(theirs, "the other's score")
    # a tie counted as a loss would favour whoever is named second
    return np.where(np.abs(a - b) <= tie, 0.5, (a > b).astype(float))


def win_rate(
    ours: Sequence[float], theirs: Sequence[float], clusters: Sequence, tie: float = 0.0
) -> dict:
    """How often `ours` beats `theirs` on the same prompts, with its interval; see `outcomes`."""
    won = outcomes(ours, theirs, tie)
    rate, low, high = cluster_bootstrap(won, clusters)
    return {"rate": rate, "low": low, "high": high, "n": len(won), "ties": int((won == 0.5).sum())}


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), of any shape; by tanh, as exp of a large number overflows."""
    return 0.5 * (1 + np.tanh(np.asarray(x, float) / 2))
