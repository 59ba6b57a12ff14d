"""Win rates with length held equal, and by groups of prompts.

Length-controlled as in AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): over the prompts,

    logit P(ours wins) = theta + phi * tanh((tokens of ours - of theirs) / their standard deviation)

and the win rate is that of theta alone: what it would be were both answers of one length. Its term
for how hard an instruction is has no place here: it is fitted over many models' answers to one set
of prompts, and held-out prompts of a user's own have one pair each.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from instruct.errors import UserError
from instruct.evaluation.statistics import cluster_bootstrap, sigmoid

RIDGE = 0.01  # on theta and phi, where a prompt weighs 1: finite also where one model always wins
STEPS = 100  # of Newton's method, which needs about six
FEWEST = 20  # prompts of a group of its own
OTHER, UNKNOWN = "other", "not known"


################
# The fit
################


def fit_logistic(
    columns: np.ndarray, outcome: np.ndarray, weights: np.ndarray, ridge: float = RIDGE
) -> np.ndarray:
    """Coefficients of logistic regressions, one for each row of `weights`, by Newton's method.

    Each maximises sum_i w_i (y_i log p_i + (1 - y_i) log(1 - p_i)) - ridge / 2 * |b|^2.

    Args:
        columns: [n, k]; there is no intercept but where one of them is of ones.
        outcome: [n], from 0 to 1: a tie is 0.5.
        weights: [fits, n].

    Returns [fits, k].
    """
    k = columns.shape[1]
    found = np.zeros((len(weights), k))
    for _ in range(STEPS):
        p = sigmoid(found @ columns.T)
        slope = (weights * (outcome - p)) @ columns - ridge * found
        curve = np.einsum("fn,ni,nj->fij", weights * p * (1 - p), columns, columns)
        step = np.linalg.solve(curve + ridge * np.eye(k), slope[..., None])[..., 0]
        # a full step from far away may overshoot; at the optimum steps are tiny
        found += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return found


def cluster_weights(clusters: Sequence[Hashable], draws: int, seed: int) -> np.ndarray:
    """[draws, n]: how often each row is drawn where whole clusters are, with replacement."""
    _, index = np.unique(np.asarray([str(c) for c in clusters]), return_inverse=True)
    count = index.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=draws)
    return drawn[:, index].astype(float)


def length_controlled(
    won: Sequence[float],
    lengths: Sequence[float],
    their_lengths: Sequence[float],
    clusters: Sequence[Hashable],
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """The win rate at equal length, with its 95 % interval over whole clusters (users).

    Args:
        won: 1, 0.5 or 0 for each prompt, see `statistics.outcomes`.
        lengths, their_lengths: of both answers, in tokens.

    Returns rate, low, high, n, and `length_effect`, phi: above 0 where longer answers win.

    Raises:
        UserError: no prompts, or not one of each for every prompt.
    """
    if not len(won) or len({len(won), len(lengths), len(their_lengths), len(clusters)}) > 1:
        raise UserError("a length-controlled win rate needs an outcome and two lengths per prompt")
    longer = np.asarray(lengths, float) - np.asarray(their_lengths, float)
    spread = longer.std()
    # all as much longer: nothing tells length from the model, and all is the model's
    scaled = np.tanh(longer / spread) if spread > 0 else np.zeros(len(longer))
    columns = np.stack([np.ones(len(longer)), scaled], 1)
    weights = np.concatenate([np.ones((1, len(won))), cluster_weights(clusters, draws, seed)])
    found = fit_logistic(columns, np.asarray(won, float), weights)
    rates = sigmoid(found[:, 0])
    low, high = np.percentile(rates[1:], [2.5, 97.5])
    return {
        "rate": float(rates[0]),
        "low": float(low),
        "high": float(high),
        "n": len(won),
        "length_effect": float(found[0, 1]),
    }


################
# All pairs of models, and groups of prompts
################

# the outcomes of a pair of models, in the order of the prompts
Won = Callable[[str, str], Sequence[float]]


def _pairs(answers: dict[str, list[dict]]) -> list[tuple[str, str]]:
    names = list(answers)
    # each against those named before it, as all win rates of a report are
    return [(ours, theirs) for i, ours in enumerate(names) for theirs in names[:i]]


def length_controlled_rates(
    answers: dict[str, list[dict]], users: Sequence[str], won: Won
) -> dict[str, dict]:
    """`length_controlled` of every model against each one named before it, clustered by user."""
    tokens = {name: [row["tokens"] for row in rows] for name, rows in answers.items()}
    return {
        f"{ours}_vs_{theirs}": length_controlled(
            won(ours, theirs), tokens[ours], tokens[theirs], users
        )
        for ours, theirs in _pairs(answers)
    }


def merged_groups(labels: Sequence[str | None], fewest: int = FEWEST) -> list[str]:
    """The group of each prompt: its label, `other` where fewer than `fewest` prompts have it."""
    named = [UNKNOWN if label is None else str(label) for label in labels]
    few = {name for name in set(named) if named.count(name) < fewest}
    return [OTHER if name in few else name for name in named]


def by_group(
    answers: dict[str, list[dict]],
    users: Sequence[str],
    won: Won,
    labels: Sequence[str | None],
    fewest: int = FEWEST,
) -> dict[str, dict]:
    """Win rates within groups of prompts: by request form, by category, by language.

    Args:
        labels: of each prompt; None where it is not known.

    Returns {group: {"n": prompts, "win_rate": {pair: {rate, low, high, n}}}}, the largest first.
    """
    groups = np.asarray(merged_groups(labels, fewest), dtype=object)
    names, counts = np.unique(groups.astype(str), return_counts=True)
    outcomes = {pair: np.asarray(won(*pair), float) for pair in _pairs(answers)}
    users, found = np.asarray([str(user) for user in users]), {}
    for name, count in sorted(zip(names, counts, strict=True), key=lambda g: (-g[1], g[0])):
        inside, rates = groups == name, {}
        for (ours, theirs), values in outcomes.items():
            rate, low, high = cluster_bootstrap(values[inside], users[inside])
            entry = {"rate": rate, "low": low, "high": high, "n": int(count)}
            rates[f"{ours}_vs_{theirs}"] = entry
        found[str(name)] = {"n": int(count), "win_rate": rates}
    return found
