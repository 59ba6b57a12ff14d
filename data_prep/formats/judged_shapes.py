"""Two answers and who won -> rankings of two: arenas, PandaLM, AlpacaEval, SHP, HelpSteer's pairs.

A verdict is a pair of ranks: (1, 2) where the first answer won, (2, 1) where the second, (1, 1) for
a tie.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from data_prep.formats.misfit import Misfit
from data_prep.formats.preference_shapes import misfits
from instruct.pairs import READ_FOR_PROMPT, answers_of, prompt_of
from instruct.ranking import listed, ranked

FIRST, SECOND, TIE = (1, 2), (2, 1), (1, 1)
# What files call their two answers.
SIDES = (
    ("conversation_a", "conversation_b"),
    ("response_a", "response_b"),
    ("output_a", "output_b"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("response_A", "response_B"),
    ("output_1", "output_2"),
    ("response_1", "response_2"),
    ("answer_1", "answer_2"),
    ("response1", "response2"),
    ("output1", "output2"),
    ("response_0", "response_1"),
    ("human_ref_A", "human_ref_B"),
    ("answer_0", "answer_1"),
)
TIES = ("tie", "draw", "equal", "tie (bothbad)", "both_bad", "bothbad", "both", "neither")
# Columns that say who won, by a name ("model_a", "A", "tie") or a number.
WINNERS = ("winner", "preference", "better", "choice", "preferred", "verdict")
ANNOTATORS = ("annotator1", "annotator2", "annotator3")  # PandaLM's test set: 0 tie, 1, 2
STRENGTHS = ("overall_preference", "preference_strength")  # HelpSteer: -3 first … 3 second
BETTER_IDS = ("better_response_id",)  # PKU-SafeRLHF: 0 or 1
WON = ("winner_model_a", "winner_model_b", "winner_tie")  # Kaggle's arena: one of the three is 1
READ_OF_JUDGED = (
    *READ_FOR_PROMPT,
    *dict.fromkeys(name for pair in SIDES for name in pair),
    *WINNERS,
    *ANNOTATORS,
    *STRENGTHS,
    *BETTER_IDS,
    *WON,
    "labels",
    "score_A",
    "score_B",
    "score_0",
    "score_1",
)


def sides_of(columns: set[str]) -> tuple[str, str] | None:
    """Which two columns hold the answers."""
    return next((pair for pair in SIDES if columns.issuperset(pair)), None)


def _sides(row: dict) -> tuple[str, str]:
    """The columns of a row's answers.

    Raises:
        Misfit: it has not both.
    """
    names = sides_of(set(row))
    if names is None:
        one = next((name for pair in SIDES for name in pair if name in row), None)
        raise Misfit("no two answers" + (f", only {one!r}" if one else ""))
    return names


def judged_by(*names: str) -> Callable[[set[str], list[dict]], bool]:
    """Files with two answers and one of these columns."""
    return lambda columns, first_rows: bool(sides_of(columns) and columns & set(names))


def is_arena(columns: set[str], first_rows: list[dict]) -> bool:
    """Chatbot Arena's and MT-bench's: two conversations and a winner."""
    return columns.issuperset(("conversation_a", "conversation_b", "winner"))


def is_alpaca_eval(columns: set[str], first_rows: list[dict]) -> bool:
    return columns.issuperset(("output_1", "output_2", "preference"))


def number(row: dict, column: str) -> float:
    """A number of the row; of text, too, as CSV files hold it.

    Raises:
        Misfit: there is none, or it is not finite.
    """
    value = row.get(column)
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Misfit(f"{column!r} is {'missing' if value in (None, '') else 'no number'}") from None
    if not math.isfinite(found):
        raise Misfit(f"{column!r} is {found}, expected a finite number")
    return found


def by_sign(value: float) -> tuple[int, int]:
    """The first won below 0, the second above."""
    return FIRST if value < 0 else SECOND if value > 0 else TIE


################
# A row of two answers
################


def judged(row: dict, ranks: Sequence[int], labeler: str | None = None) -> dict:
    """The ranking of a row's two answers; `labeler` is the column (or name) of who judged."""
    there = {name for name, value in row.items() if value is not None}
    names = sides_of(there) or _sides(row)
    prompt, used = prompt_of(row)
    answers = {name: listed(row.get(name)) for name in names}
    if (
        used
        and isinstance(row[used[-1]], str)
        and any(isinstance(a, list) for a in answers.values())
    ):
        prompt, answers = _turn_by_turn(row[used[-1]], prompt, answers)
    answers = _judged_turns(row, answers)
    prompt, texts = answers_of(prompt, answers)
    found = ranked(prompt, texts, ranks)
    return found if labeler is None else {**found, "labeler": labeler}


def _turn_by_turn(asked: str, prompt: list[dict], answers: dict) -> tuple[list[dict], dict]:
    """Kaggle's arena: lists of what was asked and of what each model answered."""
    questions = listed(asked)
    if not isinstance(questions, list) or not all(isinstance(q, str) for q in questions):
        return prompt, answers
    conversations = {}
    for name, texts in answers.items():
        texts = [texts] if isinstance(texts, str) else texts
        listed_all = isinstance(texts, list) and len(texts) == len(questions)
        if not listed_all or not all(isinstance(t, str) for t in texts):
            raise Misfit(f"{name!r} does not hold one text for each of {len(questions)} prompts")
        conversations[name] = [
            {"role": role, "content": text}
            for pair in zip(questions, texts, strict=True)
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    return [m for m in prompt if m["role"] == "system"], conversations


def _judged_turns(row: dict, answers: dict) -> dict:
    """MT-bench judges the first turn of two and the second, on rows that hold both."""
    turn = row.get("turn")
    # 1.0 in Parquet files of pandas; infinity is none
    if isinstance(turn, bool) or not isinstance(turn, int | float) or not 1 <= turn < 1e6:
        return answers
    # question and answer
    return {
        name: value[: 2 * int(turn)] if isinstance(value, list) else value
        for name, value in answers.items()
    }


################
# Who won
################


@misfits
def by_winner(row: dict) -> dict:
    """A winner's name or number: arenas, MT-bench's judgments, AlpacaEval."""
    column = next((name for name in WINNERS if row.get(name) is not None), None)
    if column is None:
        missing = next((name for name in WINNERS if name in row), WINNERS[0])
        raise Misfit(f"{missing!r} is missing, so nobody won")
    names = _sides(row)
    judge = next((row[n] for n in ("judge", "annotator", "labeler") if _is_name(row.get(n))), None)
    return judged(row, _winner(row, column, names), judge)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _winner(row: dict, column: str, names: tuple[str, str]) -> tuple[int, int]:
    value = row[column]
    said = str(value).strip().lower()
    called = [_called(name) for name in names]
    # names before numbers: "1" is the second of response_0 and response_1
    if isinstance(value, str) and said in TIES:
        return TIE
    if isinstance(value, str) and any(said in c for c in called):
        return FIRST if said in called[0] else SECOND
    last = names[0][-1]
    if last not in "012" or isinstance(value, bool):
        raise Misfit(f"{column!r} is {said[:60]!r}, expected one of {names[0]}, {names[1]}, tie")
    place = number(row, column) - int(last)
    # AlpacaEval: 1 or 2, between them how sure; 0 is a tie
    if last == "1" and place == -1:
        return TIE
    if not 0 <= place <= 1:
        raise Misfit(f"{column!r} is {said[:60]}, expected {last} to {int(last) + 1}")
    return by_sign(place - 0.5)


def _called(name: str) -> set[str]:
    """What a file may call the answer of a column: model_a, a, response_a …"""
    letter = name[-1].lower()
    others = ("model", "response", "output", "answer", "assistant", "conversation", "completion")
    return {name.lower(), letter, *(f"{other}_{letter}" for other in others)}


@misfits
def by_flags(row: dict) -> dict:
    """Kaggle's arena: three columns, of which one is 1."""
    flags = [number(row, name) for name in WON if name in row or name != WON[-1]]
    if sorted(flags) != [0] * (len(flags) - 1) + [1]:
        raise Misfit(f"of {', '.join(WON)} one must be 1 and the others 0")
    return judged(row, (FIRST, SECOND, TIE)[flags.index(1)])


@misfits
def by_annotators(row: dict) -> list[dict]:
    """PandaLM's test set: three people, so three rankings."""
    verdicts = {1: FIRST, 2: SECOND, 0: TIE}
    found = []
    for name in ANNOTATORS:
        if name in row:
            said = number(row, name)
            if said not in verdicts:
                raise Misfit(f"{name!r} is {said:g}, expected 0 (tie), 1 or 2")
            found.append(judged(row, verdicts[said], name))
    if not found:
        raise Misfit(f"no {ANNOTATORS[0]!r}")
    return found


@misfits
def by_strength(row: dict) -> dict:
    """HelpSteer's preferences: below 0 the first is better, above the second."""
    column = next((name for name in STRENGTHS if name in row), STRENGTHS[0])
    return judged(row, by_sign(number(row, column)))


@misfits
def by_better_id(row: dict) -> dict:
    """PKU-SafeRLHF: the number of the better one, from 0."""
    said = number(row, BETTER_IDS[0])
    if said not in (0, 1):
        raise Misfit(f"{BETTER_IDS[0]!r} is {said:g}, expected 0 or 1")
    return judged(row, (FIRST, SECOND)[int(said)])


@misfits
def by_label(row: dict) -> dict:
    """SHP: 1 where A has the better score, else 0; the scores where there is no label."""
    if row.get("labels") is None:
        return judged(row, by_sign(number(row, "score_B") - number(row, "score_A")))
    said = number(row, "labels")
    if said not in (0, 1):
        raise Misfit(f"'labels' is {said:g}, expected 1 (A is better) or 0")
    return judged(row, FIRST if said else SECOND)


@misfits
def by_two_scores(row: dict) -> dict:
    """WebGPT's comparisons: a score for each answer, the higher one is better."""
    asked = row.get("question")
    text = asked.get("full_text") if isinstance(asked, dict) else asked
    ranks = by_sign(number(row, "score_1") - number(row, "score_0"))
    return judged({**row, "question": text}, ranks)
