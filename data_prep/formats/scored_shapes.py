"""K answers with a rank or a score each -> rankings: UltraFeedback, Nectar, HelpSteer.

The numbers stand in the answers themselves, in a list beside them, or (one answer a row) in a
column. Ranks are best first, scores are best last.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from data_prep.formats.misfit import Misfit
from data_prep.formats.preference_shapes import misfits
from instruct.errors import UserError
from instruct.pairs import READ_FOR_PROMPT, answers_of, prompt_of
from instruct.ranking import listed, ranked
from instruct.rows.row_checks import fault_of, kind_of

LISTS = (
    "completions",
    "responses",
    "answers",
    "generations",
    "outputs",
    "candidates",
    "all_generated_responses",
)
TEXTS = ("response", "answer", "text", "completion", "output", "content", "generation")
RANKS = ("rank", "ranks", "ranking")
SCORES = (
    "overall_score",
    "pm_score",
    "score",
    "reward",
    "rating",
    "fine-grained_score",
    "helpfulness",
    "scores",
    "rewards",
    "ratings",
    "preference_score",
    "all_rm_scores",
)
NUMBERS = (*RANKS, *SCORES)
ONE_ANSWER = ("response", "completion", "answer", "output")
READ_OF_SCORED = (*READ_FOR_PROMPT, *LISTS, *NUMBERS)
READ_OF_ONE_ANSWER = (*READ_FOR_PROMPT, *ONE_ANSWER, *NUMBERS)


def _items(row: dict) -> list | None:
    lists = (listed(row[name]) for name in LISTS if name in row)
    return next((value for value in lists if isinstance(value, list)), None)


def has_numbered_answers(columns: set[str], first_rows: list[dict]) -> bool:
    """Answers that are objects, each with a rank or a score."""
    items = (item for row in first_rows for item in _items(row) or [])
    return any(isinstance(i, dict) and set(i) & set(NUMBERS) for i in items)


def has_key(column: str, key: str) -> Callable[[set[str], list[dict]], bool]:
    """Files with a list of objects in `column`, of which one has this key."""

    def looks_like(columns: set[str], first_rows: list[dict]) -> bool:
        lists = (row[column] for row in first_rows if isinstance(row.get(column), list))
        return any(isinstance(item, dict) and key in item for items in lists for item in items)

    return looks_like


def has_number_beside(columns: set[str], first_rows: list[dict]) -> bool:
    """Two lists: the answers, and their ranks or scores."""
    beside = any(isinstance(row.get(n), list | str) for row in first_rows for n in NUMBERS)
    return bool(columns & set(LISTS)) and beside


def has_one_answer(columns: set[str], first_rows: list[dict]) -> bool:
    """One answer a row, with a number in a column of its own."""
    numbered = any(
        isinstance(row.get(n), int | float) and not isinstance(row.get(n), bool)
        for row in first_rows
        for n in NUMBERS
    )
    return bool(columns & set(ONE_ANSWER)) and bool(columns & set(READ_FOR_PROMPT)) and numbered


def _number(value: Any, column: str, number: int) -> float:
    try:
        # True would pass for 1
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise Misfit(f"{column!r} of answer {number} is {kind_of(value)}") from None
    if not math.isfinite(found):
        raise Misfit(f"{column!r} of answer {number} is {value}, expected a number")
    return found


def _ranking(row: dict, answers: list, column: str, values: list) -> dict:
    """The ranking of these answers by what stands in `column`."""
    if len(values) != len(answers):
        raise Misfit(f"{len(values)} values in {column!r} for {len(answers)} answers")
    if len(answers) < 2:
        raise Misfit(f"{len(answers)} answer{'s' * (len(answers) != 1)}; a ranking needs two")
    numbers = [_number(value, column, i) for i, value in enumerate(values, 1)]
    if column in RANKS and (fault := fault_of("ranks", numbers)):
        raise Misfit(f"{column!r} {fault}")
    prompt, _ = prompt_of(row)
    prompt, texts = answers_of(prompt, {f"answer {i}": a for i, a in enumerate(answers, 1)})
    ranks = numbers if column in RANKS else [-score for score in numbers]
    return ranked(prompt, texts, ranks)


def _first_column(rows: list[dict], names: tuple[str, ...]) -> str | None:
    """The first of these that any row fills."""
    return next((n for n in names if any(r.get(n) is not None for r in rows)), None)


@misfits
def numbered_answers(row: dict) -> dict:
    """Answers as objects: the text under one key, its rank or score under another."""
    items = _items(row) or []
    if not all(isinstance(item, dict) for item in items):
        raise Misfit("an answer is no object with a text and a score")
    text, column = _first_column(items, TEXTS), _first_column(items, NUMBERS)
    if len(items) < 2:
        raise Misfit(f"{len(items)} answer{'s' * (len(items) != 1)}; a ranking needs two")
    if column is None:
        raise Misfit("its answers have neither a rank nor a score")
    answers = [item.get(text) if text else item for item in items]
    return _ranking(row, answers, column, [item.get(column) for item in items])


@misfits
def number_beside(row: dict) -> dict:
    """A list of answers and a list of their ranks or scores."""
    lists = {name: v for name, v in row.items() if isinstance(v, list | str)}
    items, column = _items(row), _first_column([lists], NUMBERS)
    if items is None:
        raise Misfit("no list of answers")
    if column is None:
        raise Misfit("neither ranks nor scores")
    values = listed(row[column])
    if not isinstance(values, list):
        raise Misfit(f"{column!r} is {kind_of(values)}, expected a list of numbers")
    return _ranking(row, items, column, values)


################
# One answer a row
################


def by_prompt(rows: list[dict]) -> Iterator[tuple[list[int], dict | Misfit]]:
    """Rows of one prompt, wherever they stand, joined: (their indices, one row)."""
    text, column = _first_column(rows, ONE_ANSWER), _first_column(rows, NUMBERS)
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        try:
            prompt, _ = prompt_of(row)
            if not prompt:
                raise Misfit("no prompt")
            if row.get(text) is None:
                raise Misfit(f"{text!r} is missing")
            _number(row.get(column), column, 1)
        except UserError as error:
            yield [i], Misfit(str(error))
        else:
            groups.setdefault(json.dumps(prompt, sort_keys=True), []).append(i)
    for members in groups.values():
        if len(members) < 2:
            yield members, Misfit("the only answer to its prompt; a ranking needs two")
            continue
        joined = {**rows[members[0]], "completions": [rows[i][text] for i in members]}
        joined[column] = [rows[i][column] for i in members]
        yield members, joined
