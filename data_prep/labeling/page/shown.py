"""Rows as a browser shows them: text that acts on nothing, outputs by their place on the page."""

import json

from instruct.conversations import messages_of
from instruct.errors import UserError
from instruct.plain_text import plain


def shown(text: str) -> str:
    """Text in which every character is seen: NUL, direction marks and such as their escapes."""
    return plain(text.replace("\r\n", "\n"))


def messages_shown(prompt) -> list[dict]:
    """A prompt, text or messages, as [{"role", "content"}]; none where there is none."""
    if not prompt:
        return []
    messages = (
        messages_of(prompt)
        if not isinstance(prompt, str)
        else [{"role": "user", "content": prompt}]
    )
    return [{"role": shown(m["role"]), "content": shown(_said_and_called(m))} for m in messages]


def _said_and_called(message: dict) -> str:
    """The words of a message and the tools that it calls; one that calls may have no words."""
    calls = message.get("tool_calls")
    parts = [message.get("content"), calls and json.dumps(calls, indent=1, ensure_ascii=False)]
    return "\n".join(filter(None, parts))


def as_shown(values: list, order: tuple[int, ...]) -> list:
    """Values in the order of the row -> by place on the page."""
    return [values[output] for output in order]


def as_row(values, order: tuple[int, ...], key: str) -> list:
    """Values by place on the page -> in the order of the row.

    Raises:
        UserError: no list with a value for each output.
    """
    if not isinstance(values, list) or len(values) != len(order):
        raise UserError(f"{key}: must be a list of {len(order)}, one for each output")
    by_output = [None] * len(order)
    for value, output in zip(values, order, strict=True):
        by_output[output] = value
    return by_output
