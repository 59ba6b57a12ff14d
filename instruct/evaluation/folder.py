"""The output folder of an evaluation: what may be replaced in it, and its `run.json`."""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from instruct.errors import UserError
from instruct.evaluation.modes import Asked
from instruct.evaluation.panel import Judge
from instruct.evaluation.tasks.task_list import read_by_tasks, reward_of_tasks
from instruct.run.fingerprints import data_identity, model_identity
from instruct.run.folders import report_in
from instruct.run.run_record import check_step, read_record, versions, write_record

REPORT = ("report.json", "report.md", "report.html", "answers.jsonl")  # what is replaced


def check_folder(output_dir: Path) -> None:
    """That nothing in the output folder is replaced but an earlier evaluation.

    Raises:
        UserError: it holds another command's run, or a report that this one did not write.
    """
    found = read_record(output_dir)
    if found is not None:
        return check_step(output_dir, found, "evaluate")
    there = [name for name in REPORT if (output_dir / name).exists()]
    # earlier versions of this repo wrote no run.json
    is_ours = "answers.jsonl" in there and "win_rate" in report_in(output_dir)
    if there and not is_ours:
        raise UserError(
            f"--output_dir {output_dir} holds {', '.join(there)}, which no evaluation wrote; "
            "give another folder"
        )


def write_run_record(
    models: dict[str, Asked], judges: Iterable[Judge | None], args: argparse.Namespace
) -> None:
    """`run.json`: which models and judges, on which prompts and other data, with which flags."""
    examples = {m.file: data_identity(m.file, "train") for m in models.values() if m.file}
    given = ("judge_prompt", "judgements")
    more = read_by_tasks(args)
    more |= {name: data_identity(value) for name in given if (value := getattr(args, name, None))}
    read = ("prompts", "asked", "read_rankings", "examples_of")  # no flags, but of them
    left_out = ("models", "input", "output_dir", "overwrite_output_dir", *given, *read)
    flags = {name: value for name, value in vars(args).items() if name not in left_out}
    record = {
        "step": "evaluate",
        "models": {
            name: {**model_identity(asked.path), "mode": asked.mode}
            for name, asked in models.items()
        },
        "judges": {judge.name: {"spec": judge.spec, "key": judge.key} for judge in judges if judge},
        "reward": model_identity(reward_of_tasks(args) or args.reward),
        "toxicity_model": model_identity(args.toxicity_model),
        "data": {"input": data_identity(args.input, "test"), **examples, **more},
        "flags": json.loads(json.dumps(flags, default=str)),
        "versions": versions(),
    }
    write_record(args.output_dir, record)
