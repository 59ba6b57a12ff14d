"""Flags: this repo's LoRA defaults over TRL's, and how what is typed is read."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from dataclasses import fields as dataclasses_fields
from typing import get_args, get_origin, get_type_hints

import trl
from peft import PeftConfig
from torch import nn
from transformers import TrainingArguments
from trl import TrlParser, get_peft_config
from yaml import YAMLError

from instruct.bases import HELP, there, use_base
from instruct.checks.flag_checks import REFUSED, STEPS, check_flags, why_unknown
from instruct.checks.flag_documents import check_documents, with_config_apart
from instruct.checks.flag_ranges import check_ranges, check_types
from instruct.checks.lora_names import settle_dropout, settle_lora_names
from instruct.checks.machine_checks import check_launch, check_machine
from instruct.checks.optimizer_checks import check_optimizer
from instruct.command.help import TrainerHelp, kind_of
from instruct.errors import UserError
from instruct.plain_text import check_name
from instruct.processes import note_overwrites
from instruct.run_defaults import settle_rate


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
    base_model: str | None = field(default=None, metadata={"help": HELP})


class _Parser(TrainerHelp, TrlParser):
    """A wrong flag is a `UserError`, and so is a number out of its range, typed or from YAML."""

    typed: frozenset[str] = frozenset()
    in_file: frozenset[str] = frozenset()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        hints = {k: v for kind in self.dataclass_types for k, v in get_type_hints(kind).items()}
        # flags of one value or several, of which HfArgumentParser takes one
        self.several = {name for name, hint in hints.items() if _takes_several(hint)}
        for action in list(self._actions):
            action.metavar = action.metavar or kind_of(hints.get(action.dest))
            if action.dest in self.several and action.nargs is None:
                action.nargs = "+"
            if hints.get(action.dest) in (bool, bool | None):
                self._add_short_forms(action)
        self.add_help_all()

    def refused(self):
        step = next((STEPS[k.__name__] for k in self.dataclass_types if k.__name__ in STEPS), None)
        return REFUSED.get(step, {})

    def _add_short_forms(self, action: argparse.Action) -> None:
        """`--flag` and `--no_flag` for every yes or no.

        HfArgumentParser has the first where the default is a yes or no, and the second where it is
        a yes. Ours differ from TRL's in some, and a command line of TRL's shall not.
        """
        if action.nargs is None:
            action.nargs, action.const = "?", True
        off = f"--no_{action.dest}"
        if off not in self._option_string_actions:
            # later than the flag itself, whose default is the one that counts
            self.add_argument(
                *dict.fromkeys((off, off.replace("_", "-"))),
                dest=action.dest,
                action="store_false",
                default=action.default,
                help=argparse.SUPPRESS,
            )

    def parse_args_and_config(self, args=None, **kwargs):
        words = sys.argv[1:] if args is None else list(args)
        # before the file is read: it may be what is wrong
        self.answer_help(words)
        words = with_config_apart(words)
        return super().parse_args_and_config(words, **kwargs)

    def set_defaults_with_config(self, **kwargs):
        self.in_file = frozenset(kwargs)
        # YAML reads a bare `no` as False, and 1e-6 as text
        words = {action.dest for action in self._actions if "no" in (action.choices or ())}
        kwargs |= {flag: "no" for flag in words if kwargs.get(flag) is False}
        schedule = kwargs.get("lr_scheduler_kwargs")
        if isinstance(schedule, dict):
            kwargs["lr_scheduler_kwargs"] = {k: _number_of(v) for k, v in schedule.items()}
        return super().set_defaults_with_config(**kwargs)

    def parse_known_args(self, args=None, namespace=None):
        parsed, rest = super().parse_known_args(args, namespace)
        self.typed = frozenset(filter(None, map(self._flag_of, args or ())))
        for name in self.several & self.typed:
            # the value itself, as one was before
            if isinstance(values := getattr(parsed, name), list) and len(values) == 1:
                setattr(parsed, name, values[0])
        fields = {f.name: f for kind in self.dataclass_types for f in dataclasses_fields(kind)}
        check_types(vars(parsed), self._actions, fields)
        check_ranges(vars(parsed))
        check_documents(vars(parsed))
        check_launch(vars(parsed))
        check_flags(vars(parsed), self.dataclass_types, fields, self.typed, self.in_file)
        settle_rate(parsed, self.dataclass_types)
        # Trainer would write to a folder called trainer_output
        if getattr(parsed, "output_dir", "there") is None:
            raise UserError("--output_dir is missing: the folder that the run is written to")
        return parsed, rest

    def _flag_of(self, word: str) -> str | None:
        """The flag that a word names: with dashes, abbreviated or as `--no_…` as well."""
        name = word.split("=")[0]
        if not name.startswith("--"):
            return None
        options = self._option_string_actions
        found = {options[o].dest for o in options if o == name} or {
            options[o].dest for o in options if o.startswith(name)
        }
        return found.pop() if len(found) == 1 else None

    def error(self, message: str):
        raise UserError(message)


def _number_of(value):
    """A text that is a number as that number, anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _takes_several(hint) -> bool:
    kinds = get_args(hint)
    return str in kinds and any(get_origin(kind) is list for kind in kinds)


def parse(dataclasses: tuple, argv: list[str] | None = None) -> tuple:
    """`TrlParser`: flags, or YAML by `--config` with flags on top. Returns one object a class.

    Raises:
        UserError: an unknown flag, a bad value or a YAML file that cannot be read.
    """
    # TrlParser raises plain errors; the recipes end in one sentence, not in a traceback
    try:
        # the command's own text: its flags are declared beside it
        about = sys.modules[dataclasses[0].__module__].__doc__
        parser = _Parser(dataclasses, description=about)
        *parsed, unknown = parser.parse_args_and_config(argv, return_remaining_strings=True)
    except UserError:
        raise
    except (ValueError, OSError, YAMLError) as error:
        raise UserError(str(error)) from error
    if unknown:
        raise UserError(why_unknown(unknown))
    for arguments in parsed:
        if getattr(arguments, "hub_token", None):
            # where the Hub client looks itself: arguments are saved, shown and pushed, a token not
            os.environ["HF_TOKEN"] = arguments.hub_token
            arguments.hub_token = None
        if isinstance(arguments, ModelConfig):
            check_machine(arguments)
            use_base(arguments.base_model)
        if isinstance(arguments, TrainingArguments):
            check_optimizer(arguments, parser.typed)
        if hasattr(arguments, "overwrite_output_dir"):
            note_overwrites(arguments.overwrite_output_dir)
    return tuple(parsed)


def check_given(script_args: trl.ScriptArguments, model_args: trl.ModelConfig, rows: str) -> None:
    """Refuses a run without data or without a model; the model is then a folder or a Hub id.

    Args:
        rows: what the data is: `prompts`.

    Raises:
        UserError: names the flag that is missing, or a folder that holds no model.
    """
    if not script_args.dataset_name:
        raise UserError(
            f"--dataset_name is missing: {rows} as a file, a folder or a Hub dataset id"
        )
    if not model_args.model_name_or_path:
        raise UserError("--model_name_or_path is missing: give a model folder or a Hub model id")
    model_args.model_name_or_path = there(model_args.model_name_or_path, "model")


def lora_config(model_args: trl.ModelConfig, model: nn.Module) -> PeftConfig | None:
    """`get_peft_config`, with the base model's revision where it is not the default one.

    Who loads the adapter finds the weights it was trained on. None without `--use_peft`.
    """
    config = get_peft_config(model_args)
    if config is not None:
        settle_lora_names(config, model)
        settle_dropout(config, model, trl.ModelConfig.lora_dropout)
    if config is not None and model_args.model_revision != "main":
        config.revision = model_args.model_revision
    return config


def parse_models(pairs: list[str]) -> dict[str, str]:
    """The values of `--models`, `name=path` pairs, as {name: path} in the order they were typed.

    Raises:
        UserError: a pair without a name or a path, a name that no file can have, or one name twice.
    """
    models = {}
    for pair in pairs:
        # at the first =, as a path may hold one itself
        name, _, path = pair.partition("=")
        if not name or not path:
            raise UserError(
                f"--models {pair}: give every model as name=path, "
                "for example sft=outputs/demo/sft/merged"
            )
        check_name(name, "--models")
        # a file system may not tell Sft from sft
        if name.casefold() in map(str.casefold, models):
            raise UserError(f"--models {name}: two models of that name; give each its own")
        models[name] = path
    return models


def load_function(spec: str, flag: str) -> Callable:
    """`module:function` -> the function; modules beside where you run are found too.

    Raises:
        UserError: names `flag`; no such module or function.
    """
    module, _, function = spec.partition(":")
    if not function:
        raise UserError(f"{flag} {spec}: write it as module:function")
    if module.endswith(".py"):
        named = module.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise UserError(
            f"{flag} {spec}: is a file; write its module as Python imports it from here, as in "
            f"{named}:{function}"
        )
    # a script has its own folder on sys.path, not the one it was started from
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{flag} {spec}: no such module:function ({error})") from error
    # before models answer for hours
    if not callable(found):
        raise UserError(f"{flag} {spec} is no function but {type(found).__name__}")
    return found
