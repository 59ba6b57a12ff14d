"""Sampling by temperature alone, the one way this repo generates text (sampling outputs, PPO rollouts, evaluation).

Any other filter (top-k, repetition penalty, a model's own `generation_config`) would make the sampling distribution
differ from the one whose log-probabilities are trained, which shows as a negative KL.
"""

import contextlib
from collections.abc import Iterator

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


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


@torch.no_grad()
def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    **generate_kwargs,
) -> list[list[int]]:
    """Samples one completion for each prompt, as one batch that stops when all rows have ended.

    Returns the sampled ids of each prompt, cut after the first eos (kept); a row without eos hit `max_new_tokens`.
    """
    config = plain_sampling(tokenizer, max_new_tokens, temperature)
    ids, mask = left_pad(prompts, tokenizer.pad_token_id, model.device)
    with own_generation_config(model, config):
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **generate_kwargs)
    eos = tokenizer.eos_token_id
    rows = out[:, ids.shape[1] :].tolist()
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]
