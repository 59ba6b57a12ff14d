"""What an answer of a labeler is. Every form is checked here: a browser may send anything."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_prep.labeling.questions import DEFAULT_QUESTIONS, QUALITIES
from instruct.errors import UserError
from instruct.plain_text import one_line
from instruct.rows.row_checks import fault_of, is_blank, kind_of

KINDS = ("rankings", "judgements", "demonstrations")
FORMS = ("plain", "few_shot", "user_based")  # kinds of prompts that labelers write (section 3.2)
LONGEST = 2**20  # characters of one text; more is no text that a person wrote
LONGEST_REASON = 2000
LONGEST_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class RankAnswer:
    """Outputs, or models' answers, in order of preference: better, worse or equal is 1 2, 2 1, 1 1.

    All three lists have one entry an output, as the row has.

    Attributes:
        ranks: 1 is the best, equal is a tie, without gaps.
        quality: 1 to 7; None where it was not asked.
        flags: keys of the questions that were answered with yes.
    """

    ranks: list[int]
    quality: list[int | None]
    flags: list[list[str]]


@dataclass(frozen=True)
class WriteAnswer:
    """A demonstration (section 3.2).

    Attributes:
        prompt: the item's own messages, or the text (or messages) that the labeler wrote.
        request_form: of a prompt of the labeler's own.
        use_case: what a user-based prompt is for.
    """

    prompt: str | list[dict]
    completion: str
    request_form: str
    use_case: str | None = None


def check(
    kind: str,
    row: Mapping[str, Any],
    answer: Any,
    questions: Sequence[str] = DEFAULT_QUESTIONS,
    ranking_only: bool = False,
) -> dict:
    """An answer to an item's row as it is stored.

    Args:
        questions: keys of those that are asked.
        ranking_only: neither quality nor questions are asked.

    Raises:
        UserError: it is none, in a sentence about its first fault.
    """
    if not isinstance(answer, Mapping):
        raise UserError(f"an answer is an object, not {kind_of(answer)}")
    if kind == "demonstrations":
        return asdict(_written(answer, row.get("prompt")))
    known = [] if ranking_only else list(questions)
    return asdict(_ranked(answer, len(row["completions"]), known, ranking_only))


def check_reason(reason: Any) -> str:
    """Why an item is left out.

    Raises:
        UserError: no text, or a very long one.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise UserError("give a reason for leaving an item out")
    if len(reason) > LONGEST_REASON:
        raise UserError(f"a reason has at most {LONGEST_REASON} characters")
    _check_characters(reason, "the reason")
    return reason.strip()


def check_seconds(seconds: Any) -> float:
    """How long an item took.

    Raises:
        UserError: no such number.
    """
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or not 0 <= seconds <= LONGEST_SECONDS:
        raise UserError(f"an item takes from 0 to {LONGEST_SECONDS} seconds")
    return round(float(seconds), 1)


################
# Ranks, quality and flags
################


def _ranked(answer: Mapping, count: int, known: list[str], ranking_only: bool) -> RankAnswer:
    _check_keys(answer, ("ranks", "quality", "flags"))
    ranks = _one_each(answer, "ranks", count)
    whole = all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks)
    if not whole or set(ranks) != set(range(1, len(set(ranks)) + 1)):
        raise UserError(
            f"ranks are whole numbers from 1 (best) without a gap, equal for a tie; "
            f"found {one_line(str(ranks), 200)}"
        )
    # what was not asked is not answered either
    quality = _one_each(answer, "quality", count, [None] * count)
    for value in quality:
        _check_quality(value, ranking_only)
    flags = _one_each(answer, "flags", count, [[] for _ in range(count)])
    return RankAnswer(ranks, quality, [_flags(given, known) for given in flags])


def _one_each(answer: Mapping, key: str, count: int, default: list | None = None) -> list:
    values = answer.get(key)
    if values is None and default is not None:
        return default
    if not isinstance(values, list) or len(values) != count:
        found = len(values) if isinstance(values, list) else kind_of(values)
        raise UserError(f"{key} must be a list of {count}, one for each output; found {found}")
    return values


def _check_quality(value: Any, ranking_only: bool) -> None:
    if value is None:
        return
    if ranking_only:
        raise UserError("quality is not asked here (--ranking_only)")
    # True is 1 to Python, and 1.0 is in the range
    if not isinstance(value, int) or isinstance(value, bool) or value not in QUALITIES:
        raise UserError(
            f"quality is a whole number from 1 to 7, or null; found {one_line(str(value), 100)}"
        )


def _flags(given: Any, known: list[str]) -> list[str]:
    if not isinstance(given, list):
        raise UserError(f"flags of an output are a list of questions, not {kind_of(given)}")
    for key in given:
        if not isinstance(key, str) or key not in known:
            raise UserError(f"flags: {one_line(str(key), 100)!r} is no question that is asked here")
    if len(set(given)) < len(given):
        raise UserError("flags: a question is named twice")
    # in the order of the questions, however they were clicked
    return [key for key in known if key in given]


################
# What people write
################


def _written(answer: Mapping, asked: list[dict]) -> WriteAnswer:
    _check_keys(answer, ("prompt", "completion", "request_form", "use_case"))
    prompt, completion, form = (answer.get(k) for k in ("prompt", "completion", "request_form"))
    if fault := fault_of("prompt", prompt):
        raise UserError(f"the prompt {fault}")
    # the item's own has been looked at when it was read
    is_own = prompt != asked
    if isinstance(prompt, list) and is_own:
        _check_turns(prompt)
    if not isinstance(completion, str) or is_blank(completion):
        raise UserError("the answer is empty")
    if form not in FORMS:
        raise UserError(f"a prompt is {', '.join(FORMS)}; found {one_line(str(form), 100)}")
    use_case = answer.get("use_case")
    if use_case is not None and (not isinstance(use_case, str) or not use_case.strip()):
        raise UserError("the use case is a text")
    texts = {"prompt": prompt if is_own else "", "answer": completion, "use case": use_case or ""}
    for name, text in texts.items():
        _check_text(text, f"the {name}")
    return WriteAnswer(prompt, completion, form, use_case and use_case.strip())


def _check_turns(messages: list[dict]) -> None:
    for message in messages:
        _check_keys(message, ("role", "content"))
    roles = [message["role"] for message in messages]
    unknown = [role for role in roles if role not in ("system", "user", "assistant", "tool")]
    if unknown:
        raise UserError(f"the prompt has a message of {one_line(unknown[0], 100)!r}")
    if roles[-1] not in ("user", "tool"):
        raise UserError("the prompt must end with what the user says")


def _check_text(text: str | list[dict], name: str) -> None:
    whole = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    if len(whole) > LONGEST:
        raise UserError(f"{name} has {len(whole):,} characters; at most {LONGEST:,} are taken")
    _check_characters(whole, name)


def _check_characters(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name} holds half a character (a lone surrogate); type it anew") from None


def _check_keys(answer: Mapping, known: Sequence[str]) -> None:
    unknown = [key for key in answer if key not in known]
    if unknown:
        raise UserError(f"there is no {one_line(str(unknown[0]), 100)!r} in an answer")
