"""What a trained reward model says of held-out rankings."""

from collections import Counter

import numpy as np
import torch

from instruct.evaluation.ranking_metrics import PAD, labeler_agreement, ranking_metrics
from instruct.evaluation.scores_beside import Scored
from instruct.ranking import key_of
from instruct.tokens import FOR_TEMPLATE
from instruct.trainers.ranked_reward import RankedRewardTrainer


def held_out_metrics(trainer: RankedRewardTrainer) -> tuple[dict, Scored | None]:
    """`ranking_metrics` of the held-out rankings, and what to read them against. And the scores,
    None where these may not be the numbers of the model as it is loaded.

    `agreement`: between labelers of the same prompt, the ceiling of any reward model.
    `held_out_labelers`: accuracy on rankings by labelers that were never trained on (the paper's
    check that it learned more than its own labelers' taste).
    """
    # by the trainer: all processes, each with its share
    predicted = trainer.predict(trainer.eval_dataset)
    (ranks, keys), scores = predicted.label_ids, predicted.predictions
    prompt_keys, labeler_keys = keys.T
    metrics = ranking_metrics(scores, ranks, prompts=prompt_keys)
    rows, train = trainer.eval_dataset, trainer.train_dataset
    rankings = rows.select_columns(["prompt", "completions", "ranks"]).to_list()
    metrics["agreement"] = labeler_agreement(rankings)
    metrics["held_out_labelers"] = None
    if "labeler" in rows.column_names and "labeler" in train.column_names:
        new = sorted(set(rows["labeler"]) - set(train["labeler"]) - {None})
        # By key, not by row: several processes may hand back the rows in another order.
        chosen = np.isin(labeler_keys, [key_of(name) for name in new])
        if chosen.any():
            found = ranking_metrics(scores[chosen], ranks[chosen], prompts=prompt_keys[chosen])
            wanted = ("accuracy", "accuracy_low", "accuracy_high", "n_pairs")
            metrics["held_out_labelers"] = {
                "labelers": new,
                **{name: found[name] for name in wanted},
            }
    return metrics, _scored(trainer, scores, ranks, prompt_keys)


def _scored(
    trainer: RankedRewardTrainer, scores: np.ndarray, ranks: np.ndarray, keys: np.ndarray
) -> Scored | None:
    args, rows = trainer.args, trainer.eval_dataset
    in_half = args.bf16 or args.fp16 or args.tf32
    # in fewer bits, they would be others
    if in_half or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or any(
        parameter.dtype != torch.float32 for parameter in trainer.model.parameters()
    ):  # fmt: skip
        return None
    there = ["prompt", "completions", "ranks", "prompt_key"]
    there += [key for key in FOR_TEMPLATE if key in rows.column_names]
    rankings = rows.select_columns(there).to_list()
    asked = [(row["prompt_key"], *row["ranks"]) for row in rankings]
    # by what they are: handed back by length, and by several processes in any order
    answered = [(key, *given[given != PAD]) for key, given in zip(keys, ranks, strict=True)]
    counts, place = Counter(asked), {key: i for i, key in enumerate(answered)}
    texts, found = [], []
    for row, key in zip(rankings, asked, strict=True):
        # two rankings of a prompt, ranked alike: nobody can say which is which
        if counts[key] > 1:
            continue
        columns = {name: row[name] for name in FOR_TEMPLATE if row.get(name) is not None}
        given = scores[place[key]]
        for text, score in zip(row["completions"], given.tolist(), strict=False):
            texts.append({"prompt": row["prompt"], "completion": text, **columns})
            found.append(score)
    return Scored(texts, found)
