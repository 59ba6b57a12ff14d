"""SFT, reward and PPO stop at a NaN or an infinity; nothing of it is saved or called finished."""

import math
from pathlib import Path

import pytest
import torch
from command_tools import stops
from conftest import make_model, make_tokenizer, save_model, write_jsonl
from ppo_tools import make_setup, make_trainer
from safetensors.torch import load_file
from transformers import TrainerCallback

from instruct.errors import UserError
from instruct.files import load_rows
from instruct.run.checkpoints import whole_checkpoints
from instruct.trainers.finite_run import FiniteRun
from instruct.trainers.sft import ResumableSFTTrainer
from recipes import ppo, reward, sft

NAN, INF = math.nan, math.inf
COMMON = [
    "--per_device_train_batch_size", "2", "--lora_r", "4", "--dtype", "float32", "--seed", "3",
    "--disable_tqdm", "True", "--report_to", "none", "--use_cpu", "--lr_scheduler_type", "constant",
    "--max_steps", "4",
]  # fmt: skip
HUGE = ["--learning_rate", "1e30", "--max_grad_norm", "0"]
STEPS = {"sft": sft.cli, "reward": reward.cli}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("finite")
    topics = ("tea", "rain", "music", "chess", "bread", "snow", "cats", "stars")
    demonstrations = [{"prompt": f"Tell me of {t}", "completion": f"I like {t}."} for t in topics]
    rankings = [
        {"prompt": f"What of {t}?", "completions": [f"{t} is great!", f"{t}."], "ranks": [1, 2]}
        for t in topics
    ]
    for name, rows in (("sft", demonstrations), ("reward", rankings)):
        (home / name).mkdir()
        write_jsonl(home / name / "train.jsonl", rows[:6])
        write_jsonl(home / name / "validation.jsonl", rows[6:])
    save_model(home / "model")
    return home


def flags(home: Path, step: str, out: Path, *more) -> list:
    model = ["--model_name_or_path", home / "model", "--dataset_name", home / step]
    return [*model, "--output_dir", out, *COMMON, *more]


def is_finite(weights: Path) -> bool:
    return all(bool(w.isfinite().all()) for w in load_file(weights).values())


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("log", ["1", "2", "100"])  # in a line of the log, or before the save
def test_far_too_large_a_step_is_no_finished_run(home, tmp_path, capsys, step, log):
    out = tmp_path / "out"
    more = [*HUGE, "--save_steps", "500", "--logging_steps", log]
    said = stops(STEPS[step], flags(home, step, out, *more), capsys)
    found = "step 4: the weight base_model." if log == "100" else "step 2: loss is nan"
    assert f"stopped at {found}" in said and "lower --learning_rate" in said
    assert not (out / "finished.json").exists() and not (out / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("rate", ["1e30", "1e39"])  # finite, but not in any product; infinite
def test_a_last_step_that_breaks_the_weights_is_not_saved(home, tmp_path, capsys, step, rate):
    out = tmp_path / "out"
    more = ["--learning_rate", rate, "--max_steps", "1", "--save_strategy", "steps"]
    said = stops(STEPS[step], flags(home, step, out, *more, "--save_steps", "1"), capsys)
    assert "stopped at step 1: the weight base_model." in said
    assert whole_checkpoints(out) == [] and not (out / "finished.json").exists()


class AtStep(TrainerCallback):
    """Does something to a trainer's model before the step that follows `step`."""

    def __init__(self, step: int, change):
        self.step, self.change = step, change

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.change(model)


def poison(value: float):
    def change(model):
        next(p for p in model.parameters() if p.requires_grad).data.view(-1)[0] = value

    return change


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("step", STEPS)
def test_a_good_checkpoint_is_not_replaced(home, tmp_path, capsys, monkeypatch, step, value):
    out, train = tmp_path / "out", FiniteRun.train

    def with_poison(self, *args, **kwargs):
        self.add_callback(AtStep(2, poison(value)))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(FiniteRun, "train", with_poison)
    more = ["--learning_rate", "1e-3", "--save_strategy", "steps", "--save_steps", "1"]
    more += ["--save_total_limit", "1"]
    said = stops(STEPS[step], flags(home, step, out, *more), capsys)
    assert "stopped at step 3: the weight base_model." in said
    [kept] = whole_checkpoints(out)
    assert kept.name == "checkpoint-2" and is_finite(kept / "adapter_model.safetensors")
    # run again, it goes on from there
    monkeypatch.setattr(FiniteRun, "train", train)
    STEPS[step]([str(a) for a in flags(home, step, out, *more)])
    assert (out / "finished.json").is_file() and is_finite(out / "adapter_model.safetensors")


def sft_trainer(home: Path, out: Path, **settings) -> ResumableSFTTrainer:
    tokenizer = make_tokenizer()
    rows = sft.tokenize(load_rows(home / "sft"), tokenizer, None, "train")
    args = sft.SFTConfig(
        output_dir=str(out), report_to="none", use_cpu=True, disable_tqdm=True, bf16=False,
        per_device_train_batch_size=2, max_steps=4, eval_strategy="no", **settings,
    )  # fmt: skip
    return ResumableSFTTrainer(make_model(), args, train_dataset=rows, processing_class=tokenizer)


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_gradient_that_is_not_finite_stops(home, tmp_path, monkeypatch, value):
    trainer = sft_trainer(home, tmp_path, logging_steps=1)
    monkeypatch.setattr(trainer, "_clip_grad_norm", lambda model: torch.tensor(value))
    with pytest.raises(UserError, match="stopped at step 1: grad_norm is (nan|inf)"):
        trainer.train()


def skipping(trainer, monkeypatch, steps: set[int]) -> None:
    """As under fp16: the gradients of these steps overflow, and the optimizer skips them."""

    def norm(model):
        return torch.tensor(INF if trainer.state.global_step + 1 in steps else 1.0)

    monkeypatch.setattr(type(trainer), "_may_skip", True)
    skipped = property(lambda _: trainer.state.global_step in steps)
    monkeypatch.setattr(type(trainer.accelerator), "optimizer_step_was_skipped", skipped)
    monkeypatch.setattr(trainer, "_clip_grad_norm", norm)


def test_steps_that_fp16_skips_are_legal(home, tmp_path, monkeypatch):
    trainer = sft_trainer(home, tmp_path, logging_steps=1)
    skipping(trainer, monkeypatch, {1, 2})
    trainer.train()
    assert trainer.state.global_step == 4
    assert [math.isfinite(line["grad_norm"]) for line in trainer.state.log_history[:4]] == [
        False, False, True, True,
    ]  # fmt: skip


def test_a_run_whose_steps_are_all_skipped_stops(home, tmp_path, monkeypatch):
    trainer = sft_trainer(home, tmp_path)
    skipping(trainer, monkeypatch, {1, 2, 3, 4})
    with pytest.raises(UserError, match="overflowed in every step, so nothing was trained"):
        trainer.train()
    monkeypatch.setattr("instruct.trainers.finite_run.MOST_SKIPPED", 3)
    trainer = sft_trainer(home, tmp_path)
    skipping(trainer, monkeypatch, {2, 3, 4})
    with pytest.raises(UserError, match="stopped at step 4: .* overflowed in 3 steps in a row"):
        trainer.train()


class TooLarge(TrainerCallback):
    """Weights that are finite and overflow in a product, before the evaluation."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.fill_(1e17)


@pytest.mark.parametrize("step", STEPS)
def test_an_evaluation_that_is_not_finite_stops(home, tmp_path, capsys, monkeypatch, step):
    train = FiniteRun.train

    def with_poison(self, *args, **kwargs):
        self.add_callback(TooLarge())
        return train(self, *args, **kwargs)

    monkeypatch.setattr(FiniteRun, "train", with_poison)
    out = tmp_path / "out"
    more = ["--eval_strategy", "steps", "--eval_steps", "1", "--learning_rate", "1e-3"]
    said = stops(STEPS[step], flags(home, step, out, *more), capsys)
    assert (
        "eval_loss is nan" in said if step == "sft" else "held-out ranking 1, completion 1" in said
    )
    assert not (out / "finished.json").exists()


################
# PPO
################


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return make_setup(tmp_path_factory.mktemp("ppo"))


@pytest.mark.parametrize("full", [False, True])
def test_all_that_ppo_trains_is_looked_at_before_it_is_saved(setup, tmp_path, full):
    trainer = make_trainer(setup, tmp_path, full=full, peft_config=None) if full else None
    trainer = trainer or make_trainer(setup, tmp_path)
    trainer.train()
    trained = [*trainer.shared.policy_parameters().values(), *trainer.shared.value_parameters()]
    for parameter in (trained[0], trained[-1]):
        kept = parameter.data.clone()
        parameter.data.fill_(INF)
        with pytest.raises(UserError, match="the weight .* is inf"):
            trainer._save_checkpoint(trainer.model, None)
        parameter.data.copy_(kept)
    trainer._check_trained()


def lengths(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def test_one_reward_function_needs_no_list(setup, tmp_path):
    trainer = make_trainer(setup, tmp_path, reward_model_path=None, reward_funcs=lengths)
    assert list(trainer.worker.rewards.functions) == ["lengths"]
    with pytest.raises(UserError, match="'lengths' is no function"):
        make_trainer(setup, tmp_path, reward_funcs="lengths")


def test_a_constant_is_no_reward_function(setup, tmp_path, capsys):
    from ppo_tools import flags as ppo_flags

    said = stops(ppo.cli, ppo_flags(setup, tmp_path, reward_funcs="math:pi"), capsys)
    assert "--reward_funcs math:pi is no function but float" in said
