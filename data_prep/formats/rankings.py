"""Rankings from a file, a folder or the Hub, and which of them are held out."""

import logging
from pathlib import Path

from datasets import Dataset

from instruct.files import UserError, data_files, load_rows
from instruct.plain_text import one_line
from instruct.ranking import as_ranking, key_of

logger = logging.getLogger(__name__)


def load_rankings(source: str, split: str = "train", name: str | None = None) -> Dataset:
    """Loads and checks rankings from a file, a folder or a Hub id; `labeler` rides along."""
    rows = load_rows(source, split=split, name=name)
    return rows.map(
        lambda row, i: as_ranking(row, f"{source}, row {i + 1}"),
        with_indices=True,
        # one schema for all sources, whatever else they hold
        remove_columns=[c for c in rows.column_names if c != "labeler"],
    )


def held_out_source(source: str, test_split: str) -> str | None:
    """Where the held-out rankings of `test_split` lie, None where there is no such place.

    A file or folder of that name, else `source`, where it has the split or is on the Hub.
    """
    if Path(test_split).exists():
        return test_split
    if Path(source).is_dir():
        found = data_files(source, test_split)
        return source if any(p.name.startswith(test_split) for p in found) else None
    return None if Path(source).exists() else source


def load_train_and_eval(
    source: str,
    train_split: str,
    test_split: str,
    fraction: float,
    seed: int,
    name: str | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Training and held-out rankings.

    Held out are, in this order: the file or folder that `test_split` names, the split of that name,
    or a `fraction` of the prompts (all rankings of a prompt on one side; 0 holds nothing out).
    """
    train = load_rankings(source, train_split, name)
    place = held_out_source(source, test_split)
    # 1. a file or folder of its own
    if place == test_split:
        return train, load_rankings(test_split)
    # 2. a split of that name: in the folder, or on the Hub
    if place and Path(place).is_dir():
        return train, load_rankings(source, test_split)
    if place:
        try:
            return train, load_rankings(source, test_split, name)
        except UserError as error:
            logger.warning(
                f"No held-out split ({one_line(str(error))}); "
                "holding out a share of the prompts instead."
            )
    # 3. a share of the prompts
    if fraction <= 0:
        return train, None
    # by hash of the prompt: its rankings share outputs, so they stay on one side
    held_out = [key_of([row["prompt"], seed]) % 10_000 < fraction * 10_000 for row in train]
    indices = range(len(train))
    kept = train.select([i for i in indices if not held_out[i]])
    out = train.select([i for i in indices if held_out[i]])
    if not len(kept) or not len(out):
        raise UserError(
            f"{source}: holding out {fraction:.0%} of the prompts leaves {len(kept)} rankings "
            f"to train on and {len(out)} held out; give more rankings, "
            "another --eval_fraction, or a file by --dataset_test_split"
        )
    return kept, out
