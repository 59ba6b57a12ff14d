"""What to ask, in whatever shape -> `prompt` [messages].

Of a conversation it is all up to the user's last turn; of a list of texts (MT-bench, Kaggle's
arena), the user's turns without what was answered, it is the first.
"""

from collections.abc import Callable
from typing import Any

from data_prep.formats.misfit import Misfit
from instruct.conversations import (
    CONVERSATION_COLUMNS,
    QUESTION_COLUMNS,
    first_of,
    listed_turns,
    marked_turns,
    messages_of,
)
from instruct.errors import UserError
from instruct.pairs import READ_FOR_PROMPT, SYSTEM_COLUMNS, prompt_of
from instruct.rows.row_checks import fault_of
from instruct.tokens import MORE_THAN_WORDS, RENDERED

READ_FOR_QUESTION = (*READ_FOR_PROMPT, "text")
READ_FOR_CONVERSATION = (*CONVERSATION_COLUMNS, *SYSTEM_COLUMNS)
# Keys of a message that say something to a template, or to who refuses them.
KEPT = (*RENDERED, *MORE_THAN_WORDS)


################
# Which files
################


def conversation_column(columns: set[str]) -> str | None:
    """Which column holds conversations."""
    return first_of(CONVERSATION_COLUMNS, columns)


def has_conversations(columns: set[str], first_rows: list[dict]) -> bool:
    return conversation_column(columns) is not None


def has_question(columns: set[str], first_rows: list[dict]) -> bool:
    return not columns.isdisjoint(QUESTION_COLUMNS)


def has_marked_prompt(columns: set[str], first_rows: list[dict]) -> bool:
    """Texts with `Human:` before what the user says, as Anthropic's HH-RLHF has them."""
    texts = [row["prompt"] for row in first_rows if isinstance(row.get("prompt"), str)]
    return any(marked_turns(text) for text in texts)


def has_listed_prompt(columns: set[str], first_rows: list[dict]) -> bool:
    """Texts that are JSON lists, all of them: one alone may be what somebody asked."""
    texts = [row["prompt"] for row in first_rows if isinstance(row.get("prompt"), str)]
    return bool(texts) and all(map(listed_turns, texts))


################
# Their rows
################


def our_prompt(row: dict) -> list[dict]:
    """The column `prompt` as messages: a text is what the user says, whatever stands in it.

    Raises:
        Misfit: it is blank, or no conversation.
    """
    value = row.get("prompt")
    is_text = isinstance(value, str)
    # our rows hold texts; of other people's (`messages`, …) the parts are joined
    if isinstance(value, list) and any(isinstance(_content(m), list) for m in value):
        raise Misfit("'prompt' has a message whose content is a list of parts, expected text")
    try:
        messages = [{"role": "user", "content": value}] if is_text else messages_of(value)
    except UserError as error:
        raise Misfit(f"'prompt' {error}") from error
    if fault := fault_of("prompt", messages):
        raise Misfit(f"'prompt' {fault}")
    return messages


def _content(message: Any) -> Any:
    return message.get("content") if isinstance(message, dict) else None


def prompt(row: dict) -> dict:
    """A row of ours."""
    return {"prompt": our_prompt(row)}


def question(row: dict) -> dict:
    """A column that holds what is asked, with what Alpaca's instruction is about."""
    # `text` is no prompt's column elsewhere: of a .txt file it is
    messages, _ = prompt_of(row)
    if not messages and isinstance(row.get("text"), str):
        messages = messages_in(row["text"], "text")
    return {"prompt": asked(messages)}


def first_message(row: dict) -> dict:
    """A message a row (OpenAssistant): the user's first of a thread."""
    if row.get("parent_id") is not None:
        raise Misfit("not the first message of a thread")
    return {"prompt": asked(messages_in([{k: row.get(k) for k in ("role", "text")}], "message"))}


def listed_prompt(row: dict) -> dict:
    """A prompt that is a JSON list as text: messages, or the user's turns."""
    return {"prompt": asked(first_of_texts(row.get("prompt"), "prompt"))}


def conversation(row: dict) -> dict:
    """Of a conversation, all up to the user's last turn."""
    return {"prompt": asked(conversation_of(row, first_of_texts))}


def conversation_of(row: dict, read: Callable[[Any, str], list[dict]]) -> list[dict]:
    """The conversation of a row, with the `system` column before it.

    Args:
        read: (value, column) -> messages.

    Raises:
        Misfit: there is none.
    """
    column = conversation_column({name for name, value in row.items() if value is not None})
    if column is None:
        raise Misfit(f"no {conversation_column(set(row))!r}")
    messages = read(row[column], column)
    # a template's rendering, say: one would ask or learn the whole of it
    if isinstance(row[column], str) and messages == [{"role": "user", "content": row[column]}]:
        raise Misfit(f"{column!r} is text, expected a list of messages")
    system = next((row[name] for name in SYSTEM_COLUMNS if row.get(name)), None)
    if isinstance(system, str) and messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    return messages


def messages_in(value: Any, column: str) -> list[dict]:
    """A value as messages, with what templates render of them.

    Raises:
        Misfit: names the column.
    """
    try:
        messages = messages_of(value)
    except UserError as error:
        raise Misfit(f"{column!r} {error}") from error
    return [{key: m[key] for key in dict.fromkeys(KEPT) if key in m} for m in messages]


def first_of_texts(value: Any, column: str) -> list[dict]:
    """As `messages_in`; of a list of texts the first, since all are the user's."""
    messages = messages_in(value, column)
    listed = listed_turns(value) if isinstance(value, str) else value
    is_texts = isinstance(listed, list) and all(isinstance(turn, str) for turn in listed)
    return messages[:1] if is_texts else messages


def asked(messages: list[dict]) -> list[dict]:
    """Messages up to the user's last turn.

    Raises:
        Misfit: the user says nothing.
    """
    turns = [i for i, message in enumerate(messages) if message["role"] == "user"]
    if not turns:
        raise Misfit("no turn of the user's" if messages else "no prompt")
    prompt = messages[: turns[-1] + 1]
    if fault := fault_of("prompt", prompt):
        raise Misfit(f"the prompt {fault}")
    return prompt
