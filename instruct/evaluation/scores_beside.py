"""Scores of held-out rankings that the reward step leaves beside its model: nobody asks it again.

`held_out_scores.jsonl`, a line a text after a first line that says of what model. They are taken
where that model, by content, and the text are the same, and where a few of them, asked anew, are
what was kept: rounding apart, as the step computes a prompt once for all its completions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from instruct.checks.score_functions import ScoreFunction
from instruct.evaluation.judges import RewardJudge
from instruct.evaluation.panel import Judge, reward_judge
from instruct.files import write_rows
from instruct.hashes import hash_of
from instruct.tokens import FOR_TEMPLATE, template_columns

FILE = "held_out_scores.jsonl"
TRIED = 8  # kept scores that are asked for anew before any is taken
SAME = 1e-3  # of two scores, or of the largest: far above rounding in float32, below half precision


class Scored(NamedTuple):
    """Texts (`prompt` [messages], `completion`, and what the template takes), and what a reward
    model gives each, without its bias.
    """

    rows: list[dict]
    scores: list[float]


def text_key(row: Mapping) -> str:
    """What a score is kept by: a prompt, its completion, and what the prompt's template takes."""
    asked = [row["prompt"], row["completion"], *(row.get(key) for key in FOR_TEMPLATE)]
    return hash_of(asked)[:20]


def leave_scores(folder: Path, rows: Sequence[Mapping], scores: Sequence[float]) -> None:
    """Writes `held_out_scores.jsonl` beside the reward model that lies in `folder`, whole.

    Args:
        rows: `prompt` [messages], `completion`, and what the template takes.
        scores: as `load_reward(folder)` gives them, bias included.
    """
    key = reward_judge(str(folder), load=False).key
    known = {text_key(row): score for row, score in zip(rows, scores, strict=True)}
    lines = [{"text": text, "score": score} for text, score in known.items()]
    write_rows(folder / FILE, [{"asked": key}, *lines])


def scores_left(judge: Judge, rows: Mapping[str, Mapping]) -> dict[str, float]:
    """{text: score} of those of `rows` {text: row} that the judge's reward step has left beside it.

    None of them where the model has changed since, or says something else here.
    """
    if not isinstance(judge.score, RewardJudge) or judge.score.dtype != "float32":
        return {}
    left = _read(Path(judge.model) / FILE, judge.key)
    found = {text: left[text] for text in rows if text in left}
    if found and not _says_so(judge.score, rows, found):
        return {}
    return found


def _read(file: Path, key: str) -> dict[str, float]:
    try:
        first, *lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        return {e["text"]: float(e["score"]) for e in lines} if first == {"asked": key} else {}
    # not there, or damaged: asked anew
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _says_so(score: ScoreFunction, rows: Mapping[str, Mapping], left: dict[str, float]) -> bool:
    """Whether the model gives some of the texts, from the first to the last, what was left."""
    count = min(TRIED, len(left))
    texts = [list(left)[i * (len(left) - 1) // max(1, count - 1)] for i in range(count)]
    some = [rows[text] for text in texts]
    there = [key for key in FOR_TEMPLATE if any(row.get(key) is not None for row in some)]
    anew = score(
        [row["prompt"] for row in some],
        [row["completion"] for row in some],
        **template_columns({key: [row.get(key) for row in some] for key in there}),
    )
    bound = SAME * max(1.0, *(abs(value) for value in left.values()))
    return all(abs(a - left[text]) <= bound for a, text in zip(anew, texts, strict=True))
