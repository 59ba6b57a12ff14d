"""What is logged of a rollout and its updates. KL in nats per response, lengths in tokens."""

from collections.abc import Callable

import torch

from instruct.evaluation.distinct import distinct2
from instruct.trainers.ppo import math as ppo_math
from instruct.trainers.ppo.rollout import Rollout

# sums a tensor over processes
Reduce = Callable[[torch.Tensor], torch.Tensor]


class NamedSums:
    """Sums by name, kept on the device in float64 and read once: no wait for it at every
    addition.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.sums: dict[str, torch.Tensor] = {}

    def add(self, **numbers: torch.Tensor | float) -> "NamedSums":
        for name, number in numbers.items():
            # float64: float32 sums of 1e5 tokens lose the digits that KL is about
            number = torch.as_tensor(number, dtype=torch.float64, device=self.device)
            self.sums[name] = self.sums[name] + number if name in self.sums else number
        return self

    def take(self, reduce: Reduce) -> dict[str, float]:
        """The sums over all processes, in one message; starts anew."""
        # the one read: it waits for the device
        totals = reduce(torch.stack(list(self.sums.values()))).tolist()
        taken = dict(zip(self.sums, totals, strict=True))
        self.sums = {}
        return taken


def _common_sums(rollout: Rollout) -> NamedSums:
    mask = rollout.mask
    sums = NamedSums(mask.device).add(
        responses=len(rollout.responses),
        tokens=mask.sum(),
        # always k1, whichever is penalised: runs stay comparable
        kl=(rollout.logprobs - rollout.ref_logprobs)[mask].sum(),
        scores=rollout.scores.sum(),
        ended=rollout.ended.sum(),
    )
    # each reward as its function gave it: unclipped, unweighted
    return sums.add(**{f"rewards/{name}": values.sum() for name, values in rollout.rewards.items()})


def _mean_rewards(rollout: Rollout, total: dict[str, float]) -> dict[str, float]:
    names = [f"rewards/{name}" for name in rollout.rewards]
    return {name: total[name] / total["responses"] for name in names}


def rollout_metrics(
    rollout: Rollout, kl_coef: float, kl_estimator: str, reduce: Reduce
) -> dict[str, float]:
    """Metrics of a rollout that is trained on, over all processes.

    Entropy is -log p of what was sampled. Explained variance: 1 - var(return - value) /
    var(return).
    """
    mask = rollout.mask
    # the penalty that was paid may be k3
    penalty = ppo_math.token_kl(rollout.logprobs, rollout.ref_logprobs, kl_estimator)[mask]
    returns, errors = rollout.returns[mask], (rollout.returns - rollout.values)[mask]
    # sums of squares: they add up over processes, variances do not
    sums = _common_sums(rollout).add(
        nll=-rollout.logprobs[mask].sum(),
        penalty=penalty.sum(),
        returns=returns.sum(),
        returns_squared=(returns**2).sum(),
        errors=errors.sum(),
        errors_squared=(errors**2).sum(),
        # the mean of the processes: all texts in one place would take a message of their own, and
        # each process samples as many
        distinct2=distinct2(rollout.texts),
        processes=1,
    )
    total = sums.take(reduce)
    responses, tokens = total["responses"], total["tokens"]
    returns_variance = total["returns_squared"] / tokens - (total["returns"] / tokens) ** 2
    errors_variance = total["errors_squared"] / tokens - (total["errors"] / tokens) ** 2
    # per response where the paper speaks of responses, per token for bounds on any length
    return {
        "objective/kl": total["kl"] / responses,
        "objective/entropy": total["nll"] / responses,
        "objective/scores": total["scores"] / responses,
        "objective/non_score_reward": -kl_coef * total["penalty"] / responses,
        "objective/rlhf_reward": (total["scores"] - kl_coef * total["penalty"]) / responses,
        "objective/length": tokens / responses,
        "objective/eos_rate": total["ended"] / responses,
        "objective/distinct2": total["distinct2"] / total["processes"],
        "objective/kl_coef": kl_coef,
        "policy/entropy_avg": total["nll"] / tokens,
        "val/explained_variance": 1 - errors_variance / max(returns_variance, 1e-8),
        **_mean_rewards(rollout, total),
    }


def update_metrics(total: dict[str, float], steps: int) -> dict[str, float]:
    """Metrics of a rollout's updates, from sums over the tokens of all its epochs.

    `approxkl` is Schulman's k2, half the squared log ratio. `ptx` holds one mean per optimizer
    step.
    """
    # per token of all epochs: micro-batches hold different numbers of them
    tokens = total["tokens"]
    metrics = {
        "loss/policy_avg": total["policy"] / tokens,
        "loss/value_avg": total["value"] / tokens,
        "policy/clipfrac_avg": total["clipped"] / tokens,
        "val/clipfrac_avg": total["value_clipped"] / tokens,
        "policy/approxkl_avg": total["drift"] / tokens,
    }
    if "ptx" in total:
        metrics["loss/ptx_avg"] = total["ptx"] / steps
    return metrics


def held_out_metrics(rollout: Rollout, best_max_kl: float, reduce: Reduce) -> dict[str, float]:
    """Metrics of responses to held-out prompts, over all processes.

    `reward_at_bounded_kl` is what checkpoints are compared by: above `best_max_kl` none is the
    best.
    """
    # the optimum of reward alone is often a collapse: KL says which
    total = _common_sums(rollout).take(reduce)
    responses = total["responses"]
    reward, kl = total["scores"] / responses, total["kl"] / responses
    return {
        "reward": reward,
        "kl": kl,
        "length": total["tokens"] / responses,
        "eos_rate": total["ended"] / responses,
        **_mean_rewards(rollout, total),
        "reward_at_bounded_kl": reward if kl <= best_max_kl else -1e9,
    }
