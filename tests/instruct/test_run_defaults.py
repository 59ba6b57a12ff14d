"""Defaults of a run that is started by hand: learning rates, batches, checkpoints."""

import dataclasses
import json

import pytest
import trl
from conftest import make_model, make_tokenizer
from datasets import Dataset
from peft import LoraConfig

from instruct.arguments import parse
from instruct.run.run_record import record_of, recorded_flags
from instruct.run_defaults import KEPT
from instruct.trainers.sft import ResumableSFTTrainer, SFTConfig
from recipes import ppo, reward, sft

CLASSES = {
    "sft": (sft.ScriptArguments, sft.SFTConfig, sft.ModelConfig),
    "reward": (reward.ScriptArguments, reward.RankedRewardConfig, reward.ModelConfig),
    "ppo": (ppo.ScriptArguments, ppo.SharedBasePPOConfig, ppo.ModelConfig),
}
STEPS = list(CLASSES)


def parsed(step: str, *flags: str) -> tuple:
    words = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "o", *flags]
    return parse(CLASSES[step], words)


def training(step: str, *flags: str):
    return parsed(step, *flags)[1]


################
# Learning rates
################

RATES = {"sft": (2e-4, 2e-5), "reward": (2e-4, 1e-5), "ppo": (1e-4, 1e-5)}


@pytest.mark.parametrize("step", STEPS)
def test_the_rate_is_that_of_what_is_trained_printed_and_recorded(step, capsys):
    lora, full = RATES[step]
    for flags, rate, of in [
        ((), lora, "LoRA"),
        (("--use_peft", "False"), full, "all weights"),
        (("--no_use_peft",), full, "all weights"),
    ]:
        run = parsed(step, *flags)
        assert run[1].learning_rate == rate
        assert f"the default for training {of}" in capsys.readouterr().out
        assert json.loads(json.dumps(recorded_flags(*run)))["learning_rate"] == rate
    for flags in ((), ("--use_peft", "False")):
        assert training(step, "--learning_rate", "0.5", *flags).learning_rate == 0.5
        assert "default" not in capsys.readouterr().out


def test_a_settings_file_has_it_too(tmp_path, capsys):
    file = tmp_path / "a.yaml"
    file.write_text("use_peft: false\n")
    assert training("sft", "--config", str(file)).learning_rate == 2e-5
    file.write_text("learning_rate: 3.0e-4\nuse_peft: false\n")
    capsys.readouterr()
    assert training("sft", "--config", str(file)).learning_rate == 3e-4
    assert "default" not in capsys.readouterr().out


QUIET = {"max_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no"}


def trained_at(args, lora: LoraConfig | None, then: float | None = None) -> float:
    """The rate of a step of SFT; `then`: set on the trainer's arguments before it."""
    rows = Dataset.from_list([{"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1]}] * 8)
    trainer = ResumableSFTTrainer(
        make_model(), args, train_dataset=rows, processing_class=make_tokenizer(), peft_config=lora
    )
    trainer.args.learning_rate = then or trainer.args.learning_rate
    trainer.train()
    return trainer.optimizer.defaults["lr"]


@pytest.mark.parametrize("lora, rate", [(LoraConfig(r=2), 2e-4), (None, 2e-5)])
def test_in_python_it_is_that_of_the_model_that_is_trained(tmp_path, lora, rate, capsys):
    def config(**given) -> SFTConfig:
        return SFTConfig(str(tmp_path), **QUIET, **given)

    assert trained_at(config(), lora) == rate
    said = f"default for training {'LoRA' if lora else 'all weights'}"
    assert capsys.readouterr().out.count(said) == 1
    assert trained_at(dataclasses.replace(config(), seed=3), lora) == rate
    capsys.readouterr()
    assert trained_at(config(learning_rate=1e-3), lora) == 1e-3
    # LoRA's rate, given by hand, is given
    assert trained_at(config(learning_rate=2e-4), lora) == 2e-4
    later = config()
    later.learning_rate = 1e-3
    assert trained_at(later, lora) == 1e-3
    assert "default" not in capsys.readouterr().out
    assert trained_at(config(), lora, then=1e-3) == 1e-3


def test_trls_own_config_keeps_its_rate(tmp_path):
    args = trl.SFTConfig(str(tmp_path), **QUIET, bf16=False)
    own = args.learning_rate
    assert own != SFTConfig.RATES.lora and trained_at(args, LoraConfig(r=2)) == own


@pytest.mark.parametrize("use_peft, rate", [(True, 2e-4), (False, 2e-5)])
def test_a_record_made_in_python_has_the_rate_that_is_trained(tmp_path, use_peft, rate):
    script, _, model = CLASSES["sft"]
    made = (script(), SFTConfig(str(tmp_path)), model(use_peft=use_peft))
    assert record_of("sft", made, {})["flags"]["learning_rate"] == rate


################
# Batches
################


@pytest.mark.parametrize("step, rows", [("sft", (2, 4)), ("reward", (1, 8)), ("ppo", (4, 16))])
def test_micro_batches_are_small_and_steps_are_not(step, rows):
    """A TRL command line that gives one of the two means what it means there."""

    def sizes(*flags: str) -> tuple[int, int]:
        args = training(step, *flags)
        return args.per_device_train_batch_size, args.gradient_accumulation_steps

    assert sizes() == rows
    assert sizes("--per_device_train_batch_size", "16") == (16, 1)
    assert sizes("--gradient_accumulation_steps", "2") == (8, 2)
    both = ["--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "1"]
    assert sizes(*both) == (1, 1)
    assert training(step).per_device_eval_batch_size == 4


################
# Checkpoints
################


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "flags, steps, kept",
    [
        ("", 0.1, KEPT),
        ("--save_steps 500", 500, None),
        ("--save_total_limit 7", 0.1, 7),
        ("--save_strategy epoch", 0.1, None),  # one of them may be picked
        ("--save_strategy no", 0.1, None),
    ],
)
def test_saves_come_often_unless_they_are_asked_for(step, flags, steps, kept):
    args = training(step, *flags.split())
    assert (args.save_steps, args.save_total_limit) == (steps, kept)


def test_where_the_best_is_loaded_each_save_has_its_evaluation():
    best = ["--load_best_model_at_end", "--eval_strategy", "steps"]
    assert training("sft", *best, "--eval_steps", "30").save_steps == 30
    assert training("sft", *best, "--logging_steps", "5").save_steps == 5
    with pytest.raises(Exception, match="multiple"):  # transformers' own check
        training("sft", *best, "--eval_steps", "30", "--save_steps", "40")
