"""Step 2: does the reward model tell better answers from worse ones?"""

from collections.abc import Iterable

import numpy as np

from instruct.evaluation.diagnosis.run import Finding, NoData, Run, read_rankings
from instruct.evaluation.ranking_metrics import PAD, ranking_metrics
from instruct.run.fingerprints import data_identity, is_same

CHANCE = 0.5  # of two answers
ENOUGH = 5  # held-out pairs: of fewer, a bootstrap has hardly anything to draw from


def check_enough(found: dict) -> None:
    """Raises: NoData: too few held-out pairs."""
    # what a run of an older version or of others does not say, is no reason
    if (pairs := found.get("n_pairs", ENOUGH)) < ENOUGH:
        raise NoData(f"too few held-out pairs to say: {pairs}; hold out more (--validation)")


def reward_at_chance(run: Run) -> Finding | None:
    """Its accuracy on held-out rankings has chance in its interval, or is below it."""
    found = run.reward
    check_enough(found)
    accuracy, low, high = (found[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
    if low > CHANCE:
        return None
    return Finding(
        "reward",
        f"the reward model is no better than chance: it orders {accuracy:.1%} [{low:.1%}, "
        f"{high:.1%}] of {found['n_pairs']} held-out pairs as the labelers did",
        {"accuracy": accuracy, "low": low, "high": high, "n_pairs": found["n_pairs"]},
        "rank more prompts, hold more of them out where the interval is wide, raise "
        "--learning_rate or --num_train_epochs, and see whether the labelers agree",
    )


def reward_no_better_than_length(run: Run) -> Finding | None:
    """Who looks at nothing but the length of an answer orders as many held-out pairs right."""
    # not the report's, which may be on other rankings
    accuracy = run.metrics["accuracy"]
    check_enough(run.metrics)
    held_out = run.place("comparisons", "validation.jsonl")
    trained = run.place("comparisons", "train.jsonl")
    if not (held_out.is_file() and trained.is_file()):
        raise NoData("no comparisons/ with held-out rankings")
    learned = run.record("reward").get("data", {}).get("dataset_test_split")
    if not is_same(learned, data_identity(held_out.parent, "validation")):
        raise NoData("the reward model was measured on other rankings than comparisons/ holds out")
    # which of the two, shorter or longer, is learned where the reward model learned
    longer = _by_length(read_rankings(trained), 1)["accuracy"] >= CHANCE
    found = _by_length(read_rankings(held_out), 1 if longer else -1)
    # where length says nothing, chance is what the model is held against
    if accuracy > found["accuracy"] or found["accuracy_low"] <= CHANCE:
        return None
    better = "longer" if longer else "shorter"
    return Finding(
        "reward",
        f"the reward model is no better than length alone: it orders {accuracy:.1%} of the "
        f"held-out pairs as the labelers did, and who calls the {better} one better orders "
        f"{found['accuracy']:.1%}",
        {"accuracy": accuracy, "by_length": found["accuracy"], "longer_is_better": longer},
        "rank outputs of similar length, say in the instructions that length does not count, and "
        "give the model more rankings or epochs",
    )


def _by_length(rankings: Iterable[dict], sign: int) -> dict:
    """`ranking_metrics` of the number of characters, times `sign`."""
    rows = list(rankings)
    widest = max((len(row["ranks"]) for row in rows), default=0)
    scores = np.zeros((len(rows), widest))
    ranks = np.full((len(rows), widest), PAD)
    for i, row in enumerate(rows):
        ranks[i, : len(row["ranks"])] = row["ranks"]
        scores[i, : len(row["ranks"])] = [sign * len(text) for text in row["completions"]]
    found = ranking_metrics(scores, ranks) if rows else {}
    if not found:
        raise NoData("comparisons/ holds out no ranking with a preference")
    return found
