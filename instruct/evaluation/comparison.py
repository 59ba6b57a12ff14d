"""What answers of several models say of them: means, KL from a reference, win rates."""

import argparse
from collections.abc import Callable
from dataclasses import asdict

from instruct.evaluation.answers import Model
from instruct.evaluation.breakdown import breakdown
from instruct.evaluation.collapse import (
    aimed_at,
    checks_of,
    collapse_of,
    is_believed,
    rankings_of,
)
from instruct.evaluation.distinct import distinct2
from instruct.evaluation.modes import CHAT
from instruct.evaluation.pairwise import pair_win_rates
from instruct.evaluation.panel import Judge
from instruct.evaluation.statistics import mean_interval, win_rate
from instruct.run.fingerprints import content_of, model_identity


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
            summary[key] = mean_interval([row[key] for row in answers], users)
    summary["scores"] = {
        name: mean_interval([row["scores"][name] for row in answers], users)
        for name in answers[0]["scores"]
    }
    summary["distinct2"] = distinct2(row["completion"] for row in answers)
    if reference is not None and model.name != reference:
        summary[f"kl_from_{reference}"] = kl_from_reference(answers)
    return summary


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
    # what people said once has no interval
    low, high = (None if end is None else 1 - end for end in (entry["high"], entry["low"]))
    return {**entry, "rate": 1 - entry["rate"], "low": low, "high": high}


################
# All of it
################


def compare(
    models: list[Model],
    answers: dict[str, list[dict]],
    judges: list[Judge],
    users: list[str],
    args: argparse.Namespace,
) -> dict:
    """Means, win rates by each judge, and whether the policy's is to be believed."""

    def by(judge: Judge, tie: float) -> dict[str, dict]:
        if judge.compares:
            return pair_win_rates(answers, users, judge.name)
        return win_rates(answers, users, lambda row: row["scores"][judge.name], tie)

    modes = {model.name: model.asked.mode for model in models}
    reference = args.reference if modes.get(args.reference) == CHAT else None
    # whose log-probability the answers are drawn by, or were made to please
    both = {m.asked.path for m in models if m.name in (args.reference, args.policy)}
    aims = {content_of(model_identity(path)) for path in both} | aimed_at(args.run_dir)
    # the width of a tie is in the gold judge's own points
    rates = {judge.name: by(judge, 0.0 if n else args.tie) for n, judge in enumerate(judges)}
    result = {
        "judge": judges[0].name,
        "judges": {
            judge.name: {
                "spec": judge.spec,
                "independent": judge.is_independent(aims),
                "win_rate": rates[judge.name],
                **({"compared": asdict(judge.score.tally)} if judge.compares else {}),
            }
            for judge in judges
        },
        "reference": reference,
        "users": len(set(users)),
        "models": {m.name: summarize(m, answers[m.name], users, reference) for m in models},
        "win_rate": rates[judges[0].name],
        "win_rate_by_reward_model": {},
        # shorter wins, to see a judge that only likes brevity
        "win_rate_shorter": win_rates(answers, users, lambda row: -row["tokens"]),
    }
    result |= breakdown(answers, judges[0], args.tie, users)
    if args.reward:
        result["win_rate_by_reward_model"] = win_rates(answers, users, lambda row: row["reward"])
    if reference is not None and modes.get(args.policy) == CHAT:
        collapse = collapse_of(result["models"], args.policy, reference, rankings_of(args.run_dir))
        if collapse is not None:
            holds = {check.key: check.holds for check in checks_of(collapse)}
            result["collapse"] = {**collapse, "holds": holds, "believed": is_believed(collapse)}
    result["baselines"] = baselines(models, result, args)
    return result


def baselines(models: list[Model], result: dict, args: argparse.Namespace) -> dict[str, dict]:
    """The models that were not trained here, each with what the policy and SFT win against it.

    Those asked without a template, and the same model asked by its own.
    """
    plain = {model.asked.path for model in models if model.asked.mode != CHAT}
    return {
        model.name: {
            "mode": model.asked.mode,
            "path": model.asked.path,
            **{
                f"{ours}_wins": rate_against(result["win_rate"], ours, model.name)
                for ours in (args.reference, args.policy)
                if ours in result["models"] and ours != model.name
            },
        }
        for model in models
        if model.asked.path in plain or model.name in ("base", "instruct")
    }
