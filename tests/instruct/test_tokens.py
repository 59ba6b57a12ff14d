"""The token contract: prompt ids + completion ids + eos; pad, eos and template."""

from conftest import CHATML, make_tokenizer

from instruct.tokens import (
    DEFAULT_CHAT_TEMPLATE,
    decode_completion,
    encode_completion,
    encode_prompt,
    load_tokenizer,
)


def test_completion_ends_in_eos_although_template_adds_newline(tokenizer):
    prompt, completion = (
        [{"role": "user", "content": "Hi"}],
        [{"role": "assistant", "content": "Hello you"}],
    )
    ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion)
    rendered = tokenizer.apply_chat_template(prompt + completion, tokenize=False)
    assert rendered.endswith("<|im_end|>\n")  # the trap
    assert tokenizer.decode(ids) == rendered.removesuffix("\n")
    assert ids[-1] == tokenizer.eos_token_id
    assert encode_prompt(tokenizer, "Hi") == encode_prompt(tokenizer, prompt)


def test_decode_is_the_inverse_and_stops_at_eos(tokenizer):
    ids = encode_completion(tokenizer, "Some words, 42!")
    assert decode_completion(tokenizer, ids + ids) == "Some words, 42!"


def test_pad_is_not_eos_where_the_vocabulary_allows(tmp_path):
    make_tokenizer(pad_token="<|im_end|>").save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token == "<|endoftext|>" and loaded.pad_token_id != loaded.eos_token_id
    assert loaded.chat_template == CHATML


def test_default_template_is_stored_with_the_model(tmp_path):
    make_tokenizer(chat_template=None).save_pretrained(tmp_path / "a")
    first = load_tokenizer(str(tmp_path / "a"))
    first.save_pretrained(tmp_path / "b")
    assert load_tokenizer(str(tmp_path / "b")).chat_template == DEFAULT_CHAT_TEMPLATE
    text = first.decode(encode_prompt(first, "Hi"))
    assert text.startswith("<|endoftext|>### User:\nHi") and text.endswith("### Assistant:\n")
