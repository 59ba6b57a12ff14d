"""The trainer: it learns, evaluates, and keeps the best checkpoint, on every TRL."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from ppo_tools import flags, make_setup, make_trainer
from trl.trainer.base_trainer import _BaseTrainer

from instruct.errors import UserError
from instruct.trainers.ppo import math as ppo_math
from recipes.ppo import cli


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def test_adaptive_kl_is_used_and_logged(setup, tmp_path):
    trainer = make_trainer(
        setup, tmp_path, kl_coef=0.1, kl_target=1e-6, kl_horizon=10, total_episodes=24
    )
    trainer.train()
    used = [
        line["objective/kl_coef"]
        for line in trainer.state.log_history
        if "objective/kl_coef" in line
    ]
    kl = [line["objective/kl"] for line in trainer.state.log_history if "objective/kl" in line]
    assert len(used) == 3 and used[0] == 0.1
    assert (
        used[1] == pytest.approx(ppo_math.next_kl_coef(used[0], kl[0], 1e-6, 8, 10))
        and used[1] != used[0]
    )


def even_start(prompts, completions, **kwargs):
    return [float(text != "" and ord(text[0]) % 2 == 0) for text in completions]


@pytest.mark.parametrize("value_model", ["head", pytest.param("adapter", marks=pytest.mark.slow)])
def test_it_learns(tmp_path, value_model):
    """Eight rollouts take the share of responses that start on an even letter from about a half to
    nearly all.
    """
    setup = make_setup(tmp_path / "setup", initializer_range=0.5)
    trainer = make_trainer(
        setup,
        tmp_path / "out",
        reward_model_path=None,
        reward_funcs=(even_start,),
        total_episodes=64 * 8,
        value_model=value_model,
        per_device_train_batch_size=64,
        gradient_accumulation_steps=1,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        kl_coef=0.0,
        response_length=2,
        num_ppo_epochs=4,
        watchdog=False,
    )
    trainer.train()
    scores = [
        line["objective/scores"] for line in trainer.state.log_history if "objective/scores" in line
    ]
    assert scores[0] < 0.75 and scores[-1] > 0.85


def test_evaluation_leaves_training_as_it_was(setup, tmp_path):
    cli(flags(setup, tmp_path / "a"))
    cli(flags(setup, tmp_path / "b", eval_strategy="steps", eval_steps=2, eval_on_start=True))
    assert (tmp_path / "a" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "b" / "adapter_model.safetensors"
    ).read_bytes()


def test_best_checkpoint_is_the_best_within_the_kl_bound(setup, tmp_path):
    run = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "total_episodes": 32,
        "learning_rate": 1e-2,
    }
    cli(flags(setup, tmp_path / "a", load_best_model_at_end=True, **run))
    state = json.loads((tmp_path / "a" / "trainer_state.json").read_text())
    held_out = {line["step"]: line for line in state["log_history"] if "eval_reward" in line}
    best = max(held_out, key=lambda s: held_out[s]["eval_reward"])
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{best}")
    saved = (tmp_path / "a" / "adapter_model.safetensors").read_bytes()
    assert (
        saved == (Path(state["best_model_checkpoint"]) / "adapter_model.safetensors").read_bytes()
    )

    kls = sorted(line["eval_kl"] for line in held_out.values())
    cli(flags(setup, tmp_path / "b", best_max_kl=(kls[0] + kls[1]) / 2, **run))
    state = json.loads((tmp_path / "b" / "trainer_state.json").read_text())
    (only,) = [s for s, line in held_out.items() if line["eval_kl"] == kls[0]]
    assert state["best_model_checkpoint"].endswith(f"checkpoint-{only}")


def test_stands_on_a_trl_without_ppo(setup, tmp_path, monkeypatch):
    """The trainer's module again where `trl.experimental.ppo` cannot be imported: the same
    weights.
    """
    monkeypatch.setitem(sys.modules, "trl.experimental.ppo", None)
    for name in ("instruct.trl_ppo", "instruct.trainers.ppo.trainer"):
        monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module("instruct.trainers.ppo.trainer")
    assert module.PlainPPOParent.__bases__ == (_BaseTrainer,)
    with pytest.raises(UserError, match="removed in 1.13"):
        importlib.import_module("instruct.trl_ppo").stock_ppo()
    monkeypatch.setattr("ppo_tools.SharedBasePPOTrainer", module.SharedBasePPOTrainer)
    trainer = make_trainer(setup, tmp_path / "newer", save_strategy="steps", save_steps=2)
    trainer.train()
    monkeypatch.undo()
    same = make_trainer(setup, tmp_path / "today")
    same.train()
    assert type(trainer) is not type(same) and trainer.state.global_step == 4
    assert all(
        torch.equal(a, b)
        for a, b in zip(trainer.shared.parameters(), same.shared.parameters(), strict=True)
    )
