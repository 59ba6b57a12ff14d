"""Flags that act only beside others, and those of optimizer, schedule and files."""

import contextlib
import io
import re

import pytest
from test_flags import CLASSES, field_of, other_value

from instruct.arguments import parse
from instruct.checks.flag_conditions import NEEDS, OF_STEP
from instruct.errors import UserError

OFF = {"use_peft": "False", "watchdog": "False", "sample_every": "0"}
TYPED = [
    (step, flag)
    for step in CLASSES
    for flag, needs in {**NEEDS, **OF_STEP.get(step, {})}.items()
    if flag in field_of(step) and needs.other in field_of(step)
]
VALUES = {
    "eval_delay": "2", "greater_is_better": "True", "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_quant_storage": "float32", "lora_dropout": "0.3", "hub_strategy": "end",
    "min_eos_rate": "0.5", "min_distinct2_ratio": "0.5", "max_clipfrac": "0.5",
    "dataloader_prefetch_factor": "3", "hub_private_repo": "True", "logging_steps": "7",
    "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
    "activation_checkpointing_kwargs": '{"use_reentrant": false}',
}  # fmt: skip
NOT_TYPED = (
    ("sft", "eval_on_start"),  # on by default, and off it may be said
    *((step, flag) for step in CLASSES for flag in ("liger_kernel_config", "fsdp_config")),
)


def said(step: str, *argv: str) -> str | None:
    """What a recipe refuses its flags with, or notes of them; None where it takes them."""
    heard = io.StringIO()
    try:
        with contextlib.redirect_stderr(heard):
            parse(CLASSES[step], ["--output_dir", "out", *argv])
    except UserError as error:
        return str(error)
    notes = [line for line in heard.getvalue().splitlines() if line.startswith("note: ")]
    return notes[0].removeprefix("note: ") if notes else None


@pytest.mark.parametrize(("step", "flag"), [t for t in TYPED if t not in NOT_TYPED])
def test_a_flag_without_what_it_needs_is_refused(step, flag):
    fields = field_of(step)
    other = NEEDS.get(flag, OF_STEP.get(step, {}).get(flag)).other
    value = VALUES.get(flag) or other_value(fields[flag])
    off = ["--" + other, "no"] if other in ("save_strategy", "logging_strategy") else []
    off += ["--" + other, OFF[other]] if other in OFF else []
    # refused whatever else is given: dropout is off in the reward model, and in PPO
    if step == "ppo" and flag in ("logging_steps", "liger_kernel_config"):
        off = []
    if step != "sft" and flag == "lora_dropout":
        off = []
    error = said(step, *off, f"--{flag}", value)
    assert error and error.startswith(f"--{flag} "), error
    assert not off or f"--{other}" in error


def test_a_settings_file_may_keep_what_is_switched_off(tmp_path):
    file = tmp_path / "c.yaml"
    config = ["--config", str(file)]
    file.write_text("use_peft: false\nlora_r: 4\neval_strategy: 'no'\neval_steps: 5\n")
    assert said("sft", *config) is None
    assert said("sft", *config, "--lora_r", "8") == "--lora_r 8: does nothing with --use_peft False"
    # on, in another way
    file.write_text("eval_strategy: epoch\neval_steps: 5\n")
    assert "without --eval_strategy steps" in said("sft", *config)
    file.write_text("eval_strategy: steps\neval_steps: 5\n")
    assert said("sft", *config) is None
    assert said("sft", *config, "--eval_strategy", "epoch") is None
    file.write_text("eval_steps: 5\n")
    assert "without --eval_strategy steps" in said("sft", *config)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        # however argparse lets a flag be written
        (["--eval-steps", "1"], "--eval_steps 1: does nothing without --eval_strategy steps"),
        (["--eval_step=1"], "--eval_steps 1: does nothing without --eval_strategy steps"),
        (["--no_use_peft", "--lora_r", "4"], "--lora_r 4: does nothing with --use_peft False"),
        (["--no-use-peft", "--lora-r", "4"], "--lora_r 4: does nothing with --use_peft False"),
        (["--eval_strategy", "steps", "--eval_steps", "1"], None),
        # what is off, or the default, may be said
        (["--eval_on_start", "False"], None),
        (["--save_strategy", "no", "--save_steps", "500"], None),
        (["--dataset_test_split", "test", "--select_by_reward", "x"], None),
    ],
)
def test_flags_as_they_are_written(argv, error):
    assert said("sft", *argv) == error


def test_one_file_has_no_splits(tmp_path):
    file = tmp_path / "test-00000-of-00001.jsonl"
    file.write_text("{}\n")
    for step in CLASSES:
        argv = ["--dataset_name", str(file), "--dataset_train_split"]
        assert "is one file and has no splits" in said(step, *argv, "nope")
        assert said(step, *argv, "train") is None and said(step, *argv, "test") is None
        assert said(step, "--dataset_name", str(tmp_path), "--dataset_train_split", "x") is None
    beside = ["--eval_dataset", str(file), "--eval_strategy", "epoch", "--dataset_test_split"]
    assert "is one file" in said("ppo", *beside, "nope") and said("ppo", *beside, "test") is None


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--optim_args", "nonsense=1"], r"--optim_args nonsense=1: .* does not read 'nonsense'"),
        (["--optim_args", "nonsense"], "write it as name=value"),
        (["--optim", "sgd", "--optim_args", "momentum=0.9"], None),
        (["--optim", "sgd", "--optim_args", "momentum=0.9,foo=1"], "does not read 'foo'"),
        (["--optim", "sgd", "--adam_beta1", "0.5"], "--adam_beta1 0.5: --optim sgd does not read"),
        (["--optim", "adafactor", "--adam_epsilon", "1e-6"], "--adam_epsilon 1e-6: "),
        (["--adam_beta1", "0.5", "--adam_epsilon", "1e-6"], None),
        (["--optim", "lomo"], "^--optim lomo: .*pip install lomo-optim"),
        (["--optim", "galore_adamw", "--optim_target_modules", "attn", "mlp"],
         "^--optim galore_adamw: .*pip install"),
        (["--optim_target_modules", "q_proj"], "--optim_target_modules"),
        (["--lr_scheduler_kwargs", '{"num_cycles": 2}'], "unexpected keyword .* 'num_cycles'"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "its --lr_scheduler_kwargs are .*min_lr"),
        (["--lr_scheduler_type", "cosine_with_min_lr",
          "--lr_scheduler_kwargs", '{"min_lr": 1e-6}'], None),
        (["--lr_scheduler_type", "cosine_with_min_lr",
          "--lr_scheduler_kwargs", '{"min_lr": "a"}'], "no such schedule can be made"),
        (["--lr_scheduler_type", "warmup_stable_decay"], "num_decay_steps"),
        (["--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"lr_end": 1}'], "lr_end"),
        (["--lr_scheduler_type", "constant", "--warmup_steps", "5"], "constant_with_warmup"),
        (["--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", '{"a": 5}'], "takes none"),
        *[(["--lr_scheduler_type", name], None) for name in
          ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "inverse_sqrt",
           "constant_with_warmup")],
        (["--lr_scheduler_type", "reduce_lr_on_plateau", "--eval_strategy", "epoch"], None),
        (["--lr_scheduler_type", "greedy", "--eval_strategy", "epoch"], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", ["sft", "ppo"])
def test_optimizer_and_schedule_are_tried_first(step, argv, error):
    found = said(step, *argv)
    assert found is None if error is None else re.search(error, found)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["--lr_scheduler_kwargs", "{bad"], r"^--lr_scheduler_kwargs \{bad: not valid JSON"),
        (["--lr_scheduler_kwargs", "[1]"], "must be a JSON object"),
        (["--accelerator_config", "none.json"], "^--accelerator_config none.json: no such file"),
        (["--accelerator_config", '{"zz": 1}'], "there is no 'zz'; there is .*split_batches"),
        (["--accelerator_config", '{"split_batches": true}'], None),
        (["--fsdp_config", "."], "^--fsdp_config .: this is a folder"),
        (["--deepspeed", "none.json"], "^--deepspeed none.json: no such file"),
        (["--gradient_checkpointing", "True", "--gradient_checkpointing_kwargs", '{"a": 1}'],
         "there is no 'a'; there is use_reentrant"),
        (["--config", "/nowhere.yaml"], "^--config /nowhere.yaml: no such file"),
        (["--config=/nowhere.yaml"], "^--config /nowhere.yaml: no such file"),
        (["--config", "."], "this is a folder"),
        (["--config"], "--config is given without its file"),
        (["--ddp_backend", "nccl"], "^--ddp_backend nccl needs a CUDA GPU"),
        (["--ddp_backend", "gloo"], "^--ddp_backend gloo: is of several processes"),
    ],
)  # fmt: skip
def test_files_documents_and_processes_are_told_with_their_flag(argv, error, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = said("sft", *argv)
    assert found is None if error is None else re.search(error, found)


def test_a_config_that_holds_no_settings(tmp_path):
    file = tmp_path / "c.yaml"
    for text, error in ((b"- a\n", "holds no settings"), (b"a: [\n", "not valid YAML"),
                        (b"a: \xff\n", "not UTF-8"), (b"", "holds no settings")):  # fmt: skip
        file.write_bytes(text)
        found = said("sft", "--config", str(file))
        assert error in found and found.startswith(f"--config {file}: ") and "\n" not in found
    file.write_text("seed: 3\n")
    assert said("sft", f"--config={file}") is None
