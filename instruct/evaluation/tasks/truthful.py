"""Truthfulness: MC1 and MC2 on files of TruthfulQA's shape (Lin et al. 2022).

MC1: how often the best true answer is the likeliest. MC2: the share of the probability of all
answers that the true ones have.
"""

import argparse

from instruct.errors import UserError
from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks import choice_report, multiple_choice
from instruct.evaluation.tasks.choice_files import TRUTHFUL
from instruct.evaluation.tasks.multiple_choice import TaskFile

NAME = "truthful"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flag of this task; `tax.add_flags` gives those of every file of multiple choice."""
    files = "questions of TruthfulQA's shape: mc1_targets and mc2_targets, or its CSV file"
    group = parser.add_argument_group(f"--tasks {NAME}")
    group.add_argument("--truthful_file", nargs="+", metavar="FILE", help=files)


def sources(args: argparse.Namespace) -> dict[str, list[str]]:
    """{flag: what it reads}."""
    return {"truthful_file": args.truthful_file}


def _files(args: argparse.Namespace) -> list[TaskFile]:
    if not args.truthful_file:
        raise UserError(
            f"--tasks {NAME} needs --truthful_file FILE …, a file of TruthfulQA's shape"
        )
    files = multiple_choice.read_files(args.truthful_file, args)
    for file in files:
        if file.shape.kind != TRUTHFUL:
            raise UserError(
                f"--truthful_file {file.source}: has the columns of {file.shape.name}, which says "
                "nothing of truth; give it by --tasks tax --task_file"
            )
    return files


def check(models: dict[str, Asked], args: argparse.Namespace) -> None:
    """Raises `UserError` where no file is given, one is of another shape, or a model not there."""
    multiple_choice.check(NAME, _files(args), models)


def measure(models: dict[str, Asked], args: argparse.Namespace) -> dict:
    """See `multiple_choice.measure`: `mc1` and `mc2`, and both by the mean of a token."""
    return multiple_choice.measure(NAME, _files(args), models, args)


def lines(found: dict) -> list[str]:
    """Its section of `report.md`."""
    return choice_report.lines("Truthful: multiple choice", found)
