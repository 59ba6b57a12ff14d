"""`--help` of every command: what it does, an example, and each flag of ours with its default."""

import argparse
import dataclasses
import importlib
import re
import subprocess
import sys

import pytest
from conftest import REPO, SCRIPT_ENV

from instruct.checks.flag_checks import REFUSED
from instruct.command.commands import Parser
from instruct.command.help import THEIRS, THEMES, WIDTH, WithHelp, owner_of
from recipes import ppo, reward, sft

TRAINERS = {
    "sft": (sft.ScriptArguments, sft.SFTConfig, sft.ModelConfig),
    "reward": (reward.ScriptArguments, reward.RankedRewardConfig, reward.ModelConfig),
    "ppo": (ppo.ScriptArguments, ppo.SharedBasePPOConfig, ppo.ModelConfig),
}
COMMANDS = (
    "recipes.evaluate",
    "recipes.chat",
    "data_prep.prompts",
    "data_prep.demonstrations",
    "data_prep.sample",
    "data_prep.label",
    "data_prep.comparisons",
    "data_prep.embedded",
    "data_prep.labeling.team",
)
# TRL's and transformers' that nobody can do without
NEEDED = """
    model_name_or_path dataset_name dataset_train_split output_dir learning_rate num_train_epochs
    max_steps per_device_train_batch_size gradient_accumulation_steps lr_scheduler_type warmup_steps
    eval_strategy save_strategy save_steps save_total_limit seed report_to dtype bf16 fp16 use_peft
    lora_r lora_alpha lora_target_modules
""".split()


def said_by(module: str, *words: str, capsys) -> str:
    """What a command prints, which ends in success and says nothing on stderr."""
    command = importlib.import_module(module)
    with pytest.raises(SystemExit) as stop:
        (command.cli if hasattr(command, "cli") else command.main)(list(words))
    said = capsys.readouterr()
    assert not stop.value.code and not said.err
    return said.out


def flags_in(text: str) -> dict[str, str]:
    """{flag: what stands behind it}, on one line."""
    parts = re.split(r"^  --(\w+)", text, flags=re.M)[1:]
    assert len(set(parts[::2])) == len(parts[::2]), "a flag stands there twice"
    # the next theme is not part of it
    said = (" ".join(part.partition("\n\n")[0].split()) for part in parts[1::2])
    return dict(zip(parts[::2], said, strict=True))


def shown(default) -> str:
    """A default as one would type it."""
    values = default if isinstance(default, list | tuple) else [default]
    return " ".join(str(getattr(value, "value", value)) for value in values)


def fields_of(step: str) -> dict:
    """{flag: (class, field)}."""
    fields = ((kind, f) for kind in TRAINERS[step] for f in dataclasses.fields(kind))
    return {f.name: (kind, f) for kind, f in fields if f.init and not f.name.startswith("_")}


def ours(step: str) -> set[str]:
    """Flags that this repository adds or changes, and that do something in this recipe."""
    fields = fields_of(step).items()
    found = {name for name, (kind, _) in fields if owner_of(kind, name) not in THEIRS}
    return found - REFUSED[step].keys()


def default_of(field: dataclasses.Field):
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default


def check_form(text: str, module: str) -> None:
    """At most 150 lines of 100 columns, which begin with the command's own words and an example."""
    lines = text.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= WIDTH
    about = importlib.import_module(module).__doc__.splitlines()
    assert lines[0] == about[0]
    path = module.replace(".", "/") + ".py"
    example = next(line for line in lines if line.startswith("    "))
    assert module in example or path in example
    assert "help_all" in flags_in(text)


################
# The three trainers
################


@pytest.mark.parametrize("step", TRAINERS)
def test_a_trainers_help_is_short_and_has_our_flags_a_line_each(step, capsys):
    # a required flag that is missing, and a file that is not there, are no matter
    text = said_by(f"recipes.{step}", "--config", "nowhere.yaml", "--help", capsys=capsys)
    check_form(text, f"recipes.{step}")
    said, fields = flags_in(text), fields_of(step)
    assert "from a YAML file" in said["config"] and "wins" in said["config"]
    needed = {n for n in NEEDED if n in fields and n not in REFUSED[step]}
    assert (ours(step) | needed) - said.keys() == set()
    for flag in said.keys() - {"config", "help", "help_all"}:
        kind, field = fields[flag]
        default = default_of(field)
        line = next(line for line in text.splitlines() if re.match(rf"  --{flag}\b", line))
        if default in (None, []):
            # what it takes
            assert re.match(rf"  --{flag} [A-Z]+( \.\.\.)?  ", line), line
        else:
            assert line.startswith(f"  --{flag} {shown(default)}  "), line
        # the dataclass' own words
        words = line.partition("  ")[2].partition("  ")[2].split()[:3]
        text_of = " ".join(field.metadata["help"].replace("%%", "%").split())
        assert text_of.startswith(" ".join(words).removesuffix(" ...")), line


@pytest.mark.parametrize("step", TRAINERS)
def test_help_all_has_every_flag_with_its_default(step, capsys):
    text = said_by(f"recipes.{step}", "--help_all", capsys=capsys)
    assert max(map(len, text.splitlines())) <= WIDTH
    said = flags_in(text)
    for flag, (_, field) in fields_of(step).items():
        default = default_of(field)
        assert default in (None, [], "") or shown(default) in said[flag], flag
    assert "of transformers" in text and "of TRL" in text


def test_every_flag_of_ours_has_one_theme_and_every_theme_only_flags_that_exist():
    names = " ".join(THEMES.values()).split()
    assert sorted(names) == sorted(set(names))
    assert set().union(*map(ours, TRAINERS)) - set(names) == set()
    assert set(names) - set().union(*map(fields_of, TRAINERS)) == set()


def test_flags_that_a_recipe_refuses_are_not_offered(capsys):
    said = flags_in(said_by("recipes.ppo", "--help", capsys=capsys))
    assert said.keys() & REFUSED["ppo"].keys() == set()


################
# All others
################


@pytest.mark.parametrize("module", COMMANDS)
def test_a_commands_help_has_all_its_flags_with_their_defaults(module, capsys, monkeypatch):
    parsers = []
    monkeypatch.setattr(
        Parser, "answer_help", lambda *a: parsers.append(a[0]) or WithHelp.answer_help(*a)
    )
    text = said_by(module, "--help", capsys=capsys)
    check_form(text, module)
    said = flags_in(text)
    for action in parsers[0]._actions:
        entry = said[next(o for o in action.option_strings if o.startswith("--"))[2:]]
        assert len(action.help.split()) > 1, f"{action.dest}: nothing says what it is"
        assert " ".join((action.help % vars(action)).split()) in entry
        if action.required:
            assert entry.endswith("(required)")
        elif action.nargs != 0 and action.default not in (None, [], argparse.SUPPRESS):
            assert shown(action.default) in entry, action.dest
    assert said_by(module, "--help_all", capsys=capsys) == text


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--nope", "--help"], ["--help_all"]])
def test_help_wins(words, capsys):
    assert "required" in said_by("data_prep.comparisons", *words, capsys=capsys)


def test_wrong_flags_stay_one_sentence(capsys):
    for words in (["--nope"], ["--validation", "x", "--input", "a", "--output_dir", "b"]):
        with pytest.raises(SystemExit) as stop:
            importlib.import_module("data_prep.comparisons").main(words)
        said = capsys.readouterr()
        assert stop.value.code == 2 and not said.out and said.err.count("\n") == 1


def test_help_goes_into_a_pipe_that_closes_and_to_a_terminal_without_utf_8():
    code = (
        "import os, sys, time\n"
        "from instruct.command.commands import Parser, command\n"
        "@command\n"
        "def main(argv=None):\n"
        "    time.sleep(1)\n"
        "    Parser('as …\\n' * 100_000).parse_args(argv)\n"
        "main()\n"
    )
    env = SCRIPT_ENV | {"PYTHONIOENCODING": "ascii"}
    run = subprocess.Popen(
        [sys.executable, "-c", code, "--help"],
        cwd=REPO, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    run.stdout.close()
    assert run.stderr.read() == "" and run.wait() == 0
