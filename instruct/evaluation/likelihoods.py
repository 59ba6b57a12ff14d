"""How likely a model finds completions; a prompt of several is computed once."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import torch
from tqdm import tqdm
from transformers import PreTrainedModel
from trl.trainer.utils import selective_log_softmax

from instruct.evaluation.scripted import TOLD_AFTER
from instruct.processes import is_main_process
from instruct.prompt_cache import (
    cache_argument,
    forked,
    left_pad,
    start_cache,
    starts_from_cache,
)

BATCH = 16  # completions a forward
BLOCK = 4096  # tokens of prompts whose caches are kept at once


def log_likelihoods(
    model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]], what: str
) -> list[float]:
    """log p(completion ids | prompt ids) of each pair, in nats; a bar where it takes long.

    A prompt of several pairs is computed once for all of them.

    Args:
        what: the judge, in a message.
    """
    # imported here, as below: the scripted labeler needs no PEFT, which takes a second
    from instruct.models import completion_logprobs

    totals = [0.0] * len(pairs)
    counts = Counter(tuple(prompt) for prompt, _ in pairs)
    # alone, or where no cache can be gone on from, a prompt costs one pass with its completion
    can_share = starts_from_cache(model)
    apart, shared = [], []
    for i, (prompt, _) in enumerate(pairs):
        (shared if can_share and counts[tuple(prompt)] > 1 else apart).append(i)
    apart.sort(key=lambda i: sum(map(len, pairs[i])))
    told = tqdm(
        total=len(pairs), desc=what, delay=TOLD_AFTER, leave=False, disable=not is_main_process()
    )

    def score(rows: list[int], logprobs: Callable) -> None:
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            for i, total in zip(batch, logprobs([pairs[i] for i in batch]), strict=True):
                totals[i] = total
            told.update(len(batch))

    with told:
        score(apart, partial(completion_logprobs, model))
        for prompts, rows in _blocks(pairs, shared):
            score(rows, _after(model, prompts))
    return totals


def _blocks(
    pairs: list[tuple[list[int], list[int]]], rows: list[int]
) -> Iterator[tuple[list[tuple[int, ...]], list[int]]]:
    """Prompts whose caches fit into memory together, and the rows that they are the prompts of.

    Rows come by the length of their completions: a batch holds little padding.
    """
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for i in rows:
        of_prompt.setdefault(tuple(pairs[i][0]), []).append(i)
    block: list[tuple[int, ...]] = []
    for prompt in [*sorted(of_prompt, key=lambda p: (len(p), p)), None]:
        # the longest comes last, and all are padded to it
        if block and (prompt is None or len(prompt) * (len(block) + 1) > BLOCK):
            found = [i for p in block for i in of_prompt[p]]
            yield block, sorted(found, key=lambda i: len(pairs[i][1]))
            block = []
        block.append(prompt)


def _after(model: PreTrainedModel, prompts: list[tuple[int, ...]]) -> Callable:
    """`completion_logprobs` of pairs whose prompts are among `prompts`, computed once, now."""
    ids, mask = left_pad(prompts, 0, model.device)
    with torch.no_grad():
        # of all but the prompts' last token, which predicts the first of a completion
        known = start_cache(model, ids, mask, copies=1, together=False)

    @torch.no_grad()
    def logprobs(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[float]:
        which = torch.tensor([prompts.index(tuple(p)) for p, _ in pairs], device=model.device)
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
        lengths = torch.tensor([len(c) for _, c in pairs], device=model.device)
        real = torch.arange(longest, device=model.device) < lengths[:, None]
        return found.where(real, 0.0).sum(1, dtype=torch.float64).tolist()

    return logprobs
