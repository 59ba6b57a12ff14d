"""Where an answer ends, in the arrangements of model families, from tokenizer to saved model."""

import pytest
import torch
from conftest import make_model, make_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import apply_chat_template
from turn_tools import ANSWER, FAMILIES, ids_of, save_family

from instruct.errors import UserError
from instruct.generation import generate_ids
from instruct.models import load_policy
from instruct.tokens import (
    decode_completion,
    encode_completion,
    encode_prompt,
    load_tokenizer,
)
from instruct.turns import agree_on_end, has_ended, turn_end

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


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


@pytest.mark.parametrize("blank", ["\n\n", "▁▁", "  "])
def test_a_blank_token_ends_nothing(blank):
    """Gemma has runs of spaces and newlines as added tokens, and answers are full of them."""
    tokenizer = make_tokenizer(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + BLANK }}{% endfor %}".replace(
            "BLANK", repr(blank)
        )
    )
    tokenizer.add_tokens([blank])
    model = make_model()
    model.generation_config.eos_token_id = [2, tokenizer.convert_tokens_to_ids(blank)]
    agree_on_end(model, tokenizer)
    assert turn_end(tokenizer) == (2, (2,))
    # after it, the token that does
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "}}{% endfor", "+ '<|im_end|>' }}{% endfor"
    )
    tokenizer.eos_token = "<|endoftext|>"
    assert turn_end(tokenizer).trained == 2


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
