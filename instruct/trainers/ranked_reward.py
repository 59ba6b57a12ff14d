"""RankedRewardTrainer: TRL's RewardTrainer with a whole ranking as batch element.

Ouyang et al. 2022 (arXiv 2203.02155), section 3.5: with the C(K,2) comparisons of a prompt as
separate data points, one pass over the data overfits; as one batch element they need one forward
pass per completion. For one ranking,

    loss = - mean over its strict pairs (w ranked better than l) of  log sigmoid(r_w - r_l)

where tied completions form no pair, and the batch's loss is the mean over its rankings. The
prompt, too, is computed only once: see `shared_prompt`.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from instruct.checks.model_limits import check_special_tokens, limits_of
from instruct.checks.score_functions import checked_scores
from instruct.errors import UserError
from instruct.evaluation.ranking_metrics import PAD, ranking_metrics, strict_pairs
from instruct.prompt_cache import base_of
from instruct.ranking import as_ranking, key_of
from instruct.run_defaults import Batches, Rates, RunDefaults, batch_flag, rate_flag
from instruct.tokens import encode_answers_of, encode_pairs
from instruct.trainers.finite_run import FiniteRun
from instruct.trainers.fused_lora import fuse_lora
from instruct.trainers.progress import show_on_bar
from instruct.trainers.resumable import Resumable
from instruct.trainers.shared_prompt import (
    NOT_FOR_MODEL,
    RankingCollator,
    score_rankings_in_forward,
    why_not_cache,
)

logger = get_logger(__name__)


@dataclass
class RankedRewardConfig(RunDefaults, RewardConfig):
    """TRL's `RewardConfig`; `per_device_train_batch_size` counts rankings, not rows.

    Rankings of similar length share a batch. `gradient_checkpointing` rules out the shared prompt.
    """

    RATES: ClassVar[Rates] = Rates(lora=2e-4, full=1e-5)
    BATCHES: ClassVar[Batches] = Batches(train=1, evaluation=4, accumulation=8)

    learning_rate: float | None = rate_flag(RATES)
    per_device_train_batch_size: int | None = batch_flag(BATCHES, "train")
    gradient_accumulation_steps: int | None = batch_flag(BATCHES, "accumulation")

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
            "help": "'cache' computes each prompt once, 'rows' once per completion, 'auto' is "
            "'cache' where it is exact.",
            "choices": ["auto", "cache", "rows"],
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations without better held-out accuracy, and keep "
            "the best."
        },
    )

    def __post_init__(self):
        if self.early_stopping_patience is not None:
            # Trainer asks for saves where it evaluates, to come back to the best one
            self.eval_strategy = "epoch" if self.eval_strategy == "no" else self.eval_strategy
            self.save_strategy = self.eval_strategy
            self.save_steps = self.eval_steps or self.save_steps
            self.load_best_model_at_end = True
            self.metric_for_best_model = self.metric_for_best_model or "accuracy"
            self.greater_is_better = True
        super().__post_init__()
        if self.n_gpu > 1:
            # nn.DataParallel would cut rankings apart; several GPUs are for `accelerate launch`
            self._n_gpu = 1


def ranking_losses(
    scores: Tensor, ranks: Tensor, center: float | None = None
) -> tuple[Tensor, Tensor]:
    """The paper's loss of each ranking (arXiv 2203.02155, eq. 1).

    Args:
        scores, ranks: [N, K], ranks padded with PAD.
        center: adds center * mean over the pairs of (r_w + r_l)^2, as TRL's
            `center_rewards_coefficient` does (arXiv 2312.09244, eq. 2).

    Returns losses [N], 0 for a ranking without a strict pair, and the number of strict pairs [N].
    """
    # all K x K at once, the pairs that count picked after: rankings of any K in one batch
    strict = strict_pairs(ranks)
    pair_losses = -logsigmoid(scores[:, :, None] - scores[:, None, :])
    if center is not None:
        pair_losses = pair_losses + center * (scores[:, :, None] + scores[:, None, :]) ** 2
    n_pairs = strict.sum((1, 2))
    # a mean over its pairs: a ranking of 9 weighs no more than one of 4
    return pair_losses.where(strict, 0.0).sum((1, 2)) / n_pairs.clamp(min=1), n_pairs


################
# From rows to what the collator takes
################


def encode_ranking(row: dict, tokenizer: PreTrainedTokenizerBase, where: str) -> dict:
    """One row as `as_ranking`, tokenised: prompt ids + completion ids + end.

    Beside `prompt_ids` and `completion_ids` [K]: keys of prompt and labeler (-1: none named),
    `longest` (tokens of prompt and longest completion) and `length` (of all that is computed).
    """
    ranking = as_ranking(row, where)
    asked = {**row, "prompt": ranking["prompt"]}
    prompt_ids, completion_ids = encode_answers_of(tokenizer, asked, ranking["completions"], where)
    lengths = [len(ids) for ids in completion_ids]
    labeler = row.get("labeler")
    # the text stays beside the ids: agreement of labelers compares it
    return ranking | {
        "prompt_ids": prompt_ids,
        "completion_ids": completion_ids,
        "prompt_key": key_of(ranking["prompt"]),
        "labeler_key": -1 if labeler is None else key_of(labeler),
        "longest": len(prompt_ids) + max(lengths, default=0),
        "length": len(prompt_ids) + sum(lengths),
    }


def keep_usable(dataset: Dataset, max_length: int | None, name: str) -> Dataset:
    """Tokenised rankings that can be learned from; says how many cannot."""
    n_all = len(dataset)
    # in evaluation, too: without a pair there is no accuracy
    dataset = dataset.filter(lambda ranks: len(set(ranks)) > 1, input_columns="ranks")
    if len(dataset) < n_all:
        logger.warning(
            f"{n_all - len(dataset)} of {n_all} rankings of the {name} dataset have no strict "
            "pair (fewer than two completions, or all tied) and are left out."
        )
    if max_length is not None:
        n_strict = len(dataset)
        # left out, not cut: a completion without its end is another completion
        dataset = dataset.filter(lambda longest: longest <= max_length, input_columns="longest")
        if len(dataset) < n_strict:
            logger.warning(
                f"{n_strict - len(dataset)} of {n_all} rankings of the {name} dataset are longer "
                f"than --max_length {max_length} tokens and are left out."
            )
    return dataset


################
# The trainer
################


class RankedRewardTrainer(FiniteRun, Resumable, RewardTrainer):
    """Trains a sequence classifier with one label on rankings.

    Rows: `prompt` (messages or text), `completions` [K], `ranks` [K] (1 = best, equal = tie), K may
    differ from row to row; or `chosen`, `rejected` (K = 2). Optional `labeler`. All other arguments
    are those of `trl.RewardTrainer`.
    """

    _tag_names = ["trl", "reward-trainer", "ranked-reward"]
    # `compute_loss` divides by all rankings of the optimiser step itself. From TRL 1.15 on,
    # RewardTrainer says False here, which counts for more than `model_accepts_loss_kwargs`:
    # gradients would be divided by `gradient_accumulation_steps` once more, without a word.
    loss_is_scaled_for_ga = True

    def __init__(self, model, args: RankedRewardConfig | None = None, **kwargs):
        kwargs.setdefault("compute_metrics", _metrics_of)
        # before any row is tokenised; a name instead of a model is loaded by TRL
        self.limits = None if isinstance(model, str) else limits_of(model.config)
        if self.limits and kwargs.get("processing_class") is not None:
            check_special_tokens(model.config, kwargs["processing_class"], "the model")
        super().__init__(model, args=args or RankedRewardConfig("reward"), **kwargs)
        show_on_bar(self, loss="loss", accuracy="accuracy")
        self.model_accepts_loss_kwargs = True  # the same for TRL and transformers before that
        # TRL has put the adapter on by now, Trainer has wrapped nothing yet
        fuse_lora(self.model)
        classifier = base_of(self.accelerator.unwrap_model(self.model))
        self.share_prompt = self._decide_share_prompt(classifier)
        score_rankings_in_forward(classifier)
        # TRL's collator pads chosen/rejected pairs; it does not know rankings
        self.data_collator = RankingCollator(
            pad_token_id=self.processing_class.pad_token_id, share_prompt=self.share_prompt
        )

    def _decide_share_prompt(self, classifier: PreTrainedModel) -> bool:
        asked = self.args.share_prompt
        if asked == "rows":
            return False
        if self.args.gradient_checkpointing:  # turned on in the model only when training starts
            reason = "activation checkpointing drops the cache"
        else:
            # sharded weights cannot be tried out before they are wrapped
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            reason = why_not_cache(classifier, check=not sharded)
        # who asked for it plans on its memory; `auto` only gets slower
        if reason and asked == "cache":
            raise UserError(
                f"--share_prompt cache is not possible here: {reason}; use rows or auto"
            )
        if reason:
            logger.warning(
                "Each completion is computed with its own copy of the prompt (share_prompt: rows), "
                f"since {reason}."
            )
        return reason is None

    def _prepare_dataset(
        self, dataset: Dataset, processing_class, args: RankedRewardConfig, dataset_name: str
    ) -> Dataset:
        """Tokenises rankings by the token contract and leaves out those that teach nothing.

        TRL's hook; without it RewardTrainer would render chosen/rejected pairs.
        """
        # tokenised already; where there is text, such a column is the user's own
        if not {"completions", "chosen"} & set(dataset.column_names):
            return dataset
        if "margin" in dataset.column_names:
            logger.warning(
                f"The {dataset_name} dataset's `margin` column is not used: "
                "rankings have no margins."
            )

        def encode(row: dict, index: int) -> dict:
            where = f"{dataset_name} dataset, row {index + 1}"
            ranking = encode_ranking(row, processing_class, where)
            if self.limits and (not args.max_length or ranking["longest"] <= args.max_length):
                shorter = f"--max_length {self.limits.positions} leaves such rows out"
                for ids in ranking["completion_ids"]:
                    self.limits.check(ranking["prompt_ids"] + ids, where, shorter=shorter)
            return ranking

        with PartialState().main_process_first():
            dataset = dataset.map(
                encode,
                with_indices=True,
                num_proc=args.dataset_num_proc,
                desc=f"Tokenizing {dataset_name} dataset",
                remove_columns=[c for c in ("chosen", "rejected") if c in dataset.column_names],
            )
            n_all = len(dataset)
            dataset = keep_usable(dataset, args.max_length, dataset_name)
        # not inside: a process that raised there would leave the others waiting for it
        if len(dataset) == 0:
            raise UserError(
                f"the {dataset_name} dataset has no ranking that could be learned from: {n_all} "
                f"in it, none has a strict pair within --max_length {args.max_length}"
            )
        return dataset

    def _set_signature_columns_if_needed(self):
        # what the collator reads, and `length` for `group_by_length`
        self._signature_columns = ["prompt_ids", "completion_ids", "ranks"]
        self._signature_columns += ["prompt_key", "labeler_key", "length"]

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Rankings with a strict pair in this optimiser step: all micro-batches, all processes."""
        # the paper's mean is over rankings, and ties-only ones add no loss
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
        # one call of the wrapped model: DDP syncs only what its forward ran
        outputs = model(**{k: v for k, v in inputs.items() if k not in NOT_FOR_MODEL})
        # the model's scores come as one row of all completions; here, one row per ranking
        real = ranks != PAD
        scores = torch.zeros_like(ranks, dtype=torch.float32)
        scores[real] = outputs.logits.squeeze(-1).float()
        losses, n_pairs = ranking_losses(scores, ranks, self.args.center_rewards_coefficient)
        # evaluation, where a batch stands for itself
        if num_items_in_batch is None:
            loss = losses.sum() / (n_pairs > 0).sum().clamp(min=1)
        else:
            # gradients are averaged over processes, `num_items_in_batch` counts the rankings of all
            loss = losses.sum() * self.accelerator.num_processes / num_items_in_batch
        self._record(mode, scores.detach(), ranks, inputs)
        return (loss, scores) if return_outputs else loss

    @torch.no_grad()
    def _record(self, mode: str, scores: Tensor, ranks: Tensor, inputs: dict) -> None:
        """What TRL's RewardTrainer logs, over all processes.

        Accuracy in evaluation comes from `ranking_metrics` instead, with each pair counted once.
        """
        real, strict = ranks != PAD, strict_pairs(ranks)
        margins = (scores[:, :, None] - scores[:, None, :])[strict]
        tokens = inputs["attention_mask"].sum()
        if "completion_mask" in inputs:
            tokens = tokens + inputs["completion_mask"].sum()
        sums = {
            "reward": scores[real].sum(),
            "completions": real.sum(),
            "margin": margins.sum(),
            "right": (margins > 0).sum(),
            "pairs": strict.sum(),
            "tokens": tokens,
        }
        # sums, not means: processes hold different numbers of pairs; one message for all
        gathered = self.accelerator.gather(torch.stack(list(sums.values())).double()[None])
        total = dict(zip(sums, gathered.sum(0).tolist(), strict=True))
        # a sum over processes would mix them, so they travel apart
        extremes = torch.stack([scores[real].min(), scores[real].max()])
        lowest, highest = self.accelerator.gather(extremes[None]).T  # one number a process
        metrics = self._metrics[mode]
        if mode == "train":
            self._total_train_tokens += int(total["tokens"])
            if total["pairs"]:
                metrics["accuracy"].append(total["right"] / total["pairs"])
        metrics["num_tokens"] = [self._total_train_tokens]
        if total["pairs"]:
            metrics["margin"].append(total["margin"] / total["pairs"])
        metrics["min_reward"].append(lowest.min().item())
        metrics["mean_reward"].append(total["reward"] / total["completions"])
        metrics["max_reward"].append(highest.max().item())

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """-> loss, scores [N, K], (ranks [N, K], keys [N, 2]).

        All that `ranking_metrics` needs, whatever order the processes hand rows back in.
        """
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, scores = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss, None, None
        return loss, scores, (inputs["ranks"], inputs["keys"])

    def mean_score(self, prompts: list, completions: list, **columns) -> float:
        """Mean score of completions, one for each prompt (for the bias, section 3.5).

        By the model as it is distributed now: each completion goes through as a ranking of one.
        `columns` are those that the prompts' template takes.
        """
        # `load_reward` would need whole weights, which sharded training does not have
        tokenizer = self.processing_class
        pairs = encode_pairs(tokenizer, prompts, completions, columns, "demonstrations")
        rows = [
            {
                "prompt_ids": prompt,
                "completion_ids": [completion],
                "ranks": [1],
                "prompt_key": 0,
                "labeler_key": -1,
                "length": 0,
            }
            for prompt, completion in pairs
        ]
        scores = self.predict(Dataset.from_list(rows)).predictions
        checked_scores(scores[:, 0], "the reward model", completions)
        mean = float(scores.mean())
        self._metrics["eval"].clear()  # not part of the next evaluation
        return mean


def _metrics_of(prediction: EvalPrediction) -> dict[str, float]:
    """`ranking_metrics` for the log of Trainer, which takes numbers only."""
    ranks, keys = prediction.label_ids
    # here, over all rows at once: a mean of batch means would weigh small batches more
    metrics = ranking_metrics(prediction.predictions, ranks, keys[:, 0])
    return {name: value for name, value in metrics.items() if not isinstance(value, dict)}
