"""Messages -> text, as TRL renders them: a prompt, and what follows it in the answered
conversation. The half of the token contract (`instruct/tokens.py`) that knows no ids.
"""

import contextlib
import json
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from instruct.conversations import content_of
from instruct.errors import UserError, first_line
from instruct.processes import is_main_process
from instruct.turns import ANSWER, around_answer

# Columns of a row that its prompt's template takes, in the order of `encode_prompt`.
FOR_TEMPLATE = ("tools", "chat_template_kwargs")
# What each step decides for itself, so that no row does.
DECIDED_HERE = ("tools", "tokenize", "add_generation_prompt", "continue_final_message")
# Keys of a message that templates render.
RENDERED = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
TOOL_CALLS = ("tool_calls", "function_call")
MORE_THAN_WORDS = (*TOOL_CALLS, "reasoning_content", "thinking")


def as_messages(prompt: str | list[dict]) -> list[dict]:
    """A text prompt is one user message; of messages, parts with text become one text."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    in_parts = [isinstance(m, dict) and isinstance(m.get("content"), list) for m in prompt]
    return [
        {**message, "content": content_of(message)} if parts else message
        for message, parts in zip(prompt, in_parts, strict=True)
    ]


def as_text(completion: str | list[dict]) -> str:
    """The words of a completion: text, or the content of its messages."""
    if isinstance(completion, str):
        return completion
    # the call of a tool has none
    return "".join(content_of(m) for m in completion if m.get("content") is not None)


def answer_text(completion: str | list[dict]) -> str:
    """The words of a completion that is text or one assistant message.

    Raises:
        UserError: several messages, or more in it than words (tool calls, reasoning).
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, list) or not all(isinstance(m, dict) for m in completion):
        raise UserError("a completion must be text or a list of messages")
    if len(completion) != 1:
        raise UserError(
            f"a completion of {len(completion)} messages; it must be one assistant message "
            "(earlier turns belong to the prompt)"
        )
    more = [key for key in MORE_THAN_WORDS if completion[0].get(key)]
    if more:
        raise UserError(f"a completion with {more[0]}; only its text could be trained")
    return content_of(completion[0])


def for_template(message: dict) -> dict:
    """A message as templates take it: text as content, nothing that is null."""
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError("a message must have a role and a content")
    given = filled(message)
    # a call of a tool may come without words
    if "content" not in given and any(given.get(key) for key in TOOL_CALLS):
        return given
    return {**given, "content": content_of(message)}


def filled(value):
    """A JSON value without the keys that are null: Arrow gives a row the keys of all others."""
    if isinstance(value, list):
        return [filled(item) for item in value]
    if isinstance(value, dict):
        return {key: filled(item) for key, item in value.items() if item is not None}
    return value


def _tools_of(tools: str | list | None) -> list | None:
    """A row's `tools`: JSON schemas, or one JSON text of them; None where it has none."""
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except json.JSONDecodeError as error:
            raise UserError(f"`tools` is no JSON ({error.msg})") from error
    if not isinstance(tools, list | None):
        raise UserError("`tools` must be a list of JSON schemas")
    # templates write their text about tools even for none
    return filled(tools) if tools else None


def _arguments_of(chat_template_kwargs: str | dict | None) -> dict:
    """A row's `chat_template_kwargs`: an object, or one as JSON text."""
    arguments = chat_template_kwargs
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else None
        except json.JSONDecodeError as error:
            raise UserError(f"`chat_template_kwargs` is no JSON ({error.msg})") from error
    if not isinstance(arguments, dict | None):
        raise UserError("`chat_template_kwargs` must be an object")
    arguments = filled(arguments or {})
    if taken := [key for key in DECIDED_HERE if key in arguments]:
        raise UserError(f"`chat_template_kwargs` cannot hold {taken[0]}: that is decided here")
    return arguments


def _checked(
    prompt: str | list[dict], tools: str | list | None, chat_template_kwargs: str | dict | None
) -> tuple[list[dict], dict]:
    """(messages, what else the template takes) of a row's prompt."""
    if not isinstance(prompt, str | list):
        raise UserError("a prompt must be text or a list of messages")
    messages = [for_template(message) for message in as_messages(prompt)]
    if not messages or not messages[-1].get("content", "").strip():
        raise UserError("an empty prompt: every prompt needs at least one non-blank message")
    return messages, {"tools": _tools_of(tools), **_arguments_of(chat_template_kwargs)}


class Asked:
    """A prompt under a tokenizer's chat template, and what its answers are rendered as.

    Attributes:
        opened: the prompt's text, see `render_prompt`.

    Raises:
        UserError: an empty prompt, or what the chat template refuses.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str | list[dict],
        tools: str | list | None = None,
        chat_template_kwargs: str | dict | None = None,
    ):
        self.tokenizer = tokenizer
        self.messages, self.given = _checked(prompt, tools, chat_template_kwargs)
        self.goes_on = self.messages[-1]["role"] == "assistant"
        self.opened = self._render(
            self.messages,
            add_generation_prompt=not self.goes_on,
            continue_final_message=self.goes_on,
        )

    def answered(self, words: str) -> str:
        """What follows the prompt in the conversation with this answer, up to where it ends.

        The words as the template writes them (some cut blanks off), and before them the joint, see
        `AroundAnswer`.
        """
        text = self._render(self._with(words))
        around = around_answer(self.tokenizer)
        joint, tail = (around.joint, around.tail) if around else self._own_joint_and_tail()
        end = len(text) - len(tail)
        if text.startswith(self.opened) and text.endswith(tail) and len(self.opened) <= end:
            return text[len(self.opened) : end]
        # what is sampled from counts: TRL drops the end of the prompt, or masks some of the answer
        self._tell()
        return words if self.goes_on else joint + words

    def _with(self, words: str) -> list[dict]:
        *before, last = self.messages
        if self.goes_on:
            return [*before, {**last, "content": last["content"] + words}]
        return [*self.messages, {"role": "assistant", "content": words}]

    def _own_joint_and_tail(self) -> tuple[str, str]:
        """What is around an answer in this conversation: the template demands one of its kind."""
        before, found, tail = self._render(self._with(ANSWER)).rpartition(ANSWER)
        if not found:
            raise UserError("the chat template leaves out what the assistant says")
        return before[len(self.opened) :] if before.startswith(self.opened) else "", tail

    def _render(self, messages: list[dict], **how) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, **self.given, **how)
        # templates are people's code, and raise what they like
        except Exception as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"the chat template refuses this prompt (roles: {roles}): {first_line(error)}"
            ) from error

    def _tell(self) -> None:
        if getattr(self.tokenizer, "told_of_prompt", False) or not is_main_process():
            return
        self.tokenizer.told_of_prompt = True
        print(
            f"{self.tokenizer.name_or_path or 'tokenizer'}: its chat template does not begin an "
            "answered conversation with the prompt as it is sampled from; an answer is trained "
            "and scored right after that prompt"
        )


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | list[dict],
    tools: str | list | None = None,
    chat_template_kwargs: str | dict | None = None,
) -> str:
    """The text of a prompt, as TRL renders it: one that ends in an assistant's message is
    continued, any other gets its generation prompt.

    Raises:
        UserError: an empty prompt, or what the chat template refuses.
    """
    return Asked(tokenizer, prompt, tools, chat_template_kwargs).opened


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """What is refused in this block is told with `where`: a file and a row."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
