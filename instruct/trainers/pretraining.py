"""Pretraining text beside the task's own rows: PPO-ptx, and SFT with a share of it (InstructGPT,
App. C.3 and C.4).
"""

from dataclasses import dataclass

import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from instruct.checks.model_limits import Limits
from instruct.errors import UserError
from instruct.tokens import ids_of, named
from instruct.turns import text_end


def text_ids(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, longest: int | None, where: str
) -> list[list[int]]:
    """Each text and its end, cut to `longest` tokens; a text of one token is left out.

    Args:
        where: flag and source, for the message.

    Raises:
        UserError: no text is left.
    """
    # text ends, and the model is to know it; not as a turn does
    eos = [text_end(tokenizer)]
    ids = []
    for number, text in enumerate(texts, 1):
        with named(f"{where}, row {number}"):
            ids.append((ids_of(tokenizer, text) + eos)[:longest])
    # a row of one token predicts nothing
    ids = [row for row in ids if len(row) > 1]
    if not ids:
        raise UserError(f"{where}: no row with text")
    return ids


@dataclass
class Mixed:
    """Training rows with a share of pretraining text, and how many there are of each."""

    rows: Dataset
    demonstrations: int
    pretraining: int
    texts: int

    def __str__(self) -> str:
        share = self.pretraining / (self.demonstrations + self.pretraining)
        again = f", drawn from {self.texts} texts" if self.texts != self.pretraining else ""
        if self.pretraining > self.texts:
            again = f", some more than once: there are {self.texts} texts"
        return (
            f"{self.pretraining} pretraining rows ({share:.1%} of all) among "
            f"{self.demonstrations} demonstrations{again}"
        )


def mix_in(
    rows: Dataset,
    texts: list[str],
    share: float,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    longest: int | None = None,
    limits: Limits | None = None,
    where: str = "--pretraining_dataset",
) -> Mixed:
    """Demonstrations with pretraining texts among them, in an order by `seed`.

    Args:
        rows: `input_ids` and `completion_mask`. A text has these as well; all of it is trained.
        share: of all rows that come out, the texts'.
        longest: tokens that a text is cut to, where the model takes as many.
        limits: what the model takes.

    Raises:
        UserError: no text, a share that no row of these is, a token that the model lacks.
    """
    count = round(len(rows) * share / (1 - share))
    if not count:
        raise UserError(
            f"--pretraining_share {share:g}: of {len(rows)} demonstrations that is no row; give "
            "more"
        )
    positions = limits.positions if limits else None
    # cut, where a demonstration would be left out: a text may stop anywhere
    longest = min((n for n in (longest, positions) if n is not None), default=None)
    ids = text_ids(texts, tokenizer, longest, where)
    # generators of its own: the demonstrations' order and the adapter's first weights stay
    generator, drawn = torch.Generator().manual_seed(seed), []
    # shuffled passes end to end, so that none is drawn twice before each was once
    while len(drawn) < count:
        drawn += torch.randperm(len(ids), generator=generator).tolist()
    chosen = [ids[i] for i in drawn[:count]]
    for row in chosen if limits else ():
        limits.check(row, where)
    columns = {"input_ids": chosen, "completion_mask": [[1] * len(row) for row in chosen]}
    beside = Dataset.from_dict(columns, features=rows.features.copy())
    mixed = concatenate_datasets([rows, beside])
    order = torch.randperm(len(mixed), generator=generator).tolist()
    return Mixed(mixed.select(order), len(rows), count, len(ids))
