"""The alignment tax: what training cost on tasks that it was not for (paper, 4.2 and appendix E).

Log-likelihood per token of plain texts, accuracy on files of multiple choice, and entropy of pairs
of sentences that differ in whom they are about, of all models side by side.
"""

import argparse

from instruct.errors import UserError
from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks import choice_report, multiple_choice
from instruct.evaluation.tasks.choice_files import SHAPES
from instruct.evaluation.tasks.multiple_choice import TaskFile

NAME = "tax"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of this task, and those of every file of multiple choice."""
    group = parser.add_argument_group(f"--tasks {NAME}")
    files = f"files, folders or Hub ids: {', '.join(shape.name for shape in SHAPES)}"
    group.add_argument("--task_file", nargs="+", metavar="FILE", help=files)
    multiple_choice.add_flags(group)


def sources(args: argparse.Namespace) -> dict[str, list[str]]:
    """{flag: what it reads}."""
    return {"task_file": args.task_file}


def _files(args: argparse.Namespace) -> list[TaskFile]:
    if not args.task_file:
        raise UserError(f"--tasks {NAME} needs --task_file FILE …: texts, or multiple choice")
    return multiple_choice.read_files(args.task_file, args)


def check(models: dict[str, Asked], args: argparse.Namespace) -> None:
    """Raises `UserError` where no file is given, one is of no known shape, or a model not there."""
    multiple_choice.check(NAME, _files(args), models)


def measure(models: dict[str, Asked], args: argparse.Namespace) -> dict:
    """See `multiple_choice.measure`."""
    return multiple_choice.measure(NAME, _files(args), models, args)


def lines(found: dict) -> list[str]:
    """Its section of `report.md`."""
    return choice_report.lines("Alignment tax", found)
