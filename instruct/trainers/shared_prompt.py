"""One prompt, K completions, one forward pass: batches of rankings, and how a model scores them.

The prompt is computed once. Its pass fills a key-value cache, the cache is repeated for each
completion, and the completions continue from it, all in one forward of the wrapped model (DDP and
FSDP see one call), gradients included. Where a model cannot do that, each completion is a row of
its own with its own copy of the prompt.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from instruct.evaluation.ranking_metrics import PAD
from instruct.models import last_token_scores
from instruct.prompt_cache import cache_argument, left_pad

NOT_FOR_MODEL = ("ranks", "keys")  # of a batch: what the loss and the metrics need


@dataclass
class RankingCollator:
    """Tokenised rankings -> one batch.

    N rankings, R completions of all of them (ranking by ranking), K of the largest one.
    Always: `ranks` [N, K] padded with PAD; `keys` [N, 2], of prompt and labeler.
    Shared prompts: `input_ids`, `attention_mask` [N, P] left-padded prompts; `completion_ids`,
    `completion_mask` [R, C] right-padded; `prompt_of` [R], the prompt of each completion.
    Rows: `input_ids`, `attention_mask` [R, P + C], right-padded.
    """

    pad_token_id: int
    share_prompt: bool

    def __call__(self, rankings: list[dict]) -> dict[str, Tensor]:
        ranks = pad_sequence([torch.tensor(r["ranks"]) for r in rankings], True, PAD)
        # keys as numbers: only tensors are gathered over processes
        keys = torch.tensor([[r["prompt_key"], r["labeler_key"]] for r in rankings])
        # `ranks` first: the evaluation loop takes the batch size from it
        batch = {"ranks": ranks, "keys": keys}
        if not self.share_prompt:
            # right-padded, as causal attention then needs no care of padding
            rows = [r["prompt_ids"] + c for r in rankings for c in r["completion_ids"]]
            batch["input_ids"], batch["attention_mask"] = self._right_pad(rows)
            return batch
        prompts = [r["prompt_ids"] for r in rankings]
        completions = [c for r in rankings for c in r["completion_ids"]]
        prompt_of = [i for i, r in enumerate(rankings) for _ in r["completion_ids"]]
        # left: a completion continues in the next column, with no gap of padding between
        batch["input_ids"], batch["attention_mask"] = left_pad(prompts, self.pad_token_id)
        batch["completion_ids"], batch["completion_mask"] = self._right_pad(completions)
        batch["prompt_of"] = torch.tensor(prompt_of)
        return batch

    def _right_pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        ids = pad_sequence([torch.tensor(row) for row in rows], True, self.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def cached_scores(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    prompt_of: Tensor,
) -> Tensor:
    """Scores [R] of completions that continue from a shared prompt; shapes as in `RankingCollator`.

    Prompts are padded on the left, so that each completion follows its prompt directly: relative
    positions, and what a sliding window sees, are those of one plain row.
    """
    # the body: the head is applied to one token per completion only
    body = getattr(model, model.base_model_prefix)
    # given where they can be: else counted from the cache's length, padding included
    takes_positions = "position_ids" in inspect.signature(body.forward).parameters

    def run(ids: Tensor, mask: Tensor, **cached):
        # counted over real tokens; padding repeats a position, so none is past the model's last one
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"position_ids": positions} if takes_positions else {}
        return body(input_ids=ids, attention_mask=mask, use_cache=True, **given, **cached)

    # 1. Each prompt once
    cache_name = cache_argument(body)
    cache = getattr(run(input_ids, attention_mask), cache_name)

    # 2. Its cache for each of its completions
    n_prompts = len(input_ids)
    k, rest = divmod(len(prompt_of), n_prompts)
    prompts = torch.arange(n_prompts, device=prompt_of.device)
    if rest == 0 and torch.equal(prompt_of, prompts.repeat_interleave(k)):
        cache.batch_repeat_interleave(k)  # the same K for all: its backward is a plain sum
    else:
        # an index: any number each, but its backward is a slower scatter
        cache.reorder_cache(prompt_of)

    # 3. Completions go on from there; the score is read at their last token
    # the mask covers the cache as well, so its padding stays hidden
    mask = torch.cat([attention_mask[prompt_of], completion_mask], 1)
    hidden = run(completion_ids, mask, **{cache_name: cache}).last_hidden_state
    last = completion_mask.sum(1) - 1
    return model.score(hidden[torch.arange(len(hidden), device=hidden.device), last]).squeeze(-1)


def score_rankings_in_forward(model: PreTrainedModel) -> None:
    """Makes `model.forward` score rows at their last token, or whole rankings of shared prompts.

    Bound to the sequence classifier itself, under any PEFT, DDP or FSDP wrapper, so that one call
    of the wrapper does it all: they synchronise gradients only for what their `forward` ran.
    Encoders keep their own forward: they pool in their own way.
    """
    if not hasattr(model, "score"):
        return

    # on the instance: a class of its own would be another architecture to PEFT and to files
    def forward(
        self,
        input_ids,
        attention_mask,
        completion_ids=None,
        completion_mask=None,
        prompt_of=None,
        **_unused,
    ):
        if completion_ids is None:
            scores = last_token_scores(self, input_ids, attention_mask)
        else:
            scores = cached_scores(
                self, input_ids, attention_mask, completion_ids, completion_mask, prompt_of
            )
        return SequenceClassifierOutput(logits=scores[:, None])

    model.forward = MethodType(forward, model)


################
# May a prompt be shared?
################


def why_not_cache(model: PreTrainedModel, check: bool = True) -> str | None:
    """Why a shared prompt cannot be used with this model, or None where it can.

    Beside what the architecture says, a small ranking is scored in both ways (`check`).
    """
    if not hasattr(model, "score"):
        return "an encoder reads prompt and completion together"
    body = getattr(model, model.base_model_prefix)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return "activation checkpointing drops the cache"
    # a recurrent state holds padding, too, and is no cache to repeat
    if getattr(model, "_is_stateful", False) or cache_argument(body) is None:
        return f"{model.config.model_type} models have no key-value cache that could be shared"
    return _both_ways_differ(model) if check else None


def _small_rankings(vocab_size: int) -> list[dict]:
    """Two rankings of unequal K and lengths: padding on both sides, and a reordered cache."""
    # any ids will do, but different ones: equal tokens would hide a wrong order
    ids = [(7 * i + 5) % vocab_size for i in range(22)]
    texts = [
        {"prompt_ids": ids[:5], "completion_ids": [ids[5:9], ids[9:11]]},
        {"prompt_ids": ids[11:14], "completion_ids": [ids[14:17], ids[17:21], ids[21:]]},
    ]
    return [
        {**text, "ranks": [1] * len(text["completion_ids"]), "prompt_key": 0, "labeler_key": 0}
        for text in texts
    ]


@torch.no_grad()
def _both_ways_differ(model: PreTrainedModel) -> str | None:
    """Scores small rankings with and without a shared prompt; says what is wrong, if anything."""
    kind = model.config.model_type
    rankings = _small_rankings(model.config.get_text_config().vocab_size)

    def scores(score: Callable, share_prompt: bool) -> Tensor:
        batch = RankingCollator(pad_token_id=0, share_prompt=share_prompt)(rankings)
        inputs = {k: v.to(model.device) for k, v in batch.items() if k not in NOT_FOR_MODEL}
        return score(model, **inputs).float()

    # dropout would make two equal ways differ
    training = model.training
    model.eval()
    try:
        plain, shared = scores(last_token_scores, False), scores(cached_scores, True)
    # whatever an unknown cache class does with being repeated
    except (
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        NotImplementedError,
        IndexError,
    ) as error:
        return f"{kind} cannot continue from a repeated cache ({type(error).__name__}: {error})"
    finally:
        model.train(training)
    # rounding differs between the two ways, wrong positions differ by far more
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    if torch.allclose(plain, shared, rtol=tolerance, atol=tolerance * plain.abs().max().item()):
        return None
    return f"{kind} scores a completion differently when it continues from a cache"
