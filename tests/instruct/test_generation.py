"""Sampling: shared prompts, rows that end, and the distribution that is drawn from."""

import copy

import pytest
import torch
from conftest import make_model, save_model

from instruct.arguments import ModelConfig
from instruct.errors import UserError
from instruct.generation import DrawToken, generate, generate_ids
from instruct.models import load_causal_lm
from instruct.prompt_cache import MIN_SHARED
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
        "instruct.prompt_cache.MIN_ROWS", 1
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


LOCAL = {"num_layers": 2, "attention_types": [[["local", "global"], 1]], "window_size": 16}
# the last two count columns of the batch, not positions
KINDS = dict.fromkeys(("llama", "gpt2", "opt", "gpt_neox", "qwen2", "mistral", "mpt"), {})
KINDS |= {"gpt_neo": LOCAL}


@pytest.mark.parametrize(("copies", "min_rows"), [(1, 4), (2, 4), (2, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_long_beginning_of_all_prompts_is_computed_once(
    tmp_path, tokenizer, monkeypatch, kind, copies, min_rows
):
    """Examples before a question, say: the same answers for fewer tokens."""
    # the rest of each with those of similar length
    monkeypatch.setattr("instruct.prompt_cache.MIN_ROWS", min_rows)
    # large weights: what is said depends on all that was asked
    path = save_model(tmp_path / "m", kind, initializer_range=0.3, **KINDS[kind])
    model = load_causal_lm(ModelConfig(model_name_or_path=path))
    examples = tokenizer("Question: what is it?\nAnswer: it is a cat.\n\n" * 4)["input_ids"]
    texts = ("Hi", "A longer one, which goes on and on", "x y", "x y", "")
    prompts = [examples + tokenizer(text)["input_ids"] for text in texts]
    body, tokens = getattr(model, model.base_model_prefix), []
    body.register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append([*args, kwargs.get("input_ids")][0].numel()),
        with_kwargs=True,
    )
    ids = generate_ids(model, tokenizer, prompts, 6, temperature=0, copies=copies)
    once, apart = sum(tokens), [generate_ids(model, tokenizer, [p], 6, 0)[0] for p in prompts]
    assert ids == [row for row in apart for _ in range(copies)]
    tokens.clear()
    monkeypatch.setattr("instruct.prompt_cache.MIN_SHARED", 10_000)
    assert generate_ids(model, tokenizer, prompts, 6, temperature=0, copies=copies) == ids
    saved = sum(tokens) - once
    # a window of its own length keeps no whole beginning
    assert saved >= (0 if kind == "mistral" else 2 * len(examples) - 20), saved


def test_a_beginning_that_is_shared_leaves_rows_with_those_of_their_length(tmp_path, tokenizer):
    """A long prompt among short ones pads nobody; how long a beginning must be can be said."""
    path = save_model(tmp_path / "m", initializer_range=0.3)
    model = load_causal_lm(ModelConfig(model_name_or_path=path))
    told = tokenizer("Be polite and fair to all. ")["input_ids"]
    texts = ["Hi there", "x y z", "why not", "It is", "a long one " * 9, "one more " * 9, "a " * 20]
    prompts = [told + tokenizer(text)["input_ids"] for text in [*texts, "so " * 20]]
    assert 8 <= len(told) < MIN_SHARED
    tokens = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )

    def computed(**how) -> tuple[list, int]:
        tokens.clear()
        ids = generate(model, tokenizer, prompts, 4, 0.0, **how).ids
        return ids, sum(tokens)

    plain, before = computed()
    shared, after = computed(shared_from=8)
    assert shared == plain
    # of 8 rows it is computed once
    assert before - after >= 7 * len(told)


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
        "instruct.prompt_cache.MIN_ROWS", 1
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


def logits_set_to(model, value: float, ids: slice, rows: slice = slice(None)):
    """From now on the model says `value` for these ids in these rows of a batch."""

    def change(module, args, out):
        out.logits[rows, -1:, ids] = value
        return out

    return model.register_forward_hook(change)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (float("nan"), slice(77, 78)),
        (float("nan"), slice(None)),
        (float("inf"), slice(77, 78)),
        (-float("inf"), slice(None)),
    ],
)
def test_logits_that_are_not_finite_stop_sampling(tokenizer, temperature, value, ids):
    model = make_model(initializer_range=0.5)
    prompts = [tokenizer(text)["input_ids"] for text in ("Tell me of tea", "What of rain?")]
    logits_set_to(model, value, ids, rows=slice(1, 2))
    with pytest.raises(UserError, match="not finite .* prompt that ends in 'What of rain\\?'"):
        generate_ids(model, tokenizer, prompts, 20, temperature)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_masked_tokens_are_never_sampled_and_no_error(tokenizer, temperature):
    model = make_model(initializer_range=0.5)
    prompts = [tokenizer("Tell me of tea")["input_ids"]]
    logits_set_to(model, -float("inf"), slice(40, 512))
    [row] = generate_ids(model, tokenizer, prompts, 20, temperature)
    assert row and max(row) < 40
