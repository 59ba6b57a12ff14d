"""The watchdog and the average of the policy."""

import re

import pytest
import torch
from ppo_tools import flags, make_setup, make_trainer
from safetensors.torch import load_file
from transformers import TrainerCallback

from instruct.errors import UserError
from instruct.run.checkpoints import whole_checkpoints
from recipes.ppo import cli


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


def test_average_of_the_policy_is_the_average_of_its_steps(setup, tmp_path):
    steps = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.on_optimizer_step(args, state, control)

        def on_optimizer_step(self, args, state, control, **kwargs):
            steps.append(
                {n: p.detach().clone() for n, p in trainer.shared.policy_parameters().items()}
            )

    trainer = make_trainer(setup, tmp_path, ema_decay=0.6, callbacks=[Watch()])
    trainer.train()
    assert len(steps) == 5
    average = steps[0]
    for step in steps[1:]:
        average = {n: 0.6 * average[n] + 0.4 * step[n] for n in average}
    trainer.save_model()
    saved = load_file(tmp_path / "adapter_model.safetensors")
    for name, expected in average.items():
        key = name.removeprefix("base.").replace(".default.", ".")
        assert torch.allclose(saved[key], expected, atol=1e-6) and not torch.equal(
            saved[key], steps[-1][name]
        )


@pytest.mark.parametrize(
    ("bound", "sentence"),
    [
        (
            {"max_kl": -1.0},
            r"objective/kl is .* above --max_kl -1 for 2 rollouts; likely the policy ran away",
        ),
        (
            {"min_entropy": 100.0},
            "policy/entropy_avg is .* below --min_entropy 100 .* raise --kl_coef",
        ),
        ({"watchdog_grad_norm": 0.0}, "grad_norm is .* gradients explode"),
        ({"min_explained_variance": 2.0}, "val/explained_variance is .* --vf_coef"),
    ],
)
def test_watchdog_names_cause_and_remedy(setup, tmp_path, capsys, bound, sentence):
    run = flags(
        setup,
        tmp_path,
        watchdog_patience=2,
        total_episodes=32,
        save_strategy="steps",
        save_steps=2,
        **bound,
    )
    with pytest.raises(SystemExit) as stop:
        cli(run)
    assert stop.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert (
        re.search(sentence, error)
        and "stopped at step 4" in error
        and error.endswith(f"checkpoints stay in {tmp_path}")
    )
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-2"] and not (
        tmp_path / "finished.json"
    ).exists()
    quiet = flags(setup, tmp_path / "off", watchdog=False, **bound)
    cli(quiet)
    assert (tmp_path / "off" / "finished.json").is_file()


def test_nan_stops_at_once_and_is_not_saved(setup, tmp_path):
    class Poison(TrainerCallback):
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 2:  # the first step of the second rollout
                next(iter(trainer.shared.policy_parameters().values())).data.fill_(float("nan"))

    trainer = make_trainer(
        setup, tmp_path, callbacks=[Poison()], save_strategy="steps", save_steps=2, watchdog=False
    )
    with pytest.raises(UserError, match="stopped at step 4: .* is nan; .*lower --learning_rate"):
        trainer.train()
    assert [p.name for p in whole_checkpoints(tmp_path)] == ["checkpoint-2"]
