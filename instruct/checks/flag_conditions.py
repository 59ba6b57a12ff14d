"""Flags that act only beside certain values of others: refused where those are missing.

A flag that is typed is meant. One in a settings file may wait there for the other one, where that
is switched off: `use_peft: false` beside `lora_r: 16`, or `--eval_strategy no` over a file that
says how to evaluate.
"""

import sys
from collections.abc import Collection
from dataclasses import dataclass

from instruct.checks.flag_ranges import shown
from instruct.errors import UserError
from instruct.processes import is_main_process


@dataclass(frozen=True)
class Needs:
    """What a flag needs beside it.

    Attributes:
        other: the flag without which it does nothing.
        values: those of the other's values beside which it acts; default whatever is on.
        unless: a flag beside which it acts as well.
        off_by_default: whether the other one has to be given for that.
    """

    other: str
    values: tuple = ()
    unless: str | None = None
    off_by_default: bool = True

    def hold(self, given: dict) -> bool:
        value = given[self.other]
        acts = value in self.values if self.values else _is_on(value)
        return acts or (self.unless is not None and _is_on(given.get(self.unless)))

    def sentence(self, given: dict) -> str:
        if not self.off_by_default and not _is_on(given[self.other]):
            return f"does nothing with --{self.other} {shown(_plain(given[self.other]))}"
        which = f" {' or '.join(self.values)}" if self.values else ""
        return f"does nothing without --{self.other}{which}"


def _plain(value):
    return getattr(value, "value", value)  # of an enum


def _is_on(value) -> bool:
    return _plain(value) not in (None, False, 0, "", "no", "none", [], {})


QUANTIZED, PTX, PUSHED = Needs("load_in_4bit"), Needs("ptx_dataset"), Needs("push_to_hub")
EVALUATED = Needs("eval_strategy", ("steps", "epoch"))
SAVED = Needs("save_strategy", off_by_default=False)
ADAPTER = Needs("use_peft", off_by_default=False)
WATCHED = Needs("watchdog", off_by_default=False)
SELECTED, WORKERS = Needs("select_by_reward"), Needs("dataloader_num_workers")
# flag -> what it needs
NEEDS = {
    "kl_horizon": Needs("kl_target"),
    "ptx_batch_size": PTX,
    "ptx_max_length": PTX,
    "pretraining_share": Needs("pretraining_dataset"),
    "stock_value": Needs("stock"),
    "bnb_4bit_quant_type": QUANTIZED,
    "bnb_4bit_quant_storage": QUANTIZED,
    "use_bnb_nested_quant": QUANTIZED,
    "liger_kernel_config": Needs("use_liger_kernel"),
    # TRL's default is True, ours is not
    "gradient_checkpointing_kwargs": Needs(
        "gradient_checkpointing", unless="activation_checkpointing"
    ),
    "activation_checkpointing_kwargs": Needs(
        "activation_checkpointing", unless="gradient_checkpointing"
    ),
    "dataloader_persistent_workers": WORKERS,
    "dataloader_multiprocessing_context": WORKERS,
    "dataloader_prefetch_factor": WORKERS,
    "select_prompts": SELECTED,
    "select_max_new_tokens": SELECTED,
    "score_output": Needs("score"),
    "fsdp_config": Needs("fsdp"),
    **dict.fromkeys(
        ("hub_model_id", "hub_private_repo", "hub_revision", "hub_always_push", "hub_strategy"),
        PUSHED,
    ),
    # ---- evaluation and saving
    "eval_steps": Needs("eval_strategy", ("steps",)),
    **dict.fromkeys(
        ("eval_delay", "eval_on_start", "eval_prompts", "eval_dataset", "best_max_kl",
         "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
        EVALUATED,
    ),
    "save_steps": Needs("save_strategy", ("steps",), off_by_default=False),
    "save_total_limit": SAVED,
    "save_only_model": SAVED,
    "logging_steps": Needs("logging_strategy", ("steps",), off_by_default=False),
    "sample_rows": Needs("sample_every", off_by_default=False),
    # ---- adapters and watchdog
    **dict.fromkeys(
        ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters",
         "lora_modules_to_save", "use_rslora", "use_dora"),
        ADAPTER,
    ),
    **dict.fromkeys(
        ("watchdog_patience", "watchdog_grad_norm", "max_kl", "min_kl", "min_entropy",
         "min_distinct2_ratio", "min_length", "min_eos_rate", "max_clipfrac",
         "min_explained_variance"),
        WATCHED,
    ),
}  # fmt: skip
# of one recipe alone
OF_STEP = {
    "sft": {
        "dataset_test_split": Needs("eval_strategy", ("steps", "epoch"), unless="select_by_reward")
    },
    "ppo": {"dataset_test_split": EVALUATED},
}


def check_conditions(
    step: str | None, given: dict, changed: dict, typed: Collection[str], in_file: Collection[str]
) -> None:
    """Refuses a flag that does nothing beside the others; says so where those are typed as off.

    Args:
        step: the recipe.
        given: flag -> value, as typed or in the YAML file.
        changed: those that are not the default.
        typed: flags on the command line.
        in_file: flags in the YAML file.

    Raises:
        UserError: names the flag, and the other one.
    """
    for flag, needs in {**NEEDS, **OF_STEP.get(step, {})}.items():
        value, other = changed.get(flag), needs.other
        # what is switched off does nothing, as it says
        if value in (None, False) or other not in given or needs.hold(given):
            continue
        off_on_purpose = other in {*typed, *in_file} and not _is_on(given[other])
        if flag not in typed and (off_on_purpose or other in typed):
            continue
        sentence = f"--{flag} {shown(_plain(value))}: {needs.sentence(given)}"
        # switched off by hand, in a command that has both: it is done as typed, and said
        if other in typed and not _is_on(given[other]):
            if is_main_process():
                print(f"note: {sentence}", file=sys.stderr)
            continue
        raise UserError(sentence)
