"""`--help`: what a command does, an example, and its flags by theme, each with its default.

Of a trainer's some 200 flags, `--help` has those that this repository adds or changes and a few
that nobody can do without, a line each; `--help_all` has all of them, in whole sentences. Texts and
defaults are the flags' own; only which flag stands under which theme is written down here.
"""

import argparse
import contextlib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import get_args

from instruct.processes import is_main_process

WIDTH = 100  # columns
TEXT = 36  # the column at which texts begin
LONGEST = 52  # columns of a flag with its default; a longer default follows its text
THEIRS = ("trl", "transformers")
KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "BOOL", dict: "JSON", Path: "PATH"}

# theme -> flags of the recipes; tests/test_help.py finds a flag of ours that is in none or in two
THEMES = {
    "data": """
        dataset_name dataset_train_split dataset_test_split eval_fraction
        eval_dataset eval_prompts format columns max_length max_prompt_length demonstrations""",
    "model": """
        model_name_or_path base_model dtype attn_implementation load_in_4bit trust_remote_code
        chat_template_path eos_token""",
    "LoRA": "use_peft lora_r lora_alpha lora_dropout lora_target_modules",
    "SFT": """
        completion_only_loss packing residual_dropout pretraining_dataset pretraining_share""",
    "SFT: the checkpoint picked by a reward model": """
        select_by_reward select_prompts select_max_new_tokens""",
    "reward model": """
        share_prompt center_rewards_coefficient early_stopping_patience score score_output""",
    "PPO: rollouts": """
        total_episodes rollout_batch_size num_ppo_epochs num_mini_batches
        local_rollout_forward_batch_size response_length temperature rollout_weights""",
    "PPO: reward, and KL from the reference": """
        reward_model_path reward_funcs reward_weights score_clip missing_eos_penalty
        whiten_rewards kl_coef kl_estimator kl_target kl_horizon""",
    "PPO: policy and value": """
        value_model value_learning_rate ema_decay cliprange cliprange_value vf_coef gamma lam""",
    "PPO: pretraining loss, TRL's own trainer": """
        ptx_dataset ptx_coef ptx_batch_size ptx_max_length stock stock_value""",
    "PPO: watchdog": """
        watchdog watchdog_patience max_kl min_kl min_entropy min_distinct2_ratio min_length
        min_eos_rate max_clipfrac min_explained_variance watchdog_grad_norm""",
    "optimisation": """
        learning_rate num_train_epochs max_steps per_device_train_batch_size
        per_device_eval_batch_size gradient_accumulation_steps lr_scheduler_type warmup_steps
        train_sampling_strategy seed""",
    "evaluation": "eval_strategy eval_steps eval_on_start best_max_kl",
    "saving and resuming": """
        output_dir overwrite_output_dir save_strategy save_steps save_total_limit save_merged
        push_to_hub""",
    "hardware": "bf16 fp16 gradient_checkpointing use_cpu",
    "tracking": "logging_steps report_to sample_every sample_rows",
}
HOW = """\
Each flag stands with its default; CAPITALS are the kind of value of one that has none. A flag that
stands alone is off until it is given."""
HOW_TRAINER = """\
Each flag stands with its default; CAPITALS are the kind of value of one that has none. Of a yes or
no, --flag is True, and --no_flag or --flag False is False. "..." is a text cut short: --help_all
has it whole, and every other flag of TRL and transformers.

settings
  --config FILE                     flags from a YAML file, `flag: value` a line, without dashes
                                    (recipes/configs/); what is typed beside it wins"""


class WithHelp(argparse.ArgumentParser):
    """A parser whose help is this module's."""

    def add_help_all(self) -> None:
        """Adds `--help_all`. Called once the parser is made."""
        self.add_argument("--help_all", "--help-all", action=_HelpAll, help="show all flags")

    def answer_help(self, words: Iterable[str]) -> None:
        """Shows help and ends the command where `words` ask for it, whatever else they say."""
        asked = {"-h", "--help", "--help_all", "--help-all"}.intersection(words)
        if asked:
            self.print_help(whole=not asked & {"-h", "--help"})
            self.exit()

    def sections(self, whole: bool) -> list[tuple[str, list[argparse.Action]]]:
        """Themes and their flags: the parser's groups; flags without one come first."""
        groups = self._action_groups
        return [(g.title.replace("options", "flags"), g._group_actions) for g in groups]

    def how(self) -> str:
        """What is said before the flags."""
        return HOW

    def format_help(self, whole: bool = False) -> str:
        parts = [inspect.cleandoc(self.description or ""), self.how()]
        for title, actions in self.sections(whole):
            lines = [
                line
                for action in actions
                if not _is_about_help(action) and not _is_opposite(action)
                for line in _lines(action, self.prog, self.cuts and not whole)
            ]
            if lines:
                parts.append("\n".join([title, *lines]))
        asked = filter(_is_about_help, self._actions)
        lines = [line for action in asked for line in _lines(action, self.prog, cut=False)]
        parts.append("\n".join(["help", *lines]))
        return "\n\n".join(filter(None, parts)) + "\n"

    cuts = False  # whether `--help` gives each flag one line

    def print_help(self, file=None, whole: bool = False) -> None:
        # every process of a launched command is asked
        if file is not None or is_main_process():
            _say(self.format_help(whole), file or sys.stdout)


class TrainerHelp(WithHelp):
    """Help of a parser of dataclasses, TRL's among them: ours by theme."""

    cuts = True

    def how(self) -> str:
        return HOW_TRAINER

    def sections(self, whole: bool) -> list[tuple[str, list[argparse.Action]]]:
        # later ones of a name are its `--no_…`
        actions = {a.dest: a for a in reversed(self._actions) if not _is_about_help(a)}
        shown = actions.keys() - (() if whole else self.refused())
        found = [
            (theme, [actions.pop(name) for name in names.split() if name in shown])
            for theme, names in THEMES.items()
        ]
        if whole:
            rest = {"others": [], "of TRL": [], "of transformers": []}
            titles = dict(zip(THEIRS, list(rest)[1:], strict=True))
            for name, action in reversed(actions.items()):
                kind = next(k for k in self.dataclass_types if name in k.__dataclass_fields__)
                rest[titles.get(owner_of(kind, name), "others")].append(action)
            found += rest.items()
        return found

    def refused(self) -> Iterable[str]:
        """Flags that would do nothing in this command, which says so."""
        return ()


class _HelpAll(argparse.Action):
    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS,
                         help=kwargs.get("help"))  # fmt: skip

    def __call__(self, parser, namespace, values, option_string=None):
        parser.print_help(whole=True)
        parser.exit()


def owner_of(kind: type, name: str) -> str:
    """The package whose class gives a dataclass' field its text and default: `trl`."""
    owner = next(k for k in kind.__mro__ if name in inspect.get_annotations(k))
    return owner.__module__.partition(".")[0]


def kind_of(hint) -> str | None:
    """What a flag of this type takes: `NUMBER` of `float | None` and of `list[float]`."""
    if named := KINDS.get(hint):
        return named
    return next(filter(None, map(kind_of, get_args(hint))), None)


def _is_about_help(action: argparse.Action) -> bool:
    # nothing is parsed by them: --help, --help_all, --debug
    return action.default is argparse.SUPPRESS


def _is_opposite(action: argparse.Action) -> bool:
    """Whether it is the `--no_…` of another flag."""
    return isinstance(action, argparse._StoreFalseAction)


def _lines(action: argparse.Action, program: str, cut: bool) -> list[str]:
    """A flag with its default, and what it is: one line where `cut`, else as many as it takes."""
    if action.help == argparse.SUPPRESS:
        return []
    name, value = _longest_name(action), _value(action)
    text = (action.help or "") % {**vars(action), "prog": program}
    text = " ".join(text.split())
    choices = list(map(str, action.choices or ()))
    # a default of many words, such as all kinds of PII
    if len(f"  {name} {value}") > LONGEST:
        text, value = f"{text} (default: {value})", _kind(action)
    more = f"{'' if text.endswith('.') or not text else ';'} one of: {', '.join(choices)}"
    if choices and not all(re.search(rf"\b{re.escape(word)}\b", text) for word in choices):
        text = f"{text}{more}".strip()
    if action.required:
        text = f"{text} (required)".strip()
    flag = f"  {name} {value}".rstrip().ljust(TEXT - 2) + "  "
    if cut:
        return [(flag + _cut(text, WIDTH - len(flag))).rstrip()]
    return _side_by_side(flag, text)


def _side_by_side(flag: str, text: str) -> list[str]:
    # a long flag has a line of its own
    if len(flag) > TEXT:
        return [flag.rstrip(), *_side_by_side(" " * TEXT, text)] if text else [flag.rstrip()]
    lines = textwrap.wrap(text, WIDTH - TEXT, break_on_hyphens=False) or [""]
    pairs = zip_longest([flag], lines, fillvalue=" " * TEXT)
    return [(left + line).rstrip() for left, line in pairs]


def _longest_name(action: argparse.Action) -> str:
    """`--output_dir` of `--output_dir`, `--output-dir`; `--help` of `-h`, `--help`."""
    return next((o for o in action.option_strings if o.startswith("--")), action.dest)


def _value(action: argparse.Action) -> str:
    """A flag's default as one would type it; of a flag without one, what it takes."""
    default = action.default
    # a switch has no value
    if action.nargs == 0:
        return ""
    if default is None or default == [] or default is argparse.SUPPRESS or action.required:
        return _kind(action)
    values = default if isinstance(default, list | tuple) else [default]
    # "" is a value
    return " ".join(str(getattr(value, "value", value)) or '""' for value in values)


def _kind(action: argparse.Action) -> str:
    """`NUMBER`, `FILE` …: what a flag takes."""
    kind = action.metavar or kind_of(action.type or str) or "VALUE"
    return f"{kind} ..." if action.nargs in ("+", "*") else kind


def _cut(text: str, columns: int) -> str:
    """Its first sentence, or as many words of that as fit."""
    if len(text) <= columns:
        return text
    # a full stop before a capital: `e.g. x` goes on
    first = re.match(r".+?\.(?=\s+[A-Z`])", text)
    if first and len(first[0]) <= columns:
        return first[0]
    return textwrap.shorten(text, columns, placeholder=" ...")


def _say(text: str, file) -> None:
    """Prints to whatever is there: a terminal without UTF-8, a pipe that closes early."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    try:
        file.write(text.encode(encoding, "replace").decode(encoding))
        file.flush()
    except BrokenPipeError:
        # `| head` has what it wanted; Python would complain once more when it ends
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
