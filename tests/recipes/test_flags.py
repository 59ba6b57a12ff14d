"""Every flag of every recipe does something, or is refused with what to use instead.

Which flags are read is seen, not listed: a tiny run of each recipe notes who asks its arguments for
what. A flag that a new TRL or transformers brings, and that nothing asks for, fails here by name.
"""

import dataclasses
import re
import sys
from collections import defaultdict
from fnmatch import fnmatch

import pytest
from conftest import write_jsonl

from instruct.arguments import parse
from instruct.checks.flag_checks import NOT_HERE, REFUSED
from instruct.checks.flag_conditions import NEEDS
from instruct.errors import UserError
from instruct.trl_ppo import PPOConfig
from recipes import ppo, reward, sft

CLASSES = {
    "sft": (sft.ScriptArguments, sft.SFTConfig, sft.ModelConfig),
    "reward": (reward.ScriptArguments, reward.RankedRewardConfig, reward.ModelConfig),
    "ppo": (ppo.ScriptArguments, ppo.SharedBasePPOConfig, ppo.ModelConfig),
}
CLI = {"sft": sft.cli, "reward": reward.cli, "ppo": ppo.cli}
# Who only copies, shows or records all flags alike; TRL and transformers settle some in
# `__post_init__` from others, which is no use of them either.
COPIES = ("to_dict", "to_sanitized_dict", "__repr__", "__eq__", "_asdict_inner", "recorded_flags")
COPIES += ("__post_init__", "<dictcomp>", "parse")
# Looks at much that it only hands on or refuses. What it uses itself: tried by
# `test_flags_at_work.py`.
MAKES = ("transformers/trainer.py", "__init__")
AT_WORK = {"label_smoothing_factor", "neftune_noise_alpha", "skip_memory_metrics"}
# What flags need that is on in a tiny run.
ON = ("eval_strategy", "save_strategy", "logging_strategy", "use_peft", "watchdog", "sample_every")
# Read in a way that a tiny run on a CPU does not go: why each does something all the same.
ELSEWHERE = {
    # settled in transformers' `__post_init__`, where they act
    **dict.fromkeys(("activation_checkpointing*", "gradient_checkpointing*", "tf32",
                     "torch_compile", "deepspeed", "fsdp_config"), "settled in __post_init__"),
    "do_eval": "refused where --eval_strategy is no",
    **dict.fromkeys(("local_rank", "ddp_timeout"), "by launchers and in PartialState"),
    # so already, whichever value: settings files say such things
    "do_train": "this command trains",
    "restore_callback_states_from_checkpoint": "a resumed run takes up its callbacks",
    "remove_unused_columns": "other columns never reach the model",
    "logging_first_step": "of PPO: a line a rollout", "dataloader_pin_memory": "of PPO: no loader",
    "hub_*": "with --push_to_hub", "hub_token": "taken by `parse`",
    "base_model": "taken by `parse`; what it does: test_moved_run.py",
    **dict.fromkeys(("run_name", "project", "trackio_*"), "by trackers"),
    "ignore_data_skip": "on resuming", "greater_is_better": "for the best checkpoint",
    "optim_target_modules": "with --optim galore and the like",
    "average_tokens_across_devices": "with several processes",
    "router_aux_loss_coef": "of models with experts",
    # taken while Trainer is made
    "report_to": "trackers", "enable_jit_checkpoint": "at a SIGTERM",
    "full_determinism": "kernels of a GPU", "disable_tqdm": "what the terminal shows",
    "select_*": "with --select_by_reward", "score_output": "with --score",
}  # fmt: skip


def field_of(step: str) -> dict:
    fields = (f for kind in CLASSES[step] for f in dataclasses.fields(kind))
    return {f.name: f for f in fields if f.init and not f.name.startswith("_")}


def flags_of_a_run(step: str, base: str, folder, demonstrations, comparisons) -> list[str]:
    """A tiny run that trains, evaluates and saves."""
    rows = comparisons if step == "reward" else demonstrations
    data = folder / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", rows[:8])
    write_jsonl(data / "validation.jsonl", rows[8:])
    own = {
        "sft": ["--max_steps", "2"],
        "reward": ["--max_steps", "2", "--demonstrations", str(data / "train.jsonl")],
        "ppo": [
            "--reward_funcs", "test_flags:length", "--total_episodes", "8",
            "--rollout_batch_size", "4", "--per_device_train_batch_size", "4",
            "--response_length", "4", "--num_ppo_epochs", "1",
        ],
    }  # fmt: skip
    if step == "reward":
        write_jsonl(data / "train.jsonl", rows[:8])
        demos = write_jsonl(folder / "demos.jsonl", demonstrations)
        own["reward"][-1] = demos
    return [
        "--model_name_or_path", base, "--dataset_name", str(data), "--eval_strategy", "steps",
        "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1", "--report_to", "none",
        "--output_dir", str(folder / "out"), *own[step],
    ]  # fmt: skip


def length(prompts, completions, **columns):
    return [float(len(str(completion))) for completion in completions]


@pytest.fixture(scope="module", params=list(CLASSES))
def read(request, tiny_model, tmp_path_factory, demonstrations, comparisons):
    """(recipe, {flag: who asked for it} of a run)."""
    step, asked, patch = request.param, defaultdict(set), pytest.MonkeyPatch()
    sys.modules.setdefault("test_flags", sys.modules[__name__])

    for kind in CLASSES[step]:
        names, plain = {f.name for f in dataclasses.fields(kind)}, kind.__getattribute__

        def noting(self, name, names=names, plain=plain):
            if name in names:
                caller = sys._getframe(1).f_code
                asked[name].add((caller.co_filename, caller.co_name))
            return plain(self, name)

        patch.setattr(kind, "__getattribute__", noting)
    argv = flags_of_a_run(
        step, tiny_model, tmp_path_factory.mktemp(step), demonstrations, comparisons
    )
    try:
        CLI[step](argv)
    finally:
        patch.undo()
    used = {
        flag: {name for file, name in who if not (file.endswith(MAKES[0]) and name == MAKES[1])}
        for flag, who in asked.items()
    }
    return step, {flag for flag, names in used.items() if names - {*COPIES}}


def test_every_flag_is_read_or_refused(read):
    step, found = read
    # of what a tiny run has on, flags have to be read
    waiting = {flag for flag, needs in NEEDS.items() if needs.other not in ON}
    known = {*REFUSED[step], *waiting, *AT_WORK}
    unread = [
        flag
        for flag in field_of(step)
        if flag not in found | known and not any(fnmatch(flag, name) for name in ELSEWHERE)
    ]
    assert not unread, f"{step}: read by nothing and not in checks/flag_checks.py: {unread}"


def other_value(field) -> str:
    """A value of a flag that is not its default, as it is typed."""
    special = {
        "lora_task_type": "TOKEN_CLS",
        "train_sampling_strategy": "sequential",
        "include_num_input_tokens_seen": "True",
        "logging_strategy": "no",
        "lora_dropout": "0.3",
        "label_smoothing_factor": "0.1",
    }
    kind, default = str(field.type), field.default
    if field.name in special:
        return special[field.name]
    if field.metadata.get("choices"):
        return next(str(c) for c in field.metadata["choices"] if c != default)
    if "dict" in kind:
        return "{a: 1}"
    if isinstance(default, bool) or "bool" in kind:
        return str(not default)
    return "7" if isinstance(default, int | float) or "int" in kind or "float" in kind else "other"


@pytest.mark.parametrize("step, flag", [(s, f) for s, flags in REFUSED.items() for f in flags])
def test_a_flag_that_would_do_nothing_is_refused_with_what_to_do(step, flag, tmp_path):
    fields = field_of(step)
    # a newer TRL or transformers may have dropped it
    if flag not in fields:
        pytest.skip(f"{flag} is no flag of these versions")
    value = other_value(fields[flag])
    (tmp_path / "c.yaml").write_text(f"output_dir: out\n{flag}: {value}\n")
    typed = ["--output_dir", "out", f"--{flag}", value]
    for argv in (["--config", str(tmp_path / "c.yaml")], typed):
        if argv is typed and value.startswith("{"):
            continue  # by YAML only
        with pytest.raises(UserError, match=f"^--{flag} .*: ..."):
            parse(CLASSES[step], argv)


@pytest.mark.parametrize("step", CLASSES)
def test_defaults_are_not_refused(step):
    parse(CLASSES[step], ["--output_dir", "out"])


@pytest.mark.parametrize("step", CLASSES)
def test_what_is_so_already_may_be_said(step, tmp_path):
    """Settings files are shared: one may say what happens anyway."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "output_dir: out\ndo_train: true\nremove_unused_columns: false\nsave_total_limit: 0\n"
        "restore_callback_states_from_checkpoint: true\n"
        "load_in_4bit: false\nbnb_4bit_quant_type: fp4\n"
    )
    parse(CLASSES[step], ["--config", str(file)])
    # one nobody switched off is missing
    file.write_text("output_dir: out\nbnb_4bit_quant_type: fp4\n")
    with pytest.raises(UserError, match="does nothing without --load_in_4bit"):
        parse(CLASSES[step], ["--config", str(file)])
    parse(CLASSES[step], ["--config", str(file), "--load_in_4bit", "False"])


@pytest.mark.parametrize("flag", NOT_HERE)
def test_flags_of_trls_ppo_are_refused_with_what_to_use(flag, tmp_path):
    with pytest.raises(UserError, match=re.escape(f"--{flag}: {NOT_HERE[flag]}")):
        parse(CLASSES["ppo"], ["--output_dir", "out", f"--{flag}", "3"])
    # and in YAML
    (tmp_path / "c.yaml").write_text(f"{flag}: 3\noutput_dir: out\n")
    with pytest.raises(UserError, match=re.escape(f"--{flag}: {NOT_HERE[flag]}")):
        parse(CLASSES["ppo"], ["--config", str(tmp_path / "c.yaml")])


def test_flags_that_mean_something_only_together(tmp_path):
    def refused(step, words, *argv):
        with pytest.raises(UserError, match=words):
            parse(CLASSES[step], ["--output_dir", "out", *argv])

    refused("sft", "--do_eval True: use --eval_strategy", "--do_eval", "True")
    refused("sft", "give both", "--eval_packing", "True")
    smooth = ["--label_smoothing_factor", "0.1", "--loss_type"]
    refused("sft", "give --loss_type nll", *smooth, "chunked_nll")
    refused("sft", "without --dataloader_num_workers", "--dataloader_persistent_workers", "True")
    refused("reward", "draws by --seed", "--data_seed", "3")
    refused("reward", "give --disable_dropout False", "--lora_dropout", "0.1")
    without = ["--activation_offloading", "True", "--use_cpu"]
    for step in ("sft", "reward"):
        refused(step, "does nothing without a GPU", *without)
    refused("ppo", "does nothing without --kl_target", "--kl_horizon", "7")
    refused("ppo", "^--logging_steps 5: ", "--logging_steps", "5")
    refused("sft", "does nothing without --load_in_4bit", "--use_bnb_nested_quant", "True")
    here = ["--dataset_name", str(tmp_path), "--dataset_config", "en"]
    for step in CLASSES:
        refused(step, "is a file or folder here", *here)
        refused(step, "folder here", "--model_name_or_path", here[1], "--model_revision", "v2")
    parse(CLASSES["sft"], ["--output_dir", "o", "--label_smoothing_factor", "0.1",
                           "--loss_type", "nll"])  # fmt: skip
    parse(CLASSES["ppo"], ["--output_dir", "o", "--kl_horizon", "7", "--kl_target", "3"])


@pytest.mark.skipif(PPOConfig is None, reason="this TRL has no PPOTrainer")
def test_stock_ppo_refuses_what_trl_does_not_read():
    for flags in (
        ["--kl_target", "3"], ["--ema_decay", "0.9"], ["--reward_funcs", "a:b"],
        ["--eval_strategy", "steps", "--eval_steps", "2"], ["--max_grad_norm", "3"],
        ["--max_steps", "3"], ["--save_merged", "True"], ["--watchdog", "False"],
    ):  # fmt: skip
        with pytest.raises(UserError, match=f"^{flags[0]} .*has nothing like it"):
            parse(CLASSES["ppo"], ["--output_dir", "out", "--stock", "True", *flags])
    both = ["--kl_coef", "0.1", "--stock_value", "full", "--max_prompt_length", "9"]
    parse(CLASSES["ppo"], ["--output_dir", "out", "--stock", "True", *both])


def test_each_exemption_has_its_reason():
    assert all(ELSEWHERE.values())


def test_a_flag_that_nothing_reads_is_found(monkeypatch, read):
    """The finder itself: a field more, and it is named."""
    step, _ = read

    @dataclasses.dataclass
    class More(CLASSES[step][2]):
        colour: str = "blue"

    monkeypatch.setitem(CLASSES, step, (*CLASSES[step][:2], More))
    with pytest.raises(AssertionError, match="colour"):
        test_every_flag_is_read_or_refused(read)
