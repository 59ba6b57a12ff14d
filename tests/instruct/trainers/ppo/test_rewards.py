"""Reward functions: weights, columns, and the sentence where one fails."""

import json

import pytest
from conftest import save_model
from ppo_tools import PROMPTS, fixed_sample, flags, make_reward, make_setup, make_trainer

from instruct.errors import UserError
from instruct.models import load_reward
from recipes.ppo import cli


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def long_words(prompts, completions, topic, **kwargs):
    assert len(prompts) == len(completions) == len(topic) and isinstance(prompts[0], str)
    return [float(len(c)) for c in completions]


def raises(prompts, completions, **kwargs):
    raise KeyError("no such thing")


def gives_nan(prompts, completions, **kwargs):
    return [0.0] * (len(prompts) - 1) + [float("nan")]


def too_few(prompts, completions, **kwargs):
    return [0.0]


def gives_text(prompts, completions, **kwargs):
    return ["good"] * len(prompts)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("raises", "reward function 'raises' raised KeyError: 'no such thing'"),
        ("gives_nan", "reward function 'gives_nan' returned nan for the completion"),
        ("too_few", "reward function 'too_few' returned 1 scores for 8 completions"),
        ("gives_text", "reward function 'gives_text' must return one number per completion"),
        ("absent", "test_rewards:absent"),
    ],
)
def test_bad_reward_functions_are_named(setup, tmp_path, capsys, name, sentence):
    with pytest.raises(SystemExit) as stop:
        cli(flags(setup, tmp_path / "out", reward_funcs=f"test_rewards:{name}"))
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_weights_clip_and_columns(setup, tmp_path):
    trainer = make_trainer(
        setup,
        tmp_path,
        reward_funcs=(long_words,),
        reward_weights=[0.5, 2.0],
        score_clip=9.0,
        missing_eos_penalty=1.0,
    )
    trainer.worker.sample = fixed_sample
    rollout = trainer.worker.collect(trainer.train_dataset[:8])
    model, words = rollout.rewards["reward_model"].tolist(), rollout.rewards["long_words"].tolist()
    assert words == [float(len(t)) for t in rollout.texts]
    for i, response in enumerate(rollout.responses):
        expected = max(-9.0, min(9.0, 0.5 * model[i] + 2 * words[i])) - (2 not in response)
        assert rollout.scores[i].item() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match="1 numbers for 2 rewards"):
        make_trainer(setup, tmp_path, reward_funcs=(long_words,), reward_weights=[1.0])
    with pytest.raises(UserError, match="nothing to learn from"):
        make_trainer(setup, tmp_path, reward_model_path=None)


def test_zero_weight_reward_is_logged_and_trains_nothing(setup, tmp_path):
    cli(flags(setup, tmp_path / "a"))
    cli(flags(setup, tmp_path / "b", reward_funcs="test_rewards:long_words", reward_weights=[1, 0]))
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter_model.safetensors"
    ).read_bytes()
    log = json.loads((tmp_path / "b" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["rewards/long_words"] > 0 and log[0]["rewards/reward_model"] == pytest.approx(
        log[0]["objective/scores"]
    )


def test_reward_model_of_another_base_is_loaded_beside(setup, tmp_path, capsys):
    other = save_model(tmp_path / "other", seed=9)
    reward = make_reward(tmp_path / "reward", other)
    trainer = make_trainer(setup, tmp_path / "out", reward_model_path=reward, value_model="adapter")
    assert "loaded beside" in capsys.readouterr().out and not trainer.shared.has_reward
    trainer.worker.sample = fixed_sample
    rollout = trainer.worker.collect(trainer.train_dataset[:8])
    assert rollout.rewards["reward_model"].tolist() == pytest.approx(
        load_reward(reward).score(PROMPTS, rollout.texts), abs=1e-5
    )
    assert (
        rollout.values.abs().max() == 0
    )  # no reward adapter to start from: the value function starts at 0
    trainer.train()
    assert trainer.state.global_step == 4
