"""Sampling: shared prompts, rows that end, and the distribution that is drawn from."""

import copy

import pytest
import torch
from conftest import save_model

from instruct.arguments import ModelConfig
from instruct.generation import DrawToken, generate_ids
from instruct.models import load_causal_lm
from instruct.tokens import encode_prompt


def test_generation_ignores_the_models_own_generation_config(tmp_path, tokenizer):
    path = save_model(tmp_path / "m")
    model = load_causal_lm(ModelConfig(model_name_or_path=path))
    prompts = [encode_prompt(tokenizer, "Hi"), encode_prompt(tokenizer, "A longer one, this")]
    torch.manual_seed(1)
    plain = generate_ids(model, tokenizer, prompts, 8)
    model.generation_config.top_k, model.generation_config.repetition_penalty = 1, 5.0
    torch.manual_seed(1)
    assert generate_ids(model, tokenizer, prompts, 8) == plain
    assert model.generation_config.top_k == 1  # put back


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "qwen2"])
def test_copies_of_a_prompt_continue_from_one_shared_cache(tmp_path, tokenizer, monkeypatch, kind):
    monkeypatch.setattr(
        "instruct.generation.MIN_ROWS", 1
    )  # prompts of other lengths are computed apart
    model = load_causal_lm(ModelConfig(model_name_or_path=save_model(tmp_path / "m", kind)))
    prompts = [
        encode_prompt(tokenizer, "Hi"),
        encode_prompt(tokenizer, "A longer one, this"),
        encode_prompt(tokenizer, "x y"),
    ]
    apart = [generate_ids(model, tokenizer, [p], 6, temperature=0)[0] for p in prompts]
    assert generate_ids(model, tokenizer, prompts, 6, temperature=0, copies=2) == [
        row for row in apart for _ in range(2)
    ]
    torch.manual_seed(0)
    one, two = generate_ids(model, tokenizer, prompts[:1], 8, copies=2)
    assert one != two  # each copy draws for itself


def test_generation_equals_sampling_from_the_models_own_probabilities(tmp_path, tokenizer):
    """Greedy decoding of a left-padded batch picks the arg max of a plain forward, row by row."""
    model = load_causal_lm(ModelConfig(model_name_or_path=save_model(tmp_path / "m")))
    prompts = [encode_prompt(tokenizer, "Hi"), encode_prompt(tokenizer, "A longer one, this")]
    for prompt, row in zip(
        prompts, generate_ids(model, tokenizer, prompts, 4, temperature=0), strict=True
    ):
        ids = list(prompt)
        for token in row:
            with torch.no_grad():
                assert model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
            ids.append(token)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gpt_neox", "gemma2", "mistral"])
@pytest.mark.parametrize("copies", [1, 2])
def test_rows_that_ended_leave_the_batch_and_the_others_go_on(
    tmp_path, tokenizer, monkeypatch, kind, copies
):
    """Each row is what it is alone, cut after its own eos; the batch that is decoded shrinks."""
    model = load_causal_lm(ModelConfig(model_name_or_path=save_model(tmp_path / "m", kind)))
    prompts = [encode_prompt(tokenizer, p) for p in ("Hi", "A longer one, this", "x y", "why?")]
    whole = [generate_ids(model, tokenizer, [p], 12, temperature=0)[0] for p in prompts]
    end = next(
        t for row in whole for t in row[1:6] if any(t not in other for other in whole)
    )  # ends some rows, not all
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    expected = [row[: row.index(end) + 1] if end in row else row for row in whole]
    assert len({len(row) for row in expected}) > 1
    monkeypatch.setattr("instruct.generation.CHUNK", 3)
    monkeypatch.setattr(
        "instruct.generation.MIN_ROWS", 1
    )  # prompts of other lengths are computed apart
    sizes = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    got = generate_ids(model, tokenizer, prompts, 12, temperature=0, copies=copies)
    assert got == [row for row in expected for _ in range(copies)]
    assert min(sizes) < max(sizes)


def test_tokens_are_drawn_with_their_probability():
    """40,000 draws against softmax(logits / temperature), within 5 standard errors; p = 0 never."""
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 2.0, -torch.inf, -1.0, 1.0])
    picked = DrawToken(temperature=0.7)(None, logits.expand(40_000, 5)).argmax(-1)
    expected = (logits / 0.7).softmax(-1)
    found = torch.bincount(picked, minlength=5) / len(picked)
    assert found[2] == 0
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / len(picked)).sqrt()).all()
