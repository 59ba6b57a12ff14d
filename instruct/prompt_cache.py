"""The key-value cache that sampling begins with: prompts computed once for all that follows."""

import copy
import inspect
from functools import partial

import torch
from torch.nn.functional import pad as pad_last
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

# Fewer rows, more passes: each reads all weights again, which costs more than padding.
MIN_ROWS = 4  # a batch of prompts has at least so many, however their lengths differ
# Examples or a system message before every prompt; a template's own few tokens are not worth it.
MIN_SHARED = 32  # tokens with which all prompts of a batch begin, to be computed once


def base_of(model: PreTrainedModel) -> PreTrainedModel:
    """The transformers model under a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def left_pad(rows: list[list[int]], pad_id: int, device=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids -> (input_ids, attention_mask), both [rows, longest], padded on the left."""
    # on the left: every row's next token is then in the same column
    longest = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (longest - len(r)) + list(r) for r in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows], device=device)
    return ids, mask


def shared_start(rows: list[list[int]], at_least: int | None = None) -> int:
    """How many ids of all rows are the same and worth computing once; 0 where they are too few.

    Args:
        at_least: how many are enough; default `MIN_SHARED`.
    """
    enough = MIN_SHARED if at_least is None else at_least
    first, last = min(rows), max(rows)  # in order, what these two share all share
    shortest = min(len(first), len(last))
    shared = next((i for i in range(shortest) if first[i] != last[i]), shortest)
    # of the longest row one is left to compute
    shared = min(shared, max(map(len, rows)) - 1)
    return shared if len(rows) > 1 and shared >= enough else 0


def keeps_whole(model: PreTrainedModel) -> bool:
    """Whether the cache keeps whole sequences: a sliding window's layer keeps less."""
    layers = DynamicCache(config=base_of(model).config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


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


def forked(cache: DynamicCache) -> DynamicCache:
    """A cache that goes its own way: what is done to it leaves `cache` as it is."""
    # layers of whole sequences put new tensors in the place of theirs, others write into them
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return copy.deepcopy(cache)
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


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


def _filled(
    model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache
) -> DynamicCache:
    """The cache with the columns of `ids` that it does not hold yet."""
    # the body alone: a prompt's logits [P, V] are not needed
    base = base_of(model)
    body = getattr(base, base.base_model_prefix)
    new = ids.shape[1] - cache.get_seq_length()
    # counted over real tokens, so a row's padding changes nothing
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -new:]
    takes_positions = "position_ids" in inspect.signature(body.forward).parameters
    given = {"position_ids": positions} if takes_positions else {}
    given[cache_argument(body)] = cache
    body(input_ids=ids[:, -new:], attention_mask=mask, use_cache=True, **given)
    return cache


def prompt_cache(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    copies: int,
    share: bool = True,
    at_least: int | None = None,
) -> DynamicCache:
    """The cache of left-padded prompts [N, P], every row repeated `copies` times: [N * copies, P].

    Where the cache keeps whole sequences, a long beginning of all rows is computed once, and rows
    are computed with those of similar length.

    Args:
        share: whether a beginning of all may be computed apart.
        at_least: as of `shared_start`.
    """
    base, filled = base_of(model), partial(_filled, model)

    def empty() -> DynamicCache:
        return DynamicCache(config=base.config)

    lengths = mask.sum(1).tolist()
    rows = [row[-n:] if n else [] for row, n in zip(ids.tolist(), lengths, strict=True)]
    # parts of other lengths fit together only where they are whole
    whole = keeps_whole(model)
    shared = shared_start(rows, at_least) if whole and share else 0
    # what is left to compute of each, in similar lengths
    new = [n - shared for n in lengths]
    groups = of_similar_length(new) if whole else [list(range(len(new)))]
    if shared:
        begun = filled(ids.new_tensor([rows[0][:shared]]), mask.new_ones(1, shared), empty())

    def part(ids: torch.Tensor, mask: torch.Tensor) -> DynamicCache:
        if not shared:
            return filled(ids, mask, empty())
        # so many columns on the left hold nothing but padding and what is shared
        pads = (mask == 0).sum(1)
        known = shared + int(pads.min())
        cache = left_padded(begun, pads, known, empty())
        # of prompts that are the beginning itself, nothing is left
        return cache if known == ids.shape[1] else filled(ids, mask, cache)

    if len(groups) == 1:
        cache = part(ids, mask)
    else:
        # rows are sorted by length, so the last is the longest
        widths = [max(1, lengths[group[-1]]) for group in groups]
        parts = [
            part(ids[group, -width:], mask[group, -width:])
            for group, width in zip(groups, widths, strict=True)
        ]
        cache = joined(parts, groups, empty(), ids.shape[1])
    if copies > 1:
        cache.batch_repeat_interleave(copies)
    return cache


def left_padded(
    begun: DynamicCache, pads: torch.Tensor, width: int, cache: DynamicCache
) -> DynamicCache:
    """Fills `cache` with one row's states for each of `pads`, that many columns to the right.

    Cut to `width` columns. It is the layout of left-padded prompts, so a model that counts columns
    (MPT's biases, GPT-Neo's local attention) sees what it would have computed.
    """
    # any state will do in the padding: the mask hides it
    columns = (torch.arange(width, device=pads.device) - pads[:, None]).clamp(min=0)
    for n, layer in enumerate(begun.layers):
        states = [x[0][:, columns.to(x.device)].transpose(0, 1) for x in (layer.keys, layer.values)]
        cache.update(*states, n)
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


def starts_from_cache(model: PreTrainedModel) -> bool:
    """Whether a cache that was filled before can be cut, and have rows taken out or repeated."""
    base = base_of(model)
    # a recurrent state (Mamba) can not
    return not getattr(base, "_is_stateful", False) and cache_argument(base) is not None


def start_cache(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    copies: int,
    together: bool,
    at_least: int | None = None,
) -> DynamicCache | None:
    """The cache to begin with: of all but the prompts' last token; None where `generate` makes its
    own. `at_least` as of `shared_start`.
    """
    base = base_of(model)
    if not starts_from_cache(model):
        return None
    # but the last: `generate` needs one token to go on from
    if ids.shape[1] > 1 and (copies > 1 or not together):
        # processes that step together do so in the same number of passes
        return prompt_cache(model, ids[:, :-1], mask[:, :-1], copies, not together, at_least)
    # processes that step together keep all their rows, so `generate`'s own will do
    return None if together else DynamicCache(config=base.config)
