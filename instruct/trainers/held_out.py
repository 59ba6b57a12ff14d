"""What a trained reward model says of held-out rankings."""

import numpy as np

from instruct.evaluation.ranking_metrics import labeler_agreement, ranking_metrics
from instruct.ranking import key_of
from instruct.trainers.ranked_reward import RankedRewardTrainer


def held_out_metrics(trainer: RankedRewardTrainer) -> dict:
    """`ranking_metrics` of the held-out rankings, and what to read them against.

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
    return metrics
