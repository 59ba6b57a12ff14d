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
from pathlib import Path

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


class UserError(ValueError):
    """A mistake in what the user gave (file, row or flag): what is wrong and what to do."""


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
    source: str | Path, split: str = "train", name: str | None = None, columns: Iterable[str] = ()
):
    """Loads rows as a `datasets.Dataset`.

    Args:
        source: file, folder or Hub dataset id.
        split: split of a folder or a Hub dataset (ignored for a single file).
        name: configuration of a Hub dataset.
        columns: columns that must be there.

    Raises:
        UserError: nothing there, a row that cannot be read (with file and line), no such column.
    """
    files = data_files(source, split)
    if files:
        dataset = _load_files(source, files)
    # a typo in a path would else end in "no such Hub dataset"
    elif _looks_like_a_path(str(source)):
        raise UserError(f"{source}: no such file or folder")
    else:
        dataset = _load_from_hub(str(source), split, name)
    if len(dataset) == 0:
        raise UserError(f"{source}: no rows")
    # here, by name; later it would be a KeyError inside a `map`
    missing = [c for c in columns if c not in dataset.column_names]
    if missing:
        raise UserError(
            f"{source}: no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, dataset.column_names))}"
        )
    return dataset


def _looks_like_a_path(source: str) -> bool:
    """Whether the user meant a file: the Hub is not asked for a name it cannot have."""
    return (
        source.endswith(tuple(ENDINGS))
        or source.startswith((".", "/", "~"))
        or source.count("/") > 1
    )


def _load_files(source: str | Path, files: list[Path]):
    # imported here: `datasets` takes a second, and every command imports this module
    from datasets import Dataset, load_dataset
    from datasets.config import HF_DATASETS_CACHE
    from datasets.exceptions import DatasetGenerationError

    from instruct.hashes import files_hash

    kinds = sorted({_format_of(p) for p in files})
    if len(kinds) > 1:
        raise UserError(f"{source}: files of several formats in one folder ({', '.join(kinds)})")
    (kind,) = kinds
    # JSONL is read here: `datasets` names neither file nor line of a bad row
    if all(p.name.lower().endswith((".jsonl", ".jsonl.gz")) for p in files):
        return Dataset.from_list([row for p in files for row in read_jsonl(p)])
    try:
        return load_dataset(
            kind,
            data_files=[str(p) for p in files],
            split="train",
            # its cache goes by path and time: rows of a file that was replaced would come back
            cache_dir=str(Path(HF_DATASETS_CACHE) / "by-content" / files_hash(files)[:32]),
        )
    except (DatasetGenerationError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise UserError(f"{source}: cannot be read as {kind}: {cause}") from error


def _load_from_hub(dataset_id: str, split: str, name: str | None):
    from datasets import load_dataset

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
        UserError: no such file, not UTF-8, or (with file and line) a row that is no JSON object.
    """
    rows = []
    opener = gzip.open if str(path).endswith(".gz") else open
    try:
        # UTF-8 said: the default is the machine's
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = _json_object(line, f"{path}, line {number}")
                rows.append(row)
    # decoded in blocks, so the line is not known, only how far it came
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}, after line {len(rows)}: not UTF-8 text ({error.reason})"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    return rows


def _json_object(line: str, where: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def write_rows(path: str | Path, rows: Iterable[dict]) -> None:
    """Writes rows as JSONL (plain or gzip) or Parquet by the file's ending, whole or not at all."""
    path = Path(path)
    check_output(path)
    name = path.name.lower()
    with atomic_file(path) as beside:
        if name.endswith(".parquet"):
            # imported here: only Parquet needs it
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(list(rows)), beside)
        else:
            opener = gzip.open if name.endswith(".gz") else open
            with opener(beside, "wt", encoding="utf-8") as out:
                for row in rows:
                    # text a person can read, whatever its script
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")


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
