"""The one reader of rows for every command: a source in any known shape -> rows of ours.

Prints one line of what the source was read as; a row that does not fit is told with file and row,
and counted.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.formats.misfit import Misfit
from data_prep.formats.registry import FORMATS, Format
from instruct.files import UserError, placed_source
from instruct.plain_text import one_line
from instruct.processes import is_main_process

if TYPE_CHECKING:
    from datasets import Dataset

FIRST_ROWS = 100  # rows that a format is told by; a column of theirs may be empty in the first
# what a file of another kind is, and is for
READ_BY = {
    "rankings": "which data_prep.comparisons and recipes/reward.py read",
    "demonstrations": "which data_prep.demonstrations and recipes/sft.py read",
    "samples": "which data_prep.label reads",
}
TOLD = 5  # misfits that are told one by one
# Columns that a format makes; a row's own of that name do not ride along.
OURS = ("prompt", "completion", "completions", "ranks", "read_as")


@dataclass
class Reading:
    """Rows of ours from one source, and what became of the rows that it had.

    `total` rows were read; `used` of them are in `rows` (of which one row may make several, or
    several one) and the others in `misfits`: {why: how many}.
    """

    source: str
    format: Format
    rows: list[tuple[str, dict]] = field(default_factory=list)  # (file and row, row)
    total: int = 0
    used: int = 0
    misfits: dict[str, int] = field(default_factory=dict)
    text_prompts: int = 0  # rows whose `prompt` was a text

    def columns(self) -> list[str]:
        """The columns of all rows, as they first come."""
        return list(dict.fromkeys(name for _, row in self.rows for name in row))

    def taken(self) -> Iterator[tuple[str, dict]]:
        """(file and row, row) of each, which are let go of as they are read."""
        self.rows.reverse()
        while self.rows:
            yield self.rows.pop()

    def dataset(self) -> "Dataset":
        """The rows as a Dataset with the columns of all.

        Raises:
            UserError: a column of several types, with the row.
        """
        # imported here: it takes a second, and every command imports this module
        from datasets import Dataset
        from datasets.table import InMemoryTable

        from instruct.rows.row_tables import as_table

        rows = with_one_type([row for _, row in self.rows], self.source)
        return Dataset(InMemoryTable(as_table(rows, lambda i: self.rows[i][0])))


def read(
    source: str | Path,
    kind: str,
    split: str = "train",
    *,
    name: str | None = None,
    format: str | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    keep_text: bool = False,
) -> "Dataset":
    """The rows of a source as a Dataset of one kind, to train on or to ask; see `read_rows`.

    Args:
        keep_text: where each prompt of ours is a text, it stays one: a reward function is given
            what the data has.

    Raises:
        UserError: also a row of our own columns that does not fit: who wrote them meant something.
    """
    options = {"name": name, "format": format, "columns": columns}
    reading = read_rows(source, kind, split, strict=True, **options)
    if keep_text and reading.format.ours and reading.text_prompts == reading.total:
        for _, row in reading.rows:
            row["prompt"] = row["prompt"][0]["content"]
    return reading.dataset()


def read_rows(
    source: str | Path,
    kind: str,
    split: str = "train",
    *,
    name: str | None = None,
    format: str | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
    strict: bool = False,
) -> Reading:
    """The rows of a source as rows of one kind, each with its place.

    Args:
        source: file, folder or Hub dataset id.
        kind: "prompts", "demonstrations", "samples" or "rankings".
        split: split of a folder or a Hub dataset.
        name: configuration of a Hub dataset.
        format: a format of `data_prep/formats/registry.py` by its name. Default: as it looks.
        columns: ours by theirs, `["prompt=question", "chosen=good"]`.
        strict: refuses a row of our own columns that does not fit, instead of counting it.

    Raises:
        UserError: nothing there, no known format, or no row that fits it.
    """
    places, rows = [], []
    for place, row in placed_source(source, split, name):
        places.append(place)
        rows.append(row)
    if not rows:
        raise UserError(f"{source}: no rows")
    rows = with_columns(rows, column_names(columns), source)
    found = find_format(source, kind, rows, format)
    reading = Reading(str(source), found, total=len(rows))
    reading.text_prompts = sum(isinstance(row.get("prompt"), str) for row in rows)
    used: set[int] = set()
    unfit: dict[int, UserError] = {}
    for members, made in _converted(found, rows):
        # the last is what was ranked or answered; a thread's first rows are in several
        place = places[members[-1]]
        if not isinstance(made, UserError):
            used.update(members)
            reading.rows += [(place, row) for row in made]
            continue
        if strict and found.ours:
            raise UserError(f"{place}: {made}") from made
        unfit.update(dict.fromkeys(members, made))
    reading.used = len(used)
    # a row may be in several groups, of which one fits
    _sum_up(reading, [(places[i], why) for i, why in sorted(unfit.items()) if i not in used])
    return reading


################
# Columns and formats
################


def column_names(columns: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """{our name: theirs} of `--columns ours=theirs`.

    Raises:
        UserError: not of that form, or one name twice.
    """
    if isinstance(columns, Mapping):
        return dict(columns)
    found: dict[str, str] = {}
    for pair in columns or ():
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise UserError(f"--columns {pair}: expected OURS=THEIRS, such as prompt=question")
        if ours in found or theirs in found.values():
            raise UserError(f"--columns {pair}: a column is named twice")
        found[ours] = theirs
    return found


def with_columns(rows: list[dict], names: Mapping[str, str], source: str | Path) -> list[dict]:
    """Rows with their columns under our names; what stood under ours before goes.

    Raises:
        UserError: no row has such a column.
    """
    if not names:
        return rows
    there = dict.fromkeys(name for row in rows for name in row)
    for ours, theirs in names.items():
        if theirs not in there:
            raise UserError(
                f"--columns {ours}={theirs}: {source} has no column {theirs!r}; "
                f"it has {', '.join(map(repr, there))}"
            )
    moved = {*names, *names.values()}
    return [
        {
            **{ours: row[theirs] for ours, theirs in names.items() if theirs in row},
            **{key: value for key, value in row.items() if key not in moved},
        }
        for row in rows
    ]


def find_format(
    source: str | Path, kind: str, rows: list[dict], format: str | None = None
) -> Format:
    """The format of these rows: the one asked for, else the first that looks like it.

    Raises:
        UserError: no format of that name, or none that they look like.
    """
    known = [f for f in FORMATS if f.kind == kind]
    names = ", ".join(repr(f.name) for f in known)
    if format is not None:
        named = [f for f in known if _slug(f.name) == _slug(format)]
        if not named:
            raise UserError(f"--format {format}: no such format of {kind}; known are {names}")
        return named[0]
    columns = dict.fromkeys(name for row in rows for name in row)
    for one in known:
        if one.looks_like(set(columns), rows[:FIRST_ROWS]):
            return one
    ours = next(f for f in known if f.ours).reads
    missing = ", ".join(repr(name) for name in ours if name not in columns)
    others = (f for f in FORMATS if f.kind in READ_BY and f.kind != kind)
    other = next((f for f in others if f.looks_like(set(columns), rows[:FIRST_ROWS])), None)
    looks = f"; it looks like {other.name}, {READ_BY[other.kind]}" if other else ""
    raise UserError(
        f"{source}: no column {missing}; it has {', '.join(map(repr, columns))}, which is no known "
        f"shape of {kind}{looks}: name them by --columns {ours[0]}=THEIRS, or a shape by --format"
    )


def _slug(name: str) -> str:
    # "UltraFeedback pairs" may be typed ultrafeedback-pairs
    return "".join(filter(str.isalnum, name.lower()))


################
# Rows
################


def _converted(
    form: Format, rows: list[dict]
) -> Iterator[tuple[list[int], list[dict] | UserError]]:
    """(indices of rows, the rows made of them, or why none); lets go of rows that are read."""
    groups: Iterable = form.gather(rows) if form.gather else _taken(rows)
    for members, row in groups:
        if isinstance(row, Misfit):
            yield members, row
            continue
        try:
            made = form.convert(row)
            many = made if isinstance(made, list) else [made]
            found = [_beside(form, row, one) for one in many]
            _check_characters(found)
        except UserError as misfit:
            yield members, misfit
            continue
        yield members, found


def _taken(rows: list[dict]) -> Iterator[tuple[list[int], dict]]:
    """Each row by itself, taken out of the list: a million of them twice is a gigabyte."""
    for i in range(len(rows)):
        row, rows[i] = rows[i], {}
        yield [i], row


def _check_characters(rows: list[dict]) -> None:
    """That rows can be written: JSON may hold half of a pair that is one character.

    Raises:
        Misfit: they cannot.
    """
    try:
        json.dumps(rows, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        why = "holds half a character (a lone surrogate); write the text as UTF-8 anew"
        raise Misfit(why) from None
    except RecursionError:
        raise Misfit("is nested too deeply") from None


def _beside(form: Format, row: dict, made: dict) -> dict:
    """A row of ours and what rides along, its columns in the order that they had."""
    gone = {*form.reads, *OURS} - set(made)
    return {**{k: v for k, v in row.items() if k not in gone}, **made}


def with_one_type(rows: list[dict], source: str) -> list[dict]:
    """Rows whose other columns each hold one type: where they hold several, all as text.

    A column that nobody asks for must not keep its file from being read; ids are text anyway.
    """
    import pyarrow as pa

    from instruct.rows.row_tables import NO_COLUMN

    mixed = []
    for name in dict.fromkeys(name for row in rows for name in row if name not in OURS):
        try:
            pa.array([row.get(name) for row in rows])
        except NO_COLUMN:
            mixed.append(name)
    if mixed and is_main_process():
        names = ", ".join(map(repr, mixed))
        print(f"{source}: {names}: values of several types, kept as text")
    texts = [{name: _as_text(row[name]) for name in mixed if name in row} for row in rows]
    return [{**row, **text} for row, text in zip(rows, texts, strict=True)] if mixed else rows


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _sum_up(reading: Reading, unfit: list[tuple[str, UserError]]) -> None:
    """Counts and tells the rows that do not fit, and says what the source was read as.

    Raises:
        UserError: no row fits.
    """
    source, name, total = reading.source, reading.format.name, reading.total
    for _, why in unfit:
        reason = one_line(str(why), 200)
        reading.misfits[reason] = reading.misfits.get(reason, 0) + 1
    if not reading.rows:
        place, why = unfit[0] if unfit else (source, "there is none")
        raise UserError(f"{place}: {why} (read as {name}; none of {total} rows fits)")
    if is_main_process():
        for place, why in unfit[:TOLD]:
            print(f"{place}: {one_line(str(why))}")
        if len(unfit) > TOLD:
            print(f"{source}: {len(unfit) - TOLD} more do not fit")
        print(f"{source}: read as: {name}, {reading.used} of {total} rows")
