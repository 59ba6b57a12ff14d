"""Which numbers a flag can be: one table for every command, asked before anything is read."""

import argparse
import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

from instruct.errors import UserError


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `open_low`, `open_high` leave the end itself out.

    Attributes:
        off: a number that stands for "none", whatever the range.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    off: float | None = None

    def holds(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return (above and below) or value == self.off

    def __str__(self) -> str:
        if math.isinf(self.high):
            text = f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"
        else:
            low = f"above {self.low:g}" if self.open_low else f"{self.low:g} or more"
            text = f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"
        return text if self.off is None else f"{text}, or {self.off:g} for none"


COUNT, NONE_OR_MORE = Range(1), Range(0)
POSITIVE, SHARE = Range(0, open_low=True), Range(0, 1)
BELOW_ONE = Range(0, 1, open_high=True)
SEED = Range(0, 2**32 - 1)  # numpy takes no other

# flag -> what it can be. `prompts` has more, in data_prep/prompt_pipeline/checks.py
RANGES = {
    **dict.fromkeys(
        # how many of something there has to be
        ("batch_size", "per_device_train_batch_size", "per_device_eval_batch_size",
         "gradient_accumulation_steps", "rollout_batch_size", "local_rollout_forward_batch_size",
         "ptx_batch_size", "num_mini_batches", "num_ppo_epochs", "total_episodes", "num_outputs",
         "max_new_tokens", "select_max_new_tokens", "response_length", "ptx_max_length",
         "max_length", "max_prompt_tokens", "max_prompt_length", "lora_r", "lora_alpha", "limit",
         "eval_prompts", "select_prompts", "per_source", "max_words", "kl_horizon",
         "early_stopping_patience", "watchdog_patience", "eval_accumulation_steps",
         "pad_to_multiple_of", "dataset_num_proc", "torch_empty_cache_steps",
         "dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout", "per_item"),
        COUNT,
    ),
    **dict.fromkeys(("seed", "data_seed"), SEED),
    **dict.fromkeys(
        ("learning_rate", "value_learning_rate", "warmup_steps", "weight_decay", "max_grad_norm",
         "temperature", "tie", "kl_coef", "vf_coef", "ptx_coef", "min_words", "sample_every",
         "sample_rows", "eval_delay", "dataloader_num_workers", "neftune_noise_alpha",
         "missing_eos_penalty", "router_aux_loss_coef", "center_rewards_coefficient",
         "save_total_limit"),
        NONE_OR_MORE,
    ),
    **dict.fromkeys(
        ("num_train_epochs", "adam_epsilon", "logging_steps", "eval_steps", "save_steps",
         "cliprange", "cliprange_value", "kl_target", "score_clip"),
        POSITIVE,
    ),
    **dict.fromkeys(("gamma", "lam", "min_eos_rate", "max_clipfrac", "min_distinct2_ratio",
                    "overlap"), SHARE),
    **dict.fromkeys(
        ("lora_dropout", "adam_beta1", "adam_beta2", "label_smoothing_factor", "ema_decay",
         "eval_fraction", "validation"),
        BELOW_ONE,
    ),
    "max_steps": Range(1, off=-1),
    "pretraining_share": Range(0, 1, open_low=True, open_high=True),
    "residual_dropout": BELOW_ONE,
    "show_temperature": NONE_OR_MORE,
    "port": Range(1, 65535),
}  # fmt: skip
DTYPES = ("auto", "bfloat16", "float16", "float32")  # those of TRL's --dtype
# a bound that is never crossed
MAY_BE_INFINITE = (
    "max_grad_norm", "max_kl", "min_kl", "best_max_kl", "watchdog_grad_norm",
    "min_explained_variance", "score_clip",
)  # fmt: skip


def shown(value) -> str:
    """A flag's value as a person would type it: 5 and not 5.0, 1e-5 and not 1e-05."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e6:
        return f"{value:.0f}"
    if isinstance(value, float) and value and abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return str(value)


def check_ranges(values: dict) -> None:
    """Refuses a flag whose number means nothing.

    Args:
        values: flag -> number, list of numbers, or anything else (left alone).

    Raises:
        UserError: names the flag, its value and what it can be.
    """
    for flag, given in values.items():
        for value in given if isinstance(given, list | tuple) else [given]:
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            range_ = RANGES.get(flag)
            # a whole number may be too large for a float
            number = isinstance(value, int) or math.isfinite(value)
            if not number and not (flag in MAY_BE_INFINITE and math.isinf(value)):
                raise UserError(f"--{flag} {value}: must be {range_ or 'a finite number'}")
            if range_ is not None and not range_.holds(value):
                raise UserError(f"--{flag} {shown(value)}: must be {range_}")


def _number_kind(action: argparse.Action, field) -> type | None:
    """int or float, where a flag takes that, or that or nothing; else None."""
    if action.type in (int, float):
        return action.type
    # a flag that may be nothing has a parser's own function for a type
    told = getattr(field, "type", None)
    one_of = get_origin(told) in (Union, UnionType)
    kinds = (set(get_args(told)) if one_of else {told}) - {NoneType}
    return kinds.pop() if len(kinds) == 1 and kinds <= {int, float} else None


def check_types(values: dict, actions: Iterable[argparse.Action], fields: dict) -> None:
    """Refuses what a YAML file gives where a number belongs: argparse looks at text alone.

    Args:
        values: flag -> what was given.
        actions: the parser's, which know the types.
        fields: flag -> dataclass field, which knows whether None is one of its values.

    Raises:
        UserError: names the flag and its value.
    """
    for action in actions:
        given, field = values.get(action.dest), fields.get(action.dest)
        kind = _number_kind(action, field)
        if kind is None:
            continue
        optional = field is None or field.default in (None, MISSING)
        if given is None and optional:
            continue
        several = action.nargs in ("+", "*") and isinstance(given, list)
        wanted = "a whole number" if kind is int else "a number"
        for value in given if several else [given]:
            right = isinstance(value, int) if kind is int else isinstance(value, int | float)
            if isinstance(value, bool) or not right:
                raise UserError(f"--{action.dest} {value!r}: must be {wanted}")
