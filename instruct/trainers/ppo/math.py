"""The arithmetic of PPO (arXiv 1707.06347, 1909.08593), apart from any model, so that each line can
be tested by a loop.

Shapes: B responses, T = longest response; `mask` [B, T] is True on response tokens, which start at
column 0 of each row. KL is in nats.
"""

from collections.abc import Callable

import torch


def token_kl(
    logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: str = "k1"
) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) from tokens the policy sampled.

    k1 = log p - log q is unbiased and may be negative; k3 = q/p - 1 - log(q/p) is unbiased and
    never negative (joschu.net/blog/kl-approx.html). Works on any shape.
    """
    log_ratio = ref_logprobs - logprobs
    # expm1: near equality exp(x) - 1 loses every digit
    return -log_ratio if estimator == "k1" else log_ratio.expm1() - log_ratio


def token_rewards(
    scores: torch.Tensor,
    kl: torch.Tensor,
    kl_coef: float,
    lengths: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Rewards [B, T]: -kl_coef * KL on every token, and the response's score [B] on its last real
    token.
    """
    # the penalty is a reward, not a loss: its effect on later tokens counts, too
    rewards = -kl_coef * kl * mask
    # on the last real token, not on the first pad (trl 3750)
    rewards[torch.arange(len(scores), device=scores.device), lengths - 1] += scores
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, equation 16) -> advantages, returns, both
    [B, T], 0 outside.

    `values[:, t]` is the value before token t; after the last token the episode is over, so its
    value is 0.
    """
    # cleared first: what lies beyond the end would flow back into real tokens
    rewards, values = rewards * mask, values * mask
    advantages, running = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    # backwards, as each advantage holds the ones after it
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        running = rewards[:, t] + gamma * following - values[:, t] + gamma * lam * running
        advantages[:, t] = running
    # returns from the unwhitened advantages: values are in units of reward
    return advantages * mask, (advantages + values) * mask


def whiten(
    values: torch.Tensor,
    mask: torch.Tensor,
    shift_mean: bool = True,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> torch.Tensor:
    """Scales masked values to variance 1 (and mean 0), 0 outside the mask.

    `reduce` sums a tensor over processes, so that every process uses the same mean and (unbiased)
    variance.
    """
    total, count = reduce(torch.stack([(values * mask).sum(), mask.sum().to(values.dtype)]))
    # over all tokens: a mean of means would weigh processes with few of them more
    mean = total / count
    # around the mean, in a second message: a difference of squares cancels
    variance = reduce((((values - mean) * mask) ** 2).sum()) / (count - 1).clamp(min=1)
    # rewards keep their mean: shifted, a good response would turn into a bad one
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def policy_losses(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Clipped surrogate (1707.06347, equation 7) per token -> losses, and where clipping was the
    larger of the two.
    """
    # 1 on a rollout's first step, where sampling was exact
    ratio = (logprobs - old_logprobs).exp()
    # the larger loss: clipping may hold a gain back, never hide a loss
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange)
    return torch.maximum(plain, clipped), clipped > plain


def value_losses(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, cliprange: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half the squared error per token, the larger of plain and clipped -> losses, and where
    clipping was larger.
    """
    # clipped around the old value: a bad rollout cannot throw the values far
    near = torch.minimum(torch.maximum(values, old_values - cliprange), old_values + cliprange)
    plain, clipped = (values - returns) ** 2, (near - returns) ** 2
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def next_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """The adaptive controller of 1909.08593, section 2.2: proportional in log space, its error
    clipped to +-0.2.
    """
    # clipped: one wild rollout may not change the coefficient many times over
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * episodes / horizon)
