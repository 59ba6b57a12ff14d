"""Flags that would do nothing: refused in one sentence that says what to use instead.

The recipes take TRL's and transformers' flags as they are. Some of those belong to a part of their
trainers that the recipes replace: such a flag would be read by nobody, and its user would not know.
`tests/recipes/test_flags.py` finds the flags that are read by nothing and are not named here.
"""

from collections.abc import Collection, Iterable
from dataclasses import MISSING, Field, dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path

import torch
from transformers import TrainingArguments
from trl import ModelConfig, ScriptArguments

from instruct.checks.flag_conditions import check_conditions
from instruct.checks.flag_ranges import shown
from instruct.errors import UserError
from instruct.processes import is_main_process
from instruct.rows.splits import splits_of_file

# the class of a recipe's training flags -> the recipe
STEPS = {"SFTConfig": "sft", "RankedRewardConfig": "reward", "SharedBasePPOConfig": "ppo"}


@dataclass(frozen=True)
class Refused:
    """What to do instead of a flag; `allowed`: values beside its default that are true here."""

    instead: str
    allowed: tuple = ()


OF_TRAINING = "evaluation here is part of training and has its precision; use --bf16 or --fp16"
NO_METRICS = "evaluation has its own metrics, and nothing to configure; leave it out"
# of every recipe
COMMON = {
    "dataset_streaming": Refused("all rows are read before training; leave it out"),
    "ignore_bias_buffers": Refused("use --ddp_broadcast_buffers False"),
    "do_predict": Refused("nothing here predicts; use recipes/evaluate.py or reward.py --score"),
    "bf16_full_eval": Refused(OF_TRAINING),
    "fp16_full_eval": Refused(OF_TRAINING),
    "prediction_loss_only": Refused(NO_METRICS),
    "batch_eval_metrics": Refused(NO_METRICS),
    "eval_do_concat_batches": Refused(NO_METRICS),
    "include_for_metrics": Refused(NO_METRICS),
    "label_names": Refused("the recipe names its own labels; leave it out"),
    "lora_task_type": Refused("the recipe sets it; leave it out"),
    "model_init_kwargs": Refused(
        "use --dtype, --attn_implementation, --model_revision, --load_in_4bit"
    ),
    "length_column_name": Refused("the recipe counts tokens itself; leave it out"),
    "use_cache": Refused("training keeps no cache; leave it out"),
    "pad_token": Refused("set it in the tokenizer that lies beside the model"),
}
SFT = COMMON | {
    "dataset_text_field": Refused(
        "rows are prompt and completion; name other columns in python -m data_prep.demonstrations"
    ),
    "dataset_kwargs": Refused("rows are prepared by the recipe; use --packing, --max_length"),
    "assistant_only_loss": Refused(
        "the loss is on the completion (--completion_only_loss); data_prep.demonstrations turns "
        "each answer of a conversation into such a row"
    ),
    "truncation_mode": Refused(
        "rows longer than --max_length are left out, as a cut answer would teach not to end"
    ),
    "packing_strategy": Refused(
        "rows longer than --max_length are left out and none is split, which is bfd; leave it out"
    ),
}
REWARD = COMMON | {
    "lora_task_type": Refused("the recipe sets it; leave it out", allowed=("SEQ_CLS",)),
    "pad_to_multiple_of": Refused("rankings are padded to the longest of a batch; leave it out"),
    "dataloader_drop_last": Refused("it would drop held-out rankings, too; leave it out"),
    "average_tokens_across_devices": Refused("the loss is a mean over rankings; leave it out"),
    "label_smoothing_factor": Refused("the loss has no labels; soften it by --weight_decay"),
    "include_num_input_tokens_seen": Refused(
        "the log's num_tokens counts them; leave it out", allowed=(False,)
    ),
}
A_LINE = "the log has one line a rollout; leave it out"
PROMPTS_IN_MEMORY = "prompts are held in memory; leave it out"
PPO = COMMON | {
    "remove_unused_columns": Refused("reward functions get all columns; leave it out"),
    "lora_dropout": Refused(
        "PPO trains without dropout, or the ratio of probabilities would not start at 1",
        allowed=(0.0,),
    ),
    "logging_strategy": Refused(A_LINE),
    "logging_steps": Refused(A_LINE, allowed=(1,)),
    "per_device_eval_batch_size": Refused("use --local_rollout_forward_batch_size"),
    "eval_accumulation_steps": Refused(NO_METRICS),
    "eval_use_gather_object": Refused(NO_METRICS),
    "train_sampling_strategy": Refused("prompts are drawn by --seed; leave it out"),
    "data_seed": Refused("prompts are drawn by --seed"),
    "average_tokens_across_devices": Refused("losses are always means over processes"),
    "label_smoothing_factor": Refused("PPO has no labels; see --ptx_coef for a loss on text"),
    "neftune_noise_alpha": Refused("noise would make the ratio of probabilities meaningless"),
    "include_num_input_tokens_seen": Refused(
        "the log counts episodes; leave it out", allowed=(False,)
    ),
    "auto_find_batch_size": Refused(
        "a rollout's size is fixed; give --per_device_train_batch_size, which does not change it "
        "where --rollout_batch_size is given"
    ),
    "use_liger_kernel": Refused("the shared base keeps the model's own layers; leave it out"),
    "liger_kernel_config": Refused("the shared base keeps the model's own layers; leave it out"),
    **dict.fromkeys(
        (
            "dataloader_num_workers",
            "dataloader_prefetch_factor",
            "dataloader_persistent_workers",
            "dataloader_multiprocessing_context",
            "dataloader_drop_last",
            "dataloader_in_order",
        ),
        Refused(PROMPTS_IN_MEMORY),
    ),
}
REFUSED = {"sft": SFT, "reward": REWARD, "ppo": PPO}

# Flags of earlier versions of transformers and TRL, in many a command line and settings file.
RENAMED = {
    "warmup_ratio": "use --warmup_steps, which below 1 is a share of all steps",
    "group_by_length": "use --train_sampling_strategy group_by_length",
    "torch_dtype": "use --dtype",
    "max_seq_length": "use --max_length",
    "evaluation_strategy": "use --eval_strategy",
    "per_gpu_train_batch_size": "use --per_device_train_batch_size",
    "per_gpu_eval_batch_size": "use --per_device_eval_batch_size",
    "no_cuda": "use --use_cpu",
    "use_flash_attention_2": "use --attn_implementation flash_attention_2",
    "gradient_checkpointing_use_reentrant": "use --gradient_checkpointing_kwargs",
    "push_to_hub_model_id": "use --hub_model_id",
    "push_to_hub_token": "use --hub_token",
    "save_safetensors": "weights are always written as safetensors; leave it out",
    "logging_dir": "set TENSORBOARD_LOGGING_DIR, which transformers reads in its place",
    "tokenizer_name": "the tokenizer is the one beside the model; leave it out",
    "tokenizer_name_or_path": "the tokenizer is the one beside the model; leave it out",
    "init_kl_coef": "use --kl_coef",
    "adap_kl_ctrl": "use --kl_target, which adapts --kl_coef",
    "ppo_epochs": "use --num_ppo_epochs",
    "non_eos_penalty": "use --missing_eos_penalty",
    "max_new_tokens": "use --response_length of recipes/ppo.py",
}
# Flags that TRL's PPOTrainer had, and no config here has -> what to use instead.
COMPUTED = "it is computed: give --rollout_batch_size, --per_device_train_batch_size"
NOT_HERE = {
    "stop_token": "a response ends where the model's turns end (see --eos_token of recipes/sft.py)",
    "stop_token_id": "a response ends where the model's turns end",
    "num_sample_generations": "use --sample_every (rollouts) and --sample_rows",
    "sft_model_path": "use --model_name_or_path",
    "dataset_num_proc": "prompts are tokenised in one process; leave it out",
    "model_adapter_name": "the policy's adapter has no other name; leave it out",
    "ref_adapter_name": "the reference is the base without adapter; leave it out",
    "ds3_gather_for_generation": "weights are gathered by accelerate's configuration",
    **dict.fromkeys(
        ("batch_size", "mini_batch_size", "micro_batch_size", "local_batch_size",
         "local_mini_batch_size", "num_total_batches", "world_size"),
        COMPUTED,
    ),
    **RENAMED,
}  # fmt: skip

# transformers' defaults where ours are None: settings files of others spell them out
THEIRS = {"save_steps": TrainingArguments.save_steps}


def _default(field: Field):
    made = field.default_factory is not MISSING
    return field.default_factory() if made else field.default


def check_flags(
    given: dict,
    classes: Iterable[type],
    fields: dict[str, Field],
    typed: Collection[str] = (),
    in_file: Collection[str] = (),
) -> None:
    """Refuses a flag that would do nothing in this recipe.

    Args:
        given: flag -> value, as typed or in the YAML file.
        classes: the dataclasses of the recipe's flags.
        fields: flag -> dataclass field.
        typed: flags on the command line.
        in_file: flags in the YAML file.

    Raises:
        UserError: names the flag, and what to use instead.
    """
    step = next((STEPS[kind.__name__] for kind in classes if kind.__name__ in STEPS), None)
    defaults = {flag: _default(field) for flag, field in fields.items()}
    changed = {
        flag: value
        for flag, value in given.items()
        if flag in fields and value not in (defaults[flag], THEIRS.get(flag, defaults[flag]))
    }
    for flag, refused in REFUSED.get(step, {}).items():
        if flag in changed and changed[flag] not in refused.allowed:
            raise UserError(f"--{flag} {shown(changed[flag])}: {refused.instead}")
    check_conditions(step, given, changed, typed, in_file)
    if step is not None:
        _check_places(given, changed)
        _check_together(step, given, changed)
    if given.get("stock"):
        _check_stock(changed)


def _check_places(given: dict, changed: dict) -> None:
    """Flags of the Hub beside something that lies here, and of a GPU without one."""
    for flag, of in (("dataset_config", "dataset_name"), ("model_revision", "model_name_or_path")):
        if flag in changed and given[of] and Path(given[of]).exists():
            raise UserError(
                f"--{flag} {changed[flag]}: is of something on the Hub, and {given[of]} is a file "
                "or folder here; leave it out"
            )
    sources = {"dataset_train_split": given.get("dataset_name")}
    sources["dataset_test_split"] = given.get("eval_dataset")
    for flag, source in sources.items():
        if flag in changed and source and Path(source).is_file():
            if changed[flag] not in splits_of_file(source):
                raise UserError(
                    f"--{flag} {changed[flag]}: {source} is one file and has no splits; leave it "
                    "out, or give the folder"
                )
    if torch.accelerator.is_available() and not given["use_cpu"]:
        return
    if changed.get("activation_offloading"):
        raise UserError("--activation_offloading True: does nothing without a GPU; leave it out")
    # said and not refused: settings files for a GPU are tried out on a CPU
    if changed.get("fp16") and is_main_process():
        print("--fp16 True: does nothing without a GPU, where --bf16 True works")


def _check_together(step: str, given: dict, changed: dict) -> None:
    """Flags that mean something only beside certain values of others."""
    if given.get("do_eval") and given["eval_strategy"] == "no":
        raise UserError("--do_eval True: use --eval_strategy epoch, or steps with --eval_steps")
    if given.get("eval_packing") and not given["packing"]:
        raise UserError(
            "--eval_packing True: rows are kept apart where --packing is on, too; give both"
        )
    if "data_seed" in changed and given["train_sampling_strategy"] == "group_by_length":
        raise UserError(
            f"--data_seed {given['data_seed']}: --train_sampling_strategy group_by_length draws by "
            "--seed; give that, or --train_sampling_strategy random"
        )
    if step == "sft":
        if "label_smoothing_factor" in changed and given["loss_type"] != "nll":
            factor = shown(given["label_smoothing_factor"])
            raise UserError(
                f"--label_smoothing_factor {factor}: give --loss_type nll, which has all logits to "
                "smooth"
            )
    if step == "reward" and changed.get("lora_dropout") and given["disable_dropout"]:
        raise UserError(
            f"--lora_dropout {given['lora_dropout']}: reward models train without dropout; give "
            "--disable_dropout False"
        )


def why_unknown(words: list[str]) -> str:
    """The sentence for words of a command line that no flag takes."""
    named = [word.split("=")[0] for word in words if word.startswith("--")]
    known = (name for name in named if name[2:].replace("-", "_") in NOT_HERE)
    if name := next(known, None):
        return f"{name}: {NOT_HERE[name[2:].replace('-', '_')]}"
    if not words[0].startswith("-"):
        return f"{' '.join(words)}: stands behind a flag that takes one value; leave it out"
    return f"no such flag: {' '.join(words)}; --help_all lists them"


# ---- PPO by TRL's own trainer --------------------------------------------------------------------

# What `--stock` reads beside the flags of TRL's PPOConfig (`instruct/trainers/ppo/stock.py`).
STOCK_TAKES = (
    "stock", "stock_value", "max_prompt_length", "rollout_batch_size", "overwrite_output_dir",
    "trust_remote_code",
)  # fmt: skip
# transformers' flags that TRL's PPO loop never asks
STOCK_IGNORES = (
    "eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "max_steps", "max_grad_norm",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "data_seed",
    "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_static_graph",
    "full_determinism", "logging_nan_inf_filter", "optim_target_modules", "parallelism_config",
    "resume_from_checkpoint", "skip_memory_metrics",
)  # fmt: skip


def _check_stock(changed: dict) -> None:
    """Refuses beside `--stock` what TRL's trainer does not read."""
    from instruct.trl_ppo import stock_ppo

    config_class, _ = stock_ppo()
    theirs = {field.name for field in dataclass_fields(config_class)} - {*STOCK_IGNORES}
    elsewhere = {
        field.name for kind in (ModelConfig, ScriptArguments) for field in dataclass_fields(kind)
    }
    for flag, value in changed.items():
        if value not in (None, []) and flag not in theirs | elsewhere | {*STOCK_TAKES}:
            raise UserError(
                f"--{flag} {shown(value)}: TRL's own PPOTrainer has nothing like it; leave it out, "
                "or --stock"
            )
