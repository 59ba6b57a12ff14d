"""Model families' real arrangements of turns, on the vocabulary of the tests.

Each family by its own template (shortened where it does nothing to plain messages), special tokens,
eos and generation config.
"""

from dataclasses import dataclass

import torch
from conftest import CHATML, make_model, make_tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + CHATML
)


@dataclass(frozen=True)
class Family:
    """A family's arrangement, by token; `stops` is its generation config's list."""

    name: str
    template: str | None
    special: tuple[str, ...]
    eos: str
    pad: str | None
    stops: tuple[str, ...]
    closes: str  # an assistant's turn
    ends: set[str]
    plain: tuple[str, ...] = ()  # added tokens that are not special, as in some releases


FAMILIES = [
    Family(
        "llama3",
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>",
         "<|start_header_id|>", "<|end_header_id|>"),
        eos="<|eot_id|>",
        pad=None,
        stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        closes="<|eot_id|>",
        ends={"<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"},
    ),
    Family(
        "llama3-first-release",  # its tokenizer's eos was the end of a text
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>",
         "<|start_header_id|>", "<|end_header_id|>"),
        eos="<|end_of_text|>",
        pad=None,
        stops=("<|end_of_text|>",),
        closes="<|eot_id|>",
        ends={"<|end_of_text|>", "<|eot_id|>"},
    ),
    Family(
        "gemma",
        GEMMA,
        ("<pad>", "<eos>", "<bos>"),
        eos="<eos>",
        pad="<pad>",
        stops=("<eos>", "<end_of_turn>"),
        closes="<end_of_turn>",
        ends={"<eos>", "<end_of_turn>"},
        plain=("<start_of_turn>", "<end_of_turn>"),
    ),
    Family(
        "phi",  # pad is what was eos
        PHI,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        stops=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        closes="<|end|>",
        ends={"<|endoftext|>", "<|assistant|>", "<|end|>"},
    ),
    Family(
        "qwen-base",
        QWEN,
        (),
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        stops=("<|endoftext|>",),
        closes="<|im_end|>",
        ends={"<|endoftext|>", "<|im_end|>"},
    ),
    Family(
        "smollm",
        CHATML,
        (),
        eos="<|im_end|>",
        pad="<|im_end|>",
        stops=("<|im_end|>",),
        closes="<|im_end|>",
        ends={"<|im_end|>"},
    ),
    Family(
        "gpt2",  # no template: ours
        None,
        (),
        eos="<|endoftext|>",
        pad=None,
        stops=("<|endoftext|>",),
        closes="<|endoftext|>",
        ends={"<|endoftext|>"},
    ),
]  # fmt: skip
ANSWER, RAMBLE = "I like tea.", " Tell me about a chess game"


def tokenizer_of(family: Family):
    tokenizer = make_tokenizer(family.template, pad_token=None)
    tokenizer.add_tokens(list(family.special), special_tokens=True)
    tokenizer.add_tokens(list(family.plain))
    tokenizer.eos_token, tokenizer.pad_token = family.eos, family.pad
    if family.special and "begin" in family.special[0]:
        tokenizer.bos_token = family.special[0]
    return tokenizer


def ids_of(tokenizer, tokens) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def save_family(folder, family: Family, end: str | None) -> str:
    """A model whose every token decides the next: it says `ANSWER`, then `end`, then rambles."""
    tokenizer = tokenizer_of(family)
    size = len(tokenizer)
    model = make_model(
        tie_word_embeddings=False, vocab_size=size, hidden_size=544, head_dim=136,
        max_position_embeddings=128,
    )  # fmt: skip
    # what a prompt ends in leads to the answer
    opened = tokenizer.apply_chat_template if family.template else None
    asked = [{"role": "user", "content": "What of tea?"}]
    if opened:
        prompt = tokenizer(
            opened(asked, add_generation_prompt=True, tokenize=False), add_special_tokens=False
        )["input_ids"]
    else:
        prompt = tokenizer("### Assistant:\n", add_special_tokens=False)["input_ids"]
    words = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (ANSWER, RAMBLE)]
    chain = [prompt[-1], *words[0], *ids_of(tokenizer, [end] if end else []), *words[1]]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, :size] = torch.eye(size) * 10
        for this, following in zip(chain, chain[1:], strict=False):
            model.lm_head.weight[following, this] = 10
    stops = ids_of(tokenizer, family.stops)
    model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
