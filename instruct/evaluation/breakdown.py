"""The gold judge's win rates looked at more closely: at equal length, and by groups of prompts."""

from collections.abc import Sequence

import numpy as np

from instruct.evaluation.length_control import by_group, length_controlled_rates
from instruct.evaluation.panel import Judge
from instruct.evaluation.statistics import outcomes

# what a prompt is one of; a column of its row
GROUPS = ("request_form", "category", "language")


def outcomes_by(
    judge: Judge, answers: dict[str, list[dict]], ours: str, theirs: str, tie: float
) -> np.ndarray:
    """1, 0.5 or 0 for each prompt: whether `judge` prefers the answer of `ours`."""
    if judge.compares:
        return np.array([row["wins"][judge.name][theirs] for row in answers[ours]])
    scores = ([row["scores"][judge.name] for row in answers[name]] for name in (ours, theirs))
    return outcomes(*scores, tie)


def breakdown(
    answers: dict[str, list[dict]], judge: Judge, tie: float, users: Sequence[str]
) -> dict:
    """Returns
    win_rate_length_controlled: {pair: see `length_control.length_controlled`}.
    win_rate_by: {column of `GROUPS`: see `length_control.by_group`}, of columns that tell
        prompts apart.
    """

    def won(ours: str, theirs: str) -> np.ndarray:
        return outcomes_by(judge, answers, ours, theirs, tie)

    # every model answers the same prompts
    prompts = next(iter(answers.values()))
    groups = {}
    for column in GROUPS:
        found = by_group(answers, users, won, [row.get(column) for row in prompts])
        if len(found) > 1:
            groups[column] = found
    controlled = length_controlled_rates(answers, users, won)
    return {"win_rate_length_controlled": controlled, "win_rate_by": groups}
