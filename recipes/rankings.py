"""Rankings as the reward model learns them: one row is one prompt, its K completions and their ranks.

Plain chosen/rejected rows (TRL's preference format, with an explicit or an implicit prompt, text or conversational)
are rankings of K = 2.
"""

import hashlib
import json
import logging
from pathlib import Path

from datasets import Dataset
from trl import extract_prompt

from data_prep.files import UserError, data_files, load_rows
from recipes.tokens import as_messages, as_text

logger = logging.getLogger(__name__)


def as_ranking(row: dict, where: str = "a row") -> dict:
    """One row as {prompt: [messages], completions: [K texts], ranks: [K ints, 1 = best, equal = tie]}.

    Raises:
        UserError: names `where`; missing columns, an empty prompt, ranks that are no integers or not one per completion.
    """
    prompt, completions, ranks = row.get("prompt"), row.get("completions"), row.get("ranks")
    if completions is None and row.get("chosen") is not None and row.get("rejected") is not None:
        pair = {"chosen": row["chosen"], "rejected": row["rejected"]}
        if prompt is None:
            pair = extract_prompt(pair)
            prompt = pair["prompt"]
        completions, ranks = [pair["chosen"], pair["rejected"]], [1, 2]
    if completions is None or ranks is None or prompt is None:
        raise UserError(f"{where}: a ranking needs `prompt`, `completions` and `ranks` (or `chosen` and `rejected`)")
    if any(not isinstance(c, str | list) for c in completions):
        raise UserError(f"{where}: every completion must be text or a list of messages")
    if len(ranks) != len(completions):
        raise UserError(f"{where}: {len(ranks)} ranks for {len(completions)} completions; one rank each is needed")
    if any(isinstance(r, bool) or not isinstance(r, int | float) or r != int(r) for r in ranks):
        raise UserError(f"{where}: ranks must be integers (1 = best, equal = tie), found {list(ranks)}")
    messages = [{"role": m["role"], "content": m["content"]} for m in as_messages(prompt)]
    if not messages or not (messages[-1]["content"] or "").strip():
        raise UserError(f"{where}: an empty prompt")
    return {"prompt": messages, "completions": [as_text(c) for c in completions], "ranks": [int(r) for r in ranks]}


def load_rankings(source: str, split: str = "train", name: str | None = None) -> Dataset:
    """Loads and checks rankings from a file, a folder or a Hub id; `labeler` rides along where there is one."""
    rows = load_rows(source, split=split, name=name)
    return rows.map(
        lambda row, i: as_ranking(row, f"{source}, row {i + 1}"),
        with_indices=True,
        remove_columns=[c for c in rows.column_names if c != "labeler"],
    )


def load_train_and_eval(
    source: str, train_split: str, test_split: str, fraction: float, seed: int, name: str | None = None
) -> tuple[Dataset, Dataset | None]:
    """Training and held-out rankings.

    Held out are, in this order: the file or folder that `test_split` names, the split of that name, or a `fraction` of
    the prompts (all rankings of a prompt on one side; 0 holds nothing out).
    """
    train = load_rankings(source, train_split, name)
    if Path(test_split).exists():
        return train, load_rankings(test_split)
    if Path(source).is_dir() and any(p.name.startswith(test_split) for p in data_files(source, test_split)):
        return train, load_rankings(source, test_split)
    if not Path(source).exists():
        try:
            return train, load_rankings(source, test_split, name)
        except UserError as error:
            logger.warning(f"No held-out split ({error}); holding out a share of the prompts instead.")
    if fraction <= 0:
        return train, None
    held_out = [key_of([row["prompt"], seed]) % 10_000 < fraction * 10_000 for row in train]
    indices = range(len(train))
    parts = [train.select([i for i in indices if held_out[i] == side]) for side in (False, True)]
    if not all(map(len, parts)):
        raise UserError(
            f"{source}: holding out {fraction:.0%} of the prompts leaves {len(parts[0])} rankings to train on and "
            f"{len(parts[1])} held out; give more rankings, another --eval_fraction, or a file by --dataset_test_split"
        )
    return parts[0], parts[1]


def key_of(value) -> int:
    """A stable 56-bit key of any JSON value, small enough to ride in an int64 tensor."""
    return int.from_bytes(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:7], "big")
