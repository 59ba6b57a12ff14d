"""The one reader of rows for every command: a source in any known shape -> rows of ours.

Prints one line of what the source was read as; a row that does not fit is told with file and row,
and counted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.formats.misfit import Misfit
from data_prep.formats.registry import FORMATS, Format
from instruct.files import UserError, data_files, load_rows
from instruct.plain_text import one_line
from instruct.processes import is_main_process
from instruct.rows.row_files import placed_rows

if TYPE_CHECKING:
    from datasets import Dataset

FIRST_ROWS = 100  # rows that a format is told by; a column of theirs may be empty in the first
TOLD = 5  # misfits that are told one by one


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

    def dataset(self) -> "Dataset":
        """The rows as a Dataset with the columns of all.

        Raises:
            UserError: a column of several types, with the row.
        """
        # imported here: it takes a second, and every command imports this module
        from datasets import Dataset
        from datasets.table import InMemoryTable

        from instruct.rows.row_tables import as_table

        rows = [row for _, row in self.rows]
        return Dataset(InMemoryTable(as_table(rows, lambda i: self.rows[i][0])))


def read(
    source: str | Path,
    kind: str,
    split: str = "train",
    *,
    name: str | None = None,
    format: str | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
) -> "Dataset":
    """The rows of a source as a Dataset of one kind; see `read_rows`."""
    return read_rows(source, kind, split, name=name, format=format, columns=columns).dataset()


def read_rows(
    source: str | Path,
    kind: str,
    split: str = "train",
    *,
    name: str | None = None,
    format: str | None = None,
    columns: Sequence[str] | Mapping[str, str] | None = None,
) -> Reading:
    """The rows of a source as rows of one kind, each with its place.

    Args:
        source: file, folder or Hub dataset id.
        kind: "prompts", "demonstrations", "samples" or "rankings".
        split: split of a folder or a Hub dataset.
        name: configuration of a Hub dataset.
        format: a format of `data_prep/formats/registry.py` by its name. Default: as it looks.
        columns: ours by theirs, `["prompt=question", "chosen=good"]`.

    Raises:
        UserError: nothing there, no known format, or no row that fits it.
    """
    renamed = column_names(columns)
    placed = [
        (place, {renamed.get(key, key): value for key, value in row.items()})
        for place, row in raw_rows(source, split, name)
    ]
    _check_renamed(source, placed, renamed)
    found = find_format(source, kind, [row for _, row in placed], format)
    reading = Reading(str(source), found, total=len(placed))
    used: set[int] = set()
    unfit: dict[int, Misfit] = {}
    for members, made in _converted(found, [row for _, row in placed]):
        if isinstance(made, Misfit):
            unfit.update(dict.fromkeys(members, made))
            continue
        used.update(members)
        # the last is what was ranked or answered; a thread's first rows are in several
        reading.rows += [(placed[members[-1]][0], row) for row in made]
    reading.used = len(used)
    _report(reading, [(placed[i][0], why) for i, why in sorted(unfit.items()) if i not in used])
    return reading


def raw_rows(source: str | Path, split: str, name: str | None) -> list[tuple[str, dict]]:
    """(file and row, row) of a source, as it stands there."""
    files = data_files(source, split)
    # Parquet has types of its own; of text no table is made before it is ours
    if files and not any(path.name.lower().endswith((".parquet", ".arrow")) for path in files):
        placed = [(f"{path}, {at}", row) for path in files for at, row in placed_rows(path)]
        if not placed:
            raise UserError(f"{source}: no rows")
        return placed
    rows = load_rows(source, split=split, name=name)
    return [(f"{source}, row {i}", row) for i, row in enumerate(rows, 1)]


def column_names(columns: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """{their name: ours} of `--columns ours=theirs`.

    Raises:
        UserError: not of that form, or one name twice.
    """
    if isinstance(columns, Mapping):
        return {theirs: ours for ours, theirs in columns.items()}
    found: dict[str, str] = {}
    for pair in columns or ():
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise UserError(f"--columns {pair}: expected OURS=THEIRS, such as prompt=question")
        if theirs in found or ours in found.values():
            raise UserError(f"--columns {pair}: a column is named twice")
        found[theirs] = ours
    return found


def _check_renamed(source, placed: list[tuple[str, dict]], renamed: dict[str, str]) -> None:
    there = {name for _, row in placed for name in row}
    missing = [theirs for theirs, ours in renamed.items() if ours not in there]
    if missing:
        raise UserError(f"--columns: {source} has no column {missing[0]!r}")


def find_format(
    source: str | Path, kind: str, rows: list[dict], format: str | None = None
) -> Format:
    """The format of these rows: the one asked for, else the first that looks like it.

    Raises:
        UserError: no format of that name, or none that they look like.
    """
    known = [f for f in FORMATS if f.kind == kind]
    if format is not None:
        named = [f for f in known if f.name.lower() == format.lower()]
        if not named:
            names = ", ".join(repr(f.name) for f in known)
            raise UserError(f"--format {format}: no such format of {kind}; known are {names}")
        return named[0]
    columns = {name for row in rows for name in row}
    for one in known:
        if one.looks_like(columns, rows[:FIRST_ROWS]):
            return one
    ours = next(f for f in known if f.ours)
    raise UserError(
        f"{source}: no known format of {kind} has its columns ({', '.join(sorted(columns))}); "
        f"ours are {', '.join(ours.reads)}; name them by --columns OURS=THEIRS"
    )


def _converted(form: Format, rows: list[dict]) -> Iterator[tuple[list[int], list[dict] | Misfit]]:
    """(indices of rows, the rows made of them, or why none)."""
    groups: Iterable = form.gather(rows) if form.gather else (([i], r) for i, r in enumerate(rows))
    for members, row in groups:
        if isinstance(row, Misfit):
            yield members, row
            continue
        try:
            made = form.convert(row)
        except Misfit as misfit:
            yield members, misfit
            continue
        others = {k: v for k, v in row.items() if k not in form.reads}
        many = made if isinstance(made, list) else [made]
        yield members, [{**others, **one} for one in many]


def _report(reading: Reading, unfit: list[tuple[str, Misfit]]) -> None:
    """Counts and tells the rows that do not fit, and says what the source was read as.

    Raises:
        UserError: no row fits.
    """
    for _, why in unfit:
        reason = one_line(str(why), 200)
        reading.misfits[reason] = reading.misfits.get(reason, 0) + 1
    if not reading.rows:
        place, why = unfit[0]
        raise UserError(
            f"{place}: {one_line(str(why))} (read as {reading.format.name}; "
            f"{len(unfit)} of {reading.total} rows do not fit, none does)"
        )
    if not is_main_process():
        return
    for place, why in unfit[:TOLD]:
        print(f"{place}: left out: {one_line(str(why))}")
    if len(unfit) > TOLD:
        print(f"{reading.source}: {len(unfit) - TOLD} more rows left out")
    print(
        f"{reading.source}: read as: {reading.format.name}, {reading.used} of {reading.total} rows"
    )
