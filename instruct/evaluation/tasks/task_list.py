"""The tasks of an evaluation beside `helpful`: a module each, with the same five functions.

add_flags(parser)           the task's own flags
sources(args)               {flag: the files, folders or Hub ids that it reads}
check(models, args)         what cannot work, told before anything is asked
measure(models, args)       what `report.json` holds under the task's name
lines(found)                its section of `report.md`
"""

import argparse
import time

from instruct.errors import UserError
from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks import harmless, overoptimisation, reward_model, tax, truthful
from instruct.evaluation.tasks.reward_model import reward_path
from instruct.run.fingerprints import data_identity

HELPFUL = "helpful"  # answers to held-out users' prompts, the evaluation itself
TASKS = {task.NAME: task for task in (truthful, harmless, tax, reward_model, overoptimisation)}
BY_MODEL = (truthful.NAME, harmless.NAME, tax.NAME)  # these ask each model for itself


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """`--tasks`, and the flags of each."""
    names = [HELPFUL, *TASKS]
    what = f"what is measured: {', '.join(names)}; default {HELPFUL}; NAME:MODEL,… of these alone"
    parser.add_argument("--tasks", nargs="+", default=[HELPFUL], metavar="NAME", help=what)
    for task in TASKS.values():
        task.add_flags(parser)


def parse_tasks(words: list[str], models: dict[str, Asked]) -> dict[str, list[str]]:
    """{task: names of the models that it asks} of `--tasks`: NAME, or NAME:MODEL,MODEL.

    Raises:
        UserError: no such task or model, a task that asks no model for itself, or one twice.
    """
    found: dict[str, list[str]] = {}
    for word in words:
        name, colon, chosen = word.partition(":")
        if name != HELPFUL and name not in TASKS:
            known = ", ".join([HELPFUL, *TASKS])
            raise UserError(f"--tasks {name}: no such task; there are {known}")
        if colon and name not in BY_MODEL:
            raise UserError(
                f"--tasks {word}: {name} is not asked of models one by one; give {name}"
            )
        wanted = chosen.split(",") if colon else list(models)
        for one in wanted:
            if one not in models:
                there = ", ".join(models)
                raise UserError(f"--tasks {word}: {one!r} is none of --models ({there})")
        # in the order of --models, as everywhere in a report
        names = [one for one in models if one in wanted]
        if found.setdefault(name, names) != names:
            raise UserError(f"--tasks {word}: {name} is given twice, of other models")
    return found


def _asked_by(name: str, models: dict[str, Asked], args: argparse.Namespace) -> dict[str, Asked]:
    return {one: models[one] for one in args.task_models[name]}


def check_tasks(models: dict[str, Asked], args: argparse.Namespace) -> None:
    """That every task of `--tasks` can be done.

    Raises:
        UserError: names the task and the flag.
    """
    for name in args.tasks:
        if name in TASKS:
            TASKS[name].check(_asked_by(name, models, args), args)


def read_by_tasks(args: argparse.Namespace) -> dict[str, list[dict]]:
    """{flag: what identifies each source of it} of all that `--tasks` read, for `run.json`."""
    tasks = [TASKS[name] for name in args.tasks if name in TASKS]
    sources = {flag: given for task in tasks for flag, given in task.sources(args).items()}
    return {flag: [data_identity(one) for one in given] for flag, given in sources.items() if given}


def reward_of_tasks(args: argparse.Namespace) -> str | None:
    """The reward model that `--tasks` are about, be it the one of `--run_dir`; None: none is."""
    about = [task.NAME for task in (reward_model, overoptimisation) if task.NAME in args.tasks]
    return reward_path(args, about[0]) if about else None


def measure_tasks(models: dict[str, Asked], args: argparse.Namespace) -> tuple[dict, dict]:
    """({task: what was found}, {stage: seconds}) of those of `--tasks` beside `helpful`."""
    found, seconds = {}, {}
    for name in args.tasks:
        if name in TASKS:
            started = time.monotonic()
            found[name] = TASKS[name].measure(_asked_by(name, models, args), args)
            # a step of the run may have the same name
            seconds[f"evaluate: {name}"] = round(time.monotonic() - started, 1)
    return found, seconds
