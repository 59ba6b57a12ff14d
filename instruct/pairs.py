"""Two answers to one prompt, in whatever shape -> the turns before them and their two texts.

An answer is a text, one message, the assistant's last turn, or a whole conversation (messages, or
text with `Human:` and `Assistant:` before each turn). The turns that two conversations share are
their prompt. Characters that two texts share are not: they end inside words.
"""

from collections.abc import Mapping
from typing import Any

from instruct.conversations import ABOUT_COLUMNS, marked_turns, messages_of, with_input
from instruct.errors import UserError
from instruct.rows.row_checks import kind_of
from instruct.tokens import RENDERED, answer_text, for_template

# What holds the prompt, the likeliest first; `instruction` with Alpaca's `input` behind it.
PROMPT_COLUMNS = (
    "prompt",
    "instruction",
    "question",
    "query",
    "input",
    "inputs",
    "history",
    "context",
    "trajectory",
    "messages",
    "conversations",
    "conversation",
)
SYSTEM_COLUMNS = ("system", "system_prompt")
# All columns that `prompt_of` may read.
READ_FOR_PROMPT = (*PROMPT_COLUMNS, *SYSTEM_COLUMNS)


def prompt_of(row: Mapping[str, Any]) -> tuple[list[dict], tuple[str, ...]]:
    """(messages, the columns they come from); no message and no column where there is no prompt.

    Raises:
        UserError: a column of that name holds something else.
    """
    column = next((name for name in PROMPT_COLUMNS if row.get(name) not in (None, "", [])), None)
    if column is None:
        return [], ()
    used, value = [column], row[column]
    # Alpaca: what the instruction is about
    if isinstance(value, str) and (whole := with_input(row, column)) != value:
        used, value = [column, *(name for name in ABOUT_COLUMNS if name in row)], whole
    # OpenAI's preference files: {"messages": […], "tools": […]}
    if isinstance(value, dict) and "messages" in value:
        value = value["messages"]
    try:
        messages = turns_of(value, "user")
    except UserError as error:
        raise UserError(f"{column!r}: {error}") from error
    if column != "history" and (earlier := _earlier_turns(row.get("history"))):
        used, messages = ["history", *used], [*earlier, *messages]
    system = next((name for name in SYSTEM_COLUMNS if row.get(name)), None)
    if system and messages[0]["role"] != "system":
        if not isinstance(row[system], str):
            raise UserError(f"{system!r} is {kind_of(row[system])}, expected text")
        used, messages = [system, *used], [{"role": "system", "content": row[system]}, *messages]
    return messages, tuple(used)


def _earlier_turns(history: Any) -> list[dict]:
    """LLaMA-Factory's Alpaca: what was asked and answered before, in pairs of texts."""
    if not isinstance(history, list) or not all(isinstance(p, list) for p in history):
        return []
    texts = [text for pair in history for text in pair]
    return turns_of(texts, "user") if texts and len(texts) == 2 * len(history) else []


def turns_of(value: Any, speaker: str) -> list[dict]:
    """Messages, with what a template renders of each; a text without markers is by `speaker`."""
    marked = marked_turns(value) if isinstance(value, str) else None
    if marked is not None:
        messages = marked
    elif isinstance(value, str) and speaker == "assistant":
        messages = [{"role": speaker, "content": value}]
    else:
        messages = messages_of(value)
    rendered = map(for_template, messages)
    return [{key: m[key] for key in RENDERED if key in m} for m in rendered]


def pair_of(
    row: Mapping[str, Any], names: tuple[str, str] = ("chosen", "rejected")
) -> tuple[list[dict], list[str], tuple[str, ...]]:
    """(the turns before both answers, their texts, the columns that the prompt was read from).

    Raises:
        UserError: see `prompt_of` and `answers_of`.
    """
    prompt, used = prompt_of(row)
    turns, texts = answers_of(prompt, {name: row[name] for name in names})
    # the blank behind `Assistant:` is no part of the answer
    marked = (isinstance(row[name], str) and marked_turns(row[name]) for name in used)
    return turns, [text.strip() for text in texts] if any(marked) else texts, used


def answers_of(prompt: list[dict], answers: Mapping[str, Any]) -> tuple[list[dict], list[str]]:
    """(the turns before the answers, their texts), of two or more answers by their names.

    Raises:
        UserError: conversations that part before their last turn or are not about `prompt`, no
            prompt at all, an answer that is no text.
    """
    sides = {}
    for name, value in answers.items():
        # null is no answer; "" is an empty one
        if not isinstance(value, str | list | dict) or value in ([], {}):
            raise UserError(f"{name!r} is {'empty' if value in ([], {}) else kind_of(value)}")
        try:
            sides[name] = turns_of(value, "assistant")
        except UserError as error:
            raise UserError(f"{name!r}: {error}") from error
    names = list(sides)
    shared = _shared(names, list(sides.values()))
    texts = []
    for name, turns in sides.items():
        try:
            texts.append(answer_text(turns[len(shared) :]))
        except UserError as error:
            raise UserError(f"{name!r}: {error}") from error
    turns = _joined(prompt, shared, names)
    if not turns:
        raise UserError(
            f"no prompt: no column {', '.join(PROMPT_COLUMNS[:3])} …, and no turns that "
            f"{' and '.join(map(repr, names))} share; name its column by --columns prompt=NAME"
        )
    return turns, texts


def _shared(names: list[str], sides: list[list[dict]]) -> list[dict]:
    """The turns that all sides begin with, each but its last."""
    most = min(map(len, sides)) - 1
    same = next((i for i in range(most) if any(side[i] != sides[0][i] for side in sides[1:])), most)
    for name, side in zip(names, sides, strict=True):
        if len(side) > same + 1:
            raise UserError(
                f"{' and '.join(map(repr, names))} part at turn {same + 1}, before the last "
                f"of the {len(side)} turns of {name!r}; only the last turn may differ"
            )
        if side[-1]["role"] != "assistant":
            raise UserError(f"{name!r} ends in a message of role {side[-1]['role']!r}")
    return sides[0][:same]


def _joined(prompt: list[dict], shared: list[dict], names: list[str]) -> list[dict]:
    """The prompt's column and the turns that the answers share, as one conversation."""
    if not shared or not prompt:
        return shared or prompt
    given, found = list(map(_said, prompt)), list(map(_said, shared))
    width = len(given)
    # the column holds some of the turns (often the first, as text), or more of them (a system's)
    if any(found[i : i + width] == given for i in range(len(found) - width + 1)):
        return shared
    if given[-len(found) :] == found:
        return prompt
    # a system message stands in one of the two, and the other holds more turns
    if given[0][0] == "system" and found[: width - 1] == given[1:]:
        return [prompt[0], *shared]
    # it ends where the shared turns begin
    if prompt[-1]["role"] == "assistant" and shared[0]["role"] == "user":
        return [*prompt, *shared]
    raise UserError(f"the prompt's column is not among the turns of {names[0]!r}")


def _said(message: dict) -> tuple[str, str]:
    # some tools strip one of the two
    return message["role"], (message.get("content") or "").strip()
