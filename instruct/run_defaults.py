"""Defaults of a run that somebody starts by hand, over those of TRL and transformers.

They are to learn, to fit into 16 GB and to be continued when they are killed; whoever gives one of
these flags gets what TRL makes of it.
"""

import warnings
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from instruct.checks.flag_ranges import shown
from instruct.processes import is_main_process

# PEFT (up to 0.21 at least) asks a model for `is_gradient_checkpointing` each time an adapter is
# put on it. transformers 5.2x has renamed that, and tells our users of it: nothing they can change.
# Here, as every module that puts an adapter on a model imports this one first.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is", category=FutureWarning)

SAVED_SHARE = 0.1  # of a run, from checkpoint to checkpoint
KEPT = 2  # checkpoints: the last one, and one before it in case that is damaged


class Rates(NamedTuple):
    """Peak learning rates: of LoRA's weights, which start at zero, and of a model's own."""

    lora: float
    full: float

    def said(self) -> str:
        """The flag's help."""
        lora, full = shown(self.lora), shown(self.full)
        return f"Peak learning rate; default {lora}, with --use_peft False {full}."


class DefaultRate(float):
    """A learning rate that nobody gave; a copy by `dataclasses.replace` still knows that."""


class Batches(NamedTuple):
    """Rows per device and step in training and evaluation, and micro-batches per step."""

    train: int
    evaluation: int
    accumulation: int

    def said(self, name: str) -> str:
        """A flag's help."""
        return {
            "train": f"Rows of a micro-batch; default {self.train}. Eight, as for TRL, "
            "where --gradient_accumulation_steps is given.",
            "evaluation": f"Rows of a batch in evaluation; default {self.evaluation}.",
            "accumulation": f"Micro-batches of a step; default {self.accumulation}. One, as for "
            "TRL, where --per_device_train_batch_size is given.",
        }[name]


def rate_flag(rates: Rates):
    """The dataclass field of `--learning_rate`."""
    return field(default=None, metadata={"help": rates.said()})


def batch_flag(batches: Batches, name: str):
    """The dataclass field of a batch size."""
    return field(default=None, metadata={"help": batches.said(name)})


@dataclass
class RunDefaults:
    """Goes before a TRL config in a class's bases.

    bf16 only where a GPU has it, and no activation checkpointing: TRL would turn both on
    everywhere. A checkpoint every tenth of the run, not after 500 steps, which a run of an evening
    does not have. None of learning rate and batch sizes is what `RATES` and `BATCHES` say.

    Attributes:
        RATES: which of them is settled by `settle_rate`, as the model's flags are elsewhere.
        BATCHES: small enough for 16 GB; the step is of as many rows as TRL's.
    """

    RATES: ClassVar[Rates] = Rates(lora=2e-4, full=2e-5)
    BATCHES: ClassVar[Batches] = Batches(train=2, evaluation=4, accumulation=4)

    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Remove what an earlier run wrote to --output_dir, and start over."},
    )
    gradient_checkpointing: bool = field(
        default=False, metadata={"help": "Recompute activations to save memory."}
    )
    learning_rate: float | None = rate_flag(RATES)
    per_device_train_batch_size: int | None = batch_flag(BATCHES, "train")
    per_device_eval_batch_size: int | None = batch_flag(BATCHES, "evaluation")
    gradient_accumulation_steps: int | None = batch_flag(BATCHES, "accumulation")
    save_steps: float | None = field(
        default=None,
        metadata={
            "help": "Steps between checkpoints; default a tenth of the run. Below 1: a share of "
            f"it. By default the last {KEPT} are kept (--save_total_limit)."
        },
    )

    def __post_init__(self):
        # Left out, the processes of `torchrun` on a CPU would not find each other, and each would
        # train alone.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        # for run.json: on other hardware, the same command is the same run
        self.asked = {"bf16": self.bf16, "fp16": self.fp16}
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and _gpu_has_bf16()
        # The newer name, where transformers has it; left unset, the older one is warned about.
        if getattr(self, "activation_checkpointing", False) is None:
            self.activation_checkpointing = self.gradient_checkpointing
        if self.learning_rate is None:
            # made in Python, nobody says yet what is trained: `fit_rate` does
            self.learning_rate = DefaultRate(self.RATES.lora)
        self._settle_batches()
        self._settle_saves()
        super().__post_init__()

    def rate_for(self, lora: bool) -> float:
        """The learning rate that was given, else the default of LoRA or of all weights."""
        if not isinstance(self.learning_rate, DefaultRate):
            return self.learning_rate
        return self.RATES.lora if lora else self.RATES.full

    def fit_rate(self, model: nn.Module) -> None:
        """Where no learning rate was given: that of what the model trains, which is said."""
        if isinstance(self.learning_rate, DefaultRate):
            trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
            lora = any("lora_" in name for name in trained)
            self.learning_rate = self.rate_for(lora)
            _say_rate(self.learning_rate, lora)

    def _settle_batches(self) -> None:
        given = (self.per_device_train_batch_size, self.gradient_accumulation_steps)
        if given == (None, None):
            given = (self.BATCHES.train, self.BATCHES.accumulation)
        # of one alone, the other is what it is for TRL: its command lines mean what they meant
        self.per_device_train_batch_size = 8 if given[0] is None else given[0]
        self.gradient_accumulation_steps = 1 if given[1] is None else given[1]
        if self.per_device_eval_batch_size is None:
            self.per_device_eval_batch_size = self.BATCHES.evaluation

    def _settle_saves(self) -> None:
        if self.save_steps is not None:
            return
        self.save_steps = SAVED_SHARE
        if self.load_best_model_at_end and self.eval_strategy == "steps":
            # each is to have its evaluation; left out, transformers evaluates as often as it logs
            self.save_steps = self.eval_steps or self.logging_steps
        # epochs, where they are asked for, are all kept: one of them may be picked
        if self.save_total_limit is None and self.save_strategy == "steps":
            self.save_total_limit = KEPT


def _gpu_has_bf16() -> bool:
    """Whether the GPU computes in bf16 itself; a T4 emulates it, slower than fp32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)


def settle_rate(parsed: Namespace, kinds: Iterable[type]) -> None:
    """Puts the default learning rate into what was parsed, and says so.

    Args:
        parsed: flags of a recipe, `use_peft` among them; without it, LoRA is trained.
        kinds: the recipe's dataclasses.
    """
    rates = next((kind.RATES for kind in kinds if issubclass(kind, RunDefaults)), None)
    if rates is None or parsed.learning_rate is not None:
        return
    lora = getattr(parsed, "use_peft", True)
    parsed.learning_rate = rates.lora if lora else rates.full
    # what is asked of a finished run trains nothing
    trains = not any(getattr(parsed, flag, None) for flag in ("score", "select_by_reward"))
    if trains:
        _say_rate(parsed.learning_rate, lora)


def _say_rate(rate: float, lora: bool) -> None:
    if is_main_process():
        of = "LoRA" if lora else "all weights"
        print(f"--learning_rate {shown(rate)}, the default for training {of}")
