"""How likely a model finds completions; a prompt of several is computed once."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import selective_log_softmax

from instruct.one_bar import progress
from instruct.prompt_cache import (
    cache_argument,
    forked,
    left_pad,
    start_cache,
    starts_from_cache,
)

BATCH = 16  # completions a forward
BLOCK = 4096  # tokens of prompts whose caches are kept at once


class LogLikelihood(NamedTuple):
    """log p(completion | prompt), in nats: of all its tokens, and of all but the last, its end."""

    total: float
    without_end: float


def completion_logprobs(
    model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]], batch_size: int = 16
) -> list[float]:
    """log p(completion ids | prompt ids) of each pair, in nats, summed over the completion."""
    # written by row number, as batches are by length
    totals = [0.0] * len(pairs)
    # similar lengths share a batch
    order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        rows = token_logprobs(model, [pairs[i] for i in chunk])
        for i, row in zip(chunk, rows, strict=True):
            totals[i] = row.sum().item()
    return totals


@torch.no_grad()
def token_logprobs(
    model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]]
) -> list[torch.Tensor]:
    """log p of each completion's tokens [its length], of one batch."""
    # by ids: tokenised together, words at the seam may be cut differently
    rows = [[*prompt, *completion] for prompt, completion in pairs]
    ids, mask = left_pad(rows, 0, model.device)
    # counted over real tokens: 0 pads here, and is a real token elsewhere
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    # padded on the left, completions end together: logits of the last few places are enough,
    # one more than the longest completion, as each place predicts the next
    keep = max(len(completion) for _, completion in pairs)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=keep + 1
    ).logits[:, :-1]
    logprobs = selective_log_softmax(logits.float(), ids[:, -keep:])
    lengths = [len(completion) for _, completion in pairs]
    return [row[keep - n :] for row, n in zip(logprobs, lengths, strict=True)]


def log_likelihoods(
    model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]], what: str
) -> list[LogLikelihood]:
    """log p(completion ids | prompt ids) of each pair; a bar where it takes long.

    A prompt of several pairs is computed once for all of them.

    Args:
        what: the judge, in a message.
    """
    found = [LogLikelihood(0.0, 0.0)] * len(pairs)
    counts = Counter(tuple(prompt) for prompt, _ in pairs)
    # alone, or where no cache can be gone on from, a prompt costs one pass with its completion
    can_share = starts_from_cache(model)
    apart, shared = [], []
    for i, (prompt, _) in enumerate(pairs):
        (shared if can_share and counts[tuple(prompt)] > 1 else apart).append(i)
    apart.sort(key=lambda i: sum(map(len, pairs[i])))

    def score(rows: list[int], logprobs: Callable, update: Callable[[int], None]) -> None:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for i, row in zip(batch, logprobs([pairs[i] for i in batch]), strict=True):
                row = row.double()
                found[i] = LogLikelihood(row.sum().item(), row[:-1].sum().item())
            update(len(batch))

    with progress(len(pairs), what) as update:
        score(apart, partial(token_logprobs, model), update)
        for prompts, rows in _blocks(pairs, shared):
            score(rows, _after(model, prompts), update)
    return found


def _blocks(
    pairs: list[tuple[list[int], list[int]]], rows: list[int]
) -> Iterator[tuple[list[tuple[int, ...]], list[int]]]:
    """Prompts whose caches fit into memory together, and the rows that they are the prompts of.

    Rows come by the length of their completions: a batch holds little padding.
    """
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for i in rows:
        of_prompt.setdefault(tuple(pairs[i][0]), []).append(i)
    blocks: list[list[tuple[int, ...]]] = [[]]
    for prompt in sorted(of_prompt, key=lambda p: (len(p), p)):
        # the longest comes last, and all are padded to it
        if blocks[-1] and len(prompt) * (len(blocks[-1]) + 1) > BLOCK:
            blocks.append([])
        blocks[-1].append(prompt)
    for block in filter(None, blocks):
        found = [i for prompt in block for i in of_prompt[prompt]]
        yield block, sorted(found, key=lambda i: len(pairs[i][1]))


def _after(model: PreTrainedModel, prompts: list[tuple[int, ...]]) -> Callable:
    """`token_logprobs` of pairs whose prompts are among `prompts`, computed once, now."""
    place = {prompt: i for i, prompt in enumerate(prompts)}
    ids, mask = left_pad(prompts, 0, model.device)
    with torch.no_grad():
        # of all but the prompts' last token, which predicts the first of a completion
        known = start_cache(model, ids, mask, copies=1, together=False)

    @torch.no_grad()
    def logprobs(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[torch.Tensor]:
        which = torch.tensor([place[tuple(p)] for p, _ in pairs], device=model.device)
        cache = forked(known)  # the next batch begins from it too
        cache.batch_select_indices(which)
        longest = max(len(completion) for _, completion in pairs)
        new = torch.tensor(
            [[p[-1], *c] + [0] * (longest - len(c)) for p, c in pairs], device=model.device
        )
        # padded on the right: what stands after a completion is seen by none of its tokens
        whole = torch.cat([mask[which], torch.ones_like(new[:, 1:-1])], 1)
        positions = (whole.cumsum(1) - 1).clamp(min=0)[:, -longest:]
        logits = model(
            input_ids=new[:, :-1],
            attention_mask=whole,
            position_ids=positions,
            **{cache_argument(model): cache},
        ).logits
        found = selective_log_softmax(logits.float(), new[:, 1:])
        return [row[: len(c)] for row, (_, c) in zip(found, pairs, strict=True)]

    return logprobs
