"""Known ways in which PPO fails: what the watchdog stops at, and what a finished run is held
against.

Below the trainers and the rules, so that both say the same of one fault.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """A flag that bounds one logged metric, and what it means when the bound is crossed."""

    flag: str
    metric: str
    ceiling: bool  # the metric may not rise above it; else not fall below
    cause: str
    remedy: str
    of_first: bool = False  # the limit is a share of the metric's mean over the first rollouts

    def crossed_by(self, value: float, limit: float) -> bool:
        return value > limit if self.ceiling else value < limit


FIRST = 3  # rollouts that a bound of shares is measured against

# Known ways to fail (a collapse may even win); a bound is loose enough for a healthy run.
BOUNDS = [
    Bound(
        flag="max_kl",
        metric="objective/kl",
        ceiling=True,
        cause="the policy ran away from the reference",
        remedy="raise --kl_coef, set --kl_target, or lower --learning_rate",
    ),
    Bound(
        flag="min_kl",
        metric="objective/kl",
        ceiling=False,
        cause="responses were not sampled from the distribution that is trained",
        remedy="use --rollout_weights adapters and float32",
    ),
    Bound(
        flag="min_entropy",
        metric="policy/entropy_avg",
        ceiling=False,
        cause="the policy collapsed onto few responses",
        remedy="raise --kl_coef or lower --learning_rate",
    ),
    # entropy does not show it: one sentence to every prompt can be worded in many ways
    Bound(
        flag="min_distinct2_ratio",
        metric="objective/distinct2",
        ceiling=False,
        cause="the policy gives every prompt the same answer",
        remedy="raise --kl_coef, train fewer episodes, or have labelers who rank such answers low",
        of_first=True,
    ),
    Bound(
        flag="min_length",
        metric="objective/length",
        ceiling=False,
        cause="the policy answers with nothing",
        remedy="look at the reward model's score of empty answers, raise --kl_coef",
    ),
    Bound(
        flag="min_eos_rate",
        metric="objective/eos_rate",
        ceiling=False,
        cause="responses do not end",
        remedy="set --missing_eos_penalty or raise --response_length",
    ),
    Bound(
        flag="max_clipfrac",
        metric="policy/clipfrac_avg",
        ceiling=True,
        cause="steps are too large for the clip range",
        remedy="lower --learning_rate or --num_ppo_epochs",
    ),
    Bound(
        flag="min_explained_variance",
        metric="val/explained_variance",
        ceiling=False,
        cause="the value function does not fit the returns",
        remedy="raise --vf_coef or --cliprange_value, or scale the rewards",
    ),
    Bound(
        flag="watchdog_grad_norm",
        metric="grad_norm",
        ceiling=True,
        cause="gradients explode",
        remedy="lower --learning_rate, set --score_clip or --max_grad_norm",
    ),
]

BY_FLAG = {bound.flag: bound for bound in BOUNDS}
