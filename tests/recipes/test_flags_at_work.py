"""Each flag at work: another value changes a tiny run's weights, log or files, or is refused.

`test_flags.py` sees who reads a flag. Reading is not using: here each flag is tried.
"""

import dataclasses
import hashlib
import json
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import test_flags
from test_flags import CLI, ELSEWHERE, field_of, flags_of_a_run

from instruct.checks.flag_checks import REFUSED

pytestmark = pytest.mark.slow

# Values that are legal and not the default, where none can be made up from the type.
VALUES = {
    "lr_scheduler_type": "constant", "optim": "sgd", "loss_type": "dft", "dtype": "bfloat16",
    "logging_strategy": "no", "eval_strategy": "no", "save_strategy": "no", "max_steps": "1",
    "attn_implementation": "eager", "lora_target_modules": "q_proj", "logging_steps": "1",
    "lora_modules_to_save": "lm_head", "bnb_4bit_quant_storage": "float32", "eval_steps": "2",
    "model_revision": "v2", "dataset_config": "en", "dataset_train_split": "validation",
    "dataset_test_split": "train", "per_device_train_batch_size": "3", "num_train_epochs": "2",
    "include_num_input_tokens_seen": "all", "eval_delay": "2", "per_device_eval_batch_size": "1",
    "save_total_limit": "1", "max_length": "20", "pad_to_multiple_of": "64", "share_prompt": "rows",
    "eos_token": "<|im_start|>", "eval_prompts": "1", "local_rollout_forward_batch_size": "1",
    "max_prompt_length": "5", "cliprange": "1e-3", "cliprange_value": "1e-4", "sample_every": "1",
    "sample_rows": "1", "best_max_kl": "1e-6",
}  # fmt: skip
# What else a flag needs to act: given to both runs.
BESIDE = {
    "num_train_epochs": ["--max_steps", "-1"],
    "load_best_model_at_end": ["--greater_is_better", "True"],
    "logging_strategy": ["--logging_steps", "1"],
    "best_max_kl": ["--learning_rate", "0.01"],
    **dict.fromkeys(
        ("cliprange", "cliprange_value"), ["--num_ppo_epochs", "4", "--learning_rate", "0.01"]
    ),
    "sample_rows": ["--sample_every", "1"],
}
# Why a tiny run on a CPU ends the same: {recipe or "": {flag: reason}}.
PLACES = "what is read or written, by name"
PROCESSES, MEMORY, GPU = "of several processes or nodes", "memory or speed alone", "of a GPU"
TERMINAL, YAML = "what the terminal shows", "a dict, by YAML"
SAME = {
    "": {
        **dict.fromkeys(("dataset_name", "output_dir", "model_name_or_path", "chat_template_path",
                         "demonstrations", "score", "eval_dataset", "ptx_dataset", "reward_funcs",
                         "reward_model_path", "pretraining_dataset"), PLACES),
        **dict.fromkeys(("format", "columns"), "of rows in other shapes: tests/data_prep/formats"),
        **dict.fromkeys(("log_level", "log_level_replica", "debug"), TERMINAL),
        **dict.fromkeys(("lr_scheduler_kwargs", "accelerator_config", "parallelism_config"), YAML),
        **dict.fromkeys(("log_on_each_node", "save_on_each_node", "eval_use_gather_object", "fsdp",
                         "ddp_*"), PROCESSES),
        **dict.fromkeys(("torch_empty_cache_steps", "auto_find_batch_size", "dataset_num_proc",
                         "eval_accumulation_steps", "dataloader_num_workers",
                         "dataloader_in_order"), MEMORY),
        **dict.fromkeys(("fp16", "use_cpu", "torch_compile_*"), GPU),
        "logging_nan_inf_filter": "off is so already, but in fp16, whose skipped steps it hides",
        "resume_from_checkpoint": "the last one is taken as it is",
        "metric_for_best_model": "beside --load_best_model_at_end; its default is what is there",
        "trust_remote_code": "of models that bring code",
        "lora_target_parameters": "of models with experts",
        "optim_args": "of optimizers that take some",
        "overwrite_output_dir": "of a folder that holds a run: test_same_folder.py",
    },
    "sft": {
        "pretraining_share": "of the rows of --pretraining_dataset: test_sft_pretraining.py",
        "residual_dropout": "of models that have one: tests/instruct/test_residual_dropout.py",
    },
    "reward": {"eval_fraction": "of rows without a held-out split: test_reward.py"},
    "ppo": {
        **dict.fromkeys(("watchdog*", "max_kl", "min_kl", "min_entropy", "min_distinct2_ratio",
                         "min_length", "min_eos_rate", "max_clipfrac", "min_explained_variance"),
                        "stops a run that goes wrong: trainers/ppo/test_callbacks.py"),
        **dict.fromkeys(("gradient_accumulation_steps", "rollout_weights"), MEMORY),
        "num_train_epochs": "where --total_episodes is not given",
    },
}  # fmt: skip
TIMES = re.compile(r"time|runtime|per_second|memory")


def another(field) -> str | None:
    """A legal value that is not the default, as it is typed; None where nobody can say."""
    if field.name in VALUES:
        return VALUES[field.name]
    kind, made = str(field.type), field.default_factory is not dataclasses.MISSING
    default = None if made else field.default
    if field.metadata.get("choices"):
        return next(str(c) for c in field.metadata["choices"] if c not in (None, default))
    if "bool" in kind:
        return str(not default)
    if isinstance(default, float):
        return str(default / 2 if default else 0.5)
    if isinstance(default, int):
        return str(default + 1)
    return "2" if "int" in kind else "0.5" if "float" in kind else None


def left_by(step: str, argv: list[str], out: Path) -> dict:
    """{file: what it holds} of a run, less times and names; what it was refused with."""
    try:
        CLI[step]([*argv, "--output_dir", str(out)])
    except SystemExit as ended:
        assert ended.code == 2, f"exit {ended.code}: a bug and no refusal"
        return {"refused": True}
    found = {}
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(file.relative_to(out))
        if file.name == "trainer_state.json":
            lines = json.loads(file.read_text())["log_history"]
            found[name] = [{k: v for k, v in x.items() if not TIMES.search(k)} for x in lines]
        elif file.suffix in (".safetensors", ".pt", ".jinja", ".jsonl"):
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        else:
            found[name] = None
    return found


@pytest.mark.parametrize("step", CLI)
def test_another_value_changes_the_run_or_is_refused(
    step, tiny_model, tmp_path, demonstrations, comparisons, capsys
):
    sys.modules.setdefault("test_flags", test_flags)
    argv = flags_of_a_run(step, tiny_model, tmp_path, demonstrations, comparisons)
    argv += [] if step == "ppo" else ["--per_device_train_batch_size", "2"]
    reasons = {*SAME[""], *SAME[step], *ELSEWHERE}
    plain, unmoved, no_value = {}, [], []
    for name, field in field_of(step).items():
        if name in REFUSED[step] or any(fnmatch(name, flag) for flag in reasons):
            continue
        value, beside = another(field), BESIDE.get(name, [])
        if value is None:
            no_value.append(name)
            continue
        key = " ".join(beside)
        if key not in plain:
            plain[key] = left_by(step, [*argv, *beside], tmp_path / f"plain {len(plain)}")
            assert "refused" not in plain[key], (beside, capsys.readouterr().err)
        capsys.readouterr()
        try:
            found = left_by(step, [*argv, *beside, f"--{name}", *value.split()], tmp_path / name)
        except AssertionError as error:
            unmoved.append(f"{name} {value}: {error} {capsys.readouterr().err[-200:]}")
            continue
        said = capsys.readouterr().err
        # a value that nobody may give tries nothing
        if found == plain[key] or "must be" in said or "not a valid" in said:
            unmoved.append(f"{name} {value}: {said[-150:] if 'refused' in found else 'the same'}")
    assert not unmoved and not no_value, "\n".join([*unmoved, f"no value for {no_value}"])
