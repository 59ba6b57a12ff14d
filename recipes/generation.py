"""Sampling by temperature alone, the one way this repo generates text (sampling outputs, PPO rollouts, evaluation).

Any other filter (top-k, repetition penalty, a model's own `generation_config`) would make the sampling distribution
differ from the one whose log-probabilities are trained, which shows as a negative KL.
"""

import contextlib
import inspect
from collections.abc import Iterator

import torch
from transformers import DynamicCache, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def plain_sampling(tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float) -> GenerationConfig:
    """A `GenerationConfig` that samples from softmax(logits / temperature); `temperature=0` decodes greedily."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{"do_sample": False, **sampling},
    )


@contextlib.contextmanager
def own_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """`generate` fills unset fields from `model.generation_config`; for the block that is `config` itself."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = kept


def left_pad(rows: list[list[int]], pad_id: int, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids -> (input_ids, attention_mask), both [rows, longest], padded on the left."""
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def repeated_cache(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, copies: int) -> DynamicCache:
    """The cache of left-padded prompts [N, P], every row repeated `copies` times: [N * copies, P]."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, cache = getattr(base, base.base_model_prefix), DynamicCache(config=base.config)
    positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    if "position_ids" not in inspect.signature(body.forward).parameters:
        positions = {}
    body(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **positions)
    cache.batch_repeat_interleave(copies)
    return cache


@torch.no_grad()
def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    copies: int = 1,
    **generate_kwargs,
) -> list[list[int]]:
    """Samples `copies` completions of each prompt, as one batch that stops when all rows have ended.

    Returns len(prompts) * copies rows of sampled ids, the copies of a prompt side by side, each cut after the first eos
    (kept); a row without eos hit `max_new_tokens`. A prompt is computed once, and its cache repeated for the copies.
    """
    config = plain_sampling(tokenizer, max_new_tokens, temperature)
    ids, mask = left_pad(prompts, tokenizer.pad_token_id, model.device)
    if copies > 1:
        if ids.shape[1] > 1 and not getattr(model, "_is_stateful", False):
            generate_kwargs["past_key_values"] = repeated_cache(model, ids[:, :-1], mask[:, :-1], copies)
        ids, mask = ids.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    with own_generation_config(model, config):
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **generate_kwargs)
    eos = tokenizer.eos_token_id
    rows = out[:, ids.shape[1] :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]
