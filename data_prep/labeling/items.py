"""Rows of a file -> items to label.

rankings        samples, K outputs each
judgements      `answers.jsonl` of recipes/evaluate.py: the answers of several models to a prompt
demonstrations  prompts to answer
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.formats.identifiers import identifier_of
from data_prep.formats.reader import column_names, read, with_columns
from data_prep.labeling.questions import QUALITIES, check_questions
from instruct.errors import UserError
from instruct.files import placed_source
from instruct.hashes import hash_of
from instruct.plain_text import one_line
from instruct.ranking import answers_in, asked_of, dense_ranks

OUTPUTS = range(2, 10)  # how many outputs are ranked: K = 4 to 9 in the paper
# what makes an item another one; columns that only ride along do not
IDENTITY = ("prompt_id", "prompt", "models", "completions", "tools", "chat_template_kwargs")
SHOWN = ("prompt_id", "prompt", "completions")  # what a labeler may see: no model, no user
# what a labeler adds to a row
LABELED = ("quality", "flags", "questions", "labeler", "timestamp", "seconds", "is_screening")
TAKES = {
    "rankings": "samples (a prompt and its outputs in a row)",
    "judgements": "answers of models (answers.jsonl of recipes/evaluate.py)",
    "demonstrations": "prompts",
}
OF_ANSWERS = ("model", "prompt_id", "prompt", "completion")  # columns of answers.jsonl


@dataclass(frozen=True)
class Item:
    """Something to label.

    Attributes:
        row: everything that the file has of it, for the export.
        owner: how the owner answered it, which makes it a screening item.
    """

    row: dict
    owner: dict | None = None

    @property
    def is_screening(self) -> bool:
        return self.owner is not None

    @property
    def key(self) -> str:
        """The same for the same item in whatever file, hex."""
        parts = {name: self.row[name] for name in IDENTITY if self.row.get(name) is not None}
        return hash_of(parts)

    @property
    def outputs(self) -> int:
        """How many outputs are shown beside each other."""
        return len(self.row.get("completions") or ())


def shown(row: Mapping[str, Any]) -> dict:
    """What a page may know of a row."""
    return {name: row[name] for name in SHOWN if name in row}


def read_items(
    kind: str,
    source: str | Path,
    format: str | None = None,
    columns: Sequence[str] | None = None,
) -> list[Item]:
    """The items of a source; rows that cannot be labeled are told and left out.

    Raises:
        UserError: nothing there that could be labeled, rows of another shape or another kind.
    """
    try:
        return _items_of(kind, source, format, columns)
    except UserError as error:
        fits = None if columns else _kind_of_rows(source)
        if fits in (None, kind):
            raise
        raise UserError(
            f"{source}: holds {TAKES[fits]}, and --kind {kind} takes {TAKES[kind]}; give --kind "
            f"{fits}, or another --input"
        ) from error


def _kind_of_rows(source: str | Path) -> str | None:
    """The kind that the first row of a source is for; None where nobody knows."""
    try:
        names = next((set(row) for _, row in placed_source(source)), set())
    # what is wrong with it has been said
    except UserError:
        return None
    if not names >= {"prompt"}:
        return None
    if "completions" in names:
        return "rankings"
    return "judgements" if names >= set(OF_ANSWERS) else "demonstrations"


def _items_of(kind: str, source, format: str | None, columns) -> list[Item]:
    if kind == "judgements":
        if format is not None:
            raise UserError(f"--format {format}: answers to judge have one shape; leave it out")
        rows = _answered_prompts(source, columns)
    elif kind == "demonstrations":
        rows = _prompts(source, format, columns)
    else:
        rows = list(_samples(source, "samples", format, columns))
        _tell_ranked(source)
    if kind != "demonstrations":
        rows = _with_outputs(rows, source)
    return without_repeats([Item(row) for row in rows], source)


def read_screening(
    source: str | Path, format: str | None = None, columns: Sequence[str] | None = None
) -> list[Item]:
    """Items that the owner has ranked (appendix B.1), of a file of rankings.

    Raises:
        UserError: no rankings, one with fewer outputs than 2 or more than 9, or all of them tied.
    """
    try:
        rows = list(_samples(source, "rankings", format, columns))
    except UserError as error:
        raise UserError(f"--screening {error}") from error
    items = []
    for number, row in enumerate(rows, 1):
        where = f"--screening {source}, row {number}"
        if len(row["completions"]) not in OUTPUTS:
            raise UserError(f"{where}: {_few_or_many(row)}")
        _check_quality(row, where)
        owner = {"ranks": dense_ranks(row.pop("ranks")), **_owners_flags(row, where)}
        items.append(Item({k: v for k, v in row.items() if k not in LABELED}, owner))
    if all(len(set(item.owner["ranks"])) < 2 and not item.owner["flags"] for item in items):
        raise UserError(
            f"--screening {source}: every ranking is one tie, so that nobody could disagree with "
            "it; rank some outputs apart"
        )
    return without_repeats(items, source)


def _check_quality(row: dict, where: str) -> None:
    quality = row.get("quality")
    # nobody is held against it, but a column of another's under this name is a mistake
    if quality is not None and not (
        isinstance(quality, list)
        and len(quality) == len(row["completions"])
        and all(
            value is None or type(value) in (int, float) and value in QUALITIES for value in quality
        )
    ):
        raise UserError(
            f"{where}: 'quality' must be a number from 1 to 7, or null, for each output"
        )


def _owners_flags(row: dict, where: str) -> dict:
    """`flags` of each output, and `questions` that the owner was asked; None where unknown."""
    flags, questions = row.get("flags"), row.get("questions")
    good = isinstance(flags, list) and len(flags) == len(row["completions"])
    if flags is not None and not (good and all(map(_are_names, flags))):
        raise UserError(f"{where}: 'flags' must be a list of questions for each output")
    if questions is not None and not _are_names(questions):
        raise UserError(f"{where}: 'questions' must be a list of those that were asked")
    for keys in (*(flags or ()), questions or ()):
        check_questions(tuple(keys), f"{where}: 'flags' or 'questions' has")
    return {"flags": flags, "questions": questions}


def _are_names(keys) -> bool:
    return isinstance(keys, list) and all(isinstance(key, str) for key in keys)


def without_repeats(items: Iterable[Item], source: str | Path) -> list[Item]:
    """Each item once; says how many there were more."""
    items = list(items)
    once = list({item.key: item for item in items}.values())
    if len(once) < len(items):
        print(f"{source}: {len(items) - len(once)} rows are the same as others, and are one item")
    return once


################
# Samples and prompts
################


def _tell_ranked(source: str | Path) -> None:
    """Says where samples are rankings already."""
    # as they stand in the file: of what is read as samples, ranks are no part
    rows = [row for _, row in placed_source(source)]
    ranked = [row for row in rows if row.get("ranks") is not None]
    if ranked:
        names = {one_line(str(row["labeler"]), 60) for row in ranked if row.get("labeler")}
        whose = f" (by {', '.join(sorted(names)[:5])})" if names else ""
        print(
            f"{source}: {len(ranked)} of {len(rows)} rows hold ranks already{whose}: they are "
            "ranked anew, and exports hold the new ranks alone"
        )


def _samples(source, kind: str, format: str | None, columns) -> Iterator[dict]:
    for number, row in enumerate(read(source, kind, format=format, columns=columns), 1):
        yield _with_id(row, ("prompt_id", "id"), f"{source}, row {number}")


def _prompts(source, format: str | None, columns) -> list[dict]:
    rows = read(source, "prompts", format=format, columns=columns)
    places = (f"{source}, row {number}" for number in range(1, len(rows) + 1))
    return [
        _with_id(row, ("id", "prompt_id"), place) for row, place in zip(rows, places, strict=True)
    ]


def _with_id(row: dict, names: tuple[str, ...], place: str) -> dict:
    # a column, or a key of a message, that only other rows have is null here
    row = {key: value for key, value in row.items() if value is not None}
    row["prompt"] = [
        {key: value for key, value in message.items() if value is not None or key == "content"}
        for message in row["prompt"]
    ]
    found = next(filter(None, (identifier_of(row, name, place) for name in names)), None)
    return row if found is None else {**row, "prompt_id": found}


def _with_outputs(rows: list[dict], source) -> list[dict]:
    """Rows whose outputs can be ranked.

    Raises:
        UserError: there is none.
    """
    unfit = [row for row in rows if len(row["completions"]) not in OUTPUTS]
    for row in unfit[:5]:
        print(f"{source}: left out: {_few_or_many(row)}")
    if len(unfit) > 5:
        print(f"{source}: left out: {len(unfit) - 5} more")
    if len(unfit) == len(rows):
        raise UserError(f"{source}: no row has from 2 to 9 outputs, which is what can be ranked")
    return [row for row in rows if len(row["completions"]) in OUTPUTS]


def _few_or_many(row: dict) -> str:
    asked = one_line(row["prompt"][-1]["content"], 60)
    count = len(row["completions"])
    return f"{asked!r} has {count} output{'s' * (count != 1)}; 2 to 9 are ranked"


################
# Answers of models
################


def _answered_prompts(source, columns) -> list[dict]:
    """Rows of one prompt and its answers by all models, in the order of the file.

    Raises:
        UserError: other columns, a model that answers a prompt twice, other prompts under one id.
    """
    places, rows = [], []
    for place, row in placed_source(source):
        places.append(place)
        rows.append(row)
    if not rows:
        raise UserError(f"{source}: no rows")
    rows = with_columns(rows, column_names(columns), source)
    prompts: dict[str, dict] = {}
    for place, row in zip(places, rows, strict=True):
        _add_answer(prompts, row, place)
    models = list(dict.fromkeys(name for row in prompts.values() for name in row["models"]))
    if len(models) < 2:
        raise UserError(f"{source}: answers of {models[0]} alone; two models are compared")
    partial = [row for row in prompts.values() if len(row["models"]) < len(models)]
    if partial:
        print(
            f"{source}: {len(partial)} of {len(prompts)} prompts are left out, "
            f"as not all of {', '.join(models)} answer them"
        )
    whole = [row for row in prompts.values() if len(row["models"]) == len(models)]
    if not whole:
        raise UserError(f"{source}: no prompt is answered by all of {', '.join(models)}")
    return [_in_order(row, models) for row in whole]


def _add_answer(prompts: dict[str, dict], row: dict, place: str) -> None:
    missing = [name for name in OF_ANSWERS if row.get(name) is None]
    if missing:
        raise UserError(f"{place}: no {missing[0]!r}; judged are the rows of answers.jsonl")
    prompt_id, model = (identifier_of(row, name, place) for name in ("prompt_id", "model"))
    try:
        asked, [text] = asked_of(row["prompt"]), answers_in([row["completion"]])
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    found = prompts.setdefault(
        prompt_id,
        {
            "prompt_id": prompt_id,
            # without users every prompt is a cluster of its own
            "user_id": identifier_of(row, "user_id", place) or f"prompt {prompt_id}",
            "prompt": asked,
            "models": [],
            "completions": [],
        },
    )
    if found["prompt"] != asked:
        raise UserError(f"{place}: another prompt than before under prompt_id {prompt_id}")
    if model in found["models"]:
        raise UserError(f"{place}: {model} has answered prompt {prompt_id} before")
    found["models"].append(model)
    found["completions"].append(text)


def _in_order(row: dict, models: list[str]) -> dict:
    texts = dict(zip(row["models"], row["completions"], strict=True))
    return {**row, "models": models, "completions": [texts[name] for name in models]}
