"""PPO's arithmetic against loops and scalars."""

import math

import pytest
import torch

from instruct.trainers.ppo import math as ppo_math


def random_batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([1, 5, 3, 5])
    mask = torch.arange(5) < lengths[:, None]
    rewards, values = (
        torch.randn(4, 5, generator=generator) * mask,
        torch.randn(4, 5, generator=generator) * mask,
    )
    return rewards, values, mask, lengths


def test_gae_is_the_sum_of_its_definition():
    rewards, values, mask, lengths = random_batch()
    advantages, returns = ppo_math.gae(rewards, values, mask, 0.9, 0.8)
    for i, n in enumerate(lengths.tolist()):
        for t in range(5):
            expected = 0.0
            for k in range(t, n):
                following = values[i, k + 1].item() if k + 1 < n else 0.0
                expected += (0.9 * 0.8) ** (k - t) * (
                    rewards[i, k].item() + 0.9 * following - values[i, k].item()
                )
            assert advantages[i, t].item() == pytest.approx(expected, abs=1e-5)
            assert returns[i, t].item() == pytest.approx(
                expected + (values[i, t].item() if t < n else 0.0), abs=1e-5
            )


@pytest.mark.parametrize("shift_mean", [True, False])
def test_whitening_is_a_loop_over_real_tokens(shift_mean):
    values, _, mask, _ = random_batch()
    values = values + 3
    real = [v.item() for v, m in zip(values.flatten(), mask.flatten(), strict=True) if m]
    mean = sum(real) / len(real)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in real) / (len(real) - 1))
    found = ppo_math.whiten(values, mask, shift_mean)[mask].tolist()
    assert found == pytest.approx(
        [(v - mean) / deviation + (0 if shift_mean else mean) for v in real], abs=1e-4
    )
    assert (ppo_math.whiten(values, mask, shift_mean)[~mask] == 0).all()


def test_whitening_in_two_halves_is_whitening_the_whole():
    """Each process has half the rows; `reduce` stands for the sum over processes."""
    values, _, mask, _ = random_batch()
    halves = [(values[:2], mask[:2]), (values[2:], mask[2:])]
    mean = values[mask].mean()
    sums = [torch.stack([(v * m).sum(), m.sum().float()]) for v, m in halves]
    for k, (v, m) in enumerate(halves):
        answers = iter((sums[1 - k], (((halves[1 - k][0] - mean) * halves[1 - k][1]) ** 2).sum()))
        found = ppo_math.whiten(v, m, reduce=lambda mine, answers=answers: mine + next(answers))
        rows = slice(0, 2) if k == 0 else slice(2, 4)
        assert torch.allclose(found, ppo_math.whiten(values, mask)[rows], atol=1e-5)


def test_score_sits_on_the_last_real_token_and_kl_on_all():
    _, _, mask, lengths = random_batch()
    kl, scores = torch.full((4, 5), 2.0), torch.tensor([10.0, 20, 30, 40])
    rewards = ppo_math.token_rewards(scores, kl, 0.1, lengths, mask)
    for i, n in enumerate(lengths.tolist()):
        assert rewards[i].tolist() == pytest.approx(
            [-0.2] * (n - 1) + [-0.2 + scores[i].item()] + [0.0] * (5 - n)
        )


def test_kl_estimators_agree_with_the_exact_kl():
    torch.manual_seed(0)
    p, q = torch.randn(6).log_softmax(-1), torch.randn(6).log_softmax(-1)
    tokens = torch.multinomial(p.exp(), 200_000, replacement=True)
    exact = (p.exp() * (p - q)).sum().item()
    for estimator in ("k1", "k3"):
        samples = ppo_math.token_kl(p[tokens], q[tokens], estimator)
        assert samples.mean().item() == pytest.approx(exact, rel=0.03)
        assert (samples >= 0).all() == (estimator == "k3")


def test_losses_against_scalars():
    new, old = torch.tensor([0.0, -1.0, -1.0]), torch.tensor([-1.0, -1.0, 0.0])
    loss, clipped = ppo_math.policy_losses(new, old, torch.tensor([1.0, -2.0, -1.0]), 0.2)
    assert loss.tolist() == pytest.approx([-1.2, 2.0, 0.8]) and clipped.tolist() == [
        True,
        False,
        True,
    ]
    loss, clipped = ppo_math.value_losses(
        torch.tensor([2.0, 0.1]), torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2
    )
    assert loss.tolist() == pytest.approx([0.5, 0.405]) and clipped.tolist() == [False, False]
    loss, clipped = ppo_math.value_losses(
        torch.tensor([1.0]), torch.zeros(1), torch.tensor([1.0]), 0.2
    )
    assert loss.tolist() == pytest.approx([0.32]) and clipped.tolist() == [True]


def test_adaptive_coefficient_moves_towards_the_target_by_at_most_a_fifth():
    assert ppo_math.next_kl_coef(
        0.1, kl=12.0, target=10.0, episodes=100, horizon=1000
    ) == pytest.approx(0.1 * 1.02)
    assert ppo_math.next_kl_coef(
        0.1, kl=11.0, target=10.0, episodes=100, horizon=1000
    ) == pytest.approx(0.1 * 1.01)
    assert ppo_math.next_kl_coef(
        0.1, kl=0.0, target=10.0, episodes=100, horizon=1000
    ) == pytest.approx(0.1 * 0.98)
