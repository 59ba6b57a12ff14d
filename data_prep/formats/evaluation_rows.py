"""Rows that an evaluation reads: held-out prompts, examples to show first, rankings."""

import random
from collections import Counter

from data_prep.formats.forms import category, request_form
from data_prep.formats.identifiers import identifier_of
from data_prep.formats.rankings import read_rankings
from data_prep.formats.reader import read
from instruct.evaluation.breakdown import GROUPS
from instruct.evaluation.modes import FEW_SHOT, Asked, draw_examples, question_of
from instruct.tokens import FOR_TEMPLATE


def held_out_prompts(
    source: str, limit: int, seed: int, **shape
) -> tuple[list[dict], dict[str, int]]:
    """`limit` rows of `source`, drawn with `seed`: prompt_id, user_id, prompt [messages].

    And {n, of, seed}: how many of how many these are.

    Args:
        shape: `format` and `columns` of the rows, see `data_prep.formats.reader.read`.
    """
    rows = read(source, "prompts", "test", **shape).to_list()
    total = len(rows)
    # drawn, not the first: files are often sorted by user
    rows = random.Random(seed).sample(rows, min(limit, len(rows)))
    names = [_id_of(row, source) for row in rows]
    # an id is one prompt's: what several have names none of them
    often = Counter(names)
    drawn = [
        {
            "prompt_id": names[i] if names[i] and often[names[i]] == 1 else str(i),
            # without users every prompt is a cluster of its own
            "user_id": identifier_of(row, "user_id", source) or f"prompt {i}",
            "prompt": row["prompt"],
            **groups_of(row),
            **{key: row[key] for key in FOR_TEMPLATE if key in row},
        }
        for i, row in enumerate(rows)
    ]
    return drawn, {"n": len(drawn), "of": total, "seed": seed}


def _id_of(row: dict, source: str) -> str | None:
    # `id` of data_prep.prompts, `prompt_id` of every later step
    return identifier_of(row, "id", source) or identifier_of(row, "prompt_id", source)


def rankings_in(source: str, split: str, **shape) -> list[dict]:
    """Rankings of any shape, with all that rides along."""
    return [row for _, row in read_rankings(source, split, strict=True, **shape).rows]


def groups_of(row: dict) -> dict[str, str | None]:
    """What win rates are also told by; of rows that do not say, as the prompt reads."""
    asked = question_of(row["prompt"])
    read_as = {"request_form": request_form(asked), "category": category(asked)}
    return {**read_as, **{key: row[key] for key in GROUPS if row.get(key) is not None}}


def examples_of(asked: Asked, prompts: list[dict], seed: int) -> list[list[str]]:
    """The pairs of question and answer that a model is shown first: none but for `few_shot`."""
    if asked.mode != FEW_SHOT:
        return []
    rows = read(asked.file, "demonstrations", "train").to_list()
    return draw_examples(rows, prompts, asked.file, seed)
