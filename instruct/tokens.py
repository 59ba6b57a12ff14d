"""The token contract: every step trains on and scores `prompt ids + completion ids + end`.

TRL renders prompt and completion through the chat template together; templates that write something
after the end token (SmolLM2's adds a newline) would then be trained and scored on a token no model
ever samples. Here the prompt is rendered as TRL renders it, the completion is the assistant's
words, and the sequence ends in the token that ends a turn (`instruct/turns.py`), which the
tokenizer that is saved calls eos.
Padding is always told by lengths, never by comparing ids with pad: pad = eos (GPT-2) is harmless.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from instruct.conversations import content_of
from instruct.errors import UserError
from instruct.hub import ask_hub
from instruct.processes import is_main_process
from instruct.run.fingerprints import JINJA
from instruct.turns import has_ended, settle_trained_end, turn_end, up_to_end

# For a base model that comes without a chat template; stored with every model the recipes save.
DEFAULT_CHAT_TEMPLATE = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ '### ' + message['role'].capitalize() + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
# Columns of a row that its prompt's template takes, in the order of `encode_prompt`.
FOR_TEMPLATE = ("tools", "chat_template_kwargs")
# Keys of a message that templates render.
RENDERED = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
TOOL_CALLS = ("tool_calls", "function_call")
MORE_THAN_WORDS = (*TOOL_CALLS, "reasoning_content", "thinking")
# Special tokens that stand for no text, so that padding with one of them can mean nothing else.
PAD_CANDIDATES = (
    "<|endoftext|>",
    "<|finetune_right_pad_id|>",
    "<pad>",
    "[PAD]",
    "<|pad|>",
    "<unk>",
)


def load_tokenizer(
    name_or_path: str,
    revision: str = "main",
    trust_remote_code: bool = False,
    chat_template_path: str | None = None,
    eos_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer and settles chat template, the end of a turn and pad, for all steps.

    Args:
        chat_template_path: TRL's flag: a Jinja file, or a tokenizer (folder or Hub id), whose
            template takes the place of the own one. Where there is neither, the template is
            `DEFAULT_CHAT_TEMPLATE`.
        eos_token: TRL's flag: what answers end in. Default: as the template closes a turn.

    Raises:
        UserError: no tokenizer there, one without an eos token, or an unreadable template.
    """
    ask_hub(name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"{name_or_path}: no tokenizer could be loaded from there; "
            f"give a model folder or a Hub model id ({str(error).splitlines()[0]})"
        ) from error
    # an encoder (BERT) as reward model: [CLS] … [SEP]
    if tokenizer.eos_token is None and tokenizer.sep_token:
        tokenizer.eos_token = tokenizer.sep_token
        tokenizer.bos_token = tokenizer.bos_token or tokenizer.cls_token
    if tokenizer.eos_token is None:
        raise UserError(
            f"{name_or_path}: its tokenizer has no eos token, so no response could ever end"
        )
    if chat_template_path:
        _replace_template(tokenizer, chat_template_path)
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    # by the template, so after it; pad may be what was eos until now
    settle_trained_end(tokenizer, eos_token)
    # without it, each step would settle pad in its own way
    _settle_pad(tokenizer)
    return tokenizer


def ends_of(name_or_path: str) -> list[str]:
    """The tokens at which answers of a model end, by its tokenizer: they decide what is sampled."""
    tokenizer = load_tokenizer(name_or_path)
    return tokenizer.convert_ids_to_tokens(list(turn_end(tokenizer).ids))


def _replace_template(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    template = _template_of(source)
    replaced = tokenizer.chat_template and tokenizer.chat_template != template
    if replaced and is_main_process():
        print(
            f"{tokenizer.name_or_path}: its own chat template is replaced by "
            f"--chat_template_path {source}"
        )
    tokenizer.chat_template = template


def _template_of(source: str) -> str:
    """The text of a Jinja file, or the template of a tokenizer by its folder or Hub id."""
    try:
        if Path(source).is_file() or source.endswith(JINJA):
            return Path(source).read_text(encoding="utf-8")
        template = AutoTokenizer.from_pretrained(source).chat_template
    # ValueError: bytes that are no UTF-8, too
    except (OSError, ValueError) as error:
        raise UserError(
            f"--chat_template_path {source}: not a readable Jinja file, tokenizer folder or Hub id"
        ) from error
    if not template:
        raise UserError(f"--chat_template_path {source}: its tokenizer has no chat template")
    return template


def _settle_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """pad is the tokenizer's own unless it is missing or equals eos.

    Then it is another special token of its vocabulary, and only when there is none, eos. The
    vocabulary never grows, so embeddings never need resizing.
    """
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    # pad = eos is common; what masks pad then masks the real end, too (trl 5303)
    vocabulary = tokenizer.get_vocab()
    usable = [t for t in PAD_CANDIDATES if t in vocabulary and t != tokenizer.eos_token]
    tokenizer.pad_token = usable[0] if usable else tokenizer.eos_token


################
# Messages
################


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


def render_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | list[dict],
    tools: str | list | None = None,
    chat_template_kwargs: dict | None = None,
) -> str:
    """The text of a prompt, as TRL renders it: one that ends in an assistant's message is
    continued, any other gets its generation prompt.

    Raises:
        UserError: an empty prompt, or what the chat template refuses.
    """
    if not isinstance(prompt, str | list):
        raise UserError("a prompt must be text or a list of messages")
    messages = [for_template(message) for message in as_messages(prompt)]
    if not messages or not messages[-1].get("content", "").strip():
        raise UserError("an empty prompt: every prompt needs at least one non-blank message")
    tools, named = _tools_of(tools), chat_template_kwargs or {}
    if not isinstance(named, dict):
        raise UserError("`chat_template_kwargs` must be an object")
    continued = messages[-1]["role"] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            messages,
            tools=tools,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            tokenize=False,
            **filled(named),
        )
    # templates are people's code, and raise what they like
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"the chat template refuses this prompt (roles: {roles}): {why}") from error


################
# Ids
################


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | list[dict],
    tools: str | list | None = None,
    chat_template_kwargs: dict | None = None,
) -> list[int]:
    """Prompt ids, see `render_prompt`. `prompt` is text (one user message) or messages."""
    text = render_prompt(tokenizer, prompt, tools, chat_template_kwargs)
    # a template writes its own bos, so no other is added
    return ids_of(tokenizer, text)


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text as it stands. Raises `UserError` where it holds what is no character."""
    try:
        text.encode()
    # a word of a command line or a piped line that was no UTF-8, or JSON's \ud800
    except UnicodeEncodeError:
        raise UserError("a text that is not UTF-8 (it holds half a character)") from None
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_prompt_of(tokenizer: PreTrainedTokenizerBase, row: Mapping, where: str) -> list[int]:
    """Prompt ids of a row: its `prompt`, with its `tools` and `chat_template_kwargs` if any.

    Raises:
        UserError: as `render_prompt`, with `where` (file and row) before it.
    """
    with named(where):
        return encode_prompt(tokenizer, row["prompt"], *(row.get(key) for key in FOR_TEMPLATE))


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence,
    columns: Mapping[str, Sequence] | None = None,
    where: str = "",
) -> list[list[int]]:
    """Ids of several prompts; `columns` as by `template_columns`, `where` is the file."""
    columns = columns or {}
    rows = ({"prompt": p, **{k: v[i] for k, v in columns.items()}} for i, p in enumerate(prompts))
    place = f"{where}, row" if where else "prompt"
    return [encode_prompt_of(tokenizer, row, f"{place} {n}") for n, row in enumerate(rows, 1)]


def template_columns(columns: Mapping[str, Sequence]) -> dict[str, list]:
    """Those of a dataset's columns that its prompts' template takes."""
    return {key: columns[key][:] for key in FOR_TEMPLATE if key in columns}


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, completion: str | list[dict]
) -> list[int]:
    """Completion ids, always ending in the token that ends a turn."""
    # on its own, as the policy would write it: no token spans prompt and completion
    ids = ids_of(tokenizer, answer_text(completion))
    end = turn_end(tokenizer).trained
    # a text may bring it along
    return ids if ids[-1:] == [end] else [*ids, end]


def decode_completion(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of sampled ids: everything before the first end, special tokens left out."""
    ids = list(ids)
    # cut by id: `skip_special_tokens` would drop the end and keep what follows
    kept = up_to_end(ids, turn_end(tokenizer).ids)
    kept = kept[:-1] if has_ended(tokenizer, kept) else kept
    return tokenizer.decode(kept, skip_special_tokens=True)


@contextlib.contextmanager
def named(where: str) -> Iterator[None]:
    """What is refused in this block is told with `where`: a file and a row."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
