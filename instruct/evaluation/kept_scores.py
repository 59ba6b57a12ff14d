"""A judge's scores of texts, kept on disk by what the texts are: no task asks for them twice."""

import argparse
from collections.abc import Mapping, Sequence

from tqdm import tqdm

from instruct.checks.score_functions import name_of, scores_of
from instruct.errors import UserError
from instruct.evaluation.kept_steps import KeptSteps
from instruct.evaluation.panel import Judge
from instruct.evaluation.scores_beside import scores_left, text_key
from instruct.one_bar import moving
from instruct.processes import is_main_process
from instruct.tokens import FOR_TEMPLATE

AT_ONCE = 192  # texts between two notes on disk
FOLDER = "scores"  # in the output folder: a file a judge


def kept_scores(
    judge: Judge, rows: Sequence[Mapping], what: str, args: argparse.Namespace
) -> list[float]:
    """The score of each row (`prompt`, `completion`, and what its template takes).

    Whole steps are kept or none, so that a run that is killed and goes on asks in the same batches:
    its numbers are the same to the last bit. Scores that the reward step has left beside its model
    are taken as they are.

    Args:
        what: the task and what the texts are, in a message.
        args: `output_dir`, `overwrite_output_dir`.

    Raises:
        UserError: the judge raises, or gives no finite numbers.
    """
    file = args.output_dir / FOLDER / f"{name_of(judge.score)}-{judge.key[:12]}.jsonl"
    kept = KeptSteps(file, judge.key, args.overwrite_output_dir)
    known = {key: score for step in kept.done.values() for key, score in step}
    keys = [text_key(row) for row in rows]
    # each text once
    new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
    # but where all are to be asked anew
    if new and not args.overwrite_output_dir and (left := scores_left(judge, new)):
        if is_main_process():
            print(f"{what}: {len(left)} of {len(rows)} scores are those of the reward step's end")
        kept.add(f"left {len(kept.done)}", [[key, score] for key, score in left.items()])
        known.update(left)
        new = {key: row for key, row in new.items() if key not in left}
    bar = tqdm(total=len(new), desc=what, disable=not new or not is_main_process())
    with bar:
        for start in range(0, len(new), AT_ONCE):
            some = list(new.items())[start : start + AT_ONCE]
            with moving(bar, len(some)):
                scores = _asked(judge, [row for _, row in some], what)
            step = [[key, score] for (key, _), score in zip(some, scores, strict=True)]
            kept.add(step[0][0], step)
            known.update(step)
    return [known[key] for key in keys]


def _asked(judge: Judge, rows: list[Mapping], what: str) -> list[float]:
    # a template takes these; a user's function takes what it names
    names = [key for key in FOR_TEMPLATE if judge.model and any(key in row for row in rows)]
    try:
        return scores_of(
            judge.score,
            judge.name,
            prompts=[row["prompt"] for row in rows],
            completions=[row["completion"] for row in rows],
            **{name: [row.get(name) for row in rows] for name in names},
        )
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def let_go(judge: Judge) -> None:
    """No model in memory that a judge has asked: the next one is to be loaded."""
    if hasattr(judge.score, "off"):
        judge.score.off()
