"""What answers of several models say of them: means, KL from a reference, win rates."""

from collections.abc import Callable

from instruct.evaluation.answers import Model
from instruct.evaluation.distinct import distinct2
from instruct.evaluation.statistics import cluster_bootstrap, win_rate


def kl_from_reference(answers: list[dict]) -> float | None:
    """Mean over answers of log p(answer) - log p_reference(answer), in nats per answer.

    On the very tokens the model sampled, so it estimates the KL divergence of the model from the
    reference (the estimator that Schulman calls k1). None where the two were given other prompts:
    by another template, or as plain text.
    """
    pairs = [(row.get("logprob"), row.get("reference_logprob")) for row in answers]
    if any(ours is None or theirs is None for ours, theirs in pairs):
        return None
    return sum(ours - theirs for ours, theirs in pairs) / len(pairs)


def summarize(model: Model, answers: list[dict], users: list[str], reference: str | None) -> dict:
    """One model's line of the report: mean and interval of each number, KL from the reference.

    Args:
        reference: the name of the model that others are measured from; None where it is not there.
    """
    path, mode, file = model.asked
    summary = {"path": path, "mode": mode}
    if file is not None:
        summary["examples"] = {"file": file, "pairs": [list(pair) for pair in model.examples]}
    for key in ("gold", "reward", "tokens", "ended", "fit"):
        # `reward` only with --reward, `fit` with --fit_model
        if answers[0].get(key) is not None:
            summary[key] = _interval([row[key] for row in answers], users)
    summary["scores"] = {
        name: _interval([row["scores"][name] for row in answers], users)
        for name in answers[0]["scores"]
    }
    summary["distinct2"] = distinct2(row["completion"] for row in answers)
    if reference is not None and model.name != reference:
        summary[f"kl_from_{reference}"] = kl_from_reference(answers)
    return summary


def _interval(values: list[float], users: list[str]) -> dict:
    mean, low, high = cluster_bootstrap(values, users)
    return {"mean": mean, "low": low, "high": high}


def win_rates(
    answers: dict[str, list[dict]],
    users: list[str],
    score: Callable[[dict], float],
    tie: float = 0.0,
) -> dict[str, dict]:
    """`win_rate` by `score` of every model against each one named before it, clustered by user."""
    rates, names = {}, list(answers)
    for i, ours in enumerate(names):
        # each pair once: the other way round says the same
        for theirs in names[:i]:
            rates[f"{ours}_vs_{theirs}"] = win_rate(
                [score(row) for row in answers[ours]],
                [score(row) for row in answers[theirs]],
                users,
                tie,
            )
    return rates


def rate_against(rates: dict[str, dict], ours: str, theirs: str) -> dict | None:
    """How often `ours` beats `theirs`, whichever of the two was named first; None: not compared."""
    if (entry := rates.get(f"{ours}_vs_{theirs}")) is not None:
        return entry
    if (entry := rates.get(f"{theirs}_vs_{ours}")) is None:
        return None
    return {
        **entry,
        "rate": 1 - entry["rate"],
        "low": 1 - entry["high"],
        "high": 1 - entry["low"],
    }
