"""How prompts become rollouts and optimizer steps."""

from types import SimpleNamespace

import pytest
from conftest import make_tokenizer
from datasets import Dataset
from ppo_tools import make_setup, make_trainer

from instruct.errors import UserError
from instruct.tokens import load_tokenizer
from instruct.trainers.ppo.batches import (
    PretrainingRows,
    RolloutSampler,
    accumulation_steps,
    with_prompt_ids,
)
from instruct.turns import text_end


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
    said = capsys.readouterr().out
    assert args.save_steps == 12 and "--save_steps 7: rounded up to 12" in said
    assert "--total_episodes 50: rounded up to 72, whole rollouts of 24\n" in said
    with pytest.raises(UserError, match="size 20: must be a multiple of --num_mini_batches 3"):
        make_trainer(setup, tmp_path, rollout_batch_size=20, num_mini_batches=3)
    with pytest.raises(UserError, match="of 10 episodes .*_size 4; give --per_device_.*_size 2$"):
        make_trainer(setup, tmp_path, rollout_batch_size=20, num_mini_batches=2)


@pytest.mark.parametrize(
    ("rollout", "parts", "processes", "at_once", "remedy"),
    [
        (4, 1, 1, 8, "--per_device_train_batch_size 8; give --per_device_train_batch_size 4"),
        (64, 2, 2, 24, "24 x 2 processes; give --per_device_train_batch_size 16"),
        (6, 2, 2, 1, "1 x 2 processes; give a multiple of 4, mini-batches x processes"),
    ],
)
def test_a_rollout_that_is_no_whole_micro_batches_says_what_would_be(
    rollout, parts, processes, at_once, remedy
):
    args = SimpleNamespace(
        rollout_batch_size=rollout, num_mini_batches=parts, world_size=processes,
        per_device_train_batch_size=at_once,
    )  # fmt: skip
    with pytest.raises(UserError, match=f"^--rollout_batch_size {rollout}: .*{remedy}$"):
        accumulation_steps(args)


def test_ids_in_the_data_are_not_taken_for_the_prompt(setup):
    tokenizer = load_tokenizer(setup["model"])
    rows = Dataset.from_list([{"prompt": "Hi", "prompt_ids": [7, 7, 7]}])
    with pytest.raises(UserError, match="a.jsonl: rename the column 'prompt_ids'"):
        with_prompt_ids(rows, tokenizer, 64, "a.jsonl")


def test_the_trainer_takes_no_ids_but_those_of_its_own(setup, tmp_path):
    rows = Dataset.from_list([{"prompt": "Hi", "prompt_ids": [7, 7, 7]}])
    with pytest.raises(UserError, match="evaluation: rename the column 'prompt_ids'"):
        make_trainer(setup, tmp_path, eval_dataset=rows)


def test_pretraining_text_ends_as_texts_do_not_as_turns(tmp_path):
    """Also with the tokenizer that SFT saved, whose eos ends turns."""
    tokenizer = make_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(tmp_path / "base")
    settled = load_tokenizer(str(tmp_path / "base"))
    settled.save_pretrained(tmp_path / "sft")
    for known in (settled, load_tokenizer(str(tmp_path / "sft"))):
        assert known.eos_token == "<|im_end|>"
        (ids,) = PretrainingRows(["Once upon a time"], known, 64).ids
        assert known.convert_ids_to_tokens(ids[-1]) == "<|endoftext|>"
    # where it was never settled, eos is what it always was
    assert text_end(make_tokenizer()) == make_tokenizer().eos_token_id
