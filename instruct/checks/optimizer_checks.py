"""Flags of the optimizer and of the learning rate's schedule: tried on one weight before anything
is loaded, so that what they cannot do is told at once.
"""

import copy
import inspect
from collections.abc import Collection
from dataclasses import fields

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainingArguments
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, get_scheduler

from instruct.checks.flag_ranges import shown
from instruct.errors import UserError
from instruct.plain_text import one_line

# schedules that `get_scheduler` makes without what these flags say
NO_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
NO_KWARGS = ("constant", "constant_with_warmup")
# of the optimizer, where it has any such thing
ITS_OWN = ("adam_beta1", "adam_beta2", "adam_epsilon")
LOW_RANK = ("galore", "apollo")  # those that act on chosen modules
SET_BY_TRAINER = ("optimizer", "num_warmup_steps", "num_training_steps", "last_epoch", "kwargs")


def check_optimizer(args: TrainingArguments, typed: Collection[str] = ()) -> None:
    """Refuses a schedule that cannot be made, and flags that optimizer or schedule do not read.

    Args:
        typed: flags on the command line. One in a settings file may be of the optimizer there,
            where another one is typed.

    Raises:
        UserError: names the flag.
    """
    _check_schedule(args, typed)
    _check_read_by_optimizer(args, typed)


def _check_schedule(args: TrainingArguments, typed: Collection[str]) -> None:
    name, kwargs = str(args.lr_scheduler_type.value), args.lr_scheduler_kwargs

    def meant(flag: str) -> bool:
        return flag in typed or "lr_scheduler_type" not in typed

    if kwargs and name in NO_KWARGS and meant("lr_scheduler_kwargs"):
        raise UserError(f"--lr_scheduler_kwargs {kwargs}: --lr_scheduler_type {name} takes none")
    if args.warmup_steps and name in NO_WARMUP and meant("warmup_steps"):
        also = ", or --lr_scheduler_type constant_with_warmup" if name == "constant" else ""
        raise UserError(
            f"--warmup_steps {shown(args.warmup_steps)}: --lr_scheduler_type {name} has no "
            f"warm-up; leave it out{also}"
        )
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=args.learning_rate)
    try:
        made = get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=0,
            num_training_steps=10,
            scheduler_specific_kwargs=kwargs,
        )
        # a number that is none is used in the first steps only; torch wants this order
        optimizer.step()
        if isinstance(made, LambdaLR):
            made.step()
    # whatever a schedule may make of a value of any type
    except Exception as error:
        takes = inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[args.lr_scheduler_type]).parameters
        names = ", ".join(name for name in takes if name not in SET_BY_TRAINER)
        given = f" --lr_scheduler_kwargs {kwargs}" if kwargs else ""
        raise UserError(
            f"--lr_scheduler_type {name}{given}: no such schedule can be made ({error})"
            + (f"; its --lr_scheduler_kwargs are {names}" if names else "")
        ) from error


def _check_read_by_optimizer(args: TrainingArguments, typed: Collection[str]) -> None:
    optim = str(getattr(args.optim, "value", args.optim))

    def refuse(flag: str, value, what: str) -> None:
        # of the optimizer of a settings file, which a typed one stands for
        if flag in typed or "optim" not in typed:
            raise UserError(f"--{flag} {shown(value)}: --optim {optim} {what}; leave it out")

    if args.optim_target_modules and not optim.startswith(LOW_RANK):
        refuse("optim_target_modules", args.optim_target_modules, "trains all of its weights alike")
    pairs = _pairs(args.optim_args)
    defaults = {field.name: field.default for field in fields(args)}
    changed = {flag: getattr(args, flag) for flag in ITS_OWN}
    changed = {flag: value for flag, value in changed.items() if value != defaults[flag]}
    made = _made(args)
    # a model that it wants to see: Trainer says what
    if made is None:
        return
    for flag, value in changed.items():
        if _made(args, **{flag: defaults[flag]}) == made:
            refuse(flag, value, "does not read it")
    for name in pairs:
        # two other values, as what is given may be its default
        others = [{k: v for k, v in pairs.items() if k != name}, {**pairs, name: "3"}]
        if all(_made(args, optim_args=_written(other)) == made for other in others):
            refuse("optim_args", args.optim_args, f"does not read {name!r}")


def _pairs(written: str | None) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in (written or "").replace(" ", "").split(",")]
    if written and not all(name and equals and value for name, equals, value in pairs):
        raise UserError(f"--optim_args {written}: write it as name=value,name=value")
    return {name: value for name, _, value in pairs if name}


def _written(pairs: dict[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in pairs.items())


def _made(args: TrainingArguments, **other) -> tuple | None:
    """Class and settings of the optimizer by these flags; None where they alone do not say.

    Raises:
        UserError: it needs a package that is not there.
    """
    changed = copy.copy(args)
    for flag, value in other.items():
        setattr(changed, flag, value)
    try:
        return Trainer.get_optimizer_cls_and_kwargs(changed)
    except ImportError as error:
        optim = getattr(args.optim, "value", args.optim)
        raise UserError(f"--optim {optim}: {one_line(str(error))}") from error
    # an optimizer's own refusal is Trainer's to tell; "3" may be no value of this flag
    except Exception:
        return None
