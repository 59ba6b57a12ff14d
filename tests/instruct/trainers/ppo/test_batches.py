"""How prompts become rollouts and optimizer steps."""

import pytest
from ppo_tools import make_setup, make_trainer

from instruct.files import UserError
from instruct.trainers.ppo.batches import RolloutSampler


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def test_sampler_sees_every_prompt_before_any_twice_and_repeats_each_rollout():
    order = list(RolloutSampler(prompts=5, rollout=4, rollouts=5, repeats=3, seed=0))
    assert len(order) == len(RolloutSampler(5, 4, 5, 3, 0)) == 60
    rollouts = [order[i : i + 4] for i in range(0, 60, 12)]
    assert order == [i for r in rollouts for i in r * 3]
    seen = [i for r in rollouts for i in r]
    assert all(sorted(seen[k : k + 5]) == [0, 1, 2, 3, 4] for k in range(0, 20, 5))


def test_batch_arithmetic(setup, tmp_path, capsys):
    trainer = make_trainer(
        setup,
        tmp_path,
        rollout_batch_size=24,
        num_mini_batches=2,
        num_ppo_epochs=3,
        total_episodes=50,
        save_steps=7,
    )
    args, plan = trainer.args, trainer.batches
    assert (args.gradient_accumulation_steps, plan.mini_batch_size, plan.rollout_size) == (
        3,
        12,
        24,
    )
    assert (plan.steps_per_rollout, plan.num_rollouts) == (6, 3)
    assert (
        (args.max_steps, args.total_episodes) == (18, 72) == (plan.max_steps, plan.total_episodes)
    )
    assert args.save_steps == 12 and "--save_steps 7: rounded up to 12" in capsys.readouterr().out
    with pytest.raises(UserError, match="20 is not a multiple of 3"):
        make_trainer(setup, tmp_path, rollout_batch_size=20, num_mini_batches=3)
    with pytest.raises(UserError, match="10 is not a multiple of 4"):
        make_trainer(setup, tmp_path, rollout_batch_size=20, num_mini_batches=2)
