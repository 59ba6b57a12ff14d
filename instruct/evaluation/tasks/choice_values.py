"""What a row of multiple choice asks, and the values of its columns, checked.

Nothing is guessed: a value that is not whole is refused by file and row.
"""

import json
import re
from typing import Any, NamedTuple

from instruct.errors import UserError
from instruct.rows.row_checks import kind_of

Place = str  # `FILE, line 3`, in a message


class Item(NamedTuple):
    """What a row asks.

    Attributes:
        place: file and row.
        prompt: as plain text; "" where a choice is the whole text.
        choices: all that may follow the prompt, each once.
        labels: {question: 1 of what is true, 0 of what is not, None of what it does not ask about,
            one each choice}: `mc1` and `mc2` of TruthfulQA, `answer` of others.
        delimiter: between the prompt and a choice, in plain text.
        system: what stands before every prompt of its file: an instruction.
        turns: the prompt as messages, where it is a conversation.
        group: what pairs are counted by: the kind of bias.
    """

    place: Place
    prompt: str
    choices: list[str]
    labels: dict[str, list[int | None]]
    delimiter: str = " "
    system: str = ""
    turns: list[dict] | None = None
    group: str | None = None


################
# Values of a row
################


# what cells of a CSV file hold as JSON
_NESTED = frozenset(
    "mc1_targets mc2_targets choices endings target target_scores targets multiple_choice_targets "
    "multiple_choice_scores".split()
)


def filled(row: dict, name: str, place: Place) -> Any:
    """What a row has in a column.

    Raises:
        UserError: nothing.
    """
    if row.get(name) is None:
        raise UserError(f"{place}: no {name!r}")
    value = row[name]
    if name in _NESTED and isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise UserError(f"{place}: {name!r} is no JSON ({error})") from error
    return value


def text_of(value: Any, what: str, place: Place) -> str:
    """A text with a letter in it; `what` is its name in a message."""
    if not isinstance(value, str):
        raise UserError(f"{place}: {what} is {kind_of(value)}, expected text")
    if not value.strip():
        raise UserError(f"{place}: {what} is empty")
    return value


def word_of(row: dict, name: str, place: Place) -> str:
    """The text of a column."""
    return text_of(filled(row, name, place), repr(name), place)


def choices_of(values: Any, what: str, place: Place) -> list[str]:
    """Two texts or more; equal ones are for `each_once`."""
    if not isinstance(values, list | tuple):
        raise UserError(f"{place}: {what} is {kind_of(values)}, expected a list of texts")
    texts = [text_of(value, f"{what}, number {n},", place) for n, value in enumerate(values, 1)]
    if len(texts) < 2:
        raise UserError(f"{place}: {what} holds {len(texts)} choices; two or more are needed")
    return texts


def each_once(
    choices: list[str], labels: list[int], what: str, place: Place
) -> tuple[list[str], list[int]]:
    """Choices and their labels, of equal ones the first: they are one answer, as likely as it is.

    Which choice is the likeliest, and whether it is right, stays the same; in MC2 the probability
    of an answer counts once, however often it is listed.

    Raises:
        UserError: equal ones of two labels, which no model can tell apart.
    """
    label_of: dict[str, int] = {}
    for n, (text, label) in enumerate(zip(choices, labels, strict=True), 1):
        if label_of.setdefault(text, label) != label:
            raise UserError(
                f"{place}: {what}, numbers {choices.index(text) + 1} and {n} are equal "
                f"({text[:60]!r}) and count as different answers; leave one of them, or the row, "
                "out"
            )
    return list(label_of), list(label_of.values())


def marks_of(values: Any, what: str, count: int, place: Place) -> list[int]:
    """0 or 1 for each of `count` choices: at least one of each."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise UserError(f"{place}: {what} must be a list of {count} labels, one each choice")
    if bad := [value for value in values if value not in (0, 1)]:
        raise UserError(f"{place}: {what} holds {bad[0]!r}; a label is 1 (true) or 0")
    if sum(values) in (0, count):
        none = "no" if not sum(values) else "every"
        raise UserError(f"{place}: {what} says that {none} choice is true")
    return [int(value) for value in values]


def number_of(value: Any) -> int | None:
    """The whole number that a value is, as text too; None where it is none."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        return int(value)
    return None


def index_of(row: dict, name: str, count: int, place: Place) -> int:
    """The number of the right one of `count` choices, from 0."""
    value = filled(row, name, place)
    number = number_of(value)
    if number is None or not 0 <= number < count:
        raise UserError(f"{place}: {name!r} is {value!r}; it must be 0 to {count - 1}")
    return number


def only(index: int, count: int) -> list[int]:
    """The labels of `count` choices with one right one."""
    return [int(i == index) for i in range(count)]
