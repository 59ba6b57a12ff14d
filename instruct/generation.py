"""Sampling by temperature alone, the one way this repo generates text: outputs to rank, rollouts,
evaluation.

Any other filter (top-k, repetition penalty, a model's own `generation_config`) would make the
sampling distribution differ from the one whose log-probabilities are trained, which shows as a
negative KL.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import pad as pad_last
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from instruct.errors import UserError
from instruct.prompt_cache import base_of, cache_argument, left_pad, start_cache
from instruct.turns import turn_end, up_to_end

# A look waits for the device and copies the cache; without it, ended rows are computed on.
CHUNK = 8  # tokens between two looks for rows that have ended
SHOWN = 100  # characters of a prompt in a message


# ---- drawing a token -----------------------------------------------------------------------------


class DrawToken(LogitsProcessor):
    """Draws each row's token from softmax(logits / temperature) and leaves only it for `generate`.

    One uniform number per row against the cumulative distribution (in float64), instead of
    `torch.multinomial`'s random number per vocabulary entry: on CPU those took a fifth of sampling
    (49k entries, 250 rows).

    Attributes:
        logprobs: one tensor [rows] a step, the log-probability of what was drawn.
        noted: one tensor [rows] a step, what `also` gave; empty without it.
    """

    def __init__(self, temperature: float, also: Callable[[], torch.Tensor] | None = None):
        self.temperature, self.also = temperature, also
        self.logprobs: list[torch.Tensor] = []
        self.noted: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        probabilities = (scores / self.temperature).softmax(-1)
        # float32 sums of a large vocabulary end visibly off 1
        cumulative = probabilities.cumsum(-1, dtype=torch.float64)
        uniform = torch.rand(len(scores), 1, dtype=torch.float64, device=scores.device)
        # times the last sum, which is 1 but for rounding: no draw falls outside
        drawn = uniform * cumulative[:, -1:]
        # right: an entry of probability 0 is never drawn, even at uniform = 0
        token = torch.searchsorted(cumulative, drawn, right=True).clamp(max=scores.shape[-1] - 1)
        self.logprobs.append(probabilities.gather(1, token).log().squeeze(1))
        if self.also is not None:
            self.noted.append(self.also())
        # `generate` takes the argmax of it
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)

    def take(self) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
        """The steps since the last call, row by row: log-probabilities, notes, and numbers that are
        finite where the logits allow a choice.
        """
        logprobs, noted = _by_row(self.logprobs), _by_row(self.noted)
        self.logprobs, self.noted = [], []
        # NaN where a logit is NaN or inf, or all are -inf: what was drawn then means nothing
        return logprobs, noted, logprobs


class LikeliestToken(LogitsProcessor):
    """Leaves the choice to a greedy `generate`, and keeps the logit that it will choose by."""

    def __init__(self):
        self.largest: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.largest.append(scores.amax(-1))  # NaN where one of them is
        return scores

    def take(self) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
        """As `DrawToken.take`; no log-probabilities and no notes."""
        largest, self.largest = _by_row(self.largest), []
        return [], [], largest


def _by_row(steps: list[torch.Tensor]) -> list[list[float]]:
    return torch.stack(steps, 1).tolist() if steps else []


@contextlib.contextmanager
def own_generation_config(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """For the block, `generate` finds `config` where it would fill up from the model's own."""
    # `generate` fills what a config leaves open from the model's: top_k, repetition_penalty
    base = base_of(model)
    kept, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = kept


def own_random_state(device: torch.device) -> contextlib.AbstractContextManager:
    """For a block whose draws must not shift those that come after it."""
    if device.type == "cpu":
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)


# ---- generating ----------------------------------------------------------------------------------


@dataclass
class Generated:
    """Rows of sampled ids, each cut after its end (kept), and what was known of each id.

    `logprobs` are those of the distribution it was drawn from (none where decoding is greedy),
    `noted` is what `also` gave for it.
    """

    ids: list[list[int]]
    logprobs: list[list[float]]
    noted: list[list[float]]


def likeliest_tokens(count: int, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Greedy: `DrawToken` has left only what it drew."""
    return GenerationConfig(
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=list(turn_end(tokenizer).ids),
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    copies: int = 1,
    also: Callable[[], torch.Tensor] | None = None,
    until: Callable[[list[int]], int | None] | None = None,
    shared_from: int | None = None,
    **generate_kwargs,
) -> Generated:
    """Samples `copies` completions of each prompt from softmax(logits / temperature).

    A prompt is computed once, and so is a long beginning of all. Rows that have ended leave the
    batch every `CHUNK` tokens, unless the processes have to step together (`synced_gpus`).

    Args:
        prompts: N rows of ids, that the model has positions for (`check_prompts`).
        temperature: 0 decodes greedily.
        also: called after each forward pass; the numbers [rows] it returns are kept in `noted`.
        until: another way to end, beside the end of a turn: how many of a row's ids are kept, None
            while it goes on. Asked every `CHUNK` tokens.
        shared_from: tokens from which a beginning of all prompts is computed once; default: of
            examples and the like. What is drawn is the same, but for rounding.

    Returns:
        N * copies rows, a prompt's side by side; one without an end hit `max_new_tokens`.

    Raises:
        UserError: logits that are not finite; names the prompt. A masked token's -inf is allowed.
    """
    ends, together = turn_end(tokenizer).ids, bool(generate_kwargs.get("synced_gpus"))
    ids, mask = left_pad(prompts, tokenizer.pad_token_id, model.device)
    cache = start_cache(model, ids, mask, copies, together, shared_from)
    if cache is not None:
        generate_kwargs[cache_argument(base_of(model))] = cache
    # only a cache of ours goes on from one call of `generate` to the next
    chunk = CHUNK if cache is not None and not together else max_new_tokens
    ids, mask = ids.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)

    draw = DrawToken(temperature, also) if temperature > 0 else LikeliestToken()
    rows, open_rows = [[] for _ in ids], list(range(len(ids)))
    out = Generated(ids=rows, logprobs=[[] for _ in ids], noted=[[] for _ in ids])
    for start in range(0, max_new_tokens, chunk):
        known = ids.shape[1]
        config = likeliest_tokens(min(chunk, max_new_tokens - start), tokenizer)
        with own_generation_config(model, config):
            ids = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=LogitsProcessorList([draw]),
                **generate_kwargs,
            )
        stopped = set()
        for i, new in zip(open_rows, ids[:, known:].tolist(), strict=True):
            rows[i] += up_to_end(new, ends)
            if until is not None and (count := until(rows[i])) is not None:
                del rows[i][count:]
                stopped.add(i)
        lost = keep_drawn(out, open_rows, start, draw)
        if lost is not None:
            raise _not_finite(tokenizer, prompts[lost // copies], temperature)
        still_open = [
            j for j, i in enumerate(open_rows) if rows[i][-1] not in ends and i not in stopped
        ]
        if not still_open:
            break
        mask = pad_last(mask, (0, ids.shape[1] - known), value=1)  # an open row's ids are real
        if len(still_open) < len(open_rows) and cache is not None:
            open_rows = [open_rows[j] for j in still_open]
            index = torch.tensor(still_open, device=model.device)
            ids, mask = ids[index], mask[index]
            cache.batch_select_indices(index)
    return out


def keep_drawn(
    out: Generated, open_rows: list[int], start: int, draw: DrawToken | LikeliestToken
) -> int | None:
    """Adds the last steps' log-probabilities and notes to their rows, as far as the ids go.

    Args:
        start: ids that each open row had before these steps.

    Returns a row with a token that was chosen from logits that are not finite, else None.
    """
    logprobs, noted, chosen = draw.take()
    # after its eos a row draws on with the batch; these draws are no tokens of it
    counts = [len(out.ids[i]) - start for i in open_rows]
    for kept, steps in ((out.logprobs, logprobs), (out.noted, noted)):
        for i, count, row in zip(open_rows, counts, steps, strict=bool(steps)):
            kept[i] += row[:count]
    for i, count, row in zip(open_rows, counts, chosen, strict=True):
        if not all(map(math.isfinite, row[:count])):
            return i
    return None


def _not_finite(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], temperature: float
) -> UserError:
    # the end of it: templates begin alike
    text = tokenizer.decode(prompt, skip_special_tokens=True)[-SHOWN:]
    return UserError(
        f"the model's logits at temperature {temperature:g} are not finite (NaN, infinity, or "
        f"-inf for every token) after the prompt that ends in {text!r}; load it in another "
        "--dtype, or sample from another model"
    )


def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    copies: int = 1,
) -> list[list[int]]:
    """The ids of `generate`: len(prompts) * copies rows, the copies of a prompt side by side."""
    return generate(model, tokenizer, prompts, max_new_tokens, temperature, copies).ids
