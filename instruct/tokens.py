"""The token contract: every step trains on and scores `prompt ids + completion ids + end`.

Both are rendered through the chat template together, as TRL does it, so that whatever a template
writes between its generation prompt and the assistant's words is trained and scored (Mistral a
blank, Qwen3 an empty thought). The sequence ends in the token that ends a turn
(`instruct/turns.py`), which the tokenizer that is saved calls eos; TRL also trains what a template
writes after it (SmolLM2's a newline), which no model ever samples.
Padding is always told by lengths, never by comparing ids with pad: pad = eos (GPT-2) is harmless.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from instruct.errors import UserError
from instruct.hub import ask_hub
from instruct.processes import is_main_process
from instruct.rendering import (  # noqa: F401  (messages are half of the contract)
    FOR_TEMPLATE,
    MORE_THAN_WORDS,
    RENDERED,
    Asked,
    answer_text,
    as_messages,
    as_text,
    for_template,
    named,
    render_prompt,
)
from instruct.run.fingerprints import JINJA
from instruct.turns import (
    around_answer,
    has_ended,
    settle_trained_end,
    turn_end,
    up_to_end,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments
    from trl import ModelConfig

# For a base model that comes without a chat template; stored with every model the recipes save.
DEFAULT_CHAT_TEMPLATE = (
    "{% if bos_token is defined and bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ '### ' + message['role'].capitalize() + ':\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}"
)
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
    announce: bool = False,
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer and settles chat template, the end of a turn and pad, for all steps.

    Args:
        chat_template_path: TRL's flag: a Jinja file, or a tokenizer (folder or Hub id), whose
            template takes the place of the own one. Where there is neither, the template is
            `DEFAULT_CHAT_TEMPLATE`.
        eos_token: TRL's flag: what answers end in. Default: as the template closes a turn.
        announce: print that a template is added, where one is.

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
        if announce and is_main_process():
            print(
                f"{name_or_path}: it has no chat template: turns begin with '### User:' and "
                "'### Assistant:'; --chat_template_path takes another"
            )
    # by the template, so after it; pad may be what was eos until now
    settle_trained_end(tokenizer, eos_token)
    # without it, each step would settle pad in its own way
    _settle_pad(tokenizer)
    return tokenizer


def tokenizer_to_train(
    model_args: "ModelConfig", training_args: "TrainingArguments"
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model that a training starts from, by its flags.

    --chat_template_path and --eos_token are settled with it, and None from then on: for every later
    step, and for TRL.
    """
    tokenizer = load_tokenizer(
        model_args.model_name_or_path,
        model_args.model_revision,
        training_args.trust_remote_code,
        training_args.chat_template_path,
        training_args.eos_token,
        announce=True,
    )
    training_args.chat_template_path = training_args.eos_token = None
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
# Ids
################


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | list[dict],
    tools: str | list | None = None,
    chat_template_kwargs: str | dict | None = None,
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
    rows = _rows_of(prompts, columns, where)
    return [encode_prompt_of(tokenizer, row, place) for row, place in rows]


def _rows_of(
    prompts: Sequence, columns: Mapping[str, Sequence] | None, where: str
) -> Iterator[tuple[dict, str]]:
    """(row, its place in a message) of each prompt."""
    columns, place = columns or {}, f"{where}, row" if where else "prompt"
    for i, prompt in enumerate(prompts):
        yield {"prompt": prompt, **{k: v[i] for k, v in columns.items()}}, f"{place} {i + 1}"


def template_columns(columns: "Mapping[str, Sequence] | Dataset") -> dict[str, list]:
    """Those of a dataset's columns that its prompts' template takes."""
    # `in` of a Dataset looks for a row
    there = getattr(columns, "column_names", columns)
    return {key: columns[key][:] for key in FOR_TEMPLATE if key in there}


def encode_answers(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | list[dict],
    completions: Sequence[str | list[dict]],
    tools: str | list | None = None,
    chat_template_kwargs: str | dict | None = None,
) -> tuple[list[int], list[list[int]]]:
    """Ids of a prompt, and of each of its completions as it follows it: what is trained and scored.

    Together they are the conversation as TRL's SFTTrainer renders and cuts it into tokens, up to
    the token that ends the turn. The prompt is always the one that is sampled from (as by
    `encode_prompt`), so a completion begins with what the template writes between that and the
    words. Where one token would span the two (a text that begins with a newline), they are cut
    into tokens apart: no model samples such a token there.

    Raises:
        UserError: as `render_prompt` and `answer_text`.
    """
    conversation = Asked(tokenizer, prompt, tools, chat_template_kwargs)
    asked, found = ids_of(tokenizer, conversation.opened), []
    for completion in completions:
        rest = conversation.answered(answer_text(completion))
        # together: some tokenizers begin every text with a blank
        whole = ids_of(tokenizer, conversation.opened + rest)
        same = whole[: len(asked)] == asked
        found.append(_ended(tokenizer, whole[len(asked) :] if same else ids_of(tokenizer, rest)))
    return asked, found


def encode_answers_of(
    tokenizer: PreTrainedTokenizerBase, row: Mapping, completions: Sequence, where: str
) -> tuple[list[int], list[list[int]]]:
    """`encode_answers` of a row with `prompt`, `tools` and `chat_template_kwargs` if any.

    Raises:
        UserError: with `where` (file and row) before it.
    """
    with named(where):
        columns = (row.get(key) for key in FOR_TEMPLATE)
        return encode_answers(tokenizer, row["prompt"], completions, *columns)


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence,
    completions: Sequence,
    columns: Mapping[str, Sequence] | None = None,
    where: str = "",
) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, completion ids) of each pair; `columns` and `where` as of `encode_prompts`."""
    pairs = zip(_rows_of(prompts, columns, where), completions, strict=True)
    found = (encode_answers_of(tokenizer, row, [answer], place) for (row, place), answer in pairs)
    return [(prompt, answered[0]) for prompt, answered in found]


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, completion: str | list[dict]
) -> list[int]:
    """Ids of an answer's words alone and of the end of the turn: how long it is.

    What is trained and scored may hold more before the words: `encode_answers`.
    """
    return _ended(tokenizer, ids_of(tokenizer, answer_text(completion)))


def _ended(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    end = turn_end(tokenizer).trained
    # a text may bring it along
    return ids if ids[-1:] == [end] else [*ids, end]


def decode_completion(
    tokenizer: PreTrainedTokenizerBase, ids: list[int], prompt: Sequence[int] | None = None
) -> str:
    """The text of sampled ids: everything before the first end, special tokens left out.

    The joint (see `AroundAnswer`) is left out, too: with the words the template writes it again,
    so a sampled answer is scored as the same ids. An answer that a model began without the joint
    is scored with it, as all answers were that the reward model learned from.

    Args:
        prompt: ids that were sampled from; only after a generation prompt comes a joint. Default:
            they end in one.
    """
    ids = list(ids)
    # cut by id: `skip_special_tokens` would drop the end and keep what follows
    kept = up_to_end(ids, turn_end(tokenizer).ids)
    kept = kept[:-1] if has_ended(tokenizer, kept) else kept
    text = tokenizer.decode(kept, skip_special_tokens=True)
    joint = _joint_after(tokenizer, prompt)
    if joint and tokenizer.decode(kept).startswith(joint):
        spoken = tokenizer.decode(ids_of(tokenizer, joint), skip_special_tokens=True)
        return text.removeprefix(spoken)
    return text


def _joint_after(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int] | None) -> str:
    around = around_answer(tokenizer)
    if around is None or not around.joint or prompt is None:
        return around.joint if around else ""
    # a few more ids: where a text is cut into tokens depends on what stands before it
    last = list(prompt)[-len(ids_of(tokenizer, around.opening)) - 2 :]
    return around.joint if tokenizer.decode(last).endswith(around.opening) else ""
