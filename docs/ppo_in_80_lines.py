"""PPO's first step with four separate models, one row at a time, in plain loops.

The first gradients of `SharedBasePPOTrainer` equal these (tests/instruct/trainers/ppo).
"""

import torch


def token_logprobs(model, prompt: list[int], response: list[int]) -> torch.Tensor:
    """log p(token | what is before it) of each response token: [T]."""
    logits = model(torch.tensor([prompt + response])).logits[0]
    before = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return torch.stack(
        [logits[i].log_softmax(-1)[t] for i, t in zip(before, response, strict=True)]
    )


def advantages_of(rewards: list[float], values: list[float], args) -> list[float]:
    """GAE as it is defined (arXiv 1506.02438, eq. 16): a sum over the rest of the response."""
    deltas = []
    for t, reward in enumerate(rewards):
        following = values[t + 1] if t + 1 < len(values) else 0.0  # after the end, nothing
        deltas.append(reward + args.gamma * following - values[t])
    weight = args.gamma * args.lam
    return [
        sum(weight ** (later - t) * deltas[later] for later in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


def ppo_loss(policy, reference, values_of, score_of, rollout, args) -> torch.Tensor:
    """Mean policy loss + vf_coef x mean value loss over all response tokens of a rollout.

    Args:
        policy, reference: causal LMs; the policy starts as the reference (the SFT model).
        values_of: (prompt, response) -> [T], the value before each token; starts as the reward.
        score_of: (prompt, response) -> the reward of the whole response.
        rollout: (prompt, response) pairs of token ids, sampled from the policy.
        args: kl_coef, gamma, lam, cliprange, cliprange_value, vf_coef.
    """
    # 1. What the models say of the responses before the step
    rows, every = [], []
    for prompt, response in rollout:
        with torch.no_grad():
            old = token_logprobs(policy, prompt, response)
            kl = old - token_logprobs(reference, prompt, response)
            values = values_of(prompt, response)

        # 2. Rewards: a KL penalty on every token, the score on the last
        rewards = [-args.kl_coef * k for k in kl.tolist()]
        rewards[-1] += score_of(prompt, response)

        # 3. Advantages, and the returns that the value function should have foreseen
        advantages = advantages_of(rewards, values.tolist(), args)
        returns = [a + v for a, v in zip(advantages, values.tolist(), strict=True)]
        rows.append((prompt, response, old, values, advantages, returns))
        every += advantages

    # 4. Advantages of the whole rollout are whitened
    whole = torch.tensor(every)
    mean, scale = whole.mean(), torch.rsqrt(whole.var() + 1e-8)

    # 5. The loss, whose gradient is the step
    total = torch.zeros(())
    for prompt, response, old, values, advantages, returns in rows:
        new, now = token_logprobs(policy, prompt, response), values_of(prompt, response)
        for t in range(len(response)):
            advantage, ratio = (advantages[t] - mean) * scale, (new[t] - old[t]).exp()
            clipped = ratio.clamp(1 - args.cliprange, 1 + args.cliprange)
            total = total + torch.max(-advantage * ratio, -advantage * clipped)
            near = now[t].clamp(values[t] - args.cliprange_value, values[t] + args.cliprange_value)
            error = torch.max((now[t] - returns[t]) ** 2, (near - returns[t]) ** 2)
            total = total + args.vf_coef * 0.5 * error
    return total / len(every)
