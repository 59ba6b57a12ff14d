"""Sampling by temperature alone, the one way this repo generates text: outputs to rank, rollouts,
evaluation.

Any other filter (top-k, repetition penalty, a model's own `generation_config`) would make the
sampling distribution differ from the one whose log-probabilities are trained, which shows as a
negative KL.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import pad as pad_last
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer

from instruct.errors import UserError
from instruct.turns import turn_end, up_to_end

# A look waits for the device and copies the cache; without it, ended rows are computed on.
CHUNK = 8  # tokens between two looks for rows that have ended
SHOWN = 100  # characters of a prompt in a message
# Fewer rows, more passes: each reads all weights again, which costs more than padding.
MIN_ROWS = 4  # a batch of prompts has at least so many, however their lengths differ


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model under a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


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


# ---- the prompts' cache --------------------------------------------------------------------------


def left_pad(rows: list[list[int]], pad_id: int, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids -> (input_ids, attention_mask), both [rows, longest], padded on the left."""
    # on the left: every row's next token is then in the same column
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def of_similar_length(lengths: list[int]) -> list[list[int]]:
    """Row numbers in groups: at most a tenth of padding, and at least `MIN_ROWS` in each but the
    last.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        # the shortest of the group comes first, so this bounds every row's padding
        too_long = groups and lengths[i] > 1.1 * lengths[groups[-1][0]]
        if not groups or (too_long and len(groups[-1]) >= MIN_ROWS):
            groups.append([])
        groups[-1].append(i)
    return groups


def cache_argument(model: PreTrainedModel) -> str | None:
    """The name by which `forward` and its output hold the key-value cache, None without one.

    transformers 5.24 has renamed `past_key_values` to `cache`, and warns of the older name. Model
    code of others may take it among its `**kwargs`, by the older one.
    """
    parameters = inspect.signature(model.forward).parameters
    # by signature, not by version: Hub code keeps the name it was written with
    for name in ("cache", "past_key_values"):
        if name in parameters:
            return name
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return "past_key_values" if takes_any else None


def prompt_cache(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, copies: int
) -> DynamicCache:
    """The cache of left-padded prompts [N, P], every row repeated `copies` times: [N * copies, P].

    Rows are computed with those of similar length, where the cache keeps whole sequences.
    """
    # the body alone: a prompt's logits [P, V] are not needed
    base = base_of(model)
    body = getattr(base, base.base_model_prefix)
    takes_positions = "position_ids" in inspect.signature(body.forward).parameters

    def filled(ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
        cache = DynamicCache(config=base.config)
        # counted over real tokens, so a row's padding changes nothing
        positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if takes_positions else {}
        given = {**positions, cache_argument(body): cache}
        body(input_ids=ids, attention_mask=mask, use_cache=True, **given)
        return cache

    lengths = mask.sum(1).tolist()
    # a sliding window's layer keeps less than the sequence: parts of other lengths do not fit
    # together
    whole = all(type(layer) is DynamicLayer for layer in DynamicCache(config=base.config).layers)
    groups = of_similar_length(lengths) if whole else [list(range(len(lengths)))]
    if len(groups) == 1:
        cache = filled(ids, mask)
    else:
        # rows are sorted by length, so the last is the longest
        widths = [max(1, lengths[rows[-1]]) for rows in groups]
        parts = [
            filled(ids[rows, -width:], mask[rows, -width:])
            for rows, width in zip(groups, widths, strict=True)
        ]
        cache = joined(parts, groups, DynamicCache(config=base.config), ids.shape[1])
    if copies > 1:
        cache.batch_repeat_interleave(copies)
    return cache


def joined(
    parts: list[DynamicCache], groups: list[list[int]], cache: DynamicCache, width: int
) -> DynamicCache:
    """Fills `cache` with the parts, each padded on the left to `width`, its rows back in order."""
    place = torch.tensor([i for rows in groups for i in rows]).argsort()

    def whole(kind: str, n: int) -> torch.Tensor:
        states = [getattr(part.layers[n], kind) for part in parts]  # [rows, heads, length, width]
        # 0 will do: the mask hides these places
        padded = [pad_last(x, (0, 0, width - x.shape[2], 0)) for x in states]
        return torch.cat(padded)[place.to(padded[0].device)]

    for n in range(len(parts[0].layers)):
        cache.update(whole("keys", n), whole("values", n), n)
    return cache


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
    **generate_kwargs,
) -> Generated:
    """Samples `copies` completions of each prompt from softmax(logits / temperature).

    A prompt is computed once. Rows that have ended leave the batch every `CHUNK` tokens, unless the
    processes have to step together (`synced_gpus`).

    Args:
        prompts: N rows of ids, that the model has positions for (`check_prompts`).
        temperature: 0 decodes greedily.
        also: called after each forward pass; the numbers [rows] it returns are kept in `noted`.
        until: another way to end, beside the end of a turn: how many of a row's ids are kept, None
            while it goes on. Asked every `CHUNK` tokens.

    Returns:
        N * copies rows, a prompt's side by side; one without an end hit `max_new_tokens`.

    Raises:
        UserError: logits that are not finite; names the prompt. A masked token's -inf is allowed.
    """
    ends, together = turn_end(tokenizer).ids, bool(generate_kwargs.get("synced_gpus"))
    ids, mask = left_pad(prompts, tokenizer.pad_token_id, model.device)
    cache = start_cache(model, ids, mask, copies, together)
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


def starts_from_cache(model: PreTrainedModel) -> bool:
    """Whether a cache that was filled before can be cut, and have rows taken out or repeated."""
    base = base_of(model)
    # a recurrent state (Mamba) can not
    return not getattr(base, "_is_stateful", False) and cache_argument(base) is not None


def start_cache(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, copies: int, together: bool
) -> DynamicCache | None:
    """The cache to begin with: of all but the prompts' last token; None where `generate` makes its
    own.
    """
    base = base_of(model)
    if not starts_from_cache(model):
        return None
    # but the last: `generate` needs one token to go on from
    if ids.shape[1] > 1 and (copies > 1 or not together):
        return prompt_cache(model, ids[:, :-1], mask[:, :-1], copies)
    # processes that step together keep all their rows, so `generate`'s own will do
    return None if together else DynamicCache(config=base.config)


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
