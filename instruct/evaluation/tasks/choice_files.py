"""Files of multiple choice: which shape one has, by its columns, and what its rows ask.

Files, folders or Hub ids, in whatever `instruct.files` reads.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from instruct.errors import UserError
from instruct.evaluation.tasks import choice_rows as rows_of
from instruct.evaluation.tasks.choice_values import Item, Place
from instruct.files import placed_source
from instruct.rows.splits import is_named_as_split

TRUTHFUL, CHOICE, PAIR, TEXT = "truthful", "choice", "pair", "text"


################
# Shapes
################


class Shape(NamedTuple):
    """A shape of files.

    Attributes:
        kind: what is measured of it: `truthful`, `choice`, `pair` or `text`.
        first: of a pair, what its first sentence is called in a report.
        columns: any of these sets names it; lower case, "_" for a blank.
        of_row, of_rows: the item of a row, or those of all.
        note: how it is read, where a file may mean something else.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    of_row: Callable[[dict, Place], Item] | None = None
    of_rows: Callable[[Iterable[tuple[Place, dict]]], list[Item]] | None = None
    first: str | None = None
    note: str = ""


# the first that fits is taken: what others are a part of comes before them
SHAPES = (
    Shape(
        "TruthfulQA",
        TRUTHFUL,
        ("question mc1_targets", "question mc2_targets"),
        rows_of.truthful_targets,
    ),
    Shape(
        "TruthfulQA's answers",
        TRUTHFUL,
        ("question best_answer correct_answers incorrect_answers",),
        rows_of.truthful_answers,
    ),
    Shape("HellaSwag", CHOICE, ("ctx endings label", "ctx_a endings label"), rows_of.hellaswag),
    Shape(
        "WSC",
        CHOICE,
        ("text span1_text span2_text span2_index label", "text target label"),
        rows_of.wsc,
        note="label 1: it refers to it",
    ),
    Shape(
        "RTE",
        CHOICE,
        ("premise hypothesis label", "sentence1 sentence2 label"),
        rows_of.rte,
        note="label 0 or entailment: True, 1 or not_entailment: False",
    ),
    Shape(
        "ARC",
        CHOICE,
        ("question choices answerkey",),
        rows_of.arc,
        note="asked for the text",
    ),
    Shape(
        "MMLU",
        CHOICE,
        ("question choices answer",),
        rows_of.mmlu,
        note="asked for the letter",
    ),
    Shape(
        "BIG-bench",
        CHOICE,
        (
            "input target_scores",
            "input targets",
            "inputs multiple_choice_targets multiple_choice_scores",
        ),
        rows_of.bigbench,
    ),
    Shape("CrowS-Pairs", PAIR, ("sent_more sent_less",), rows_of.crows, first="stereotype"),
    Shape("Winogender", PAIR, ("sentid sentence",), of_rows=rows_of.winogender, first="male"),
    Shape("preference pairs", CHOICE, ("chosen rejected",), rows_of.preference),
    Shape("plain texts", TEXT, ("text",), rows_of.plain_text),
)


def shape_of(source: str, row: dict) -> Shape:
    """The shape that a row's columns name.

    Raises:
        UserError: none; which there are.
    """
    there = {name.strip().lower().replace(" ", "_") for name in row}
    for shape in SHAPES:
        if any(there.issuperset(columns.split()) for columns in shape.columns):
            return shape
    known = "; ".join(
        f"{shape.name} ({' or '.join(c.replace(' ', ', ') for c in shape.columns)})"
        for shape in SHAPES
    )
    raise UserError(
        f"{source}: columns {', '.join(map(repr, row))} are of no task that is known; "
        f"they may be {known}"
    )


def check_meaning(named: str, rows: list[tuple[Place, dict]]) -> None:
    """Refuses labels that RTE and GLUE's other pairs of sentences read in opposite ways.

    Args:
        named: the source and configuration, as the user gave them.

    Raises:
        UserError: a number beside sentence1 and sentence2 where nothing says RTE.
    """
    if re.search(r"(?<![a-z])rte(?![a-z])", named.lower()):
        return
    for place, row in rows:
        label = str(row.get("label")).strip()
        if row.get("premise") is None and label.removesuffix(".0") in ("0", "1"):
            raise UserError(
                f"{place}: the label {label} of sentence1 and sentence2 means one thing "
                "in RTE and another in WNLI or MRPC: write entailment or not_entailment, or call "
                "a file of RTE rte.jsonl"
            )


def _name_of(source: str | Path) -> str:
    """What a source is called; one that is called as its split is, by its folder."""
    path = Path(source)
    return path.parent.name if is_named_as_split(path) else path.name


def read_items(
    source: str | Path, split: str = "validation", config: str | None = None
) -> tuple[Shape, list[Item]]:
    """The shape of a file, folder or Hub dataset, and what its rows ask.

    Args:
        split, config: of a folder or a Hub dataset; a file is all of it.

    Raises:
        UserError: nothing there, of no known shape, or (with file and row) a row that is not whole.
    """
    try:
        rows = list(placed_source(source, split, config))
    except UserError as error:
        # read for any command, told with this one's flags
        sentence = str(error).replace("--dataset_config", "--task_config")
        if "no split" in sentence:
            sentence += " (--task_split)"
        raise UserError(sentence) from error
    if not rows:
        raise UserError(f"{source}: no rows")
    shape = shape_of(str(source), rows[0][1])
    if shape.name == "RTE":
        check_meaning(f"{_name_of(source)} {config}", rows)
    if shape.of_rows is not None:
        return shape, shape.of_rows(rows)
    return shape, [shape.of_row(row, place) for place, row in rows]
