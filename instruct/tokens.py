"""The token contract: every step trains on and scores `prompt ids + completion ids + eos`.

TRL renders prompt and completion through the chat template together; templates that write something
after the end token (SmolLM2's adds a newline) would then be trained and scored on a token no model
ever samples. Here the prompt is rendered with its generation prompt, the completion is the
assistant's words, and the sequence ends in eos.
Padding is always told by lengths, never by comparing ids with pad: pad = eos (GPT-2) is harmless.
"""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from instruct.files import UserError
from instruct.fingerprints import JINJA
from instruct.hub import ask_hub

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
) -> PreTrainedTokenizerBase:
    """Loads a tokenizer and settles pad, eos and chat template, once for all steps.

    Args:
        chat_template_path: TRL's flag: a Jinja file, or a tokenizer (folder or Hub id), whose
            template takes the place of the own one. Where there is neither, the template is
            `DEFAULT_CHAT_TEMPLATE`.

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
    # without it, each step would settle pad in its own way
    _settle_pad(tokenizer)
    if chat_template_path:
        tokenizer.chat_template = _template_of(chat_template_path)
    if not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    return tokenizer


def _template_of(source: str) -> str:
    """The text of a Jinja file, or the template of a tokenizer by its folder or Hub id."""
    try:
        if Path(source).is_file() or source.endswith(JINJA):
            return Path(source).read_text(encoding="utf-8")
        template = AutoTokenizer.from_pretrained(source).chat_template
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


def as_messages(prompt: str | list[dict]) -> list[dict]:
    """A text prompt is one user message; messages pass through."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def as_text(completion: str | list[dict]) -> str:
    """The words of a completion: text, or the content of its messages."""
    return completion if isinstance(completion, str) else "".join(m["content"] for m in completion)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict]) -> list[int]:
    """Prompt ids, generation prompt included. `prompt` is text (one user message) or messages.

    Raises:
        UserError: nothing but blanks in the last message.
    """
    messages = as_messages(prompt)
    if not messages or not messages[-1]["content"].strip():
        raise UserError("an empty prompt: every prompt needs at least one non-blank message")
    # rendered as text first: a template writes its own bos, so no other is added below
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def encode_completion(
    tokenizer: PreTrainedTokenizerBase, completion: str | list[dict]
) -> list[int]:
    """Completion ids, always ending in eos."""
    # on its own, as the policy would write it: no token spans prompt and completion
    ids = tokenizer(as_text(completion), add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]


def decode_completion(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of sampled ids: everything before the first eos, special tokens left out."""
    ids = list(ids)
    # cut by id: `skip_special_tokens` would drop eos and keep what follows
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode(ids, skip_special_tokens=True)
