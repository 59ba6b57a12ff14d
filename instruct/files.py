"""Reading and writing rows: one loader and one writer for every flag that takes data.

A *source* is a file (`instruct.rows.raw_files` says what each is), a folder of such files
(`instruct.rows.splits` says which of them are a split), or a Hub dataset id. Outputs are written
beside their final place and renamed, so a killed stage leaves no half file.
"""

import contextlib
import errno
import gzip
import json
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path

from instruct.errors import UserError
from instruct.rows.raw_files import ENDINGS, RawFile, sniff
from instruct.rows.row_checks import check_column
from instruct.rows.row_files import placed_rows
from instruct.rows.splits import data_files, held_out_needed, held_out_place, is_path, split_files
from instruct.rows.stored_tables import load_arrow, load_from_hub, load_parquet, table_rows

__all__ = [
    "ENDINGS",
    "UserError",
    "atomic_file",
    "check_output",
    "data_files",
    "held_out_needed",
    "held_out_place",
    "load_rows",
    "placed_source",
    "read_jsonl",
    "split_files",
    "sync",
    "sync_folder",
    "write_json",
    "write_rows",
]

WRITTEN_AS = (".jsonl", ".jsonl.gz", ".parquet")


# What a user can change about the disk: {errno: what is wrong and what to do}.
DISK = {
    errno.ENOSPC: "no space left on this disk; free some",
    errno.EDQUOT: "your quota on this disk is used up; free some",
    errno.EFBIG: "larger than a file may be on this disk; give a path on another",
    errno.EROFS: "this disk is read-only; give a path that can be written",
    errno.EACCES: "no permission; give a path that you may read and write",
    errno.EPERM: "not permitted there; give a path that you may read and write",
    errno.ENOTDIR: "a part of this path is a file; give another path",
    errno.EISDIR: "this is a folder, not a file; give another path",
    errno.EEXIST: "this is a file, not a folder; give another path",
    errno.ENAMETOOLONG: "this name is too long for the disk; give a shorter one",
}


def load_rows(
    source: str | Path,
    split: str = "train",
    name: str | None = None,
    columns: Iterable[str] = (),
    blanks: bool = False,
):
    """Loads rows as a `datasets.Dataset` with the columns of all rows.

    Args:
        source: file, folder or Hub dataset id.
        split: split of a folder or a Hub dataset (ignored for a single file).
        name: configuration of a Hub dataset.
        columns: columns that must be there, and hold what `instruct.rows.row_checks` says of them.
        blanks: whether null and empty values pass, as the caller counts them.

    Raises:
        UserError: nothing there, no such column, a row that cannot be read or that holds another
            thing in one of `columns` (with file and row).
    """
    columns = list(columns)
    raws = _raw_files(source, split)
    kind = _kind_of_all(source, raws)
    if kind == "hub":
        dataset = load_from_hub(str(source), split, name)
    elif kind == "parquet":
        dataset = load_parquet(source, [raw.path for raw in raws])
    elif kind == "arrow":
        dataset = load_arrow(source, [raw.path for raw in raws])
    else:
        return _load_text(source, raws, columns, blanks)
    _check_there(source, len(dataset), dataset.column_names, columns)
    for column in columns:
        # by column and by chunk: rows one by one are slow
        values = (v for chunk in dataset.data.column(column).chunks for v in chunk.to_pylist())
        places = ((f"{source}, row {i}", value) for i, value in enumerate(values, 1))
        check_column(column, places, blanks)
    return dataset


def placed_source(
    source: str | Path, split: str = "train", name: str | None = None
) -> Iterator[tuple[str, dict]]:
    """(`FILE, line 3`, row) of every row as it stands, where one column holds values of any types.

    Args:
        source: file, folder or Hub dataset id.
        split: split of a folder or a Hub dataset (ignored for a single file).
        name: configuration of a Hub dataset.

    Raises:
        UserError: nothing there, or a file or row that cannot be read.
    """
    raws = _raw_files(source, split)
    if not raws:
        for number, row in enumerate(load_from_hub(str(source), split, name), 1):
            yield f"{source}, row {number}", row
    for raw in raws:
        read = table_rows if raw.kind in ("parquet", "arrow") else placed_rows
        for place, row in read(raw):
            yield f"{raw.path}, {place}", row


def _raw_files(source: str | Path, split: str) -> list[RawFile]:
    """The files of a split, by their bytes; none of a Hub dataset."""
    files = data_files(source, split)
    # a typo in a path would else end in "no such Hub dataset"
    if not files and is_path(source):
        raise UserError(f"{source}: no such file or folder")
    return [sniff(file) for file in files]


def _kind_of_all(source: str | Path, raws: list[RawFile]) -> str:
    tables = ("parquet", "arrow")
    kinds = {raw.kind if raw.kind in tables else "text" for raw in raws} or {"hub"}
    if len(kinds) > 1:
        raise UserError(
            f"{source}: files of several formats in one folder ({', '.join(sorted(kinds))})"
        )
    return kinds.pop()


def _check_there(source: str | Path, rows: int, found: Iterable[str], wanted: list[str]) -> None:
    if not rows:
        raise UserError(f"{source}: no rows")
    # here, by name; later it would be a KeyError inside a `map`
    missing = [c for c in wanted if c not in found]
    if missing:
        raise UserError(
            f"{source}: no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, found))}"
        )


def _load_text(source: str | Path, raws: list[RawFile], columns: list[str], blanks: bool):
    # imported here: `datasets` takes a second, and every command imports this module
    from datasets import Dataset
    from datasets.table import InMemoryTable

    from instruct.rows.row_tables import as_table

    placed = [(raw.path, place, row) for raw in raws for place, row in placed_rows(raw)]
    rows = [row for _, _, row in placed]

    def place(i: int) -> str:
        return f"{placed[i][0]}, {placed[i][1]}"

    found = dict.fromkeys(name for row in rows for name in row)
    _check_there(source, len(rows), found, columns)
    # before the table, which would blame the first row of another type
    for column in columns:
        check_column(column, ((place(i), row.get(column)) for i, row in enumerate(rows)), blanks)
    return Dataset(InMemoryTable(as_table(rows, place)))


def read_jsonl(path: str | Path) -> list[dict]:
    """Rows of a JSONL file (plain or gzip).

    Raises:
        UserError: no such file, a broken one, or (with file and line) a row that is no JSON object.
    """
    return [row for _, row in placed_rows(path)]


def write_rows(
    path: str | Path, rows: Iterable[dict], before: Callable[[Path], None] | None = None
) -> None:
    """Writes rows as JSONL (plain or gzip) or Parquet by the file's ending, whole or not at all.

    Args:
        before: called with the whole file before it takes its name.
    """
    path = Path(path)
    check_output(path)
    name = path.name.lower()
    with atomic_file(path) as beside:
        if name.endswith(".parquet"):
            _write_parquet(path, list(rows), beside)
        else:
            opener = gzip.open if name.endswith(".gz") else open
            with opener(beside, "wt", encoding="utf-8") as out:
                for row in rows:
                    # text a person can read, whatever its script
                    out.write(json.dumps(row, ensure_ascii=False, default=as_plain) + "\n")
        if before is not None:
            before(beside)


def _write_parquet(path: Path, rows: list[dict], beside: Path) -> None:
    # imported here: only Parquet needs it
    import pyarrow as pa
    import pyarrow.parquet as pq

    from instruct.rows.row_tables import as_table

    try:
        pq.write_table(as_table(rows, lambda i: f"{path}, row {i + 1}"), beside)
    # an object without keys, say
    except pa.ArrowNotImplementedError as error:
        raise UserError(f"{path}: cannot be written as Parquet ({error}); write .jsonl") from error


def as_plain(value) -> str:
    """Dates and times, which Parquet has and JSON has not, as ISO text.

    Raises:
        UserError: a value that is no text in any way.
    """
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise UserError(
        f"a value of type {type(value).__name__} is no JSON; leave its column "
        "out, or write .parquet"
    )


def check_output(path: str | Path) -> None:
    """Refuses, before the work, a file that `write_rows` could not write after it.

    Raises:
        UserError: an unknown ending, or a folder of that name.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: {DISK[errno.EISDIR]}")
    if not path.name.lower().endswith(WRITTEN_AS):
        raise UserError(f"{path}: rows are written as {', '.join(WRITTEN_AS)}")


def write_json(path: str | Path, value) -> None:
    """Writes one JSON document, whole or not at all."""
    with atomic_file(path) as beside:
        beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yields a name beside `path`, renamed to it when the block ends well, else removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside: a rename is atomic within one file system, and /tmp may be another
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        # the bytes first: after a power cut the new name must not be an empty file
        sync(beside)
        # a reader finds the old file or the new one, never half of one
        os.replace(beside, path)
        sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Returns when a file's bytes are on the disk, where the file system can say so."""
    if path.is_file():
        _synced(path)


def sync_folder(path: Path) -> None:
    """Returns when a folder's names are on the disk, where the file system can say so."""
    # folders are not opened on Windows
    if os.name != "nt":
        _synced(path)


def _synced(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        # network and FUSE file systems refuse the call in many ways; these alone mean lost bytes
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
            raise
