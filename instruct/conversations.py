"""Every shape of a conversation -> messages, as the OpenAI client names them.

ShareGPT's `from` and `value`, others' names of roles, content in parts, one message instead of a
list, turns as a list of texts, JSON as text, and text with `Human:` and `Assistant:` before each
turn (Anthropic's HH-RLHF).
"""

import json
import re
from typing import Any

from instruct.errors import UserError
from instruct.rows.row_checks import kind_of

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")


def marked_turns(text: str) -> list[dict] | None:
    """The turns of a text that begins with `Human:`; None of any other text.

    `Assistant:` with nothing behind it is where the answer goes, no turn.
    """
    first = MARKER.match(text.lstrip(" \n") if text.lstrip().startswith("Human:") else "")
    if not first:
        return None
    pieces = MARKER.split(text.lstrip())
    names, texts = pieces[1::2], pieces[2::2]
    turns = [
        {"role": ROLES[name.lower()], "content": said.strip()}
        for name, said in zip(names, texts, strict=True)
    ]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def messages_of(value: Any) -> list[dict]:
    """Any conversation as messages; a text is one message of the user's.

    Raises:
        UserError: no conversation, or an unknown role (which it names).
    """
    if isinstance(value, str):
        listed = _as_json(value)
        if listed is None:
            return marked_turns(value) or [{"role": "user", "content": value}]
        value = listed
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"is {kind_of(value)}, expected text or messages")
    if not value:
        raise UserError("is empty")
    # turns as texts: the user begins
    if all(isinstance(turn, str) for turn in value):
        speakers = ("user", "assistant")
        return [{"role": speakers[i % 2], "content": turn} for i, turn in enumerate(value)]
    return [_message(message, number) for number, message in enumerate(value, 1)]


def _message(message: Any, number: int) -> dict:
    if not isinstance(message, dict):
        raise UserError(f"has {kind_of(message)} for message {number}, expected role and content")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        known = ", ".join(ROLES)
        raise UserError(f"has the role {role!r} in message {number}; known are {known}")
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        content = [
            {"text": part.get("text", part.get("value"))} if isinstance(part, dict) else part
            for part in content
        ]
    others = {k: v for k, v in message.items() if k not in ("role", "from", "content", "value")}
    return {"role": ROLES[role.lower()], "content": content, **others}


def _as_json(text: str) -> list | None:
    """A JSON list as text, as CSV files hold them."""
    if not text.lstrip().startswith(("[{", '["')):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
