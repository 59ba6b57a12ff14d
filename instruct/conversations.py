"""Every shape of a conversation -> messages with `role` and `content`, as chat templates take them.

ShareGPT's `from` and `value`, others' names of roles, content in parts, one message instead of a
list, turns as a list of texts, JSON as text, and text with `Human:` and `Assistant:` before each
turn (Anthropic's HH-RLHF; others' markers: `MARKERS`).
"""

import json
import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from instruct.errors import UserError
from instruct.rows.row_checks import fault_of, kind_of

# Names of roles in lower case -> those that chat templates know.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
}
# Where a message has its role and its words: OpenAI's name first.
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value", "text")
# What files call a column of conversations, one of what is asked, and what that is about.
CONVERSATION_COLUMNS = (
    "messages", "conversation", "conversations", "dialog", "dialogue", "turns", "chat", "data",
)  # fmt: skip
QUESTION_COLUMNS = ("instruction", "question", "query", "input", "inputs", "text")
ABOUT_COLUMNS = ("input", "context")
# Both turns of a round in one object: Capybara, MOSS.
ROUNDS = (("input", "output"), ("human", "assistant"), ("user", "assistant"))
# A name of a role that may be told: others could be a person's number or address.
TELLABLE = re.compile(r"[A-Za-z][A-Za-z _-]{0,28}[0-9]{0,2}")
BAIZE = re.compile(r"(?:^|\n)\[\|(Human|AI)\|\][ \t]*")
MARKERS = {
    "Human:": re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*"),
    "### Human:": re.compile(r"### (Human|Assistant):[ \t]*"),  # Guanaco
    # with and without the sentence that its texts begin with
    "[|Human|]": BAIZE,
    "The conversation between human and AI assistant.": BAIZE,
}


def messages_of(value: Any) -> list[dict]:
    """Any conversation as messages; text that is none is one message of the user's.

    Other keys of a message stay. A message that calls a tool may have no content.

    Raises:
        UserError: no conversation (to follow the name of what it is), or an unknown role.
    """
    if isinstance(value, str):
        value = listed_turns(value) or marked_turns(value) or [{"role": "user", "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"is {kind_of(value)}, expected text or a list of messages")
    if not value:
        raise UserError("is empty")
    # turns as texts: the user begins
    if all(isinstance(turn, str) for turn in value):
        speakers = ("user", "assistant")
        return [{"role": speakers[i % 2], "content": turn} for i, turn in enumerate(value)]
    turns = [turn for one in value for turn in _turns_of(one)]
    messages = [_named(message, number) for number, message in enumerate(turns, 1)]
    if fault := fault_of("completion", messages):
        raise UserError(fault)
    return [{**m, "role": role_of(m["role"])} for m in messages]


def role_of(name: str) -> str:
    """A role as chat templates call it.

    Raises:
        UserError: names the role.
    """
    role = ROLES.get(name.strip().lower())
    if role is None:
        told = repr(name) if TELLABLE.fullmatch(name) else "that is no word"
        raise UserError(f"has an unknown role {told}; known are {', '.join(ROLES)}")
    return role


def first_of(names: Iterable[str], columns: Container[str]) -> str | None:
    """The first of these names that is a column."""
    return next((name for name in names if name in columns), None)


def with_input(row: Mapping[str, Any], column: str) -> str:
    """What a column asks, with what it is about: Alpaca's `input`, Dolly's `context`."""
    # asked of every row of a log, whose prompts are about nothing else
    if not takes_input(column):
        return row[column]
    about = (row.get(name) for name in ABOUT_COLUMNS if name != column)
    more = next((text for text in about if isinstance(text, str) and text.strip()), None)
    return f"{row[column]}\n\n{more}" if more else row[column]


def takes_input(column: str) -> bool:
    return column in ("instruction", "question")


def content_of(message: dict) -> str:
    """The words of a message: its content, whose parts are joined where it is a list of them.

    Raises:
        UserError: no text, or a part that is none (an image).
    """
    content = message.get("content")
    if isinstance(content, list):
        texts = list(map(_text_of_part, content))
        if None in texts:
            raise UserError("a message has a part that is no text; these recipes train on text")
        return "".join(texts)
    if not isinstance(content, str):
        raise UserError(f"a message of role {message.get('role')!r} has no text as content")
    return content


def marked_turns(text: str) -> list[dict] | None:
    """The turns of a text that begins as one of `MARKERS` says; None of any other text.

    A last `Assistant:` or `[|Human|]` with nothing behind it is where that turn would go, no turn.
    """
    text = text.lstrip()
    marker = next((MARKERS[begins] for begins in MARKERS if text.startswith(begins)), None)
    if marker is None:
        return None
    # what stands before the first marker is nothing
    names, texts = (marker.split(text)[first::2] for first in (1, 2))
    turns = [
        {"role": role_of(name), "content": said.strip()}
        for name, said in zip(names, texts, strict=True)
    ]
    open_ended = bool(turns) and not turns[-1]["content"]
    # all that is there: who asked nothing is told
    return turns[:-1] if open_ended and turns[1:] else turns or None


def _turns_of(value: Any) -> list:
    """A message by itself, or the two of a round."""
    if isinstance(value, dict) and not any(key in value for key in ROLE_KEYS):
        for asked, answered in ROUNDS:
            if isinstance(value.get(asked), str) and isinstance(value.get(answered), str):
                user = {"role": "user", "content": value[asked]}
                return [user, {"role": "assistant", "content": value[answered]}]
    return [value]


def _named(message: Any, number: int) -> Any:
    """A message under OpenAI's keys, its parts of text joined."""
    if not isinstance(message, dict):
        # told by who checks all of them
        return message
    taken, named = set(), {}
    for key, names in (("role", ROLE_KEYS), ("content", CONTENT_KEYS)):
        # filled before empty: Arrow gives a row the keys of all others
        there = sorted((n for n in names if n in message), key=lambda n: message[n] is None)
        if there:
            named[key] = message[there[0]]
            taken.add(there[0])
            taken.update(n for n in there if message[n] is None)
    if isinstance(named.get("content"), list):
        try:
            named["content"] = content_of(named)
        except UserError as error:
            raise UserError(f"has a fault in message {number}: {error}") from error
    return {**named, **{k: v for k, v in message.items() if k not in taken and k not in named}}


def _text_of_part(part: Any) -> str | None:
    """The text of a part, as clients of many kinds write it; None of an image, say."""
    if not isinstance(part, dict):
        return part if isinstance(part, str) else None
    text = part["text"] if part.get("text") is not None else part.get("value")
    # OpenAI's Assistants: {"type": "text", "text": {"value": "…"}}
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else None


def listed_turns(text: str) -> list | None:
    """The JSON list of texts or messages that a text is, as in CSV files; None of other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(value, list) and value
    return value if is_list and all(isinstance(item, str | dict) for item in value) else None
