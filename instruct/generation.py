"""Sampling by temperature alone, the one way this repo generates text (sampling outputs, PPO rollouts, evaluation).

Any other filter (top-k, repetition penalty, a model's own `generation_config`) would make the sampling distribution
differ from the one whose log-probabilities are trained, which shows as a negative KL.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer

CHUNK = 8  # tokens between two looks for rows that have ended
MIN_ROWS = 4  # a batch of prompts has at least so many, however their lengths differ


class DrawToken(LogitsProcessor):
    """Draws each row's token from softmax(logits / temperature) and leaves only that one, for `generate` to pick.

    One uniform number per row against the cumulative distribution (in float64), instead of `torch.multinomial`'s random
    number per vocabulary entry: on CPU those took a fifth of sampling (49k entries, 250 rows). `steps` keeps what was
    drawn: [rows, 1 or 2] a step, the token's log-probability and the number per row that `also` gives.
    """

    def __init__(self, temperature: float, also: Callable[[], torch.Tensor] | None = None):
        self.temperature, self.also = temperature, also
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = (scores / self.temperature).softmax(-1)
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        drawn = (
            torch.rand(len(scores), 1, dtype=torch.float64, device=scores.device)
            * cumulative[:, -1:]
        )
        token = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        logprobs = probabilities.gather(1, token).log()
        self.steps.append(torch.cat([logprobs, self.also()[:, None]], 1) if self.also else logprobs)
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


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


def prompt_cache(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, copies: int
) -> DynamicCache:
    """The cache of left-padded prompts [N, P], every row repeated `copies` times: [N * copies, P].

    Rows are computed with those of similar length (at most a tenth of padding), where the cache keeps whole sequences.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    body, cache = getattr(base, base.base_model_prefix), DynamicCache(config=base.config)
    lengths, groups = mask.sum(1).tolist(), []
    whole = all(type(layer) is DynamicLayer for layer in cache.layers)
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not groups or (
            whole and lengths[i] > 1.1 * lengths[groups[-1][0]] and len(groups[-1]) >= MIN_ROWS
        ):
            groups.append([])
        groups[-1].append(i)

    def fill(cache: DynamicCache, ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
        positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        if "position_ids" not in inspect.signature(body.forward).parameters:
            positions = {}
        body(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **positions)
        return cache

    if len(groups) == 1:
        fill(cache, ids, mask)
    else:
        parts = []
        for rows in groups:
            width = max(1, lengths[rows[-1]])
            parts.append(
                fill(DynamicCache(config=base.config), ids[rows, -width:], mask[rows, -width:])
            )
        order = torch.tensor([i for rows in groups for i in rows], device=ids.device).argsort()
        pad = lambda x: torch.nn.functional.pad(x, (0, 0, ids.shape[1] - x.shape[2], 0))  # noqa: E731
        for n in range(len(cache.layers)):
            keys, values = (
                torch.cat([pad(getattr(p.layers[n], kind)) for p in parts])[order]
                for kind in ("keys", "values")
            )
            cache.update(keys, values, n)
    if copies > 1:
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
    record: list[list[list[float]]] | None = None,
    also: Callable[[], torch.Tensor] | None = None,
    **generate_kwargs,
) -> list[list[int]]:
    """Samples `copies` completions of each prompt from softmax(logits / temperature); `temperature=0` decodes greedily.

    Returns len(prompts) * copies rows of sampled ids, the copies of a prompt side by side, each cut after the first eos
    (kept); a row without eos hit `max_new_tokens`. A prompt is computed once, and its cache repeated for the copies. Rows
    that have ended leave the batch every `CHUNK` tokens, unless the processes have to step together (`synced_gpus`).
    A list given as `record` is filled with a row per completion: for each sampled token its log-probability and, where
    `also` is given, the number [rows] that it returns after each forward pass.
    """
    eos, pad, device = tokenizer.eos_token_id, tokenizer.pad_token_id, model.device
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids, mask = left_pad(prompts, pad, device)
    chunk, cache = max_new_tokens, None
    if not getattr(base, "_is_stateful", False):
        together = generate_kwargs.get("synced_gpus")
        if ids.shape[1] > 1 and (copies > 1 or not together):
            cache = prompt_cache(model, ids[:, :-1], mask[:, :-1], copies)
        elif not together:
            cache = DynamicCache(config=base.config)
        chunk = max_new_tokens if together else CHUNK
    ids, mask = ids.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    draw = LogitsProcessorList([DrawToken(temperature, also)] if temperature > 0 else [])
    rows: list[list[int]] = [[] for _ in ids]
    if record is not None:
        record[:] = [[] for _ in ids]
    open_rows = list(range(len(rows)))
    for start in range(0, max_new_tokens, chunk):
        config = GenerationConfig(
            max_new_tokens=min(chunk, max_new_tokens - start),
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=pad,
        )
        with own_generation_config(model, config):
            out = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=draw,
                past_key_values=cache, **generate_kwargs,
            )  # fmt: skip
        for i, new in zip(open_rows, out[:, ids.shape[1] :].tolist(), strict=True):
            rows[i] += new[: new.index(eos) + 1] if eos in new else new
        if record is not None:
            for i, drawn in zip(open_rows, torch.stack(draw[0].steps, 1).tolist(), strict=True):
                record[i] += drawn[: len(rows[i]) - len(record[i])]
            draw[0].steps.clear()
        kept = [j for j, i in enumerate(open_rows) if rows[i][-1] != eos]
        if not kept:
            break
        ids, mask = out, torch.nn.functional.pad(mask, (0, out.shape[1] - mask.shape[1]), value=1)
        if len(kept) < len(open_rows) and cache is not None:
            index = torch.tensor(kept, device=device)
            ids, mask, open_rows = ids[index], mask[index], [open_rows[j] for j in kept]
            cache.batch_select_indices(index)
    return rows
