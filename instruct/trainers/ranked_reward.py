"""RankedRewardTrainer: TRL's RewardTrainer where the batch element is one whole ranking, as in InstructGPT.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5: with the C(K,2) comparisons of a prompt as separate data points, one
pass over the data overfits; as one batch element they need one forward pass per completion. For one ranking,

    loss = - mean over its strict pairs (w ranked better than l) of  log sigmoid(r_w - r_l)

where tied completions form no pair, and the batch's loss is the mean over its rankings. Here the prompt, too, is
computed only once: a pass over the prompt fills a key-value cache, the cache is repeated for each completion, and the
completions continue from it, all in one forward of the wrapped model (DDP and FSDP see one call), gradients included.
"""

import inspect
from dataclasses import dataclass, field
from types import MethodType

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import EvalPrediction, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import RewardConfig, RewardTrainer

from instruct.arguments import HardwareDefaults
from instruct.evaluation.ranking_metrics import PAD, ranking_metrics, strict_pairs
from instruct.files import UserError
from instruct.generation import left_pad
from instruct.models import last_token_scores
from instruct.ranking import as_ranking, key_of
from instruct.tokens import encode_completion, encode_prompt

logger = get_logger(__name__)


@dataclass
class RankedRewardConfig(HardwareDefaults, RewardConfig):
    """TRL's `RewardConfig`; a batch of `per_device_train_batch_size` is that many rankings, not rows.

    Rankings of similar length share a batch. `gradient_checkpointing` rules out the shared prompt.
    """

    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "'group_by_length' puts rankings of similar length into one batch.",
            "choices": ["random", "sequential", "group_by_length", "batch_rebalance"],
        },
    )
    share_prompt: str = field(
        default="auto",
        metadata={
            "help": "'cache' computes each prompt once, 'rows' once per completion, 'auto' is 'cache' where it is exact.",
            "choices": ["auto", "cache", "rows"],
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without better held-out accuracy, and keep the best."
        },
    )

    def __post_init__(self):
        if self.early_stopping_patience is not None:
            self.eval_strategy = "epoch" if self.eval_strategy == "no" else self.eval_strategy
            self.save_strategy, self.save_steps = (
                self.eval_strategy,
                self.eval_steps or self.save_steps,
            )
            self.load_best_model_at_end = True
            self.metric_for_best_model, self.greater_is_better = (
                self.metric_for_best_model or "accuracy",
                True,
            )
        super().__post_init__()
        if self.n_gpu > 1:
            self._n_gpu = 1  # nn.DataParallel would cut rankings apart; several GPUs are for `accelerate launch`


@dataclass
class RankingCollator:
    """Rankings -> one batch. `ranks` is [N, K] padded with PAD; R = all completions of the batch, ranking by ranking.

    Shared prompts: `input_ids`, `attention_mask` [N, P] left-padded prompts; `completion_ids`, `completion_mask` [R, C]
    right-padded; `prompt_of` [R] the prompt of each completion. Rows: `input_ids`, `attention_mask` [R, P + C].
    """

    pad_token_id: int
    share_prompt: bool

    def __call__(self, rankings: list[dict]) -> dict[str, Tensor]:
        ranks = pad_sequence([torch.tensor(r["ranks"]) for r in rankings], True, PAD)
        keys = torch.tensor([[r["prompt_key"], r["labeler_key"]] for r in rankings])
        batch = {
            "ranks": ranks,
            "keys": keys,
        }  # `ranks` first: the evaluation loop takes the batch size from it
        if not self.share_prompt:
            ids, mask = self._right_pad(
                [r["prompt_ids"] + c for r in rankings for c in r["completion_ids"]]
            )
            return batch | {"input_ids": ids, "attention_mask": mask}
        prompts, prompt_mask = left_pad([r["prompt_ids"] for r in rankings], self.pad_token_id)
        ids, mask = self._right_pad([c for r in rankings for c in r["completion_ids"]])
        prompt_of = torch.tensor([i for i, r in enumerate(rankings) for _ in r["completion_ids"]])
        return batch | {
            "input_ids": prompts, "attention_mask": prompt_mask,
            "completion_ids": ids, "completion_mask": mask, "prompt_of": prompt_of,
        }  # fmt: skip

    def _right_pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        ids = pad_sequence([torch.tensor(row) for row in rows], True, self.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def ranking_losses(
    scores: Tensor, ranks: Tensor, center: float | None = None
) -> tuple[Tensor, Tensor]:
    """The paper's loss of each ranking. `scores`, `ranks` [N, K], ranks padded with PAD -> losses [N], strict pairs [N].

    A ranking without a strict pair has loss 0. `center` adds center * mean over the pairs of (r_w + r_l)^2, as TRL's
    `center_rewards_coefficient` does (arXiv 2312.09244, eq. 2).
    """
    strict = strict_pairs(ranks)
    pair_losses = -logsigmoid(scores[:, :, None] - scores[:, None, :])
    if center is not None:
        pair_losses = pair_losses + center * (scores[:, :, None] + scores[:, None, :]) ** 2
    n_pairs = strict.sum((1, 2))
    return pair_losses.where(strict, 0.0).sum((1, 2)) / n_pairs.clamp(min=1), n_pairs


def cached_scores(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_ids: Tensor,
    completion_mask: Tensor,
    prompt_of: Tensor,
) -> Tensor:
    """Scores [R] of completions that continue from a shared prompt; shapes as in `RankingCollator`.

    Prompts are padded on the left, so that each completion follows its prompt directly: relative positions, and what a
    sliding window sees, are those of one plain row.
    """
    body = getattr(model, model.base_model_prefix)
    mask = torch.cat([attention_mask[prompt_of], completion_mask], 1)
    takes_positions = "position_ids" in inspect.signature(body.forward).parameters
    # counted over real tokens; padding repeats a position, so that none is past the model's last one
    positions = [(m.cumsum(1) - 1).clamp(min=0) for m in (attention_mask, mask)]
    prompt_positions, completion_positions = (
        {"position_ids": p} if takes_positions else {}
        for p in (positions[0], positions[1][:, input_ids.shape[1] :])
    )
    cache = body(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=True, **prompt_positions
    ).past_key_values
    repeats, rest = divmod(len(prompt_of), len(input_ids))
    if rest == 0 and bool(
        (
            prompt_of
            == torch.arange(len(input_ids), device=prompt_of.device).repeat_interleave(repeats)
        ).all()
    ):
        cache.batch_repeat_interleave(repeats)  # same K for all: its backward is a plain sum
    else:
        cache.reorder_cache(prompt_of)
    hidden = body(
        input_ids=completion_ids,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        **completion_positions,
    ).last_hidden_state
    last = completion_mask.sum(1) - 1
    return model.score(hidden[torch.arange(len(hidden), device=hidden.device), last]).squeeze(-1)


def score_rankings_in_forward(model: PreTrainedModel) -> None:
    """Makes `model.forward` score rows at their last token and, given `completion_ids`, whole rankings.

    Bound to the sequence classifier itself, under any PEFT, DDP or FSDP wrapper, so that one call of the wrapper does it
    all. Encoders keep their own forward: they pool in their own way.
    """
    if not hasattr(model, "score"):
        return

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


@torch.no_grad()
def why_not_cache(model: PreTrainedModel, check: bool = True) -> str | None:
    """Why a shared prompt cannot be used with this model, or None where it can.

    Beside what the architecture says, a small ranking with padding on both sides is scored in both ways (`check`).
    """
    if not hasattr(model, "score"):
        return "an encoder reads prompt and completion together"
    body = getattr(model, model.base_model_prefix)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return "activation checkpointing drops the cache"
    if (
        getattr(model, "_is_stateful", False)
        or "past_key_values" not in inspect.signature(body.forward).parameters
    ):
        return f"{model.config.model_type} models have no key-value cache that could be shared"
    if not check:
        return None
    ids = (
        torch.arange(22, device=model.device) * 7 + 5
    ) % model.config.get_text_config().vocab_size
    rankings = [
        {"prompt_ids": ids[:5].tolist(), "completion_ids": [ids[5:9].tolist(), ids[9:11].tolist()]},
        {
            "prompt_ids": ids[11:14].tolist(),
            "completion_ids": [ids[14:17].tolist(), ids[17:21].tolist(), ids[21:].tolist()],
        },
    ]
    for ranking in rankings:
        ranking |= {
            "ranks": [1] * len(ranking["completion_ids"]),
            "prompt_key": 0,
            "labeler_key": 0,
        }
    training = model.training
    model.eval()
    try:
        scores = []
        for share_prompt in (False, True):
            batch = RankingCollator(0, share_prompt)(rankings)
            batch = {k: v.to(model.device) for k, v in batch.items() if k not in ("ranks", "keys")}
            scores.append(
                (cached_scores if share_prompt else last_token_scores)(model, **batch).float()
            )
    except (
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        NotImplementedError,
        IndexError,
    ) as error:
        return f"{model.config.model_type} cannot continue from a repeated cache ({type(error).__name__}: {error})"
    finally:
        model.train(training)
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2
    if not torch.allclose(*scores, rtol=tolerance, atol=tolerance * scores[0].abs().max().item()):
        return f"{model.config.model_type} scores a completion differently when it continues from a cache"
    return None


class RankedRewardTrainer(RewardTrainer):
    """Trains a sequence classifier with one label on rankings.

    Rows: `prompt` (messages or text), `completions` [K], `ranks` [K] (1 = best, equal = tie), K may differ from row to
    row; or `chosen`, `rejected` (K = 2). Optional `labeler`. All other arguments are those of `trl.RewardTrainer`.
    """

    _tag_names = ["trl", "reward-trainer", "ranked-reward"]

    def __init__(self, model, args: RankedRewardConfig | None = None, **kwargs):
        kwargs.setdefault("compute_metrics", _metrics_of)
        super().__init__(model, args=args or RankedRewardConfig("reward"), **kwargs)
        self.model_accepts_loss_kwargs = (
            True  # the loss is divided by all rankings of the step, see below
        )
        classifier = self.accelerator.unwrap_model(self.model)
        classifier = (
            classifier.get_base_model() if hasattr(classifier, "get_base_model") else classifier
        )
        self.share_prompt = self._decide_share_prompt(classifier)
        score_rankings_in_forward(classifier)
        self.data_collator = RankingCollator(self.processing_class.pad_token_id, self.share_prompt)

    def _decide_share_prompt(self, classifier: PreTrainedModel) -> bool:
        asked = self.args.share_prompt
        if asked == "rows":
            return False
        # sharded weights cannot be tried out before they are wrapped
        check = not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        reason = (
            "activation checkpointing drops the cache" if self.args.gradient_checkpointing else None
        )
        reason = reason or why_not_cache(classifier, check)
        if reason and asked == "cache":
            raise UserError(
                f"--share_prompt cache is not possible here: {reason}; use rows or auto"
            )
        if reason:
            logger.warning(
                f"Each completion is computed with its own copy of the prompt (share_prompt: rows), since {reason}."
            )
        return reason is None

    def _prepare_dataset(
        self, dataset: Dataset, processing_class, args: RankedRewardConfig, dataset_name: str
    ) -> Dataset:
        """Tokenises rankings (token contract: prompt ids + completion ids + eos), leaves out and counts what cannot be used."""
        if "completion_ids" in dataset.column_names:
            return dataset

        def encode(row: dict, index: int) -> dict:
            ranking = as_ranking(row, f"{dataset_name} dataset, row {index + 1}")
            prompt_ids = encode_prompt(processing_class, ranking["prompt"])
            completion_ids = [
                encode_completion(processing_class, c) for c in ranking["completions"]
            ]
            labeler = row.get("labeler")
            return ranking | {
                "prompt_ids": prompt_ids,
                "completion_ids": completion_ids,
                "prompt_key": key_of(ranking["prompt"]),
                "labeler_key": -1 if labeler is None else key_of(labeler),
                "longest": len(prompt_ids) + max(map(len, completion_ids), default=0),
                "length": len(prompt_ids) + sum(map(len, completion_ids)),
            }

        if "margin" in dataset.column_names:
            logger.warning(
                f"The {dataset_name} dataset's `margin` column is not used: rankings have no margins."
            )
        with PartialState().main_process_first():
            dataset = dataset.map(
                encode, with_indices=True, num_proc=args.dataset_num_proc, desc=f"Tokenizing {dataset_name} dataset",
                remove_columns=[c for c in ("chosen", "rejected") if c in dataset.column_names],
            )  # fmt: skip
            n_all = len(dataset)
            dataset = dataset.filter(lambda ranks: len(set(ranks)) > 1, input_columns="ranks")
            if len(dataset) < n_all:
                logger.warning(
                    f"{n_all - len(dataset)} of {n_all} rankings of the {dataset_name} dataset have no strict pair (fewer than "
                    "two completions, or all tied) and are left out."
                )
            limit = args.max_length
            if limit is not None:
                n_strict = len(dataset)
                dataset = dataset.filter(lambda longest: longest <= limit, input_columns="longest")
                if len(dataset) < n_strict:
                    logger.warning(
                        f"{n_strict - len(dataset)} of {n_all} rankings of the {dataset_name} dataset are longer than --max_length "
                        f"{limit} tokens and are left out."
                    )
        if len(dataset) == 0:
            raise UserError(
                f"the {dataset_name} dataset has no ranking that could be learned from: {n_all} in it, none has a strict pair "
                f"within --max_length {args.max_length}"
            )
        return dataset

    def _set_signature_columns_if_needed(self):
        self._signature_columns = [
            "prompt_ids",
            "completion_ids",
            "ranks",
            "prompt_key",
            "labeler_key",
            "length",
        ]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Rankings with a strict pair in this optimiser step: all micro-batches, all processes."""
        count = sum(strict_pairs(batch["ranks"]).flatten(1).any(1).sum() for batch in batch_samples)
        count = torch.as_tensor(count, device=device)
        if self.args.world_size > 1:
            count = self.accelerator.gather(count).sum()
        return count.clamp(min=1)

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None
    ):
        mode = "train" if self.model.training else "eval"
        ranks = inputs["ranks"]
        outputs = model(**{k: v for k, v in inputs.items() if k not in ("ranks", "keys")})
        real = ranks != PAD
        scores = torch.zeros_like(ranks, dtype=torch.float32)
        scores[real] = outputs.logits.squeeze(-1).float()
        losses, n_pairs = ranking_losses(scores, ranks, self.args.center_rewards_coefficient)
        if num_items_in_batch is None:
            loss = losses.sum() / (n_pairs > 0).sum().clamp(min=1)
        else:  # gradients are averaged over processes, `num_items_in_batch` counts the rankings of all of them
            loss = losses.sum() * self.accelerator.num_processes / num_items_in_batch
        self._record(mode, scores.detach(), ranks, inputs)
        return (loss, scores) if return_outputs else loss

    @torch.no_grad()
    def _record(self, mode: str, scores: Tensor, ranks: Tensor, inputs: dict) -> None:
        """What TRL's RewardTrainer logs, over all processes; accuracy in evaluation comes from `ranking_metrics`."""
        real, strict = ranks != PAD, strict_pairs(ranks)
        margins = (scores[:, :, None] - scores[:, None, :])[strict]
        tokens = inputs["attention_mask"].sum() + (
            inputs["completion_mask"].sum() if "completion_mask" in inputs else 0
        )
        sums = torch.stack(
            [
                scores[real].sum(),
                real.sum(),
                margins.sum(),
                (margins > 0).sum(),
                strict.sum(),
                tokens,
            ]
        )
        extremes = torch.stack([scores[real].min(), scores[real].max()])
        reward, n, margin, right, pairs, tokens = (
            self.accelerator.gather(sums.double()[None]).sum(0).tolist()
        )
        extremes = self.accelerator.gather(extremes[None])
        metrics = self._metrics[mode]
        if mode == "train":
            self._total_train_tokens += int(tokens)
            if pairs:
                metrics["accuracy"].append(right / pairs)
        metrics["num_tokens"] = [self._total_train_tokens]
        if pairs:
            metrics["margin"].append(margin / pairs)
        metrics["min_reward"].append(extremes[:, 0].min().item())
        metrics["mean_reward"].append(reward / n)
        metrics["max_reward"].append(extremes[:, 1].max().item())

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """-> loss, scores [N, K], (ranks [N, K], keys [N, 2]), all that `ranking_metrics` needs, whatever the order of rows."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, scores = self.compute_loss(model, inputs, return_outputs=True)
        return (
            (loss, None, None)
            if prediction_loss_only
            else (loss, scores, (inputs["ranks"], inputs["keys"]))
        )

    def mean_score(self, prompts: list, completions: list) -> float:
        """Mean score of completions, one for each prompt, by the model as it is distributed now (for the bias, section 3.5)."""
        tokenizer = self.processing_class
        rows = [
            {"prompt_ids": encode_prompt(tokenizer, p), "completion_ids": [encode_completion(tokenizer, c)], "ranks": [1],
             "prompt_key": 0, "labeler_key": -1, "length": 0}
            for p, c in zip(prompts, completions, strict=True)
        ]  # fmt: skip
        mean = float(self.predict(Dataset.from_list(rows)).predictions.mean())
        self._metrics["eval"].clear()  # not part of the next evaluation
        return mean


def _metrics_of(prediction: EvalPrediction) -> dict[str, float]:
    """`ranking_metrics` for the log of Trainer, which takes numbers only."""
    ranks, keys = prediction.label_ids
    metrics = ranking_metrics(prediction.predictions, ranks, keys[:, 0])
    return {name: value for name, value in metrics.items() if not isinstance(value, dict)}
