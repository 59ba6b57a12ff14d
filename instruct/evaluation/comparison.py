"""What answers of several models say of them: means, KL from a reference, win rates."""

import argparse
import math
from collections.abc import Callable

import torch

from instruct.errors import UserError
from instruct.evaluation.statistics import cluster_bootstrap, win_rate
from instruct.models import completion_logprobs, load_policy
from instruct.tokens import encode_prompt_of, load_tokenizer


@torch.no_grad()
def kl_from_reference(path: str, reference: str, answers: list[dict], dtype: str) -> float | None:
    """Mean over answers of log p(answer) - log p_reference(answer), in nats per answer.

    On the very tokens the model sampled, so it estimates the KL divergence of the model from the
    reference (the estimator that Schulman calls k1). None where the two render prompts differently.

    Raises:
        UserError: a log-probability is NaN, or the reference never gives such an answer.
    """
    pairs = {}
    for name in (path, reference):
        tokenizer = load_tokenizer(str(name))
        pairs[name] = [
            (encode_prompt_of(tokenizer, row, str(name)), row["completion_ids"]) for row in answers
        ]
    # KL of two distributions over the same ids, after the same ids
    if pairs[path] != pairs[reference]:
        return None
    # one model in memory at a time
    ours, theirs = (
        completion_logprobs(load_policy(name, dtype)[0], pairs[name]) for name in (path, reference)
    )
    for row, a, b in zip(answers, ours, theirs, strict=True):
        if not math.isfinite(a - b):
            raise UserError(
                f"the answer of {path} to prompt {row['prompt_id']} has log-probability {a}, and "
                f"{b} by {reference}: no KL; give another --dtype, or another --reference"
            )
    return sum(a - b for a, b in zip(ours, theirs, strict=True)) / len(answers)


def summarize(
    name: str,
    models: dict[str, str],
    answers: list[dict],
    users: list[str],
    args: argparse.Namespace,
) -> dict:
    """One model's line of the report: mean and interval of each number, KL from the reference."""
    summary = {"path": models[name]}
    for key in ("gold", "reward", "tokens", "ended"):
        if key in answers[0]:  # `reward` only with --reward
            mean, low, high = cluster_bootstrap([row[key] for row in answers], users)
            summary[key] = {"mean": mean, "low": low, "high": high}
    if args.reference in models and name != args.reference:
        summary[f"kl_from_{args.reference}"] = kl_from_reference(
            models[name], models[args.reference], answers, args.dtype
        )
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
