"""The watchdog and the average of the policy."""

import json
import re
import shutil

import pytest
import torch
from conftest import REPO
from ppo_tools import flags, make_setup, make_trainer
from safetensors.torch import load_file
from transformers import TrainerCallback

from instruct.errors import UserError
from instruct.run.checkpoints import whole_checkpoints
from instruct.tokens import encode_completion
from instruct.trainers.ppo.callbacks import BOUNDS
from instruct.trainers.ppo.config import SharedBasePPOConfig
from instruct.trainers.ppo.rollout import Sampled
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


RECORDED = [
    json.loads(line)
    for line in (REPO / "tests" / "data" / "collapsed_answers.jsonl").read_text().splitlines()
]


class Recorded:
    """Answers as they were recorded: varied ones for some rollouts, then those of a policy that
    has collapsed.
    """

    def __init__(self, tokenizer, healthy: int):
        self.tokenizer, self.healthy, self.rollouts = tokenizer, healthy, 0

    def __call__(self, prompts):
        column = "sft" if self.rollouts < self.healthy else "ppo"
        start = self.rollouts * len(prompts) if column == "sft" else 0
        self.rollouts += 1
        texts = [RECORDED[(start + i) % len(RECORDED)][column] for i in range(len(prompts))]
        return Sampled([encode_completion(self.tokenizer, text) for text in texts])


def run_recorded(setup, out, healthy: int, resume=None, **settings):
    trainer = make_trainer(
        setup, out, total_episodes=64, response_length=64, learning_rate=1e-5, max_kl=1e9,
        min_kl=-1e9, **settings,
    )  # fmt: skip
    trainer.worker.sample = Recorded(trainer.processing_class, healthy)
    if resume:
        trainer.worker.sample.rollouts = int(resume.name.split("-")[1]) // 2
    trainer.train(str(resume) if resume else None)
    return trainer.state.log_history


def test_one_answer_for_every_prompt_stops_the_run(setup, tmp_path):
    """Nothing else shows it: no reward, and its bound of KL is set aside."""
    history = run_recorded(setup, tmp_path / "healthy", healthy=8)
    values = [entry["objective/distinct2"] for entry in history if "objective/distinct2" in entry]
    assert len(values) == 8 and min(values) > 0.9
    sentence = (
        r"stopped at step 12: objective/distinct2 is 0\.\d+, below --min_distinct2_ratio 0\.6 of "
        r"the first rollouts' \d.* for 3 rollouts; .* same answer: raise --kl_coef"
    )
    with pytest.raises(UserError, match=sentence):
        run_recorded(setup, tmp_path / "collapsed", healthy=3)
    run_recorded(setup, tmp_path / "allowed", healthy=3, min_distinct2_ratio=0.0)


def test_the_first_rollouts_are_kept_with_a_checkpoint(setup, tmp_path):
    """A resumed run has seen no healthy rollout: measured against its own, it would pass."""
    kept = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(UserError, match="stopped at step 12: objective/distinct2"):
        run_recorded(setup, tmp_path, healthy=3, **kept)
    whole = whole_checkpoints(tmp_path)
    (last,) = [path for path in whole if path.name == "checkpoint-8"]
    for path in whole:
        if int(path.name.split("-")[1]) > 8:
            shutil.rmtree(path)
    with pytest.raises(UserError, match="stopped at step 12: objective/distinct2"):
        run_recorded(setup, tmp_path, healthy=3, resume=last, **kept)


def test_bounds_of_a_kl_that_collapsed_and_of_healthy_ones():
    """The demo's collapsed chain ended at 23 nats, healthy ones below 10 (docs/ppo.md)."""
    limit = SharedBasePPOConfig(output_dir="unused", report_to="none").max_kl
    (bound,) = [bound for bound in BOUNDS if bound.flag == "max_kl"]
    assert bound.crossed_by(23.0, limit) and not bound.crossed_by(10.0, limit)
