"""Files of any format -> chunks -> rows, with the line that each row stands on.

A log is one or many files (of any kind that `instruct.rows.raw_files` tells), folders, globs,
`hf://` paths or Hub dataset ids. It is read in chunks of a few megabytes, which other processes
then parse: a chunk holds what is cheap to read and to send (raw lines, record batches). A row
longer than `bounded.LONGEST_ROW` is malformed.
"""

import contextlib
import csv
import glob
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from data_prep.formats import bounded
from instruct.files import ENDINGS, UserError
from instruct.rows.json_documents import document_rows
from instruct.rows.raw_files import RawFile, format_of, sniff, told
from instruct.rows.row_files import csv_dialect
from instruct.rows.splits import data_among, is_path
from instruct.rows.stored_tables import arrow_batches

# a worker holds a chunk several times over as Python objects, and so do the jobs that wait
CHUNK_BYTES, CHUNK_ROWS = 8 << 20, 20_000

LARGEST_OBJECT = 128 << 20  # characters of one that holds a log's rows: it is read at once

SCAN = json.JSONDecoder().scan_once
UNREADABLE = object()  # a value that Arrow holds and Python cannot


@dataclass
class Chunk:
    """Consecutive rows of a file: a record batch, or raw JSON lines and (line, row or reason)s."""

    file: str
    first_line: int
    content: pa.RecordBatch | list[bytes | tuple[int, dict | str]]


def first_line(error: Exception) -> str:
    """What went wrong, without the traceback that some libraries put into their messages."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- which files ----------------------------------------------------------------------------------


def log_files(inputs: Iterable[str]) -> list[str]:
    """Files behind files, folders, globs and `hf://` paths, in a stable order; Hub ids stay.

    Raises:
        UserError: nothing is there.
    """
    found = [file for source in inputs for file in _files_of(source)]
    return list(dict.fromkeys(found))


def _files_of(source: str) -> list[str]:
    if source.startswith("hf://"):
        return _hub_files(source)
    if os.path.isfile(source):
        return [source]
    if os.path.isdir(source):
        inside = (p for p in Path(source).rglob("*") if p.is_file())
        # sorted: folders list in any order, and the place in the log breaks ties
        files = sorted(map(str, data_among(inside)))
        if not files:
            raise UserError(
                f"{source}: no log file in this folder (looked for {', '.join(ENDINGS)})"
            )
        return files
    if glob.has_magic(source):
        files = sorted(f for f in glob.glob(source, recursive=True) if os.path.isfile(f))
        if not files:
            raise UserError(f"{source}: no file matches this pattern")
        return files
    # what looks like a path is one; "owner/name" and "name" are ids of the Hub
    if is_path(source):
        raise UserError(f"{source}: no such file or folder")
    return [source]


def _hub_files(source: str) -> list[str]:
    from huggingface_hub import HfFileSystem

    fs = HfFileSystem()
    path = source.removeprefix("hf://")
    try:
        if glob.has_magic(path):
            names = fs.glob(path)
        else:
            names = fs.find(path) if fs.isdir(path) else [path]
    except Exception as error:  # the Hub client's many types all mean "could not be had"
        raise UserError(f"{source}: the Hub could not list it: {first_line(error)}") from error
    files = sorted(map(str, data_among(map(Path, names))))
    if not files:
        raise UserError(f"{source}: no log file there (looked for {', '.join(ENDINGS)})")
    return [f"hf://{n}" for n in files]


# --- file -> chunks -------------------------------------------------------------------------------


def read_chunks(file: str, most: int | None = None) -> Iterator[Chunk]:
    """Splits a file (by its ending) or a Hub dataset (by its id) into chunks of a few megabytes.

    Args:
        most: rows of a chunk, where fewer are wanted.

    Raises:
        UserError: an ending that is none of ours, a broken file, an unknown dataset.
    """
    most = most or CHUNK_ROWS
    # 1. what has no ending of ours is a Hub dataset, unless it is a file
    if format_of(file) is None:
        if os.path.isfile(file):
            raise UserError(f"{file}: unknown file ending; use one of {', '.join(ENDINGS)}")
        yield from _hub_dataset(file, most)
        return
    try:
        # 2. a reader per kind
        raw_file = sniff(file, _opener(file))
        with told(file), raw_file.open() as raw:
            if raw_file.kind == "parquet":
                yield from _record_batches(file, bounded.record_batches(raw, CHUNK_BYTES), most)
            elif raw_file.kind == "arrow":
                yield from _record_batches(file, arrow_batches(raw), most)
            elif raw_file.kind == "csv":
                yield from _csv(raw_file, raw, most)
            elif raw_file.kind == "document":
                yield from _document(file, raw, most)
            else:
                yield from _lines(file, raw, most, of_json=raw_file.kind == "lines")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read: {first_line(error)}") from error


def _opener(file: str) -> Callable[[], IO[bytes]]:
    if not file.startswith("hf://"):
        return lambda: open(file, "rb")
    from huggingface_hub import HfFileSystem

    # its own `readline` knows no limit
    return lambda: io.BufferedReader(HfFileSystem().open(file, "rb"))


def _record_batches(file: str, batches: Iterable[pa.RecordBatch], most: int) -> Iterator[Chunk]:
    first = 1
    for batch in bounded.in_chunks(batches, CHUNK_BYTES, most):
        yield Chunk(file=file, first_line=first, content=batch)
        first += len(batch)


def _lines(file: str, raw: IO[bytes], most: int, of_json: bool) -> Iterator[Chunk]:
    lines, size, first = [], 0, 1
    for number, line in enumerate(bounded.lines_of(raw), 1):
        # blank lines of a text are no prompts
        if not of_json and not line.strip():
            continue
        # a text is the reason why there is no line
        plain = of_json and isinstance(line, bytes)
        lines.append(line if plain else (number, line if of_json else _text_row(line)))
        size += len(line)
        # by bytes for long prompts, by rows for short ones
        if size >= CHUNK_BYTES or len(lines) >= most:
            yield Chunk(file=file, first_line=first, content=lines)
            first, lines, size = first + len(lines), [], 0
    if lines:
        yield Chunk(file=file, first_line=first, content=lines)


def _text_row(line: bytes | str) -> dict | str:
    """A line of a `.txt` file under the column that `load_rows` gives it, or why there is none."""
    if isinstance(line, str):
        return line
    try:
        return {"text": line.decode().rstrip("\r\n")}
    except UnicodeDecodeError:
        return "not UTF-8 text"


def _document(file: str, raw: IO[bytes], most: int) -> Iterator[Chunk]:
    rows, size, first = [], 0, 1
    longest = bounded.LONGEST_ROW
    try:
        for number, row, length in document_rows(raw, file, longest, LARGEST_OBJECT, bounded.BLOCK):
            rows.append((number, _object(row)))
            size += length
            if size >= CHUNK_BYTES or len(rows) >= most:
                yield Chunk(file=file, first_line=first, content=rows)
                first, rows, size = first + len(rows), [], 0
    except (UserError, UnicodeDecodeError):
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}: not valid JSON ({first_line(error)}); one row a line is read row by row"
        ) from error
    if rows:
        yield Chunk(file=file, first_line=first, content=rows)


def _object(row: Any) -> dict | str:
    """The row, or why it is none."""
    return row if isinstance(row, dict) else f"not an object but {type(row).__name__}"


def _csv(raw_file: RawFile, raw: IO[bytes], most: int) -> Iterator[Chunk]:
    file = raw_file.path
    # 128 KB by default: prompts are longer
    csv.field_size_limit(bounded.LONGEST_ROW)
    # bad bytes become surrogates here, so that their row alone is malformed
    text = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="")
    lines = bounded.CsvLines(text)
    dialect = csv_dialect(raw_file)
    marks = {"delimiter": dialect.delimiter, "quoting": dialect.quoting}
    reader = csv.reader(lines, strict=False, **marks)
    try:
        filled = (cells for cells in reader if cells)
        if dialect.says_so:
            next(filled, None)
        header = next(filled, None)
    except csv.Error as error:
        raise UserError(f"{file}: its first line is no header ({error})") from error
    if header is None:
        return
    # a dict would keep the second alone
    twice = [column for column, n in Counter(header).items() if n > 1]
    if twice:
        raise UserError(f"{file}: two columns have one name ({', '.join(twice)})")
    pairs, size = [], 0
    for line, cells in _csv_rows(reader, lines):
        # the reader can go on behind a bad row
        pairs.append((line, cells if isinstance(cells, str) else _csv_row(header, cells)))
        size += lines.size
        if size >= CHUNK_BYTES or len(pairs) >= most:
            yield Chunk(file=file, first_line=pairs[0][0], content=pairs)
            pairs, size = [], 0
    if pairs:
        yield Chunk(file=file, first_line=pairs[0][0], content=pairs)


def _csv_rows(
    reader: Iterator[list[str]], lines: bounded.CsvLines
) -> Iterator[tuple[int, list | str]]:
    """(line it begins on, cells) of every row but blank ones; (line, reason) of a bad one."""
    while True:
        # a quoted cell may run over several lines
        line = lines.number + 1
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = f"not valid CSV ({error})"
        if cells:
            yield line, cells


def _csv_row(header: list[str], cells: list[str]) -> dict | str:
    """The cells by their columns (an empty cell is missing), or why they are no row."""
    if len(cells) != len(header):
        return f"{len(cells)} fields, the header has {len(header)}"
    return {c: v if v != "" else None for c, v in zip(header, cells, strict=True)}


def _hub_dataset(name: str, most: int) -> Iterator[Chunk]:
    from datasets import load_dataset

    try:
        table = load_dataset(name, split="train").data.table
    except Exception as error:  # the Hub client's many types all mean "could not be had"
        raise UserError(
            f"{name}: neither a file or folder here nor a dataset the Hub could give: "
            f"{first_line(error)}"
        ) from error
    yield from _record_batches(name, table.to_batches(most), most)


# --- chunk -> rows --------------------------------------------------------------------------------


def parse(chunk: Chunk) -> Iterator[tuple[int, dict | str]]:
    """(line, row) of every row in the chunk; (line, reason) where it cannot be read."""
    if isinstance(chunk.content, pa.RecordBatch):
        yield from _parse_batch(chunk.content, chunk.first_line)
        return
    for number, item in enumerate(chunk.content, chunk.first_line):
        if not isinstance(item, bytes):
            yield item  # parsed already
        # blank lines count as lines, but are no rows
        elif item.strip():
            yield number, _parse_line(item)


def first_rows(files: list[str], most: int) -> list[dict]:
    """The first rows of the first file, those that can be read."""
    chunks = (chunk for file in files[:1] for chunk in read_chunks(file, most))
    rows = (row for chunk in chunks for _, row in parse(chunk))
    return [row for row in itertools.islice(rows, most) if isinstance(row, dict)]


def _parse_line(line: bytes) -> dict | str:
    try:
        text = line.decode()
        with contextlib.suppress(StopIteration):
            # what `json.loads` comes to, without its three layers of Python
            row, end = SCAN(text, 0)
            if text[end:] in ("\n", ""):
                return _object(row)
        # with white space around it, or broken: it knows what to say
        return _object(json.loads(text))
    except UnicodeDecodeError:
        return "not UTF-8 text"
    except json.JSONDecodeError as error:
        return f"not valid JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:
        return f"not readable JSON ({type(error).__name__})"


def _parse_batch(batch: pa.RecordBatch, first: int) -> Iterator[tuple[int, dict | str]]:
    # a chunk of more than a row is smaller
    if len(batch) == 1 and batch.nbytes > bounded.LONGEST_ROW:
        yield first, bounded.too_long()
        return
    columns = {name: _values(batch.column(i)) for i, name in enumerate(batch.schema.names)}
    for i in range(len(batch)):
        row = {name: values[i] for name, values in columns.items()}
        # one bad value makes its own row malformed, not the batch
        bad = next((name for name, value in row.items() if value is UNREADABLE), None)
        yield first + i, f"{bad} is not UTF-8 text" if bad else row


def _values(column: pa.Array) -> list:
    try:
        return column.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):
        # one by one only where the whole failed: slow
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (UnicodeDecodeError, ValueError, OverflowError):
        return UNREADABLE
