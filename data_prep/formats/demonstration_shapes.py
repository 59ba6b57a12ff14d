"""A prompt and the answer to learn, in whatever shape -> `prompt`, `completion` [messages].

Of a conversation the assistant's last turn is the completion, and all before it the prompt.
"""

from typing import Any

from data_prep.formats.misfit import Misfit
from data_prep.formats.prompt_shapes import (
    READ_FOR_CONVERSATION,
    conversation_of,
    has_conversations,
    has_marked_prompt,
    has_question,
    messages_in,
    our_prompt,
)
from instruct.conversations import first_of, marked_turns, messages_of
from instruct.errors import UserError
from instruct.pairs import READ_FOR_PROMPT, prompt_of
from instruct.rows.row_checks import fault_of
from instruct.tokens import answer_text

ANSWERS = ("completion", "response", "answer", "output", "target", "targets", "generation")
MARKED = ("text", "input")  # where whole dialogues stand as one text: HH-RLHF, Baize
# Whether people liked an answer, in files for KTO: TRL's name, LLaMA-Factory's.
LIKED = ("label", "kto_tag")
THUMBS = {"true": True, "false": False}
READ_OF_ANSWERED = (*READ_FOR_PROMPT, *ANSWERS)
READ_OF_THUMBS = (*READ_FOR_CONVERSATION, *READ_OF_ANSWERED, *LIKED)


################
# Which files
################


def has_answer(columns: set[str], first_rows: list[dict]) -> bool:
    """A column that holds what is asked, and one with an answer."""
    asked = "prompt" in columns or has_question(columns - {"text"}, first_rows)
    return asked and not columns.isdisjoint(ANSWERS)


def has_only_answer(columns: set[str], first_rows: list[dict]) -> bool:
    return not columns.isdisjoint(ANSWERS)


def has_alpaca(columns: set[str], first_rows: list[dict]) -> bool:
    return "instruction" in columns and not columns.isdisjoint(ANSWERS)


def has_thumbs(columns: set[str], first_rows: list[dict]) -> bool:
    """Answers that people liked and answers that they did not, as for KTO."""
    said = [row[name] for name in LIKED for row in first_rows if row.get(name) is not None]
    answered = has_answer(columns, first_rows) or has_conversations(columns, first_rows)
    return answered and bool(said) and all(str(one).lower() in THUMBS for one in said)


def has_marked_answer(columns: set[str], first_rows: list[dict]) -> bool:
    """A `prompt` with `Human:` before what the user says, and its answer."""
    return has_answer(columns, first_rows) and has_marked_prompt(columns, first_rows)


def has_marked_text(columns: set[str], first_rows: list[dict]) -> bool:
    """One text with `Human:` and `Assistant:`, or other markers, before each turn."""
    return any(_marked_column(row) for row in first_rows)


def _marked_column(row: dict) -> str | None:
    """The column that holds a marked text with an answer in it."""
    texts = ((name, row[name]) for name in MARKED if isinstance(row.get(name), str))
    return next((name for name, text in texts if len(marked_turns(text) or ()) > 1), None)


################
# Their rows
################


def prompt_completion(row: dict) -> dict:
    """A row of ours: a text is what somebody said, whatever stands in it."""
    prompt = our_prompt(row)
    return {"prompt": prompt, "completion": answer(row.get("completion"), "completion")}


def liked(row: dict) -> dict:
    """An answer that people liked; one that they did not is nothing to learn."""
    column = next((name for name in LIKED if row.get(name) is not None), LIKED[0])
    thumb = THUMBS.get(str(row.get(column)).lower())
    if not thumb:
        missing = f"{column!r} does not say whether people liked this answer"
        raise Misfit(
            f"{column!r} is false: people did not like this answer" if thumb is False else missing
        )
    if any(row.get(name) is not None for name in ANSWERS):
        return answered(row)
    return dialogue(row)


def only_answer(row: dict) -> dict:
    """The answer alone, to a prompt that its `prompt_id` names."""
    column = next((name for name in ANSWERS if row.get(name) is not None), None)
    if column is None:
        missing = next((name for name in ANSWERS if name in row), ANSWERS[0])
        raise Misfit(f"{missing!r} is missing")
    return {"completion": answer(row[column], column)}


def answered(row: dict) -> dict:
    """A prompt in one column (with Alpaca's input, a system message), its answer in another."""
    found = only_answer(row)
    prompt, _ = prompt_of(row)
    if not prompt:
        raise Misfit("no prompt")
    if fault := fault_of("prompt", prompt):
        raise Misfit(f"the prompt {fault}")
    return {"prompt": prompt, **found}


def marked_answer(row: dict) -> dict:
    """A prompt with `Human:` before each turn."""
    found = answered(row)
    # the blank behind `Assistant:` is not the answer's
    return {
        **found,
        "completion": [{**m, "content": m["content"].strip()} for m in found["completion"]],
    }


def dialogue(row: dict) -> dict:
    """A conversation that ends in the assistant's turn."""
    return split_dialogue(conversation_of(row, messages_in))


def marked_text(row: dict) -> dict:
    """A text with `Human:` and `Assistant:`, or other markers, before each turn."""
    column = _marked_column(row) or first_of(MARKED, row) or MARKED[0]
    return split_dialogue(messages_in(row.get(column), column))


def split_dialogue(messages: list[dict]) -> dict:
    """The assistant's last turn, and what it answers.

    Raises:
        Misfit: it does not end in an answer, or answers nothing.
    """
    *prompt, last = messages
    if last["role"] != "assistant":
        raise Misfit(f"ends in a turn of role {last['role']!r}, so there is no answer to learn")
    if not any(message["role"] == "user" for message in prompt):
        raise Misfit("no turn of the user's before the answer")
    # a prompt that ends so would be continued
    if prompt[-1]["role"] == "assistant" and not prompt[-1].get("tool_calls"):
        raise Misfit("ends in two turns of the assistant's")
    if fault := fault_of("prompt", prompt):
        raise Misfit(f"the prompt {fault}")
    return {"prompt": prompt, "completion": answer([last], "the last turn")}


def answer(value: Any, column: str) -> list[dict]:
    """An answer as one message: a text, a message, or a list of one.

    Raises:
        Misfit: no text of the assistant's, or more than words.
    """
    if isinstance(value, str):
        return [{"role": "assistant", "content": value}]
    try:
        messages = messages_of(value)
    except UserError as error:
        raise Misfit(f"{column!r} {error}") from error
    try:
        words = answer_text(messages)
    except UserError as error:
        raise Misfit(f"{column!r}: {error}") from error
    if messages[0]["role"] != "assistant":
        raise Misfit(f"{column!r} is said by {messages[0]['role']!r}, not by the assistant")
    return [{"role": "assistant", "content": words}]
