"""The tasks of an evaluation beside `helpful`: a module each, with the same four functions.

add_flags(parser)           the task's own flags
check(models, args)         what cannot work, told before anything is asked
measure(models, args)       what `report.json` holds under the task's name
lines(found)                its section of `report.md`
"""

import argparse
import time

from instruct.errors import UserError
from instruct.evaluation.modes import Asked
from instruct.evaluation.tasks import harmless, overoptimisation, reward_model, tax, truthful

HELPFUL = "helpful"  # answers to held-out users' prompts, the evaluation itself
TASKS = {task.NAME: task for task in (truthful, harmless, tax, reward_model, overoptimisation)}


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """`--tasks`, and the flags of each."""
    names = [HELPFUL, *TASKS]
    what = f"what is measured: {', '.join(names)}; default {HELPFUL}"
    parser.add_argument("--tasks", nargs="+", default=[HELPFUL], metavar="NAME", help=what)
    for task in TASKS.values():
        task.add_flags(parser)


def check_tasks(models: dict[str, Asked], args: argparse.Namespace) -> None:
    """That every task of `--tasks` is one, and can be done.

    Raises:
        UserError: names the task and the flag.
    """
    for name in args.tasks:
        if name != HELPFUL and name not in TASKS:
            known = ", ".join([HELPFUL, *TASKS])
            raise UserError(f"--tasks {name}: no such task; there are {known}")
    args.tasks = list(dict.fromkeys(args.tasks))
    for name in args.tasks:
        if name in TASKS:
            TASKS[name].check(models, args)


def measure_tasks(models: dict[str, Asked], args: argparse.Namespace) -> tuple[dict, dict]:
    """({task: what was found}, {stage: seconds}) of those of `--tasks` beside `helpful`."""
    found, seconds = {}, {}
    for name in args.tasks:
        if name in TASKS:
            started = time.monotonic()
            found[name] = TASKS[name].measure(models, args)
            # a step of the run may have the same name
            seconds[f"evaluate: {name}"] = round(time.monotonic() - started, 1)
    return found, seconds
