"""Rankings from a file, a folder or the Hub, and which of them are held out."""

import logging
from collections import Counter
from pathlib import Path

from datasets import Dataset

from data_prep.formats.reader import Reading, read_rows
from instruct.files import UserError, held_out_needed, held_out_place
from instruct.plain_text import one_line
from instruct.processes import is_main_process
from instruct.ranking import WHY_NONE, as_ranking, equal_text_pairs, key_of, why_no_preference
from instruct.tokens import FOR_TEMPLATE

logger = logging.getLogger(__name__)

__all__ = ["as_ranking", "load_rankings", "load_train_and_eval", "read_rankings"]

# What a reward model learns from or is judged by; other columns of a source are left out, so that
# all sources have one schema.
KEPT = ("prompt", "completions", "ranks", "labeler", *FOR_TEMPLATE)


def read_rankings(
    source: str,
    split: str = "train",
    name: str | None = None,
    *,
    format: str | None = None,
    columns: list[str] | None = None,
    strict: bool = False,
) -> Reading:
    """Rankings of any shape with all that rides along; says how many pairs are one text twice."""
    options = {"name": name, "format": format, "columns": columns, "strict": strict}
    reading = read_rows(source, "rankings", split, **options)
    same = sum(equal_text_pairs(row["completions"]) for _, row in reading.rows)
    if same and is_main_process():
        print(f"{source}: {same} pairs are one text twice and count as ties")
    return reading


def load_rankings(
    source: str,
    split: str = "train",
    name: str | None = None,
    *,
    format: str | None = None,
    columns: list[str] | None = None,
) -> Dataset:
    """Rankings of any shape as a Dataset of `prompt`, `completions` and `ranks`.

    `labeler` and what a chat template takes (`tools`, `chat_template_kwargs`) ride along.

    Raises:
        UserError: see `read_rows`; or no ranking has a pair to learn or to be judged by.
    """
    options = {"format": format, "columns": columns}
    reading = read_rankings(source, split, name, strict=True, **options)
    lacking = Counter(why_no_preference(row) for _, row in reading.rows)
    if None not in lacking:
        why = ", ".join(f"{count} {WHY_NONE[why]}" for why, count in lacking.items())
        raise UserError(
            f"{source}: no ranking that could be learned from: {len(reading.rows)} in it, {why}"
        )
    rankings = reading.dataset()
    # TRL's RewardTrainer learns from it
    if "margin" in rankings.column_names and is_main_process():
        print(f"{source}: its column 'margin' is not used: rankings have no margins")
    return rankings.remove_columns([c for c in rankings.column_names if c not in KEPT])


def load_train_and_eval(
    source: str,
    train_split: str,
    test_split: str,
    fraction: float,
    seed: int,
    name: str | None = None,
    *,
    required: bool = False,
    **shape,
) -> tuple[Dataset, Dataset | None]:
    """Training and held-out rankings.

    Held out are, in this order: the file or folder that `test_split` names, the split of that name,
    or a `fraction` of the prompts (all rankings of a prompt on one side, and one prompt at least on
    each; 0 holds nothing out).

    Args:
        required: whether there has to be such a split: it was asked for.
        shape: `format` and `columns` of the rows, see `read_rows`.

    Raises:
        UserError: see `load_rankings`; no such split, or a share that leaves one side empty.
    """
    # 1. a file or folder of its own, or a split of that name: in the folder, or on the Hub
    place = held_out_place(source, test_split)
    if required and place is None:
        held_out_needed(source, test_split, "leave it out, and --eval_fraction of it is held out")
    train = load_rankings(source, train_split, name, **shape)
    if place:
        held_out, split = place
        if Path(held_out).exists():
            return train, load_rankings(held_out, split, **shape)
        try:
            return train, load_rankings(held_out, split, name, **shape)
        except UserError as error:
            if required:
                raise
            logger.warning(
                f"No held-out split ({one_line(str(error))}); "
                "holding out a share of the prompts instead."
            )
    # 2. a share of the prompts
    if fraction <= 0:
        return train, None
    # by hash of the prompt: its rankings share outputs, so they stay on one side
    places = [key_of([row["prompt"], seed]) % 10_000 for row in train]
    # of few prompts, whose hashes may all lie on one side, the nearest one is on the other
    limit = min(max(fraction * 10_000, min(places) + 1), max(places))
    held_out = [place < limit for place in places]
    indices = range(len(train))
    kept = train.select([i for i in indices if not held_out[i]])
    out = train.select([i for i in indices if held_out[i]])
    if not len(kept) or not len(out):
        raise UserError(
            f"{source}: its rankings are all of one prompt, of which --eval_fraction {fraction:g} "
            "can hold none out; give rankings of more prompts, --eval_fraction 0, or a file by "
            "--dataset_test_split"
        )
    return kept, out
