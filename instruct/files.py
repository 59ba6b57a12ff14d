"""Reading and writing rows: one loader and one writer for every flag that takes data.

A *source* is a file (`.jsonl`, `.json`, `.jsonl.gz`, `.parquet`, `.csv` by its ending), a folder of
such files, or a Hub dataset id. Outputs are written beside their final place and renamed, so a
killed stage leaves no half file.
"""

import contextlib
import errno
import gzip
import json
import os
from collections.abc import Iterable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path

from instruct.errors import UserError
from instruct.hub import ask_hub
from instruct.rows.row_checks import check_column
from instruct.rows.row_files import placed_rows

# File ending -> the loader of `datasets` that reads it.
ENDINGS = {
    ".jsonl": "json",
    ".json": "json",
    ".jsonl.gz": "json",
    ".parquet": "parquet",
    ".csv": "csv",
}
NOT_ROWS = ("report.json", "run.json")  # notes of a command beside its rows
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


def _format_of(path: Path) -> str | None:
    name = path.name.lower()
    # by the ending of the name: `Path.suffix` of .jsonl.gz is .gz
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def data_files(source: str | Path, split: str | None = None) -> list[Path]:
    """The local files behind `source`, sorted; none when it is neither a file nor a folder.

    In a folder, files whose name starts with `split` are taken when there are any, else all.
    """
    path = Path(source)
    if path.is_file():
        if _format_of(path) is None:
            raise UserError(f"{path}: unknown file ending; use one of {', '.join(ENDINGS)}")
        return [path]
    if not path.is_dir():
        # not an error yet: it may be a Hub id
        return []
    # report.json and removed.parquet are what data_prep/prompts.py writes beside its splits
    found = sorted(
        p for p in path.iterdir() if p.is_file() and _format_of(p) and p.name not in NOT_ROWS
    )
    of_split = [p for p in found if split and p.name.startswith(split)]
    found = of_split or [p for p in found if p.stem != "removed"]
    if not found:
        raise UserError(f"{path}: no data file in this folder (looked for {', '.join(ENDINGS)})")
    return found


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
    files, columns = data_files(source, split), list(columns)
    # a typo in a path would else end in "no such Hub dataset"
    if not files and _looks_like_a_path(str(source)):
        raise UserError(f"{source}: no such file or folder")
    if not files:
        dataset = _load_from_hub(str(source), split, name)
    elif _format_of_all(source, files) == "parquet":
        dataset = _load_parquet(source, files)
    else:
        return _load_text(source, files, columns, blanks)
    _check_there(source, len(dataset), dataset.column_names, columns)
    for column in columns:
        # by column and by chunk: rows one by one are slow
        values = (v for chunk in dataset.data.column(column).chunks for v in chunk.to_pylist())
        places = ((f"{source}, row {i}", value) for i, value in enumerate(values, 1))
        check_column(column, places, blanks)
    return dataset


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


def _looks_like_a_path(source: str) -> bool:
    """Whether the user meant a file: the Hub is not asked for a name it cannot have."""
    return (
        source.endswith(tuple(ENDINGS))
        or source.startswith((".", "/", "~"))
        or source.count("/") > 1
    )


def _format_of_all(source: str | Path, files: list[Path]) -> str:
    kinds = sorted({_format_of(p) for p in files})
    if len(kinds) > 1:
        raise UserError(f"{source}: files of several formats in one folder ({', '.join(kinds)})")
    return kinds[0]


def _load_text(source: str | Path, files: list[Path], columns: list[str], blanks: bool):
    # imported here: `datasets` takes a second, and every command imports this module
    from datasets import Dataset
    from datasets.table import InMemoryTable

    from instruct.rows.row_tables import as_table

    placed = [(path, place, row) for path in files for place, row in placed_rows(path)]
    rows = [row for _, _, row in placed]

    def place(i: int) -> str:
        return f"{placed[i][0]}, {placed[i][1]}"

    found = dict.fromkeys(name for row in rows for name in row)
    _check_there(source, len(rows), found, columns)
    # before the table, which would blame the first row of another type
    for column in columns:
        check_column(column, ((place(i), row.get(column)) for i, row in enumerate(rows)), blanks)
    return Dataset(InMemoryTable(as_table(rows, place)))


def _load_parquet(source: str | Path, files: list[Path]):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import load_dataset
    from datasets.config import HF_DATASETS_CACHE
    from datasets.exceptions import DatasetGenerationError

    from instruct.hashes import files_hash

    try:
        # `datasets` refuses a file without rows, which an empty split is
        files = [path for path in files if pq.read_metadata(path).num_rows]
        if not files:
            raise UserError(f"{source}: no rows")
        return load_dataset(
            "parquet",
            data_files=[str(p) for p in files],
            split="train",
            # its cache goes by path and time: rows of a file that was replaced would come back
            cache_dir=str(Path(HF_DATASETS_CACHE) / "by-content" / files_hash(files)[:32]),
        )
    except (DatasetGenerationError, pa.ArrowException) as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"{source}: cannot be read as parquet: {cause}") from error


def _load_from_hub(dataset_id: str, split: str, name: str | None):
    from datasets import load_dataset

    ask_hub(dataset_id)
    try:
        return load_dataset(dataset_id, name, split=split)
    # the Hub client raises many unrelated types; all mean "could not be had"
    except Exception as error:
        raise UserError(
            f"{dataset_id}: neither a file or folder here nor a dataset the Hub could give: "
            f"{str(error).splitlines()[0]}"
        ) from error


def read_jsonl(path: str | Path) -> list[dict]:
    """Rows of a JSONL file (plain or gzip).

    Raises:
        UserError: no such file, a broken one, or (with file and line) a row that is no JSON object.
    """
    return [row for _, row in placed_rows(path)]


def write_rows(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes rows as JSONL (plain or gzip) or Parquet by the file's ending, whole or not at all."""
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
                    out.write(json.dumps(row, ensure_ascii=False, default=_as_json) + "\n")


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


def _as_json(value) -> str:
    """Dates and times, which Parquet has and JSON has not, as ISO text.

    Raises:
        UserError: a value that is no text in any way.
    """
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise UserError(f"a value of type {type(value).__name__} is no JSON; write .parquet instead")


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
