"""Our own rankings and samples, and pairs of a chosen and a rejected answer -> our columns."""

import functools
from collections.abc import Callable
from typing import Any

from data_prep.formats.misfit import Misfit
from instruct.errors import UserError
from instruct.pairs import READ_FOR_PROMPT, pair_of, prompt_of
from instruct.ranking import answers_in, asked_of, listed, ranked, ranking_of

# What others call the two, the better one first.
PAIR_COLUMNS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("preferred_output", "non_preferred_output"),  # OpenAI's
    ("preferred", "dispreferred"),
    ("accepted", "rejected"),
    ("response_j", "response_k"),  # Stack Exchange, paired
)
READ_OF_PAIRS = (*READ_FOR_PROMPT, *dict.fromkeys(name for pair in PAIR_COLUMNS for name in pair))


def misfits(convert: Callable[[dict], Any]) -> Callable[[dict], Any]:
    """What a row does wrong, told as `Misfit`."""

    @functools.wraps(convert)
    def converted(row: dict) -> Any:
        try:
            return convert(row)
        except UserError as error:
            raise error if isinstance(error, Misfit) else Misfit(str(error)) from error

    return converted


@misfits
def rankings(row: dict) -> dict:
    """A ranking of ours, checked."""
    return ranking_of(row)


@misfits
def samples(row: dict) -> dict:
    """K outputs to one prompt, as `data_prep.sample` writes them."""
    labels = row.get("labels")
    if isinstance(labels, list) and any(isinstance(label, bool) for label in labels):
        raise Misfit("its `completions` are the steps of one answer, each with one of `labels`")
    return {
        "prompt": asked_of(row.get("prompt")),
        "completions": answers_in(row.get("completions")),
    }


def pair_columns(columns: set[str]) -> tuple[str, str] | None:
    """Which two columns hold the better and the worse answer."""
    return next((pair for pair in PAIR_COLUMNS if columns.issuperset(pair)), None)


def has_pair(columns: set[str], first_rows: list[dict]) -> bool:
    return pair_columns(columns) is not None


def has_hh_pair(columns: set[str], first_rows: list[dict]) -> bool:
    """Whole dialogues as text, as Anthropic's HH-RLHF has them."""
    texts = [row["chosen"] for row in first_rows if isinstance(row.get("chosen"), str)]
    return columns.issuperset(("chosen", "rejected")) and any("\n\nHuman:" in t for t in texts)


def has_conversation_pair(columns: set[str], first_rows: list[dict]) -> bool:
    """Whole conversations as messages, as UltraFeedback binarised has them."""
    pair = pair_columns(columns)
    values = [row.get(pair[0]) for row in first_rows] if pair else []
    return any(isinstance(value, list) and len(value) > 1 for value in values)


def has_answer_lists(columns: set[str], first_rows: list[dict]) -> bool:
    """Lists of right and of wrong answers, as RewardBench 2 has them.

    Two conversations as lists of texts share the first, which is what was asked.
    """
    if not columns.issuperset(("prompt", "chosen", "rejected")):
        return False
    pairs = [(listed(row.get("chosen")), listed(row.get("rejected"))) for row in first_rows]
    lists = [pair for pair in pairs if all(map(_is_texts, pair))]
    return bool(lists) and all(chosen[0] != rejected[0] for chosen, rejected in lists)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(t, str) for t in value)


@misfits
def answer_lists(row: dict) -> dict:
    """Any right answer is better than any wrong one; those of one list are tied."""
    prompt, _ = prompt_of(row)
    right, wrong = listed(row.get("chosen")), listed(row.get("rejected"))
    for name, texts in (("chosen", right), ("rejected", wrong)):
        if not _is_texts(texts):
            raise Misfit(f"{name!r} is no list of texts")
    return ranked(prompt, [*right, *wrong], [1] * len(right) + [2] * len(wrong))


@misfits
def pairs(row: dict) -> dict:
    """A better and a worse answer, in any shape of `instruct/pairs.py`."""
    there = {name for name, value in row.items() if value is not None}
    pair = pair_columns(there)
    if pair is None:
        known = (p for p in PAIR_COLUMNS if not set(p).isdisjoint(row))
        missing = next(known, PAIR_COLUMNS[0])
        raise Misfit(f"no {' and no '.join(repr(n) for n in missing if n not in there)}")
    prompt, texts, _ = pair_of(row, pair)
    return ranked(prompt, texts, [1, 2])
