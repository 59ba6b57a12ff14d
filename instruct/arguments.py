"""Flags: this repo's LoRA and hardware defaults over TRL's, how a command line is read, and `module:function` values."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import trl
from trl import TrlParser

from instruct.files import UserError


@dataclass
class ModelConfig(trl.ModelConfig):
    """TRL's model flags with this repo's LoRA defaults. Each recipe sets the task type."""

    use_peft: bool = field(
        default=True, metadata={"help": "Train LoRA adapters; False trains every weight."}
    )
    lora_target_modules: list[str] | None = field(
        default_factory=lambda: ["all-linear"],
        metadata={
            "help": "LoRA target modules. 'all-linear' fits every architecture; names do not."
        },
    )


@dataclass
class HardwareDefaults:
    """For a TRL config: bf16 only where a GPU has it (TRL would turn it on everywhere), no activation checkpointing.

    Both stay flags; `--bf16`, `--gradient_checkpointing` win. Without an accelerator `use_cpu` is set: left out, the
    processes of `torchrun` on a CPU would not find each other, and each would train alone.
    """

    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations to save memory."}
    )

    def __post_init__(self):
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 is None:  # not where it is only emulated (a T4)
            has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(
                including_emulation=False
            )
            self.bf16 = has_bf16 and not self.fp16 and not self.use_cpu
        if (
            getattr(self, "activation_checkpointing", False) is None
        ):  # the newer name; set, it silences a warning
            self.activation_checkpointing = self.gradient_checkpointing
        super().__post_init__()


def parse(dataclasses: tuple, argv: list[str] | None = None) -> tuple:
    """`TrlParser` (flags, or YAML by `--config` with flags on top); a mistake is one sentence and exit code 2."""
    try:
        return TrlParser(dataclasses).parse_args_and_config(args=argv)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def load_function(spec: str, flag: str) -> Callable:
    """`module:function` -> the function; modules beside where you run are found too."""
    module, _, function = spec.partition(":")
    if not function:
        raise UserError(f"{flag} {spec}: write it as module:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{flag} {spec}: no such module:function ({error})") from error
