"""What the values of a column must be: `prompt`, `completion`, `completions`, `ranks`, `text`.

Told with file and row before anything is loaded or trained; later each would be another library's
error.
"""

from collections.abc import Iterable
from typing import Any

from instruct.errors import UserError


def kind_of(value) -> str:
    """What a value is, in a user's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    kinds = {str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def is_blank(value: Any) -> bool:
    """Whether a prompt or completion says nothing: null, no message, blanks in the last one."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _calls_a_tool(message: dict) -> bool:
    return message.get("content") is None and bool(message.get("tool_calls"))


def _text_or_messages(value: Any) -> str | None:
    """What is wrong with a text or a list of messages; None where nothing is."""
    if isinstance(value, str):
        return None
    if not isinstance(value, list):
        return f"is {kind_of(value)}, expected text or a list of messages"
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            return f"has {kind_of(message)} for message {number}, expected role and content"
        for key in ("role", "content"):
            found = message.get(key)
            if key == "content" and _calls_a_tool(message):
                continue
            if not isinstance(found, str):
                filled = ", ".join(k for k, v in message.items() if v is not None) or "nothing"
                what = "no" if key not in message else f"{kind_of(found)} for"
                return f"has {what} {key} in message {number} (filled: {filled}), expected text"
    return None


def _prompt(value: Any) -> str | None:
    return _text_or_messages(value) or ("is empty" if is_blank(value) else None)


def _completion(value: Any) -> str | None:
    # an empty text is an answer; no message at all is none
    return _text_or_messages(value) or ("has no message" if value == [] else None)


def _completions(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"is {kind_of(value)}, expected a list of texts"
    faults = ((n, _completion(item)) for n, item in enumerate(value, 1))
    return next((f"number {n} {fault}" for n, fault in faults if fault), None)


def _ranks(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"is {kind_of(value)}, expected a list of whole numbers"
    # 2.0 is a rank (Parquet files of other tools hold floats), True is none; a score in the place
    # of a rank would turn the order around
    good = all(
        isinstance(r, int | float) and not isinstance(r, bool) and r >= 0 and r % 1 == 0
        for r in value
    )
    if good:
        return None
    return f"must be whole numbers from 1 or 0 (best), equal for a tie; found {str(value)[:200]}"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"is {kind_of(value)}, expected text"


CHECKS = {
    "prompt": _prompt,
    "completion": _completion,
    "completions": _completions,
    "ranks": _ranks,
    "text": _text,
}


def fault_of(name: str, value: Any) -> str | None:
    """What is wrong with a value of a column, to follow its name; None where nothing is."""
    return CHECKS[name](value) if name in CHECKS else None


def check_column(name: str, values: Iterable[tuple[str, Any]], blanks: bool = False) -> None:
    """Refuses a value that its column cannot have.

    Args:
        values: (place, value) of every row.
        blanks: whether null and empty values pass, as the caller counts them.

    Raises:
        UserError: names place and column.
    """
    for place, value in values if name in CHECKS else ():
        fault = None if blanks and is_blank(value) else fault_of(name, value)
        if fault:
            raise UserError(f"{place}: {name!r} {fault}")
