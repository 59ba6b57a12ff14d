"""Where an answer ends, in the arrangements of real model families, from tokenizer to saved model.

Each family by its own template (shortened where it does nothing to plain messages), special tokens,
eos and generation config, on the vocabulary of the tests.
"""

from dataclasses import dataclass

import pytest
import torch
from conftest import CHATML, make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import apply_chat_template

from instruct.files import UserError
from instruct.generation import generate_ids
from instruct.models import load_policy
from instruct.tokens import (
    decode_completion,
    encode_completion,
    encode_prompt,
    load_tokenizer,
)
from instruct.turns import agree_on_end, has_ended, turn_end

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
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
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


@every_family
def test_what_is_trained_is_what_the_template_closes_a_turn_with(tmp_path, family):
    path = save_family(tmp_path, family, None)
    tokenizer = load_tokenizer(path)
    (closes,) = ids_of(tokenizer, [family.closes])
    assert turn_end(tokenizer).trained == closes
    assert encode_completion(tokenizer, ANSWER)[-1] == closes
    # what other libraries read, and what is saved
    assert tokenizer.eos_token == family.closes
    tokenizer.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again").eos_token == family.closes
    assert turn_end(load_tokenizer(str(tmp_path / "again"))).trained == closes
    # one pad, not the trained end where there is another
    assert family.name == "gpt2" or tokenizer.pad_token_id != closes


@every_family
def test_prompt_and_completion_are_what_trl_renders_up_to_the_end(tmp_path, family):
    tokenizer = load_tokenizer(save_family(tmp_path, family, None))
    row = {
        "prompt": [{"role": "user", "content": "What of tea?"}],
        "completion": [{"role": "assistant", "content": ANSWER}],
    }
    theirs = apply_chat_template(row, tokenizer)
    ids = encode_prompt(tokenizer, row["prompt"]) + encode_completion(tokenizer, ANSWER)
    whole = theirs["prompt"] + theirs["completion"]
    # beyond the end a template may write what no model samples
    beyond = whole.removeprefix(tokenizer.decode(ids))
    assert beyond != whole and beyond.strip() in ("", "<|endoftext|>", family.closes)


@every_family
def test_sampling_stops_at_each_end_and_the_marker_does_not_show(tmp_path, family):
    for number, end in enumerate(sorted(family.ends)):
        path = save_family(tmp_path / str(number), family, end)
        model, tokenizer = load_policy(path)
        assert {tokenizer.convert_ids_to_tokens(i) for i in turn_end(tokenizer).ids} == family.ends
        ids = encode_prompt(tokenizer, "What of tea?")
        for temperature in (0, 0.01):
            sampled, again = generate_ids(model, tokenizer, [ids], 24, temperature, copies=2)
            assert sampled == again and sampled[-1] == ids_of(tokenizer, [end])[0]
            assert decode_completion(tokenizer, sampled) == ANSWER
            assert has_ended(tokenizer, sampled)
        # cut off, it has not ended
        short = generate_ids(model, tokenizer, [ids], 2, 0)[0]
        assert len(short) == 2 and not has_ended(tokenizer, short)
        # plain transformers stops there, too, with what is saved
        model.save_pretrained(tmp_path / f"{number} saved")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / f"{number} saved")
        answer = plain.generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=0
        )
        assert answer[0, len(ids) :].tolist() == sampled


def test_a_row_that_has_ended_stays_ended_where_pad_is_one_of_the_ends(tmp_path):
    """Phi: pad is `<|endoftext|>`, at which it stops; prompts of several lengths are padded."""
    (phi,) = (f for f in FAMILIES if f.name == "phi")
    model, tokenizer = load_policy(save_family(tmp_path, phi, "<|end|>"))
    assert tokenizer.pad_token_id in turn_end(tokenizer).ids
    assert tokenizer.pad_token_id != turn_end(tokenizer).trained
    prompts = [encode_prompt(tokenizer, p) for p in ("What of tea?", "Hi", "Tell me of the sea.")]
    rows = generate_ids(model, tokenizer, prompts, 24, 0)
    assert [decode_completion(tokenizer, row) for row in rows] == [ANSWER] * 3


@pytest.mark.parametrize("asked", ["<|im_end|>", "<|endoftext|>"])
def test_eos_token_is_trained_and_stays_so_when_the_model_is_loaded_again(tmp_path, asked):
    (qwen,) = (f for f in FAMILIES if f.name == "qwen-base")
    path = save_family(tmp_path / "m", qwen, None)
    tokenizer = load_tokenizer(path, eos_token=asked)
    tokenizer.save_pretrained(tmp_path / "saved")
    for loaded in (tokenizer, load_tokenizer(str(tmp_path / "saved"))):
        assert loaded.eos_token == asked
        assert encode_completion(loaded, ANSWER)[-1] == loaded.convert_tokens_to_ids(asked)
    assert set(turn_end(tokenizer).ids) == set(ids_of(tokenizer, qwen.ends))
    with pytest.raises(UserError, match="--eos_token <gone>: no token"):
        load_tokenizer(path, eos_token="<gone>")


def test_a_text_that_brings_its_end_along_has_one(tokenizer):
    assert encode_completion(tokenizer, "Yes<|im_end|>") == encode_completion(tokenizer, "Yes")


def test_what_opens_a_turn_closes_none():
    """Some templates write the generation prompt whether asked or not."""
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{{ '<|im_start|>' }}"
    )
    tokenizer.eos_token = "<|endoftext|>"
    assert turn_end(tokenizer).trained == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_an_ordinary_word_in_the_generation_config_ends_nothing(capsys):
    """Llama's default eos_token_id is 2, whatever that is in the tokenizer's vocabulary."""
    tokenizer, model = make_tokenizer(), make_model()
    model.generation_config.eos_token_id = [2, 300]
    agree_on_end(model, tokenizer)
    assert turn_end(tokenizer).ids == (2,)
    assert model.generation_config.eos_token_id == 2
    assert "eos_token_id 300" in capsys.readouterr().out


def test_a_template_that_is_no_jinja_is_a_sentence(tmp_path):
    make_tokenizer("{% for m in messages %}").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no valid Jinja"):
        load_tokenizer(str(tmp_path))
