"""Flags: this repo's defaults over TRL's, and a mistake in one sentence."""

import importlib

import pytest

from instruct.arguments import ModelConfig, load_function, parse
from instruct.errors import UserError


def test_model_config_defaults_and_bad_flag(tmp_path):
    (config,) = parse((ModelConfig,), ["--model_name_or_path", "m"])
    assert config.use_peft and config.lora_target_modules == "all-linear"
    with pytest.raises(UserError, match="no_such_flag"):
        parse((ModelConfig,), ["--no_such_flag", "1"])


def recipe_flags(step: str) -> tuple:
    module = importlib.import_module(f"recipes.{step}")
    config = {"sft": "SFTConfig", "reward": "RankedRewardConfig", "ppo": "SharedBasePPOConfig"}
    return (module.ScriptArguments, getattr(module, config[step]), ModelConfig)


@pytest.mark.parametrize("step", ["sft", "reward", "ppo"])
def test_yes_and_no_are_typed_as_for_trl_whatever_the_default_is_here(step, tmp_path):
    def read(*argv: str):
        return parse(recipe_flags(step), ["--output_dir", str(tmp_path), *argv])[1:]

    # True in TRL, False here
    training, _ = read("--no_gradient_checkpointing")
    assert training.gradient_checkpointing is False
    training, model = read("--gradient-checkpointing", "--no-use-peft", "--no_load_in_4bit")
    assert training.gradient_checkpointing and not model.use_peft and not model.load_in_4bit
    # a yes or no that may be neither
    assert read("--bf16")[0].bf16 is True and read("--no_bf16")[0].bf16 is False
    assert read("--bf16", "False")[0].bf16 is False and read("--bf16", "--use_cpu")[0].bf16 is True
    # the file's word holds where none is typed, and not where one is
    (tmp_path / "c.yaml").write_text("gradient_checkpointing: true\nbf16: false\n")
    training, _ = read("--config", str(tmp_path / "c.yaml"))
    assert training.gradient_checkpointing is True and training.bf16 is False
    training, _ = read("--config", str(tmp_path / "c.yaml"), "--no_gradient_checkpointing")
    assert training.gradient_checkpointing is False


def test_flags_of_one_value_or_several(tmp_path):
    def trackers(*words: str):
        training = parse(recipe_flags("sft"), ["--output_dir", str(tmp_path), *words])[1]
        return training.report_to

    assert trackers("--report_to", "tensorboard", "wandb") == ["tensorboard", "wandb"]
    assert trackers("--report_to", "tensorboard") == ["tensorboard"]
    assert trackers("--report_to", "none") == [] == trackers()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--warmup_ratio", "0.1"], "--warmup_ratio: use --warmup_steps, which below 1"),
        (["--warmup-ratio=0.1"], "--warmup-ratio: use --warmup_steps"),
        (["--no_such", "1", "--torch_dtype", "auto"], "--torch_dtype: use --dtype"),
        (["--max_steps", "1", "left"], "left: stands behind a flag that takes one value"),
        (["--no_such", "1"], "no such flag: --no_such 1"),
    ],
)
def test_a_flag_that_is_not_there_is_told_with_what_to_use(words, sentence, tmp_path):
    with pytest.raises(UserError, match=f"^{sentence}"):
        parse(recipe_flags("sft"), ["--output_dir", str(tmp_path), *words])


@pytest.mark.parametrize("path", ["rewards.py", "./rewards.py", "my/rewards.py"])
def test_a_function_in_a_file_is_told_how_its_module_is_named(path):
    module = path.removeprefix("./").removesuffix(".py").replace("/", ".")
    with pytest.raises(UserError, match=f"^--judge {path}:length: is a file.* {module}:length$"):
        load_function(f"{path}:length", "--judge")


@pytest.mark.parametrize("step", ["sft", "reward", "ppo"])
def test_yaml_says_no_and_small_numbers_as_people_write_them(step, tmp_path):
    def read(text: str, *argv: str):
        (tmp_path / "c.yaml").write_text(f"output_dir: {tmp_path}\n{text}")
        return parse(recipe_flags(step), ["--config", str(tmp_path / "c.yaml"), *argv])[1]

    training = read("eval_strategy: no\nsave_strategy: no\n")
    assert (training.eval_strategy.value, training.save_strategy.value) == ("no", "no")
    assert read("eval_strategy: no\n", "--eval_strategy", "epoch").eval_strategy.value == "epoch"
    schedule = "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs:\n  min_lr: "
    assert read(f"{schedule}1e-6\n").lr_scheduler_kwargs == {"min_lr": 1e-6}
    with pytest.raises(UserError, match="--lr_scheduler_kwargs .*no such schedule"):
        read(f"{schedule}little\n")
