"""Step 1: any prompt log -> checked, normalised Parquet parts, in parallel.

Every row of every input becomes either prompts (`rows/`, and what rode along in `extras/`) or a
malformed row (`malformed/`, file and line). Rows are parsed, checked, normalised and keyed in
Python, so that the DuckDB and the Spark path start from the same bytes. A chunk becomes a part or,
where conversations multiply its text, several; files of one name in `rows/` and `extras/` hold the
same rows.
"""

import gc
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.formats.forms import request_form
from data_prep.formats.language_detector import language_of
from data_prep.formats.log_files import Chunk, parse, read_chunks
from data_prep.formats.prompt_log import (
    LogFormat,
    Malformed,
    as_identifier,
    as_microseconds,
    prefix_key,
    prompts_of,
)
from data_prep.prompt_pipeline.column_types import column_of, wider
from data_prep.prompt_pipeline.parallel import parallel
from instruct.errors import UserError

# names that the outputs use themselves: a column of the log with one of them is called input_NAME
OURS = ("id", "prompt", "user_id", "timestamp", "request_form", "dup_count", "history")
WHY_REMOVED = ("reason", "kept_id", "split", "pii_kinds", "pii_hashes", "file", "line", "detail")
RESERVED = frozenset(OURS + WHY_REMOVED)
FOLDERS = ("rows", "extras", "malformed")
# one JSON object keyed by user would make a column of every user
MAX_COLUMNS = 1_000
# a part of one chunk is smaller, unless turns bring their histories
PART_CHARS = 16 << 20

ROWS = pa.schema(
    {
        # so parts need not know how many rows others have, and number themselves in parallel
        "row": pa.int64(),  # place in the log: number of the part << 32, plus place in it
        "id": pa.string(),
        "user": pa.string(),
        # an integer, as engines differ in time zones and units
        "time": pa.int64(),  # microseconds since 1970
        "key": pa.string(),  # equal for duplicates
        "prompt": pa.string(),
        # text, so that the engine's PII patterns run over it as well
        "history": pa.string(),  # JSON
        "request_form": pa.string(),
    }
)
LANGUAGE = pa.field("language", pa.string())  # in ROWS where it is asked for
MALFORMED = pa.schema({"file": pa.string(), "line": pa.int64(), "detail": pa.string()})


@dataclass
class Staged:
    """What a chunk, or the whole log, came to."""

    rows: int = 0
    malformed: int = 0
    without_user: int = 0
    kinds: dict[str, str] = field(default_factory=dict)  # of the columns in `extras/`
    first_malformed: str = ""

    def add(self, other: "Staged") -> None:
        self.rows += other.rows
        self.malformed += other.malformed
        self.without_user += other.without_user
        for name, kind in other.kinds.items():
            self.kinds[name] = wider(self.kinds.get(name, "null"), kind)
        self.first_malformed = self.first_malformed or other.first_malformed


def stage_log(
    files: list[str], form: LogFormat, folder: Path, processes: int, progress: Callable[[int], None]
) -> Staged:
    """Stages the whole log under `folder`; parts are numbered in the order of files and rows."""
    for name in FOLDERS:
        (folder / name).mkdir()
    # generators: chunks are read while workers parse, never all at once
    chunks = (chunk for file in files for chunk in read_chunks(file))
    jobs = ((chunk, number, form, folder) for number, chunk in enumerate(chunks))
    total = Staged()
    for staged in parallel(stage_chunk, jobs, processes):
        total.add(staged)
        progress(staged.rows + staged.malformed)
        # every part may be under it, and the log over it
        if len(total.kinds) > MAX_COLUMNS:
            raise UserError(
                f"the log has more than {MAX_COLUMNS} different columns; is this one row a line?"
            )
    return total


def stage_chunk(chunk: Chunk, number: int, form: LogFormat, folder: Path) -> Staged:
    """Checks and normalises the chunk's rows and writes them as the parts of `number`."""
    # a chunk is a million small objects without cycles: looking for some takes a quarter of the run
    gc.disable()
    try:
        total, part = Staged(), Part(chunk.file, number, form)
        for line, row in parse(chunk):
            part.take(line, row)
            if part.chars > PART_CHARS:
                part = part.write(folder, total)
        part.write(folder, total)
        return total
    finally:
        gc.enable()


def _encodable(row: dict | str) -> dict | str:
    """The row, or why it cannot be written as UTF-8."""
    if isinstance(row, dict):
        try:
            # default=str: Parquet has times and decimals; only texts can be at fault
            json.dumps(row, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            return "not valid Unicode text (a lone surrogate)"
    return row


class Part:
    """Rows of one chunk, collected by column.

    Args:
        number: of the chunk.
        place: of the part among those of the chunk.
        first: of its rows among those of the chunk.
    """

    def __init__(self, file: str, number: int, form: LogFormat, place: int = 0, first: int = 0):
        self.file, self.number, self.form = file, number, form
        self.place, self.first = place, first
        # in ids without its folder: the same ids wherever the log lies
        self.name = os.path.basename(file.rstrip("/"))
        self.chars = 0  # of prompts and histories
        self.taken: list[tuple[int, dict | str]] = []
        self.schema = ROWS.append(LANGUAGE) if form.language else ROWS
        self.rows: dict[str, list] = {column: [] for column in self.schema.names}
        self.malformed: dict[str, list] = {column: [] for column in MALFORMED.names}
        # ids, users and times as they were given, and the row that each prompt came from
        self.given: dict[str, list] = {"id": [], "user_id": [], "timestamp": []}
        self.sources: list[dict] = []

    def take(self, line: int, row: dict | str) -> None:
        """Takes a row, or the reason why it could not be read."""
        self.taken.append((line, row))
        try:
            if isinstance(row, str):
                # what could not be parsed leaves by the same door
                raise Malformed(row)
            self._add(line, row)
        except Malformed as error:
            self.malformed["file"].append(self.file)
            self.malformed["line"].append(line)
            self.malformed["detail"].append(str(error))

    def _add(self, line: int, row: dict) -> None:
        form, rows, given = self.form, self.rows, self.given
        # all that may raise comes before the first append, or columns differ in length
        identifier = as_identifier(row.get(form.id), form.id)
        user = as_identifier(row.get(form.user), form.user)
        time = as_microseconds(row.get(form.time), form.time)
        for prompt, history, turn in prompts_of(row, form):
            # padded, as ids sort as text
            own = f"{self.name}:{line:09d}" if identifier is None else identifier
            if form.turns == "all":
                # one row gives several prompts
                own = f"{own}#{turn}"
            rows["row"].append((self.number << 32) + self.first + len(self.sources))
            # text for the engine: user 7 is user "7"; outputs get the log's types (`given`)
            rows["id"].append(str(own))
            rows["user"].append(None if user is None else str(user))
            rows["time"].append(time)
            rows["key"].append(prefix_key(prompt, history, form.prefix_chars))
            rows["prompt"].append(prompt)
            rows["history"].append(history)
            rows["request_form"].append(request_form(prompt))
            if form.language:
                rows["language"].append(language_of(prompt))
            given["id"].append(own)
            given["user_id"].append(user)
            given["timestamp"].append(row.get(form.time))
            self.sources.append(row)
            self.chars += len(prompt) + len(history or "")

    def write(self, folder: Path, total: Staged) -> "Part":
        """Writes the part's files under `folder` and counts it; returns the next one, empty."""
        try:
            total.add(self._write(folder))
        except UnicodeEncodeError:  # a lone surrogate: find the rows, and do the others again
            clean = Part(self.file, self.number, self.form, self.place, self.first)
            for line, row in self.taken:
                clean.take(line, _encodable(row))
            return clean.write(folder, total)
        first = self.first + len(self.sources)
        return Part(self.file, self.number, self.form, self.place + 1, first)

    def _write(self, folder: Path) -> Staged:
        bad, name = self.malformed, f"{self.number:06d}-{self.place:06d}.parquet"
        staged = Staged(
            rows=len(self.sources),
            malformed=len(bad["line"]),
            without_user=self.rows["user"].count(None),
        )
        # before any file is written: it may refuse the log
        columns = self._columns()
        table = pa.table(self.rows, schema=self.schema)
        arrays = {}
        for column, values in columns.items():
            staged.kinds[column], arrays[column] = column_of(values)
        if bad["line"]:
            staged.first_malformed = f"{self.file}, line {bad['line'][0]}: {bad['detail'][0]}"
            _write(folder / "malformed" / name, pa.table(bad, schema=MALFORMED))
        if self.sources:
            _write(folder / "rows" / name, table)
            _write(folder / "extras" / name, pa.table(arrays))
        return staged

    def _columns(self) -> dict[str, list]:
        """What goes to `extras/`: ids, users and times as given, and what rides along."""
        form = self.form
        # of all rows: each JSON line may have other keys; most have the same
        shapes: dict[tuple, dict] = {}
        for row in self.sources:
            shapes.setdefault(tuple(row), row)
        names = dict.fromkeys(
            column for row in shapes.values() for column in row if form.rides_along(column, row)
        )
        if len(names) > MAX_COLUMNS:
            raise UserError(
                f"{self.file}: more than {MAX_COLUMNS} different columns; is this one row a line?"
            )
        columns = dict(self.given)
        for name in names:
            # `reason`, say, must mean ours in every output
            taken = name in RESERVED or name in columns or (form.language and name == "language")
            shown = f"input_{name}" if taken else name
            columns[shown] = [row.get(name) for row in self.sources]
        return columns


def staged_parts(folder: Path) -> list[str]:
    """The names of all parts, in the order of the log."""
    return sorted({file.name for kind in FOLDERS for file in (folder / kind).iterdir()})


def _write(file: Path, table: pa.Table) -> None:
    # read once, then deleted: speed before size
    pq.write_table(table, file, compression="lz4", write_statistics=False)
